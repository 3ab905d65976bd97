"""Metrics that another tool measured of a checkpoint: ``extra.json`` and ``extra.jsonl`` beside
``metrics.json``.

    extra.json    {"schema": 1, "metrics": [{"name": "lm_eval_arc_easy_acc", "value": 0.41,
                   "n": ..., "ci_low": ..., "of": whose they are, "source": file, hash, ...}]}
    extra.jsonl   {"metric": ..., "doc": ..., "value": ...} a document, where the file had them

Values are as the other tool gives them: a share stays a share. They belong to the weights that the
checkpoint had: when it is trained anew they are undefined until they are imported again.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prefeval import records
from prefeval.records import MetricResult

FILE, DOCUMENTS = "extra.json", "extra.jsonl"
UNIT = "as in the file"
CLASHING = ("_ci_low", "_ci_high", "_n")  # endings of columns that are no metrics
_NUMBERS = ("value", "stderr", "ci_low", "ci_high")


@dataclass(frozen=True)
class Imported:
    """One metric of another tool. ``documents`` are its values by document, where they are known;
    ``source`` says where it comes from."""

    result: MetricResult
    source: Mapping[str, Any]
    documents: Mapping[str, float] = field(default_factory=dict)


def name(*parts: str) -> str:
    """A column's name of another tool's names: letters, digits and "_", at most 100 of them.

    >>> name("lm_eval", "gsm8k", "exact_match", "strict-match")
    'lm_eval_gsm8k_exact_match_strict_match'
    """
    found = re.sub(r"[^A-Za-z0-9]+", "_", "_".join(p for p in parts if p)).strip("_")
    if len(found) > 100:
        found = f"{found[:91]}_{hashlib.sha256(found.encode()).hexdigest()[:8]}"
    return f"{found}_value" if found.endswith(CLASHING) else found


def estimated(
    name: str, value: float, stderr: float, n: int, documents: Sequence[float],
    better: bool | None,
) -> MetricResult:  # fmt: skip
    """A metric with its 95% interval: from its documents where ``value`` is their mean, else from
    the standard error that the file gives, else none, with the reason."""
    from prefeval.metrics import stats

    plain = MetricResult(name, value, n, stderr, unit=UNIT, higher_is_better=better)
    if not math.isfinite(value):
        return replace(plain, value=math.nan, stderr=math.nan, reason="NaN or infinite in the file")
    if len(documents) > 1 and math.isclose(
        sum(documents) / len(documents), value, rel_tol=1e-6, abs_tol=1e-9
    ):
        bounded = all(0 <= v <= 1 for v in documents)
        found = (stats.bounded_mean if bounded else stats.clustered_mean)(list(documents))
        return replace(
            plain, n=len(documents), stderr=found.stderr, ci_low=found.ci_low,
            ci_high=found.ci_high,
        )  # fmt: skip
    if not (math.isfinite(stderr) and stderr >= 0):
        why = "no interval: the file has no standard error"
        return replace(plain, stderr=math.nan, reason=why)
    quantile = stats.t_quantile(n, 0.95) if n > 1 else stats.z_quantile(0.95)
    if stderr == 0 and n > 1 and value in (0.0, 1.0):
        low, high = stats.wilson(value, n, quantile)
    else:
        low, high = value - quantile * stderr, value + quantile * stderr
    return replace(plain, ci_low=low, ci_high=high)


def read(folder: Path) -> list[MetricResult]:
    """What was imported beside a checkpoint's metrics; nothing where nothing was."""
    file = folder / FILE
    if not file.is_file():
        return []
    now = weights(folder)
    found = []
    for row in records.read_json(file)["metrics"]:
        result = _result(row)
        if row.get("of") != now:
            why = "imported for other weights than the checkpoint has now; import it again"
            result = MetricResult(result.name, math.nan, 0, unit=result.unit, reason=why)
        found.append(result)
    return found


def _result(row: Mapping[str, Any]) -> MetricResult:
    kept = {k: row[k] for k in MetricResult.__dataclass_fields__}
    return MetricResult(**{**kept, **{k: math.nan for k in _NUMBERS if row[k] is None}})


def documents(folder: Path) -> dict[str, dict[str, float]]:
    """Values by document, by metric."""
    found: dict[str, dict[str, float]] = {}
    file = folder / DOCUMENTS
    for row in records.read_jsonl(file) if file.is_file() else ():
        if row["value"] is not None:
            found.setdefault(row["metric"], {})[row["doc"]] = float(row["value"])
    return found


def weights(folder: Path) -> Any:
    """What names the weights that a checkpoint's own metrics are of; None where nothing says so."""
    origin = folder / "answers_of.json"
    return records.read_json(origin).get("model") if origin.is_file() else None


def add(folder: Path, imported: Sequence[Imported], *, replace_known: bool) -> list[str]:
    """Keep metrics beside a checkpoint's own; a line for each that was there already.

    The same metric of the same file again changes nothing.
    """
    file, now = folder / FILE, weights(folder)
    known = {r["name"]: r for r in (records.read_json(file)["metrics"] if file.is_file() else ())}
    by_document = documents(folder)
    notes = []
    for one in imported:
        own, before = one.result.name, known.get(one.result.name)
        if before and before.get("of") == now:
            if before["source"].get("sha256") == one.source.get("sha256"):
                continue
            if not replace_known:
                notes.append(
                    f"{own} is there from {before['source']['file']} ({before['value']}) and is "
                    f"kept; {one.source['file']} has {one.result.value:g}: --replace takes that"
                )
                continue
        known[own] = {**records.to_jsonable(one.result), "of": now, "source": dict(one.source)}
        by_document.pop(own, None)
        if one.documents:
            by_document[own] = dict(one.documents)
    rows = [
        {"metric": metric, "doc": doc, "value": value}
        for metric, values in sorted(by_document.items())
        for doc, value in values.items()
    ]
    records.write_jsonl(folder / DOCUMENTS, rows)
    ordered = [known[k] for k in sorted(known)]
    records.write_json(file, {"schema": records.SCHEMA_VERSION, "metrics": ordered})
    return notes
