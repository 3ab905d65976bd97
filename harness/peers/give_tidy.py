"""Results as tidy Parquet, for statistics of one's own: one number a row.

    metrics.parquet   run, method, beta, seed, step, checkpoint, metric, value, ci_low, ci_high,
                      stderr, n, unit, reason
    prompts.parquet   run, method, beta, seed, step, checkpoint, prompt_id, index, behaviour,
                      cluster, metric, value, ref_value

``ref_value`` is the reference's on the same prompt, null where there is none. ``preference`` is
the judge's probability that the answer is better than the reference's, over both orders. Values are
those of the run's own files; percent stays percent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefeval import records
from prefeval.harness.measured import read_metrics
from prefeval.harness.peers import extra
from prefeval.harness.peers.give import Place

if TYPE_CHECKING:
    import pyarrow as pa

KEY = ("run", "method", "beta", "seed", "step", "checkpoint")
METRIC = ("metric", "value", "ci_low", "ci_high", "stderr", "n", "unit", "reason")
OUTCOME = ("prompt_id", "index", "behaviour", "cluster", "metric", "value", "ref_value")
WHOLE, NUMBERS = ("seed", "step", "n", "index"), ("beta", "value", "ci_low", "ci_high", "stderr",
                                                 "ref_value")  # fmt: skip

# What a file holds of a prompt: the metric, its column, the reference's column.
OUTCOMES: Mapping[str, Sequence[tuple[str, str, str]]] = {
    "judgments": (
        ("preference", "preference", ""),
        ("preference_first", "preference_first", ""),
        ("preference_second", "preference_second", ""),
        ("true_preference", "true_preference", ""),
        ("characters", "len_output", "len_baseline"),
    ),
    "samples": (
        ("kl", "kl", ""),
        ("forward_kl", "forward_kl", ""),
        ("logps", "logps", "ref_logps"),
        ("entropy", "entropy", ""),
        ("tokens", "n_tokens", "ref_n_tokens"),
        ("ended", "ended", "ref_ended"),
    ),
    "checks": (
        ("passed", "passed", "ref_passed"),
        ("passed_loose", "passed_loose", "ref_passed_loose"),
    ),
    "sampled": (("passed_sampled", "passed", "ref_passed"),),
    "pairs": (
        ("chosen_logps", "chosen_logps", "ref_chosen_logps"),
        ("rejected_logps", "rejected_logps", "ref_rejected_logps"),
    ),
}


def write(run: Path, places: Sequence[Place], out: Path) -> Iterator[Path]:
    """Write both files; yields their paths."""
    reference = _reference_pairs(run)
    metrics = ((p, _metrics(p.folder)) for p in places)
    outcomes = ((p, _outcomes(p.folder, reference)) for p in places)
    for name, columns, parts in (
        ("metrics", METRIC, metrics), ("prompts", OUTCOME, outcomes),
    ):  # fmt: skip
        path = out / f"{name}.parquet"
        _write(path, run.name, columns, parts)
        yield path


def _write(path: Path, run: str, columns: Sequence[str], parts: Iterator[Any]) -> None:
    """One row group a checkpoint, so that a large run is never in memory as a whole."""
    import pyarrow.parquet as pq

    schema = _schema(columns)
    temporary = path.with_suffix(".parquet.tmp")
    with pq.ParquetWriter(temporary, schema) as writer:
        for place, rows in parts:
            key = (run, place.method or None, place.beta, place.seed, place.step, place.label)
            writer.write_table(_table(schema, [(*key, *row) for row in rows]))
    temporary.replace(path)


def _schema(columns: Sequence[str]) -> pa.Schema:
    import pyarrow as pa

    kinds = dict.fromkeys(WHOLE, pa.int64()) | dict.fromkeys(NUMBERS, pa.float64())
    return pa.schema([(name, kinds.get(name, pa.string())) for name in (*KEY, *columns)])


def _table(schema: pa.Schema, rows: Sequence[Sequence[Any]]) -> pa.Table:
    import pyarrow as pa

    columns = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    arrays = [
        pa.array(values, type=field.type) for values, field in zip(columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _metrics(folder: Path) -> list[tuple[Any, ...]]:
    return [
        (r.name, _known(r.value), _known(r.ci_low), _known(r.ci_high), _known(r.stderr), r.n,
         r.unit, r.reason or None)
        for r in read_metrics(folder / "metrics.json")
    ]  # fmt: skip


def _known(value: Any) -> float | None:
    """Null for what is undefined: a mean of a column must not silently be NaN, nor 0."""
    return None if value is None or not math.isfinite(value) else float(value)


def _outcomes(folder: Path, reference: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for name, metrics in OUTCOMES.items():
        file = folder / f"{name}.jsonl"
        for row in records.read_jsonl(file) if file.is_file() else ():
            prompt = row.get("prompt_id", row.get("pair_id"))
            if name == "pairs":
                row = {**row, **{f"ref_{k}": v for k, v in reference.get(prompt, {}).items()}}
            about = (prompt, row.get("index", 0), row.get("behaviour"), row.get("cluster"))
            found += [
                (*about, metric, _known(row[column]), _known(row.get(base)))
                for metric, column, base in metrics
                if row.get(column) is not None
            ]
    for metric, values in sorted(extra.documents(folder).items()):
        found += [(doc, 0, None, None, metric, value, None) for doc, value in values.items()]
    return found


def _reference_pairs(run: Path) -> dict[str, Any]:
    file = run / "reference" / "pairs.jsonl"
    return {row["pair_id"]: row for row in records.read_jsonl(file)} if file.is_file() else {}
