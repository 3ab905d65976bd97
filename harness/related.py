"""A run beside others that differ from it in the noise of their labels alone, in ``related.json``.

``prefeval report RUN OTHER...`` compares the first with each of the others, and keeps what it found
in the first's folder, so that its report alone shows it again. What is compared is every β that
both runs have: the same method, β, step and seed, on the same prompts, at the step that the first
run's verdict chose (``metrics.method_table.noise_cost``).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefeval import records
from prefeval.harness import measured, models, steps
from prefeval.harness.run_folder import RunFolder
from prefeval.harness.task import Task
from prefeval.metrics import joint_rates, method_table, stats
from prefeval.metrics.evidence import Evidence, require_aligned
from prefeval.metrics.selection import Key
from prefeval.records import PrefevalError

FILE = "related.json"
FREE = ("methods", "betas", "seeds", "checkpoints", "lab_data.noise", "data", "inputs.data")
"""Settings in which two runs may differ: which trials there are, and whose labels they learn."""
LABELS = ("pairs.jsonl", "thumbs.jsonl")


@dataclass(frozen=True)
class Labels:
    """How many of a run's labels another run's contradict."""

    flipped: int
    total: int


def relate(first: Path, others: Sequence[Path]) -> list[str]:
    """Compare a run with each of the others, add to its ``related.json``, and say what was found.

    Another run that cannot be compared is kept with the reason.
    """
    run = RunFolder(first)
    if not others:
        return []
    if not run.results.is_file():
        return [f"{first.name} has no results yet, so nothing is compared with it"]
    file = first / FILE
    saved = records.read_json(file) if file.is_file() else {}
    found = {r["name"]: r for r in saved.get("runs", ())} if _is_current(saved, run) else {}
    notes = []
    for path in others:
        name = path.resolve().name
        try:
            found[name] = {"name": name, "reason": "", **_compared(run, RunFolder(path))}
            notes.append(f"{name}: {found[name]['differs']}; its win rates are in the method table")
        except PrefevalError as error:
            found[name] = {"name": name, "reason": str(error)}
            notes.append(f"{name} is not compared: {error}")
    content = {
        "schema": records.SCHEMA_VERSION,
        "results": models.file_hash(run.results),
        "runs": [found[name] for name in sorted(found)],
    }
    with steps.disk_errors(file):
        records.write_json(file, content)
    return notes


def _is_current(saved: Mapping[str, Any], run: RunFolder) -> bool:
    """Whether what was saved is of the results that the run has now."""
    return bool(saved.get("results") == models.file_hash(run.results))


def _compared(run: RunFolder, other: RunFolder) -> dict[str, Any]:
    """What differs, and every method's change of its win rate.

    Raises ``PrefevalError`` where more than labels differs, or something is missing.
    """
    for folder in (run, other):
        if not (folder.results.is_file() and folder.summary.is_file()):
            raise PrefevalError(f"{folder.path.name} has no verdict yet; run its sweep to the end")
    one, two = (records.read_json(f.manifest) for f in (run, other))
    _require_alike(one, two)
    said = _labels_differ(run, other, one, two)
    selection = records.read_json(run.summary)["selection"]
    chosen: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for beta in selection["betas"]:
        chosen[beta["method"]].append(beta)
    reporting = bool(selection["prompts_choosing"])
    methods = {m: _cost(run, other, betas, reporting=reporting) for m, betas in chosen.items()}
    return {"differs": said, "methods": methods}


def _require_alike(one: Mapping[str, Any], two: Mapping[str, Any]) -> None:
    """Raise ``PrefevalError`` unless both runs ask the same of the same reference and judge."""
    for what, said in (
        ("prompts", "it asked other prompts"),
        ("reference", "it started from another reference"),
        ("template", "it has another chat template"),
        ("pairs_judge", "its judge learned from other labels; give both runs one --judge"),
    ):
        if one["hashes"].get(what) != two["hashes"].get(what):
            raise PrefevalError(said)
    trained = "pairs_judge" in one["hashes"]  # then its settings name the run's own folder
    if not trained and one["judge"]["settings"] != two["judge"]["settings"]:
        raise PrefevalError("it was judged by another judge")
    configs = [dict(_leaves(m["config"])) for m in (one, two)]
    odd = sorted(
        k
        for k in {*configs[0], *configs[1]}
        if configs[0].get(k) != configs[1].get(k) and k not in FREE and k.split(".")[0] not in FREE
    )
    if odd:
        raise PrefevalError(f"more than its labels differs: {', '.join(odd[:3])}")


def _leaves(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their path: "lab_data.noise"."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield before + name, value


def _labels_differ(
    run: RunFolder, other: RunFolder, one: Mapping[str, Any], two: Mapping[str, Any]
) -> str:
    """How the labels differ. Raises ``PrefevalError`` where they do not, or other things do."""
    counts = [labels_of(run.data / name, other.data / name) for name in LABELS]
    flipped, total = (sum(getattr(c, n) for c in counts) for n in ("flipped", "total"))
    if not flipped:
        raise PrefevalError("its labels are the same")
    knobs = [(m["config"].get("lab_data") or {}).get("noise", 0.0) for m in (one, two)]
    if knobs[1] < knobs[0]:
        raise PrefevalError("its labels are the less noisy ones; name it first")
    share = f"{100 * flipped / total:.1f}% of {total} labels flipped"
    return share if knobs[0] == knobs[1] else f"noise {knobs[1]:g}, {share}"


def labels_of(path: Path, other: Path) -> Labels:
    """The labels of two files of the same pairs, or the same thumbs, that contradict each other.

    Raises ``PrefevalError`` where the files do not hold the same answers.
    """
    one, two = (_labelled(p) for p in (path, other))
    if {k: c.total() for k, c in one.items()} != {k: c.total() for k, c in two.items()}:
        raise PrefevalError(f"its {path.stem} are not of the same answers")
    total = sum(c.total() for c in one.values())
    return Labels(total - sum((c & two[k]).total() for k, c in one.items()), total)


def _labelled(path: Path) -> dict[str, Counter[str]]:
    """How often each item of a file has each label; an item is a prompt and its answers."""
    found: dict[str, Counter[str]] = {}
    for row in records.read_jsonl(path) if path.is_file() else ():
        if "chosen" in row:
            sides = [records.content_hash(row[side]) for side in ("chosen", "rejected")]
            item, label = [row["prompt"], sorted(sides)], sides[0]
        else:
            item, label = [row["prompt"], row["completion"]], str(row["label"])
        found.setdefault(records.content_hash(item), Counter())[label] += 1
    return found


def _cost(
    run: RunFolder, other: RunFolder, betas: Sequence[Mapping[str, Any]], *, reporting: bool
) -> dict[str, Any]:
    """What the labels of ``other`` take from a method, and at which β; undefined with the reason.

    ``betas`` are the method's in the verdict of ``run``.
    """
    places = [_places(f) for f in (run, other)]
    shared: dict[float, dict[int, Key]] = {}
    for b in betas:
        keys = [Key(b["method"], b["beta"], seed, b["step"]) for seed in b["seeds"]]
        if both := {k.seed: k for k in keys if all(k in p for p in places)}:
            shared[b["beta"]] = both
    seeds = sorted(set.intersection(*(set(keys) for keys in shared.values()))) if shared else []
    if not seeds:
        reason = f"{other.path.name} has no β at the same step and seed"
        return {**records.to_jsonable(stats.undefined(reason)), "betas": ()}
    equal = {beta: [of_seed[s] for s in seeds] for beta, of_seed in shared.items()}
    pair = [_evidence(f, p, equal.values()) for f, p in zip((run, other), places, strict=True)]
    require_aligned({f"{i} {k}": e for i, found in enumerate(pair) for k, e in found.items()})
    clean, noisy = (joint_rates.prompts_of(e, reporting=reporting) for e in pair)
    cost, compared = method_table.noise_cost(equal, clean, noisy)
    return {**records.to_jsonable(cost), "betas": compared}


def _places(run: RunFolder) -> dict[Key, Path]:
    """Where each checkpoint of a run's results was measured."""
    import pandas as pd

    rows = pd.read_parquet(run.results).to_dict("records")
    return {
        Key(*(row[name] for name in Key._fields)): run.trials / row["trial"] / row["checkpoint"]
        for row in rows
    }


def _evidence(
    run: RunFolder, places: Mapping[Key, Path], keys: Iterable[Sequence[Key]]
) -> dict[Key, Evidence]:
    """What was measured of these checkpoints."""
    task = Task.read(run.task)
    calibration = measured.read_calibration(task)
    return {
        k: measured.read_evidence(places[k], task, calibration) for of_beta in keys for k in of_beta
    }
