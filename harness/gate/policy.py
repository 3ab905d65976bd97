"""``gate.yaml``: read, refused in one line where it is wrong, and written out with comments."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from prefeval.metrics.gate.decision import LEVEL
from prefeval.metrics.gate.lines import KINDS
from prefeval.metrics.gate.policy import (
    BEHAVIOURS,
    DEFAULT_RULES,
    Policy,
    Rule,
    has_value,
    kind_of,
    nearest,
    usual,
)
from prefeval.records import PrefevalError

VERSION = 1
TOP = ("version", "level", "metrics")
FIELDS = ("margin", "floor", "ceiling")
RELATIVE_ONLY = ("length_ratio",)


def read(path: Path | None) -> Policy:
    """The policy of a file, or the usual one.

    Raises ``PrefevalError`` for a file that cannot be read, and for anything in it that is not
    understood. Names of behaviours are checked once the suite is known.
    """
    if path is None:
        return Policy()
    found = _load(path)
    _known(found, TOP, f"{path} sets")
    if found.get("version") != VERSION:
        raise PrefevalError(
            f"{path} is a policy of version {found.get('version')!r} and this prefeval reads "
            f"{VERSION}; begin it with version: {VERSION}"
        )
    level = _number(found.get("level", LEVEL), f"{path}: level")
    if not 0.5 < level < 1:
        raise PrefevalError(f"{path}: level must lie between 0.5 and 1, got {level:g}; e.g. 0.95")
    rules = found.get("metrics")
    if not isinstance(rules, Mapping) or not rules:
        raise PrefevalError(f"{path}: metrics must hold metric: {{margin: N}} lines")
    return Policy({str(k): _rule(str(k), v, f"{path}: {k}") for k, v in rules.items()}, level)


def _load(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        found = yaml.safe_load(text)
        _require_once(yaml.compose(text, yaml.SafeLoader), path)
    except OSError as error:
        raise PrefevalError(f"cannot read {path} ({error.strerror}); check --policy") from error
    except UnicodeDecodeError as error:
        raise PrefevalError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise PrefevalError(
            f"{path} is not valid YAML{line}; prefeval gate --print-policy shows a valid one"
        ) from error
    if not isinstance(found, Mapping):
        raise PrefevalError(f"{path} is no policy; prefeval gate --print-policy shows one")
    return found


def _require_once(node: Any, path: Path, depth: int = 3) -> None:
    """Raise ``PrefevalError`` for a name that stands twice: YAML would take the last in silence."""
    pairs = node.value if depth and getattr(node, "id", "") == "mapping" else ()
    seen = set()
    for key, value in pairs:
        if key.value in seen:
            line = key.start_mark.line + 1
            raise PrefevalError(f"{path} sets {key.value!r} twice (line {line}); leave one out")
        seen.add(key.value)
        _require_once(value, path, depth - 1)  # an alias may hold itself


def _known(found: Mapping[Any, Any], allowed: Collection[str], what: str) -> None:
    for name in found:
        if name not in allowed:
            close = nearest(str(name), allowed)
            raise PrefevalError(
                f"{what} {str(name)!r}, which is not known{close}; there are {', '.join(allowed)}"
            )


def _rule(name: str, found: Any, where: str) -> Rule:
    if found is None or found == {}:
        return usual(name)
    if not isinstance(found, Mapping):
        raise PrefevalError(f"{where} must hold margin, floor or ceiling, e.g. {{margin: 3}}")
    _known(found, FIELDS, f"{where} sets")
    rule = Rule(
        *_margin(name, found.get("margin"), where),
        *(
            None if found.get(end) is None else _number(found[end], f"{where}: {end}")
            for end in ("floor", "ceiling")
        ),
    )
    if rule == Rule():
        raise PrefevalError(f"{where} has no limit; give margin, floor or ceiling")
    limits = [x for x in (rule.floor, rule.ceiling) if x is not None]
    if limits and not has_value(name):
        raise PrefevalError(f"{where} has no value of its own; give it a margin alone")
    if len(limits) == 2 and not limits[0] < limits[1]:
        raise PrefevalError(f"{where}: the floor must lie below the ceiling")
    if any(x <= 0 for x in limits) and name == "length_ratio":
        raise PrefevalError(f"{where}: its limits are factors above 0, e.g. ceiling: 1.5")
    return rule


def _margin(name: str, found: Any, where: str) -> tuple[float | None, bool]:
    """A margin and whether it is relative: ``3``, ``25%``."""
    if found is None:
        return None, False
    percent = isinstance(found, str) and found.strip().endswith("%")
    text = found.strip()[:-1] if percent else found
    margin = _number(text, f"{where}: margin")
    if not margin > 0:
        raise PrefevalError(f"{where}: margin must be > 0, got {margin:g}")
    may = kind_of(name).relative
    if percent and not may:
        raise PrefevalError(f"{where}: its margin is in points; write {margin:g} without %")
    if not percent and name in RELATIVE_ONLY:
        raise PrefevalError(f"{where}: its margin is a share of the baseline; write e.g. 25%")
    return (margin / 100 if percent else margin), percent


def _number(found: Any, where: str) -> float:
    try:
        number = float(found) if not isinstance(found, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise PrefevalError(f"{where} must be a number, got {found!r}")
    return number


def text() -> str:
    """The usual policy as a file, with what else there is in comments."""
    lines = [
        "# What `prefeval gate` holds a checkpoint to; give it with --policy.",
        "# margin: how far a metric may get worse than the baseline's, in its unit or, with %,",
        "# as a share of the baseline. floor, ceiling: limits of the checkpoint's own value.",
        f"version: {VERSION}",
        f"level: {LEVEL:g} # of each bound, one-sided: at most 5% pass at a change of -margin",
        "metrics:",
        *(_line(name, DEFAULT_RULES[name]) for name in DEFAULT_RULES),
        "  # Others, with their usual margins:",
        *(f"  #{_line(name, usual(name))[1:]}" for name in KINDS if name not in DEFAULT_RULES),
        "  # A behaviour of the suite by its name, and limits against the reference:",
        "  # refusal: {margin: 2}",
        "  # lc_win_rate: {margin: 3, floor: 50}",
        "  # length_ratio: {margin: 25%, ceiling: 1.5}",
    ]
    return "\n".join(lines) + "\n"


def _line(name: str, rule: Rule) -> str:
    margin = rule.margin or 0.0
    amount = f"{100 * margin:g}%" if rule.relative else f"{margin:g}"
    every = "every behaviour without a line of its own: checks passed, points"
    meaning = every if name == BEHAVIOURS else kind_of(name).meaning
    return f"  {name}: {{margin: {amount}}} # {meaning}"
