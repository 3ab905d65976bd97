"""What was run, as the page shows it: the manifest, costs, the trials that did not finish."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from prefeval.reports.numbers import fixed
from prefeval.reports.run import Run, TrialLog, method_name


def manifest_groups(run: Run) -> list[dict[str, Any]]:
    """The manifest as titled lists; long values as one line of JSON."""
    manifest = run.manifest
    plain = ("prefeval_version", "created", "schema", "threads", "seeds")
    groups = [_group("Run", {k: manifest[k] for k in plain if k in manifest})]
    titles = {
        "config": "Configuration",
        "data_counts": "Data",
        "judge": "Judge",
        "lab": "Lab",
        "hashes": "Hashes",
        "versions": "Versions",
    }
    for key, title in titles.items():
        value = manifest.get(key)
        if isinstance(value, dict) and value:
            groups.append(_group(title, value, mono=key == "hashes"))
    return [g for g in [*groups, _costs(run)] if g["rows"]]


def _group(title: str, values: Mapping[str, Any], *, mono: bool = False) -> dict[str, Any]:
    rows = [(str(k).replace("_", " "), canonical(v)) for k, v in values.items()]
    return {"name": title, "rows": rows, "mono": mono}


def _costs(run: Run) -> dict[str, Any]:
    """Mean cost of a trial of each method, on the machine that ran it."""
    rows = []
    if "method" in run.costs:
        for method, group in run.costs.groupby("method", sort=False):
            mean = group.mean(numeric_only=True)
            words = [
                f"{fixed(mean[c], digits)} {unit}"
                for c, digits, unit in (
                    ("train_seconds", 1, "s training"),
                    ("eval_seconds", 1, "s evaluation"),
                    ("peak_memory_mb", 0, "MB peak"),
                )
                if c in mean
            ]
            rows.append((f"{method_name(str(method))}, {len(group)} trials", ", ".join(words)))
    return {"name": "Cost of a trial (mean)", "rows": rows, "mono": False}


def trial_states(run: Run) -> list[dict[str, str]]:
    """The trials that did not finish; all of them while the run is unfinished."""
    tones = {"failed": "bad", "unfinished": "unsure", "finished": "ok"}
    return [
        {
            "name": t.name,
            "status": t.status,
            "tone": tones.get(t.status, "none"),
            "error": t.error or _trained(t),
        }
        for t in run.trials
        if t.status != "finished" or not run.selection
    ]


def _trained(trial: TrialLog) -> str:
    """How far a trial's training got."""
    if trial.log.empty or "step" not in trial.log:
        return ""
    return f"trained to step {int(trial.log['step'].max())}"


def json_text(value: Any) -> str:
    """Pretty JSON of a manifest, for reading."""
    return json.dumps(value, indent=1, ensure_ascii=False)


def canonical(value: object) -> str:
    """A value as one line for the manifest: strings as they are, the rest as JSON."""
    return (
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    )
