"""``prefeval compare``: two checkpoints, paired by prompt, from what their runs saved.

Never a model: evaluations are read back, joined by prompt, and compared by
``metrics.comparison``; ``reports`` says it in words, in a table and on a page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from prefeval import records
from prefeval.harness import measured
from prefeval.harness.compare import targets
from prefeval.harness.compare.targets import Target
from prefeval.harness.steps import disk_errors
from prefeval.harness.task import Task
from prefeval.metrics import comparison, differences, pooling
from prefeval.metrics.evidence import Evidence
from prefeval.metrics.selection import Key
from prefeval.records import PrefevalError
from prefeval.reports import labels
from prefeval.reports.compare import text as compare_text
from prefeval.reports.compare.data import Compared, Side, TrialDifference
from prefeval.reports.compare.samples import Answers, changed

SEED = 20_260_101
TRIAL_BOOT = 200  # refits a trial: there are many
UNTOLD = ("command", "created", "config_hash", "trials", "schema", "lab", "data_counts")
"""What a manifest holds that differs by itself, or is said under another name."""


class Run(NamedTuple):
    """A run's task, frozen calibration, manifest, and content of prompts and pairs by id."""

    path: Path
    task: Task
    calibration: Any
    manifest: Mapping[str, Any]
    prompts: Mapping[str, Any]
    pairs: Mapping[str, Any]


def command(first: str, second: str, *, out: Path | None, as_json: bool) -> int:
    """Compare, print, write where ``out`` is given; 0 whatever is found."""
    a, b = targets.find(first), targets.find(second)
    compared = compare(a, b)
    files: tuple[Path, ...] = ()
    if out is not None:
        from prefeval.reports.compare import page as compare_page

        with disk_errors(out):
            files = compare_page.write(out, compared)
    if as_json:
        print(json.dumps(compare_text.as_object(compared), ensure_ascii=False))
        return 0
    from rich.console import Console

    console = Console(highlight=False)
    compare_text.show(compared, console)
    for file in files:
        print(file)
    return 0


def compare(a: Target, b: Target) -> Compared:
    """Everything that the two may be compared in.

    Raises ``PrefevalError`` where nothing compares, and for what cannot be read.
    """
    terms = targets.terms(a, b)
    first = open_run(a.run)
    second = first if a.run == b.run else open_run(b.run)
    prompts, pairs = _common(first.prompts, second.prompts), _common(first.pairs, second.pairs)
    if not prompts:
        raise PrefevalError(f"A and B have no prompt in common; {targets.MEND}")
    evidence = [evidence_of(r, t.folder) for r, t in ((first, a), (second, b))]
    joined = comparison.join(*evidence, prompts=prompts, pairs=pairs)
    chose = {i for t, e in zip((a, b), evidence, strict=True) if t.chosen for i in _chose(e)}
    fresh = comparison.without_judgments(joined, chose)
    rng = np.random.default_rng(SEED)
    texts = [_texts(folder) for folder in (a.folder, b.folder, first.task.reference_dir)]
    judged = "win_rate" not in terms.without
    samples, counts = changed(
        joined,
        Answers(*texts),
        {name: row["messages"] for name, row in first.prompts.items()},
        judged=judged,
    )
    trials = _trials(first, second, prompts) if a.is_run and b.is_run and judged else ()
    return Compared(
        *_sides(a, b),
        measures=comparison.measures(fresh, rng=rng, without=terms.without),
        behaviours=comparison.behaviours(joined),
        rows=joined.rows,
        notes=(*terms.notes, *_chosen_note(a, b, fresh), *_notes(a, b, first, second, prompts)),
        samples=samples,
        counts=counts,
        trials=tuple(trials),
        manifest=tuple(_settings(first, second)) if first is not second else (),
    )


def open_run(run: Path) -> Run:
    """A run's task, calibration, manifest, prompts and pairs, or ``PrefevalError``."""
    task = Task.read(run / "task.json")
    prompts = {row["id"]: row for row in _rows(task.data / "prompts.jsonl")}
    pairs = {row["id"]: row for row in _rows(task.data / "pairs_held_out.jsonl")}
    calibration = task.reference_dir / measured.CALIBRATION
    if not calibration.is_file():
        raise PrefevalError(f"{run} has no {calibration.name}; run its sweep or eval again")
    manifest = records.read_json(run / "manifest.json")
    return Run(run, task, measured.read_calibration(task), manifest, prompts, pairs)


def _rows(path: Path) -> list[Any]:
    if not path.is_file():
        raise PrefevalError(f"{path} is missing; run the sweep or eval again")
    return records.read_jsonl(path)


def _common(a: Mapping[str, Any], b: Mapping[str, Any]) -> set[str]:
    """Ids that both have with the same content: text, check and all."""
    return {name for name, row in a.items() if b.get(name) == row}


