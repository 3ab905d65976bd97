"""Inspect's logs, ``.eval`` (a zip file) and ``.json``, without Inspect.

A log holds scores, each of a scorer with metrics ("accuracy", "stderr"), and every sample's score.
Epochs of a sample are averaged, as Inspect does by default. Newer logs are compressed by
Zstandard, which Python's zipfile knows from 3.14 on; pyarrow knows it everywhere.
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefeval.harness.peers.extra import Imported, estimated, name
from prefeval.harness.peers.read_lm_eval import Peer, as_dict, as_number
from prefeval.harness.peers.read_lm_eval import count as _count
from prefeval.records import PrefevalError

ZSTANDARD = 93
LARGEST = 1 << 30  # bytes of one unpacked member
LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}  # what Inspect's value_to_float makes of them
MEANS = ("accuracy", "mean")
BROKEN = (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, struct.error, RuntimeError)
"""What a cut, overwritten, encrypted or too deep member raises."""
SPREADS = ("stderr", "std", "var", "bootstrap_stderr")


def is_inspect(document: Any) -> bool:
    """Whether a JSON document is a log of Inspect."""
    return isinstance(document, dict) and {"status", "eval"} <= document.keys()


def read_zip(path: Path, digest: str) -> Peer:
    """A ``.eval`` file. Raises ``PrefevalError`` for one that is no zip file or is half-written."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if "header.json" not in names:
                raise PrefevalError(
                    f"{path.name} was not finished (it has no header.json); let inspect finish it: "
                    "inspect eval-retry"
                )
            header = _member(path, archive, "header.json")
            if "summaries.json" in names:
                samples = _member(path, archive, "summaries.json")
            else:
                samples = [
                    _member(path, archive, n) for n in names
                    if n.startswith("samples/") and n.endswith(".json")
                ]  # fmt: skip
    except BROKEN as error:
        raise PrefevalError(
            f"{path.name} is no whole zip file ({error}); copy it again, or let inspect finish it"
        ) from error
    return read(path, {**as_dict(header), "samples": samples}, digest)


def _member(path: Path, archive: zipfile.ZipFile, member: str) -> Any:
    info = archive.getinfo(member)
    if info.file_size > LARGEST:
        raise PrefevalError(f"{path.name}: {member} unpacks to {info.file_size} bytes; not read")
    if info.compress_type != ZSTANDARD:
        return json.loads(archive.read(info))
    import pyarrow

    with path.open("rb") as handle:
        handle.seek(info.header_offset)
        name_length, extra_length = struct.unpack("<HH", handle.read(30)[26:])
        handle.seek(name_length + extra_length, 1)
        packed = handle.read(info.compress_size)
    with pyarrow.input_stream(pyarrow.py_buffer(packed), compression="zstd") as stream:
        return json.loads(stream.read(LARGEST))


def read(path: Path, document: Mapping[str, Any], digest: str) -> Peer:
    """Every metric of every scorer.

    Raises ``PrefevalError`` for a log of an evaluation that did not come to results.
    """
    about, results = as_dict(document.get("eval")), as_dict(document.get("results"))
    status = str(document.get("status"))
    scores = results.get("scores")
    if not isinstance(scores, list) or not scores:
        raise PrefevalError(
            f"{path.name} has no scores (its status is {status[:20]!r}); let inspect finish it"
        )
    notes = [] if status == "success" else [f"{path.name}: its status is {status[:20]!r}"]
    metrics: list[Imported] = []
    given = document.get("samples")
    samples = given if isinstance(given, list) else []
    for score in map(as_dict, scores):
        scorer = str(score.get("name"))
        by_sample = _by_sample(samples, scorer)
        found = as_dict(score.get("metrics"))
        spread = _value(found.get("stderr"))
        for label, metric in found.items():
            value = _value(metric)
            if label in SPREADS or value is None:
                continue
            own = by_sample if label in MEANS else {}
            n = len(own) or _count(score.get("scored_samples"))
            stderr = spread if spread is not None and label in MEANS else math.nan
            column = name("inspect", str(about.get("task")), scorer, str(label))
            result = estimated(column, value, stderr, n, list(own.values()), None)
            source = _source(path, digest, about, scorer, str(label), status)
            metrics.append(Imported(result, source, own))
    return Peer(_model(about), metrics, notes)


def _source(
    path: Path, digest: str, about: Mapping[str, Any], scorer: str, metric: str, status: str
) -> dict[str, Any]:
    return {
        "file": path.name, "sha256": digest, "harness": "inspect",
        "harness_version": as_dict(about.get("packages")).get("inspect_ai"),
        "task": about.get("task"), "task_version": about.get("task_version"),
        "scorer": scorer, "metric": metric, "model": _model(about), "status": status,
    }  # fmt: skip


def _model(about: Mapping[str, Any]) -> str:
    """The model's folder where its arguments name one, else its name."""
    given = as_dict(about.get("model_args")).get("model_path")
    return str(given or about.get("model") or "")


def _value(metric: Any) -> float | None:
    value = metric.get("value") if isinstance(metric, dict) else metric
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return as_number(value) if plain else None


def _by_sample(samples: Sequence[Any], scorer: str) -> dict[str, float]:
    """A scorer's value of each sample, averaged over epochs; none where one cannot be read."""
    values: dict[str, list[float]] = {}
    for sample in samples:
        sample = as_dict(sample)
        value = as_dict(as_dict(sample.get("scores")).get(scorer)).get("value")
        if isinstance(value, str):
            value = LETTERS.get(value)
        if not isinstance(value, (bool, int, float)):
            return {}
        number = float(value) if isinstance(value, bool) else as_number(value)
        values.setdefault(str(sample.get("id")), []).append(number)
    return {key: sum(v) / len(v) for key, v in values.items()}
