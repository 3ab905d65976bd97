"""Verdicts that are already there: ``saved:annotations.json``, in AlpacaEval's form.

Each row is found by its instruction and its two texts, in either order; a comparison that the file
does not hold is an error that names it, and a null preference is a verdict that was not read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefeval.harness import judgments, models
from prefeval.records import Comparison, PrefevalError, Verdict


class SavedJudge:
    """Looks verdicts up."""

    name = "saved"

    def __init__(self, verdicts: Mapping[tuple[str, str, str], float | None], file: str) -> None:
        self._verdicts, self._file = verdicts, file

    @property
    def settings(self) -> Mapping[str, Any]:
        """The file's content."""
        return {"file": self._file}

    def compare(self, items: Sequence[Comparison]) -> list[Verdict]:
        """One verdict for each comparison, in order."""
        found = []
        for item in items:
            asked = instruction(item)
            if (key := (asked, item.first, item.second)) in self._verdicts:
                found.append(Verdict(self._verdicts[key]))
            elif (key := (asked, item.second, item.first)) in self._verdicts:
                other = self._verdicts[key]
                found.append(Verdict(None if other is None else 1 - other))
            else:
                raise PrefevalError(
                    f"the saved verdicts hold none on these two answers to {asked[:60]!r}; judge "
                    "them, or give the file that belongs to these answers"
                )
        return found


def instruction(item: Comparison) -> str:
    """What AlpacaEval calls the prompt: the last request of the conversation."""
    return str(item.prompt.messages[-1]["content"])


def from_file(argument: str, *, device: str = "cpu", dtype: str = "float32") -> SavedJudge:
    """A file of annotations."""
    if not argument:
        raise PrefevalError("the judge 'saved' needs a file: saved:annotations.json")
    read = judgments.read(argument)  # which checks it
    if not read.has_texts:
        raise PrefevalError(
            f"{argument} has no texts; the judge 'saved' needs AlpacaEval's annotations"
        )
    rows = json.loads(Path(argument).expanduser().read_text(encoding="utf-8"))
    verdicts = {
        (r["instruction"], r["output_1"], r["output_2"]): None if p != p else 1 - p
        for r, p in zip(rows, read.rows["preference"], strict=True)
    }
    return SavedJudge(verdicts, models.file_hash(Path(argument).expanduser()))
