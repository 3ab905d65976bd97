"""A suite by what a person calls it: the built-in one, files, or a data set.

builtin                         folder of JSONL files, or one such file
folder:test                     a folder that ``datasets`` reads, with the split
google/IFEval                   a data set of the hub, its split "train"
openai/gsm8k:main:test          with its configuration and split
"""

from __future__ import annotations

from pathlib import Path

from prefeval.harness import tables
from prefeval.records import PrefevalError, Prompt
from prefeval.suites import builtin


def load(source: str) -> list[Prompt]:
    """The prompts of a suite, sorted by id.

    Raises ``PrefevalError`` of one line: a source that is not there or cannot be read, offline or
    otherwise, and rows that cannot be used, named by file and line or by row.
    """
    if _is_own(Path(source).expanduser()) or source == builtin.BUILTIN:
        return builtin.load_suite(source)
    name, *rest = source.split(":")
    if len(rest) > 2:
        raise PrefevalError(f"--suite {source}: give NAME, NAME:SPLIT or NAME:CONFIGURATION:SPLIT")
    folder = Path(name).expanduser()
    if not (_is_table(folder) if folder.exists() else name.count("/") == 1):
        return builtin.load_suite(source)  # says what there might have been
    split, config = (rest or ["train"])[-1], rest[0] if len(rest) == 2 else None
    rows, _ = tables.read(folder if folder.exists() else name, split, config)
    return builtin.from_rows(rows, source)


def _is_own(path: Path) -> bool:
    """Whether a path holds a suite's own files, a prompt a line."""
    return path.is_file() or (path.is_dir() and bool(builtin.files_of(path)))


def _is_table(path: Path) -> bool:
    """Whether a folder holds anything that ``datasets`` reads."""
    return path.is_dir() and any(
        found.suffix in {*tables.FORMATS, ".arrow"} for found in path.rglob("*")
    )
