"""Tables from files, folders and hub names, through ``datasets``.

A local file is read into memory by way of a temporary cache, so nothing stays behind and no stale
copy is ever served. When reading fails, the file is looked at again to say what is wrong with it.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from prefeval.harness import hub
from prefeval.records import PrefevalError

FORMATS = {
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}


def read(
    source: str | os.PathLike[str], split: str, config: str | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and column names of ``source``; ``config`` names a part of a hub's data set.

    Raises ``PrefevalError`` of one line for a source that is missing, empty, of an unknown kind,
    not to be read (naming the line at fault where there is one) or not on the hub.
    """
    import datasets

    datasets.disable_progress_bars()
    path = Path(source).expanduser()
    if path.is_file() and path.stat().st_size == 0:
        raise PrefevalError(f"{source} is empty; give a file with at least one row")
    with hub.quiet(), tempfile.TemporaryDirectory(prefix="prefeval-data-") as cache:
        if not path.exists():
            table = _from_hub(str(source), split, config)
            return table.to_list(), list(table.column_names)
        try:
            table = _from_disk(path, split, cache)
            return table.to_list(), list(table.column_names)
        except PrefevalError:
            raise
        except Exception as error:  # datasets raises many kinds; the file itself says more
            raise PrefevalError(
                diagnose(path) or f"{source} cannot be read ({hub.first_line(error)}); correct it"
            ) from error


def _from_disk(path: Path, split: str, cache: str) -> Any:
    """A table in memory, so that nothing stays behind and no stale copy is ever read."""
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")  # a local file is nobody's download
    import datasets

    if (path / "state.json").is_file():
        return datasets.load_from_disk(str(path), keep_in_memory=True)
    options: dict[str, Any] = {"cache_dir": cache, "keep_in_memory": True}
    if path.is_dir():
        return datasets.load_dataset(str(path.absolute()), split=split, **options)
    suffix = next((s.lower() for s in reversed(path.suffixes) if s.lower() in FORMATS), None)
    if suffix is None:
        known = ", ".join(FORMATS)
        raise PrefevalError(f"{path}: unknown kind of file; known: {known}, each also with .gz")
    if suffix == ".tsv":
        options["sep"] = "\t"
    files = {"train": str(path.absolute())}
    return datasets.load_dataset(FORMATS[suffix], data_files=files, split="train", **options)


def _from_hub(name: str, split: str, config: str | None) -> Any:
    import datasets

    is_name = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name)
    if not is_name or any(name.lower().endswith((kind, f"{kind}.gz")) for kind in FORMATS):
        raise PrefevalError(f"no such file: {name}; give a data file, a folder or a hub name")
    try:
        with hub.offline_if_away():
            return datasets.load_dataset(name, config, split=split)
    except Exception as error:  # offline, unknown, gated, no such split: one line each
        raise PrefevalError(
            f"{name} is no file here and could not be loaded from the hub "
            f"({hub.first_line(error)}); check the name, the split {split!r} and the network"
        ) from error


def diagnose(path: Path) -> str:
    """What is wrong with a file that could not be read, in one line; "" if that is not seen."""
    if path.is_dir():
        return ""
    try:
        with path.open("rb") as handle:
            data = gzip.GzipFile(fileobj=handle).read() if path.suffix == ".gz" else handle.read()
        text = data.decode("utf-8") if ".parquet" not in path.suffixes else ""
    except (EOFError, gzip.BadGzipFile) as error:
        return f"{path} is a broken or truncated gzip file ({error}); fetch it again"
    except UnicodeDecodeError as error:
        return f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror}); check it"
    header_only = {".csv", ".tsv"} & set(path.suffixes) and "\n" not in text.strip()
    if not data.strip() or header_only:
        return f"{path} is empty; give a file with at least one row"
    if not {".jsonl", ".ndjson"} & set(path.suffixes):
        return ""
    for number, line in enumerate(text.split("\n"), 1):
        try:
            row = json.loads(line) if line.strip() else {}
        except ValueError as error:
            return f"{path}:{number} is not valid JSON ({error}); correct or remove the line"
        if not isinstance(row, dict):
            return f"{path}:{number} is not a JSON object; write one object a line"
    return ""
