"""The pages of `prefeval view`: a shell, the data as JSON, and a script that sets it as text.

The script draws the first data and every later answer by the same code, so a page that was loaded
and one that has been open for hours look alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefeval.reports.document import inline_json, render, security_policy
from prefeval.reports.run import METHODS, method_index, method_name
from prefeval.reports.tables import icon

STYLES = ("report.css", "view.css")
SCRIPTS = ("view_base", "view_table", "view_runs", "view_run", "view")


@dataclass(frozen=True)
class Page:
    """A page and what it may do: its own style and script, and to ask its own server."""

    html: str
    policy: str


def index(runs: Sequence[Mapping[str, Any]]) -> Page:
    """The table of runs; ``runs`` as ``/api/runs`` gives them."""
    return _render("runs", "prefeval: runs", runs)


def run(detail: Mapping[str, Any]) -> Page:
    """One run, live; ``detail`` as ``/api/run/<name>`` gives it."""
    return _render("run", f"{detail['run']['name']}: prefeval", detail)


def _render(kind: str, title: str, data: Any) -> Page:
    marks = [(method_index(m), method_name(m), icon(m)) for m in (*METHODS, "other")]
    context = {"kind": kind, "title": title, "data": inline_json(data), "marks": marks}
    policy = f"{security_policy(STYLES, SCRIPTS)}; connect-src 'self'; frame-ancestors 'none'"
    return Page(render("view.html", STYLES, SCRIPTS, context), policy)
