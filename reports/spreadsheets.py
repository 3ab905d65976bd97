"""The run's tables as CSV, for a spreadsheet, R or pandas: results, retention and the verdict.

Numbers are plain (a dot, no unit, full precision), percent and nats as in the report; a value that
is undefined is an empty cell. A name that a spreadsheet would take for a formula gets an apostrophe
before it: a suite and a run folder may come from someone else.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from prefeval import records
from prefeval.metrics import INTERVAL_COLUMNS
from prefeval.reports.files import read_frame
from prefeval.reports.quantities import Number
from prefeval.reports.retention import matrix
from prefeval.reports.run import CheckpointRow, Run
from prefeval.reports.summary import checkpoint_of, ordered
from prefeval.reports.verdict import Verdict

KEY = ("method", "beta", "seed", "step")
RETENTION = (*KEY, "behaviour", "passed", "change", "ci_low", "ci_high", "n", "p", "p_worse")
MEASURES = ("kl", "win_rate", "length_ratio", "delta_chosen")
BETAS = (
    *("method", "beta", "step", "seeds", "verdict", "recommended"),
    *("lc_win_rate", "lc_ci_low", "lc_ci_high", "lc_n"),
    *(f"{name}{end}" for name in MEASURES for end in ("", "_ci_low", "_ci_high", "_n")),
    *("worst_behaviour", "worst_change", "worst_ci_low", "worst_ci_high", "worst_n"),
    *("damaged", "reasons"),
)
# How a formula begins, in the wide forms of East Asian keyboards too (OWASP, "CSV injection").
FORMULA = tuple("=+-@＝＋－＠")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def write(run: Run, verdict: Verdict) -> list[Path]:
    """Write results.csv, retention.csv and betas.csv into the run's folder; return their paths.

    Equal folders give equal bytes.
    """
    found = {"results": results(run), "retention": retention(run), "betas": betas(run, verdict)}
    paths = []
    for name, (head, rows) in found.items():
        paths.append(run.folder / f"{name}.csv")
        records.write_text(paths[-1], csv_text(head, rows))
    return paths


def csv_text(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    r"""A table as CSV; columns that end in ``_n`` hold whole numbers.

    >>> csv_text(["name", "kl", "kl_n"], [["=1+1", -0.5, 400.0], ["a,b", math.nan, None]])
    'name,kl,kl_n\n\'=1+1,-0.5,400\n"a,b",,\n'
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(text_cell, head))
    for row in rows:
        writer.writerow(
            _cell(value, whole=name.endswith("_n")) for name, value in zip(head, row, strict=True)
        )
    return out.getvalue().encode("utf-8", "replace").decode("utf-8")  # a lone surrogate is "?"


def text_cell(text: str) -> str:
    """Text on one line that no spreadsheet takes for a formula."""
    flat = CONTROL.sub(" ", text)
    return f"'{flat}" if flat.lstrip().startswith(FORMULA) else flat


def _cell(value: Any, *, whole: bool) -> str:
    if isinstance(value, str):
        return text_cell(value)
    if value is None or not math.isfinite(value):
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return str(int(value)) if whole else repr(value)


def results(run: Run) -> tuple[list[str], list[list[Any]]]:
    """What results.parquet holds, in its order; of an unfinished run, what was measured so far."""
    saved = read_frame(run.folder / "results.parquet", [])
    if not saved.empty:
        return [str(name) for name in saved], saved.to_numpy(object).tolist()
    rows = [_result(c) for c in sorted(run.checkpoints, key=lambda c: c.key)]
    head = list(dict.fromkeys(name for row in rows for name in row)) or list(KEY)
    return head, [[row.get(name) for name in head] for row in rows]


def _result(row: CheckpointRow) -> dict[str, Any]:
    """A checkpoint with the column names of results.parquet."""
    found: dict[str, Any] = dict(zip(KEY, row.key, strict=True))
    found |= {"trial": row.trial, "checkpoint": row.folder.name if row.folder else ""}
    for name, number in row.numbers.items():
        low, high = INTERVAL_COLUMNS.get(name, (f"{name}_ci_low", f"{name}_ci_high"))
        found |= {name: number.value, low: number.low, high: number.high, f"{name}_n": number.n}
    return found


def retention(run: Run) -> tuple[Sequence[str], list[list[Any]]]:
    """One row a checkpoint and behaviour: percent passed, change in points, p values (Holm)."""
    rows = [
        [
            *(*row.key, cell.behaviour, cell.passed.value),
            *(cell.change.value, cell.change.low, cell.change.high),
            *(cell.passed.n or cell.change.n, cell.p, cell.p_worse),
        ]
        for row, line in sorted(matrix(run)[1], key=lambda item: item[0].key)
        for cell in line
    ]
    return RETENTION, rows


def betas(run: Run, verdict: Verdict) -> tuple[Sequence[str], list[list[Any]]]:
    """One row a β, as in the report's first table; LC WR is the reporting half's."""
    rows = []
    for beta in sorted(ordered(run, verdict), key=lambda b: (b.method, b.beta)):
        row = checkpoint_of(run, beta, verdict)
        numbers = [row.get(name) if row else Number(math.nan) for name in MEASURES]
        behaviour, change = beta.worst
        seeds = ";".join(str(key.seed) for key in beta.keys)
        rows.append(
            [
                *(beta.method, beta.beta, beta.keys[0].step, seeds, beta.state),
                verdict.recommended_key in beta.keys,
                *(end for number in (beta.lc, *numbers) for end in _ends(number)),
                *(behaviour, *_ends(change)),
                *("; ".join(beta.damaged), "; ".join(beta.reasons)),
            ]
        )
    return BETAS, rows


def _ends(number: Number) -> tuple[float, float, float, int | None]:
    return number.value, number.low, number.high, number.n
