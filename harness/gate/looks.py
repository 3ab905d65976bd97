"""What earlier looks of ``prefeval gate --anytime FILE`` saw, so that later ones add to it.

A bound that holds at every look needs an order that is fixed before the verdicts are seen: the
clusters of each look follow those of the looks before, in the order of a hash. The file keeps that
order with the differences, and refuses to go on with another comparison.

    {"schema": 1, "kind": "prefeval looks", "comparison": hash,
     "seen": [[cluster, {prompt_id: difference}], ...]}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from prefeval import records
from prefeval.harness.steps import disk_errors
from prefeval.records import PrefevalError

SCHEMA, KIND = 1, "prefeval looks"
SAME = 1e-6  # points
ANOTHER = "give each comparison an --anytime file of its own"


def look(path: Path, found: pd.DataFrame, comparison: str) -> tuple[list[float], tuple[str, ...]]:
    """The mean difference of every cluster in the order it was first seen, with notes; ``path`` is
    written anew. ``found`` as `gate_anytime.differences` gives it.

    Raises ``PrefevalError`` for a file of another comparison, or whose verdicts are others now.
    """
    seen = _read(path, comparison)
    now = dict(zip(found["prompt_id"], found["difference"], strict=True))
    for _, prompts in seen:
        for name, value in prompts.items():
            if name in now and abs(now[name] - value) > SAME:
                raise PrefevalError(
                    f"{path}: the verdicts on {name} are others than at the last look; {ANOTHER}"
                )
    known = {cluster for cluster, _ in seen}
    old = {name for _, prompts in seen for name in prompts}
    fresh = found[~found["cluster"].isin(known)]
    for cluster in sorted(set(fresh["cluster"]), key=records.content_hash):
        rows = fresh[fresh["cluster"] == cluster]
        seen.append([cluster, dict(zip(rows["prompt_id"], rows["difference"], strict=True))])
    with disk_errors(path, "choose another --anytime"):
        path.parent.mkdir(parents=True, exist_ok=True)
        records.write_json(
            path, {"schema": SCHEMA, "kind": KIND, "comparison": comparison, "seen": seen}
        )
    late = int((found["cluster"].isin(known) & ~found["prompt_id"].isin(old)).sum())
    notes = (f"{late} new prompts are of clusters seen before, and are left out",) if late else ()
    return [sum(p.values()) / len(p) for _, p in seen], notes


def _read(path: Path, comparison: str) -> list[Any]:
    if not path.exists():
        return []
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["kind"] != KIND or saved["schema"] != SCHEMA:
            raise ValueError("its kind")
        known, seen = saved["comparison"], [[str(c), dict(p)] for c, p in saved["seen"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PrefevalError(f"{path} does not hold earlier looks ({error}); {ANOTHER}") from error
    if known != comparison:
        raise PrefevalError(f"{path} holds the looks of another comparison or limit; {ANOTHER}")
    return seen
