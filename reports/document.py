r"""A self-contained HTML page: template, styles and scripts made one, and what it may do.

Content is put in by jinja2 with autoescape; data lie in the page as JSON in which no character can
end the element (`inline_json`). A content-security policy allows the page's own style and script by
hash, and nothing else: no other script runs, no resource is fetched, no form is sent.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")
# What may not stand in a <script>, breaks lines in scripts, reorders text, or is no character.
UNSAFE = re.compile("[<>&\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def render(
    template: str, styles: Sequence[str], scripts: Sequence[str], context: dict[str, Any]
) -> str:
    """A page as text; a lone surrogate in it becomes "?"."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    css, js = assets(styles, scripts)
    page = environment.get_template(template).render(
        csp=security_policy(styles, scripts), css=Markup(css), js=Markup(js), **context
    )
    return page.encode("utf-8", "replace").decode("utf-8")


def assets(styles: Sequence[str], scripts: Sequence[str]) -> tuple[str, str]:
    """The styles as one, and the scripts as one that shares no name with anything outside it."""
    css = [(TEMPLATES / name).read_text(encoding="utf-8").strip() for name in styles]
    parts = [(TEMPLATES / "scripts" / f"{name}.js").read_text(encoding="utf-8") for name in scripts]
    return "\n".join(css), "\n".join(
        ['(() => {\n"use strict";', *(p.strip() for p in parts), "})();"]
    )


def security_policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    """Nothing but this style and this script, each by its SHA-256, and the empty icon."""

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    css, js = assets(styles, scripts)
    return (
        f"default-src 'none'; script-src {source(js)}; style-src {source(css)};"
        " img-src data:; base-uri 'none'; form-action 'none'"
    )


def inline_json(value: Any) -> Markup:
    r"""JSON that is safe inside a ``<script type="application/json">``.

    ``<``, ``>``, ``&``, line separators, bidirectional controls and lone surrogates become
    ``\uXXXX``, so that neither ``</script>`` nor ``<!--`` can occur.

    >>> str(inline_json(["</script>"]))
    '["\\u003c/script\\u003e"]'
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(UNSAFE.sub(lambda m: f"\\u{ord(m.group()):04x}", text))
