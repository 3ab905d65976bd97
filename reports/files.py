"""Reads one saved file at a time; a missing or broken one is named, not raised."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from prefeval.records import PrefevalError, read_json, read_jsonl

SURROGATE = re.compile("[\ud800-\udfff]")


def encodable(value: Any) -> Any:
    """A JSON value whose every lone surrogate, which no file can hold, is U+FFFD.

    >>> encodable({"a": ["\\ud800b", 1]}) == {"a": ["\\ufffdb", 1]}
    True
    """
    if isinstance(value, str):
        return value if value.isascii() else SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [encodable(item) for item in value]
    if isinstance(value, dict):
        return {encodable(key): encodable(item) for key, item in value.items()}
    return value


def read_object(path: Path, problems: list[str]) -> Mapping[str, Any]:
    """One JSON object; a broken one is named and read as empty."""
    try:
        value = encodable(read_json(path))
    except (PrefevalError, OSError) as error:
        problems.append(str(error))
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path} does not hold a JSON object; delete it and run again")
        return {}
    return value


def read_rows(
    path: Path, problems: list[str] | None = None, *, growing: bool = False
) -> list[dict[str, Any]]:
    """The rows of a JSONL file, or none when it is missing or broken (then named).

    ``growing``: a run may be writing its last line just now.
    """
    if not path.exists():
        return []
    try:
        rows = read_jsonl(path, growing=growing)
        return [encodable(row) for row in rows if isinstance(row, dict)]
    except (PrefevalError, OSError) as error:
        if problems is not None:
            problems.append(str(error))
        return []


def read_frame(path: Path, problems: list[str]) -> pd.DataFrame:
    """A Parquet file, or an empty frame when it is missing or broken (then named)."""
    if not path.exists():
        return pd.DataFrame()
    try:
        return pd.read_parquet(path)
    except Exception as error:  # pyarrow raises many kinds
        problems.append(f"{path} cannot be read ({error}); delete it and run again with --resume")
        return pd.DataFrame()


def as_float(value: object) -> float:
    """A number, or NaN for anything else (JSON's null, a missing column)."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan
