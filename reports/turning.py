"""Over-optimisation in words, from ``summary.json["overoptimisation"]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefeval.reports.labels import listed
from prefeval.reports.quantities import fixed
from prefeval.reports.run import Run, method_name

NAMES = {
    "true_win_rate": "true win rate",
    "lc_win_rate": "length-controlled win rate",
    "win_rate": "raw win rate",
}


def turning_points(run: Run) -> list[str]:
    """A sentence a method whose gold or proxy turns against the distance from the reference, and
    one for the others."""
    saved = run.summary.get("overoptimisation") or {}
    found, rising = [], []
    for method in run.methods:
        if curves := saved.get(method):
            both = [curves[f"{kind}_curve"] for kind in ("gold", "proxy")]
            if all(str(c.get("reason") or "").startswith("not shown") for c in both):
                rising.append(method_name(method))
                continue
            gold, proxy = (
                f"{NAMES.get(curves[kind], curves[kind])} {_turn(curves[f'{kind}_curve'])}"
                for kind in ("gold", "proxy")
            )
            found.append(f"{method_name(method)}: {gold}; {proxy}")
    if rising:
        found.append(f"No turn is shown within the distances reached by {listed(rising)}")
    return found


def _turn(curve: Mapping[str, Any]) -> str:
    if isinstance(curve.get("turning_point"), (int, float)):
        d, low, high = (float(curve[k]) for k in ("turning_point", "ci_low", "ci_high"))
        return f"peaks at √KL {fixed(d, 2)} [{fixed(low, 2)}, {fixed(high, 2)}]"
    return str(curve.get("reason") or "was not fitted")
