"""Training logs as rows: JSON, JSONL, CSV, Parquet, what a console showed, TensorBoard's events.

The kind of a file is read from what is in it. A row is flat: names within names are joined by "/".
A file that was cut short gives the rows that are whole in it and a note. Nothing is unpickled.
"""

from __future__ import annotations

import ast
import csv
import importlib
import io
import json
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prefeval.records import PrefevalError

Row = dict[str, Any]

KINDS = (
    "give a trainer_state.json, JSONL, CSV, Parquet, a console's text, or a folder that holds one"
)

NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf)"
CALL = re.compile(
    rf"\b[\w.]{{1,40}}\(({NUMBER})(?:,[^()]{{0,80}})?\)"
)  # np.float64(0.5), tensor(0.5)
BARE = re.compile(r"""(?<![\w'"])([-+]?(?:nan|inf|NaN|Infinity))(?![\w'"])""")
VERL = re.compile(rf"(?:^|\s)([\w/@.-]{{1,120}}):(?:[\w.]{{1,40}}\()?({NUMBER})\)?(?= - |\s*$)")


def count(number: int, what: str) -> str:
    """``count(1, "row")`` is "1 row", ``count(2, "row")`` "2 rows"."""
    return f"{number} {what}" + ("" if number == 1 else "s")


class Rows(NamedTuple):
    """The rows of a file, in its order, and what was wrong with it."""

    rows: list[Row]
    notes: list[str]


def read_rows(path: Path) -> Rows:
    """The rows of a file, flat, with a note for everything that was left out.

    Raises ``PrefevalError`` for a file that is empty, binary, not UTF-8 or without any row.
    """
    if "tfevents" in path.name:
        return Rows(_tensorboard(path), [])
    notes: list[str] = []
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PrefevalError(f"{path} cannot be read ({error.strerror}); check it") from error
    if data[:2] == b"\x1f\x8b":
        data = _gunzip(path, data, notes)
    if data[:4] == b"PAR1":
        return Rows(_parquet(path, data), notes)
    text = _decode(path, data, notes)
    if not text.strip():
        raise PrefevalError(f"{path} is empty; give a log with at least one step")
    suffixes = {s.lower() for s in path.suffixes}
    if suffixes & {".csv", ".tsv"}:
        rows = _csv(path, text, notes)
    else:
        found = _json(path, text, notes)
        rows = list(_lines(text, notes)) if found is None else found
        if not rows and re.match(r"[^\n{\[]*[,\t]", text):
            rows = _csv(path, text, notes)
    flat = [_flatten(row) for row in rows]
    if not any(flat):
        raise PrefevalError(f"{path} holds no row of numbers; {KINDS}")
    return Rows(flat, notes)


def _gunzip(path: Path, data: bytes, notes: list[str]) -> bytes:
    """All that can be unpacked; a note where that is not everything."""
    found, rest, whole = b"", data, True
    while rest[:2] == b"\x1f\x8b":
        unpacker = zlib.decompressobj(31)
        try:
            for start in range(0, len(rest), 1 << 14):
                found += unpacker.decompress(rest[start : start + (1 << 14)])
                if unpacker.eof:
                    break
        except zlib.error:
            whole = False
            break
        whole = unpacker.eof
        rest = unpacker.unused_data + rest[start + (1 << 14) :] if whole else b""
    if not whole:
        notes.append(f"{path.name} is a gzip file cut short: what is whole in it was read")
    return found


