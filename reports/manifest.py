"""What was run, as the page shows it: the manifest, and the trials that did not finish."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from prefeval.reports.run import Run, TrialLog


def manifest_groups(run: Run) -> list[dict[str, Any]]:
    """The manifest as titled lists of (name, value), without what is empty or said elsewhere."""
    manifest = run.manifest
    plain = ("prefeval_version", "created", "schema", "threads", "seeds")
    lab = manifest.get("lab") or {}
    knobs = ("lab", "lab_data")  # said under "Lab"; elsewhere they have no meaning
    config = {k: v for k, v in (manifest.get("config") or {}).items() if k not in knobs}
    hashes = {"configuration": manifest.get("config_hash"), **(manifest.get("hashes") or {})}
    groups = [
        _group("Run", {k: manifest[k] for k in plain if k in manifest}),
        _group("Configuration", config),
        _group("Data", manifest.get("data_counts")),
        _group("Judge", manifest.get("judge")),
        _group("Lab", lab),
        _group("SHA-256", hashes, mono=True),
        _group("Versions", manifest.get("versions")),
    ]
    return [g for g in groups if g["rows"]]


def _group(title: str, values: Any, *, mono: bool = False) -> dict[str, Any]:
    """One titled list."""
    items = values.items() if isinstance(values, Mapping) else ()
    rows = [(str(k).replace("_", " "), words(v)) for k, v in items if v not in ("", None, {}, [])]
    return {"name": title, "rows": rows, "mono": mono}


def words(value: Any) -> str:
    """A value as one readable line: objects as "name value" pairs, lists by commas.

    >>> words({"dpo": [0.05, 0.1], "seed": 0})
    'dpo 0.05, 0.1; seed 0'
    """
    if isinstance(value, Mapping):
        return "; ".join(f"{k} {words(v)}".replace("_", " ") for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(words(v) for v in value)
    return value if isinstance(value, str) else json.dumps(value)


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