def evidence_of(run: Run, folder: Path) -> Evidence:
    """What was measured of one checkpoint, or ``PrefevalError`` where that is not whole."""
    try:
        return measured.read_evidence(folder, run.task, run.calibration)
    except (KeyError, FileNotFoundError) as error:
        raise PrefevalError(
            f"{folder} is not whole ({error}); run its sweep or eval again, or prefeval score"
        ) from error


def _texts(folder: Path) -> dict[tuple[str, str], str]:
    """The first answer of every prompt, sampled and greedy."""
    if not (folder / "completions.jsonl").is_file():
        return {}
    return {
        (c.prompt_id, c.mode): c.text
        for c in measured.read_completions(folder)
        if c.mode in ("sample", "greedy") and c.index == 0
    }


def _sides(a: Target, b: Target) -> tuple[Side, Side]:
    keys = [t.key for t in (a, b)]
    seeds = any(k is not None and k.seed for k in keys)

    def side(target: Target) -> Side:
        key = target.key
        name = labels.name(key, seeds=seeds) if key else target.folder.name
        return Side(name, target.path)

    return side(a), side(b)


def _chose(evidence: Evidence) -> list[str]:
    """The prompts by which a sweep chose among its checkpoints (see ``metrics.usable``)."""
    judged = evidence.judgments
    return list(judged["prompt_id"][pooling.choosing_half(judged["cluster"].to_numpy())])


def _chosen_note(a: Target, b: Target, fresh: comparison.Joined) -> Iterator[str]:
    names = [name for name, target in (("A", a), ("B", b)) if target.chosen]
    if names:
        yield (
            f"{' and '.join(names)} {'were' if len(names) > 1 else 'was'} recommended out of "
            f"several: win rates and flips are of the {len(fresh.a.judgments)} prompts that had no "
            "part in that"
        )


def _notes(a: Target, b: Target, first: Run, second: Run, prompts: set[str]) -> Iterator[str]:
    """What a reader should know before believing the numbers."""
    if a.folder == b.folder:
        yield "A and B are the same checkpoint"
    if first is second:
        return
    odd = sorted(
        name for name in first.prompts.keys() & second.prompts.keys() if name not in prompts
    )
    if odd:
        yield (
            f"{len(odd)} prompts have one id and different text or checks, and are left out: "
            f"{', '.join(odd[:3])}"
        )
    said = [_texts(r.task.reference_dir) for r in (first, second)]
    places = [p for p in said[0].keys() & said[1].keys() if p[0] in prompts]
    differ = sum(said[0][p] != said[1][p] for p in places)
    if differ:
        yield (
            f"the reference answered {differ} of {len(places)} prompts differently in the two "
            "runs: win rates are against two samples of it, its texts below are those of A's run"
        )
    if _yardstick(first, prompts) != _yardstick(second, prompts):
        yield "length control is calibrated as in A's run, for both"


def _yardstick(run: Run, prompts: set[str]) -> Any:
    """What length control was frozen to, on these prompts."""
    saved = records.read_json(run.task.reference_dir / measured.CALIBRATION)
    return saved["C"], saved.get("gamed"), [run.calibration[1].get(p) for p in sorted(prompts)]


def _settings(first: Run, second: Run) -> Iterator[tuple[str, str, str]]:
    """What differs between two manifests, by its dotted name."""
    a, b = (dict(_flat(r.manifest)) for r in (first, second))
    for name in sorted(a.keys() | b.keys()):
        if name.partition(".")[0] not in UNTOLD and a.get(name) != b.get(name):
            yield name, a.get(name, "—"), b.get(name, "—")


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _trials(first: Run, second: Run, prompts: set[str]) -> Iterator[TrialDifference]:
    """The length-controlled win rates of every trial and step that both runs have."""
    if first is second:
        return
    found = [_by_key(run) for run in (first, second)]
    keys = sorted(found[0].keys() & found[1].keys())
    seeds = len({key.seed for key in keys}) > 1
    lines = []
    for key in keys:
        sides = [_judged(run, own[key]) for run, own in zip((first, second), found, strict=True)]
        joined = comparison.join(*sides, prompts=prompts)
        rng = np.random.default_rng(SEED)
        lines.append(comparison.length_controlled(joined, rng=rng, n_boot=TRIAL_BOOT))
    for key, line in zip(keys, differences.corrected(lines), strict=True):
        yield TrialDifference(labels.name(key, seeds=seeds), line)


def _by_key(run: Run) -> dict[Key, Path]:
    folders = ((targets.key_of(f), f) for f in targets.measured_in(run.path))
    return {key: folder for key, folder in folders if key is not None}


def _judged(run: Run, folder: Path) -> Evidence:
    """A checkpoint's judgments alone."""
    if run.task.length_unit == measured.TOKENS:
        return replace(evidence_of(run, folder), diverse=pd.DataFrame())
    frozen, difficulty = run.calibration
    rows = pd.DataFrame(_rows(folder / "judgments.jsonl"))
    rows["difficulty"] = [difficulty.get(i, 0.0) for i in rows["prompt_id"]]
    return Evidence(judgments=rows, calibration=frozen)