def _decode(path: Path, data: bytes, notes: list[str]) -> str:
    """UTF-8, or UTF-16 where a mark says so (as PowerShell writes), without a last cut letter."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if error.reason in ("unexpected end of data", "truncated data"):
            text = data[: error.start].decode(encoding)
            notes.append("the file ends within a letter: it was cut short")
        elif b"\0" in data[:4096]:
            raise PrefevalError(f"{path} is a binary file, which is not opened; {KINDS}") from error
        else:
            raise PrefevalError(
                f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
            ) from error
    if "\0" in text:
        raise PrefevalError(f"{path} is a binary file, which is not opened; {KINDS}")
    return text


# -- JSON --------------------------------------------------------------------------------------


def _json(path: Path, text: str, notes: list[str]) -> list[Row] | None:
    """Rows of one JSON document, whole or cut short; None where the file is not one."""
    text = text.strip()
    if text[0] not in "{[":
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        start = 0 if text[0] == "[" else _history(text)
        if start is None or not (rows := list(_items(text, start + 1))):
            return None
        notes.append(f"{path.name} is cut short: {count(len(rows), 'whole row')} of it read")
        return rows
    if isinstance(document, dict) and isinstance(document.get("log_history"), list):
        document = document["log_history"]
        if not document:
            raise PrefevalError(
                f"{path} has an empty log_history; train with logging_steps below the steps"
            )
    if isinstance(document, dict):
        return [document]
    rows = [row for row in document if isinstance(row, dict)] if document else []
    if len(rows) < len(document):
        notes.append(f"left out: {count(len(document) - len(rows), 'item')} that is no row")
    return rows


def _history(text: str) -> int | None:
    """Where the list of a trainer_state.json that is cut short begins."""
    found = re.search(r'"log_history":\s*\[', text)
    before_lines = text.partition("\n")[0].rstrip()
    is_jsonl = before_lines.startswith("{") and before_lines.endswith("}")
    return found.end() - 1 if found and not is_jsonl else None


def _items(text: str, place: int) -> Iterator[Row]:
    """The objects of a JSON list, until the first that is not whole."""
    decoder = json.JSONDecoder()
    while True:
        while place < len(text) and text[place] in " \t\r\n,":
            place += 1
        try:
            item, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            return
        if isinstance(item, dict):
            yield item


# -- lines -------------------------------------------------------------------------------------


def _lines(text: str, notes: list[str]) -> Iterator[Row]:
    """The objects of JSONL and the dicts that a console showed, wherever they stand in a line."""
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    ended = text.endswith(("\n", "\r"))
    damaged = 0
    for number, line in enumerate(lines, 1):
        last = number == len(lines)
        if (row := _row_of(line)) is not None:
            yield row
        elif "step:" in line and " - " in line and (ended or not last):
            if len(pairs := VERL.findall(line)) > 1:  # verl's console
                yield dict(pairs)
        elif line.lstrip().startswith("{"):
            if last:
                notes.append("the last line is cut short and was left out")
            else:
                damaged += 1
    if damaged:
        notes.append(f"left out: {count(damaged, 'line')} that could not be read")


def _row_of(line: str) -> Row | None:
    start, end = line.find("{"), line.rfind("}")
    if start < 0 or end < start:
        return None
    found = line[start : end + 1]
    try:
        row = json.loads(found)
    except (ValueError, RecursionError):
        row = _literal(found)
    return row if isinstance(row, dict) and all(isinstance(key, str) for key in row) else None


def _literal(text: str) -> Any:
    """A Python literal; nan, inf and numbers that are shown with their type are read too."""
    text = BARE.sub(r"'\1'", CALL.sub(r"\1", text))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


# -- tables ------------------------------------------------------------------------------------


def _csv(path: Path, text: str, notes: list[str]) -> list[Row]:
    """Rows of a CSV or TSV file, empty cells left out. A last line without an end may be cut
    within a number, so it is not read."""
    if not text.endswith(("\n", "\r")):
        text, _, cut = text.rpartition("\n")
        if cut:
            notes.append("the last line has no end, so it may be cut short: it was left out")
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        raise PrefevalError(f"{path} holds no whole row of numbers; {KINDS}")
    header = lines[0]
    separator = max("\t;,", key=header.count)
    try:
        table = list(csv.reader(io.StringIO("\n".join(lines)), delimiter=separator))
    except csv.Error as error:
        raise PrefevalError(f"{path} is no table ({error}); save it as CSV anew") from error
    names = [" ".join(name.split()) for name in table[0]]
    _require_one_run(path, names)
    whole = [row for row in table[1:] if len(row) == len(names)]
    if len(whole) < len(table) - 1:
        damaged = count(len(table) - 1 - len(whole), "line")
        notes.append(f"left out: {damaged} with too few or too many cells")
    return [
        {n: cell for n, cell in zip(names, row, strict=True) if n and cell.strip()} for row in whole
    ]


def _require_one_run(path: Path, names: Sequence[str]) -> None:
    """A chart that W&B exports has a column a run, "run - train/loss"."""
    runs = {run for name in names if (run := name.rpartition(" - ")[0])}
    if len(runs) > 1:
        some = ", ".join(sorted(runs)[:3])
        raise PrefevalError(f"{path} holds {len(runs)} runs ({some}); export one run a file")


def _parquet(path: Path, data: bytes) -> list[Row]:
    import pandas as pd

    try:
        table = pd.read_parquet(io.BytesIO(data))
    except Exception as error:  # pyarrow raises many kinds
        why = str(error).split("\n")[0]
        raise PrefevalError(f"{path} is no whole Parquet file ({why}); fetch it again") from error
    rows = table.to_dict("records")
    if not rows:
        raise PrefevalError(f"{path} is empty; give a log with at least one step")
    # an empty cell and NaN are one in a table: neither counts as a value
    return [_flatten({str(k): v for k, v in row.items() if not _is_nan(v)}) for row in rows]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value


def _tensorboard(path: Path) -> list[Row]:
    try:
        accumulator = importlib.import_module(
            "tensorboard.backend.event_processing.event_accumulator"
        )
    except ImportError:
        raise PrefevalError(
            f"{path} is TensorBoard's: pip install tensorboard to read it, or give the "
            "trainer_state.json of the same run"
        ) from None
    try:
        events = accumulator.EventAccumulator(str(path), size_guidance={"scalars": 0})
        events.Reload()
        rows: dict[int, Row] = {}
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                rows.setdefault(event.step, {"step": event.step})[tag] = event.value
    except Exception as error:  # its protobuf raises many kinds
        raise PrefevalError(f"{path} is no whole event file ({error}); fetch it again") from error
    if not rows:
        raise PrefevalError(f"{path} holds no scalars; {KINDS}")
    return list(rows.values())


def _flatten(row: Mapping[str, Any], prefix: str = "") -> Row:
    """Names within names joined by "/"; nothing is left of lists and nulls."""
    flat: Row = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}/")
        elif value is not None and not isinstance(value, (list, tuple)):
            flat[f"{prefix}{name}"] = value
    return flat
