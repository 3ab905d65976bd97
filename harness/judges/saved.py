"""Verdicts that are already there: ``saved:annotations.json``, in AlpacaEval's form.

Each row is found by its instruction and its two texts, in either order; a comparison that the file
does not hold is an error that names it, and a null preference is a verdict that was not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefeval.harness import judgments, models
from prefeval.harness.judges.chat_prompt import request_of
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
        return [Verdict(self._find(item)) for item in items]

    def _find(self, item: Comparison) -> float | None:
        # a conversation is exported whole, and AlpacaEval has its last request
        for asked in (request_of(item.prompt), str(item.prompt.messages[-1]["content"])):
            if (key := (asked, item.first, item.second)) in self._verdicts:
                return self._verdicts[key]
            if (key := (asked, item.second, item.first)) in self._verdicts:
                other = self._verdicts[key]
                return None if other is None else 1 - other
        raise PrefevalError(
            f"the saved verdicts hold none on these two answers to {asked[:60]!r}; judge "
            "them, or give the file that belongs to these answers"
        )


def from_file(argument: str, *, device: str = "cpu", dtype: str = "float32") -> SavedJudge:
    """A file of annotations."""
    if not argument:
        raise PrefevalError("the judge 'saved' needs a file: saved:annotations.json")
    read = judgments.read(argument)
    if not read.has_texts:
        raise PrefevalError(
            f"{argument} has no texts; the judge 'saved' needs AlpacaEval's annotations"
        )
    columns = ("prompt", "baseline", "output", "preference")
    verdicts: dict[tuple[str, str, str], float | None] = {
        (prompt[0], baseline, output): None if p != p else 1 - p
        for prompt, baseline, output, p in zip(
            *(read.rows[c].tolist() for c in columns), strict=True
        )
    }
    return SavedJudge(verdicts, models.file_hash(Path(argument).expanduser()))
