"""lm-evaluation-harness's ``results_*.json``, and the ``samples_<task>_*.jsonl`` beside it.

A result's key is "metric,filter", its standard error "metric_stderr,filter" (a number or "N/A").
Samples are one row a document and filter: their values give the interval and the pairing. The
format is that of version 0.4.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prefeval.harness.peers.extra import Imported, estimated, name

SHOWN_SETTINGS = ("limit", "batch_size", "random_seed", "numpy_seed", "fewshot_seed")


class Peer(NamedTuple):
    """What a file holds: metrics, the model it says they are of, and what was wrong with it."""

    model: str
    metrics: list[Imported]
    notes: list[str]


def is_lm_eval(document: Any) -> bool:
    """Whether a JSON document is a results file of lm-evaluation-harness."""
    return (
        isinstance(document, dict)
        and isinstance(document.get("results"), dict)
        and any(k in document for k in ("configs", "versions", "n-shot", "lm_eval_version"))
    )


def read(path: Path, document: Mapping[str, Any], digest: str) -> Peer:
    """Every number of a results file, with what the samples beside it add."""
    metrics: list[Imported] = []
    notes: list[str] = []
    for task, found in document["results"].items():
        if not isinstance(found, dict):
            notes.append(f"{path.name}: task {_plain(task)} holds no results; left out")
            continue
        samples = _samples(path, str(task), notes)
        for key, value in found.items():
            metric, comma, chosen = str(key).partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                notes.append(f"{path.name}: {_plain(task)} {_plain(key)} is no number; left out")
                continue
            stderr = as_number(found.get(f"{metric}_stderr,{chosen}"))
            own = samples.get((chosen, metric), {})
            metrics.append(_metric(path, document, digest, str(task), metric, chosen,
                                   as_number(value), stderr, own))  # fmt: skip
    if not metrics:
        notes.append(f"{path.name}: no result in it is a number; run its evaluation again")
    return Peer(_model(document), metrics, notes)


def _metric(
    path: Path, document: Mapping[str, Any], digest: str, task: str, metric: str, chosen: str,
    value: float, stderr: float, documents: Mapping[str, float],
) -> Imported:  # fmt: skip
    sizes = _part(document, "n-samples", task)
    n = len(documents) or count(sizes.get("effective"))
    better = _part(document, "higher_is_better", task).get(metric)
    label = name("lm_eval", task, metric, "" if chosen == "none" else chosen)
    result = estimated(label, value, stderr, n, list(documents.values()),
                       better if isinstance(better, bool) else None)  # fmt: skip
    settings = as_dict(document.get("config"))
    source = {
        "file": path.name, "sha256": digest, "harness": "lm-evaluation-harness",
        "harness_version": document.get("lm_eval_version"), "git_hash": document.get("git_hash"),
        "task": task, "task_version": as_dict(document.get("versions")).get(task),
        "task_hash": as_dict(document.get("task_hashes")).get(task),
        "n_shot": as_dict(document.get("n-shot")).get(task), "metric": metric, "filter": chosen,
        "model": _model(document), "settings": {k: settings.get(k) for k in SHOWN_SETTINGS},
    }  # fmt: skip
    return Imported(result, source, documents)


def _part(document: Mapping[str, Any], key: str, task: str) -> Mapping[str, Any]:
    return as_dict(as_dict(document.get(key)).get(task))


def as_dict(value: Any) -> dict[str, Any]:
    """A JSON object, or an empty one for anything else: a file may hold anything anywhere."""
    return value if isinstance(value, dict) else {}


def as_number(value: Any, default: float = math.nan) -> float:
    """A JSON number as a float; ``default`` for anything else, and for one that no float holds."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    try:
        return float(value) if plain else default
    except OverflowError:  # a whole number of more than 308 digits
        return default


def count(value: Any) -> int:
    """A size, 0 where it is none."""
    found = as_number(value, 0.0)
    return int(found) if 0 <= found < 1e15 else 0


def _plain(text: Any) -> str:
    """A name from a file, as a line may show it."""
    return " ".join(str(text).split())[:60]


def _model(document: Mapping[str, Any]) -> str:
    """The model's path or name: what `pretrained=` said, else what the file is named after."""
    arguments = as_dict(document.get("config")).get("model_args")
    if isinstance(arguments, str):
        arguments = dict(a.split("=", 1) for a in arguments.split(",") if "=" in a)
    given = as_dict(arguments).get("pretrained")
    return str(given or document.get("model_name") or "")


def _samples(path: Path, task: str, notes: list[str]) -> dict[tuple[str, str], dict[str, float]]:
    """Values by document, by filter and metric; the samples of the same moment as the results."""
    stamp = path.stem.removeprefix("results_")
    file = path.parent / f"samples_{task}_{stamp}.jsonl"
    if file.parent != path.parent:  # a task's name may be a path
        return {}
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:  # a name too long, or one that no file can have
        notes.append(f"the samples of task {_plain(task)} cannot be read: {type(error).__name__}")
        return {}
    found: dict[tuple[str, str], dict[str, float]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            doc = f"{row['doc_id']}:{str(row.get('doc_hash') or '')[:16]}"
            values = {str(m): row.get(m) for m in row.get("metrics") or ()}
        except (ValueError, TypeError, KeyError, AttributeError):
            notes.append(f"{file.name}:{number} is no sample; the file's samples are not used")
            return {}
        for metric, value in values.items():
            if math.isfinite(number_ := as_number(value)):
                found.setdefault((str(row.get("filter", "none")), metric), {})[doc] = number_
    return found
