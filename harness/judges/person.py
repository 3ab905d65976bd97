"""A person: a blind sheet to fill in, ``person:sheet.csv``.

Where the sheet is not there yet it is written, each pair of answers once, on sides that a hash of
the texts picks, and the run stops. Filled in (``left``, ``right`` or ``tie`` in the column
``verdict``), it gives the verdicts; a row left blank was not judged. A person sees one order, so
both orders get the same verdict and the flip rate says nothing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefeval import records
from prefeval.harness import models
from prefeval.records import Comparison, PrefevalError, Verdict

COLUMNS = ("pair", "request", "left", "right", "verdict")
WORTH = {"left": 1.0, "right": 0.0, "tie": 0.5}
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet would run


class PersonJudge:
    """Reads the sheet, or writes it."""

    name = "person"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._verdicts = _read(path) if path.exists() else None

    @property
    def settings(self) -> Mapping[str, Any]:
        """The sheet as it is filled in."""
        return {"sheet": models.file_hash(self._path) if self._path.is_file() else None}

    def compare(self, items: Sequence[Comparison]) -> list[Verdict]:
        """One verdict for each comparison, in order."""
        if self._verdicts is None:
            n = self._write(items)
            raise PrefevalError(
                f"{self._path} is written, {n} pairs of answers without their names; fill in "
                "left, right or tie as verdict, and run again"
            )
        found = []
        for item in items:
            if (pair := _pair(item)) not in self._verdicts:
                raise PrefevalError(
                    f"{self._path} lacks the pair on {_request(item)[:60]!r}; it is of other "
                    "answers: move it away to write a new sheet"
                )
            left = self._verdicts[pair]
            swap = left is not None and _left(item) != item.first
            found.append(Verdict(1 - left if swap and left is not None else left))
        return found

    def _write(self, items: Sequence[Comparison]) -> int:
        rows = {}
        for item in items:
            left = _left(item)
            right = item.second if left == item.first else item.first
            rows[_pair(item)] = [_pair(item), *map(_cell, (_request(item), left, right)), ""]
        text = io.StringIO()
        csv.writer(text).writerows([COLUMNS, *(rows[pair] for pair in sorted(rows))])
        records.write_text(self._path, text.getvalue())
        return len(rows)


def _request(item: Comparison) -> str:
    return "\n\n".join(f"{m['role']}: {m['content']}" for m in item.prompt.messages)


def _pair(item: Comparison) -> str:
    """Names the two answers to a request, whichever is shown first."""
    return records.content_hash([_request(item), *sorted((item.first, item.second))])[:16]


def _left(item: Comparison) -> str:
    """The answer on the left: the same whoever asks, and as good as drawn."""
    low, high = sorted((item.first, item.second))
    return low if int(records.content_hash([_pair(item), "side"])[:8], 16) % 2 else high


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


def _read(path: Path) -> dict[str, float | None]:
    """Verdicts for the answer on the left, by pair."""
    csv.field_size_limit(2**31 - 1)  # answers are as long as they are
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            rows = list(csv.DictReader(handle))
    except UnicodeDecodeError as error:
        raise PrefevalError(f"{path} is not UTF-8; save it as CSV UTF-8") from error
    except (OSError, csv.Error) as error:
        raise PrefevalError(f"{path} cannot be read as CSV ({error}); correct it") from error
    if not rows or not {"pair", "verdict"} <= set(rows[0]):
        raise PrefevalError(f"{path} must have the columns {', '.join(COLUMNS)}")
    found: dict[str, float | None] = {}
    for number, row in enumerate(rows, 2):
        said = (row["verdict"] or "").strip().lower()
        if said not in ("", *WORTH):
            raise PrefevalError(f"{path}:{number} says {said!r}; use left, right, tie or nothing")
        if row["pair"] in found:
            raise PrefevalError(f"{path}:{number} has pair {row['pair']} again; keep one row of it")
        found[row["pair"]] = WORTH.get(said)
    if all(v is None for v in found.values()):
        raise PrefevalError(f"{path} is not filled in; write left, right or tie as verdict")
    return found


def from_sheet(argument: str, *, device: str = "cpu", dtype: str = "float32") -> PersonJudge:
    """The sheet's path."""
    if not argument:
        raise PrefevalError("the judge 'person' needs a sheet: person:sheet.csv")
    return PersonJudge(Path(argument).expanduser())
