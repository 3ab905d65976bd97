"""From the checkpoints' files to one table, the verdict and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefeval import metrics, records, reports
from prefeval.harness import steps
from prefeval.harness.diagnose import diagnose
from prefeval.harness.evaluate import BOOTSTRAP_SEED
from prefeval.harness.measured import read_calibration, read_evidence, read_metrics
from prefeval.harness.run_folder import RunFolder
from prefeval.harness.task import Task
from prefeval.metrics import bends, method_table, overoptimisation, usable
from prefeval.metrics.advice import advise
from prefeval.metrics.situation import Situation
from prefeval.records import Checkpoint, PrefevalError, Trial

if TYPE_CHECKING:
    from prefeval.metrics.evidence import Evidence
    from prefeval.metrics.selection import Selection

BENDING = ("delta_chosen", "delta_rejected", "kl")
COLUMNS = ("method", "beta", "seed", "step", "trial", "checkpoint")


def collect(run: RunFolder, trials: Sequence[Trial]) -> list[Checkpoint]:
    """The measured checkpoints of these trials, sorted by method, beta, seed and step."""
    found = [
        Checkpoint(trial, int(path.parent.name.rpartition("-")[2]), str(path.parent))
        for trial in trials
        for path in run.trial(trial).glob("checkpoint-*/metrics.json")
    ]
    return sorted(found, key=lambda c: (c.trial.method, c.trial.beta, c.trial.seed, c.step))


def conclude(
    run: RunFolder,
    task: Task,
    trials: Sequence[Trial],
    failed: Mapping[str, str],
    warnings: Sequence[str],
) -> Selection | None:
    """Write results, costs, summary.json and what ``reports.write_all`` does; return the verdict.

    None when no checkpoint was measured: then only what failed is written and reported.
    """
    checkpoints = collect(run, trials)
    failures = [{"trial": name, "error": why} for name, why in sorted(failed.items())]
    if not checkpoints:
        counts = {"trials": len(trials), "checkpoints": 0}
        summary = {"schema": records.SCHEMA_VERSION, "counts": counts, "failed": failures}
        with steps.disk_errors(run.summary):
            records.write_json(run.summary, summary | {"warnings": list(warnings), "table": []})
            if failures:
                reports.write_all(run.path)
        return None
    rows = _rows(checkpoints)
    _write_tables(run, trials, rows)
    calibration = read_calibration(task)
    evidence = [(c, read_evidence(Path(c.path), task, calibration)) for c in checkpoints]
    selection = usable.select(evidence, rng=np.random.default_rng(BOOTSTRAP_SEED))
    settings = {trial.method: trial.settings for trial in trials}
    manifest = records.read_json(run.manifest) if run.manifest.is_file() else {}
    known = Situation(selection, rows, manifest, settings, len(failed))
    with steps.disk_errors(run.summary):
        records.write_json(
            run.summary,
            {
                "schema": records.SCHEMA_VERSION,
                "selection": selection,
                "advice": advise(known),
                "diagnosis": _diagnosis(run, {c.path: e for c, e in evidence}),
                "overoptimisation": _overoptimisation(rows),
                "methods": _methods(evidence, selection, settings),
                "bends": {trial.name: _bends(run.trial(trial)) for trial in trials},
                "counts": {"trials": len(trials), "checkpoints": len(checkpoints)},
                "failed": failures,
                "warnings": list(warnings),
                "table": rows,
            },
        )
        reports.write_all(run.path)
    return selection


def _diagnosis(run: RunFolder, evidence: Mapping[str, Evidence]) -> Any:
    """What went wrong in which trials; where that cannot be told, why."""
    try:
        return diagnose.combine(diagnose.read(run.path, evidence))
    except PrefevalError as error:
        return {"findings": [], "checks": [], "skipped": [], "notes": [str(error)]}


def _overoptimisation(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of each method, by its name."""
    methods = sorted({str(row["method"]) for row in rows})
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    return {
        m: overoptimisation.of_method([r for r in rows if r["method"] == m], rng=rng)
        for m in methods
    }


def _methods(
    evidence: Sequence[tuple[Checkpoint, Evidence]],
    selection: Selection,
    settings: Mapping[str, Mapping[str, Any]],
) -> Any:
    """The rows of the method table."""
    return method_table.method_table(
        [(usable.key_of(c), e) for c, e in evidence],
        selection,
        sizes={m: float(s.get("batch_size", 0)) for m, s in settings.items() if not s.get("then")},
        rng=np.random.default_rng(BOOTSTRAP_SEED),
    )


def _bends(trial: Path) -> dict[str, Any]:
    """Where the curves of a training log bend, by the log's column."""
    log = records.read_jsonl(trial / "train.jsonl") if (trial / "train.jsonl").exists() else []
    steps = [row["step"] for row in log]
    return {
        column: bends.break_point(steps, [row.get(column, np.nan) for row in log])
        for column in BENDING
        if log and column in log[-1]
    }


def _rows(checkpoints: Sequence[Checkpoint]) -> list[dict[str, Any]]:
    rows = []
    for c in checkpoints:
        found = read_metrics(Path(c.path) / "metrics.json")
        key = (c.trial.method, c.trial.beta, c.trial.seed, c.step, c.trial.name)
        named = dict(zip(COLUMNS, (*key, Path(c.path).name), strict=True))
        rows.append({**named, **metrics.row(found)})
    return rows


def tabulate(run: RunFolder, trials: Sequence[Trial]) -> None:
    """Write the tables of what is measured so far, without a verdict."""
    _write_tables(run, trials, _rows(collect(run, trials)))


def _write_tables(run: RunFolder, trials: Sequence[Trial], rows: Sequence[Any]) -> None:
    """Results, which equal runs have in common, apart from costs, which they do not."""
    costs = [
        records.read_json(path)
        for trial in trials
        if (path := run.trial(trial) / "costs.json").exists()
    ]
    write_table(run.results, rows)
    write_table(run.costs, costs)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as Parquet, beside its place and renamed: never half of a table is seen."""
    import pandas as pd

    with steps.disk_errors(path):
        temporary = path.with_suffix(".parquet.tmp")
        pd.DataFrame(rows).to_parquet(temporary, index=False)
        temporary.replace(path)
