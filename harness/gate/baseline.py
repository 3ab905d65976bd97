"""What a gate compares: one checkpoint's results by prompt, with what they were measured by.

Read from a measured checkpoint or from a baseline file, which holds the same and nothing else: no
answer, no path, no clock. Numbers are rounded alike on both ways, so that a checkpoint and its own
baseline differ in nothing.

    {"schema": 1, "kind": "prefeval baseline", "checksum": SHA-256 of the rest, "name": ...,
     "terms": {judge, reference, template, ...}, "calibration": {...}, "prompts": {id: hash},
     "frames": {judgments: {column: [...]}, samples, pairs, checks, diverse}}
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from prefeval import records
from prefeval.harness import measured
from prefeval.harness.compare import command as compare
from prefeval.harness.compare.targets import LENGTHS, Target, judge_of
from prefeval.harness.steps import disk_errors
from prefeval.harness.task import Task
from prefeval.metrics.calibration import Calibration, GamedRows
from prefeval.metrics.evidence import SCHEMAS, Evidence
from prefeval.records import PrefevalError

SCHEMA, KIND = 1, "prefeval baseline"
FRAMES = ("judgments", "samples", "pairs", "checks", "diverse")
DECIMALS = 6
HASH = 12  # characters: of a prompt's content, of a sampled text
SAVE = "save it again: prefeval gate CHECKPOINT --save-baseline FILE"


@dataclass(frozen=True, eq=False)
class Saved:
    """One checkpoint's results. ``terms`` must be alike to compare two; ``prompts`` are hashes of
    the prompts' content by id, ``pairs`` is one of the held-out pairs, ``answers`` one of all
    answers; ``chosen`` whether it was the best of several by ``pooling.choosing_half``."""

    name: str
    terms: Mapping[str, Any]
    prompts: Mapping[str, str]
    pairs: str
    answers: str
    chosen: bool
    evidence: Evidence


def terms_of(task: Task, manifest: Mapping[str, Any], measuring: int | None) -> dict[str, Any]:
    """What two checkpoints' numbers must have in common, by its name in words."""
    hashes = manifest.get("hashes") or {}
    return {
        "reference": hashes.get("reference"),
        "chat template": hashes.get("template"),
        "judge": judge_of(task),
        "length unit": task.length_unit,
        **{name.replace("_", " "): getattr(task.sizes, name) for name in LENGTHS},
        "samples a prompt": task.sizes.diverse_samples,
        "calibration version": measured.CALIBRATION_VERSION,
        "measuring version": measuring,
    }


def of_target(target: Target, name: str) -> Saved:
    """The results of a checkpoint that was measured."""
    run = compare.open_run(target.run)
    found = compare.evidence_of(run, target.folder)
    version = records.read_json(target.folder / "metrics.json").get("measuring")
    used = {str(i) for frame in ("judgments", "samples", "checks")
            for i in getattr(found, frame)["prompt_id"]}  # fmt: skip
    prompts = {i: short_hash(row) for i, row in sorted(run.prompts.items()) if i in used}
    return Saved(
        name,
        terms_of(run.task, run.manifest, version),
        prompts,
        short_hash(run.pairs),
        _answers(target.folder),
        target.chosen,
        _rounded(found),
    )


def _answers(folder: Path) -> str:
    """One hash of every answer: two checkpoints that have it in common answer alike."""
    said = [
        (c.prompt_id, c.mode, c.index, c.token_ids)
        for c in measured.read_completions(folder)
        if c.mode in ("sample", "greedy", "diverse")
    ]
    return records.content_hash(sorted(said))


def short_hash(value: Any) -> str:
    """The start of a content's hash."""
    return records.content_hash(value)[:HASH]


def _rounded(evidence: Evidence) -> Evidence:
    """The frames with the columns that every comparison needs; texts as hashes."""
    frames: dict[str, Any] = {}
    for name in FRAMES:
        frame, schema = getattr(evidence, name), SCHEMAS[name]
        kept = frame[list(schema.columns)].copy()
        for column in schema.numbers:
            kept[column] = kept[column].round(DECIMALS)
        if name == "diverse":
            kept["text"], kept["ref_text"] = [short_hash(t) for t in kept["text"]], ""
        frames[name] = kept
    return Evidence(**frames, calibration=evidence.calibration)


# -- the file ------------------------------------------------------------------------------------


def write(path: Path, saved: Saved) -> None:
    """Write a baseline file, compressed if its name ends in .gz; equal results, equal bytes."""
    body = {
        "name": saved.name,
        "terms": saved.terms,
        "chosen": saved.chosen,
        "pairs": saved.pairs,
        "answers": saved.answers,
        "calibration": _calibration_object(saved.evidence.calibration),
        "prompts": saved.prompts,
        "frames": {name: _columns(getattr(saved.evidence, name)) for name in FRAMES},
    }
    body = records.to_jsonable(body)
    head = {"schema": SCHEMA, "kind": KIND, "checksum": records.content_hash(body)}
    lines = [f"{json.dumps(k)}:{_dumps(v)}" for k, v in {**head, **body}.items()]
    text = "{" + ",\n".join(lines) + "}\n"
    with disk_errors(path, "choose another --save-baseline"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".gz":
            records.write_text(path, text)
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
        os.replace(temporary, path)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """A frame's columns as lists; whole numbers without their ".0"."""
    return {str(c): [_plain(x) for x in frame[c].tolist()] for c in frame.columns}


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _calibration_object(found: Calibration) -> dict[str, Any]:
    gamed = None
    if (rows := found.gamed) is not None:
        gamed = {"weight": rows.weight} | {
            name: getattr(rows, name).round(DECIMALS).tolist()
            for name in ("preference", "length", "difficulty")
        }
    return {"C": found.C, "gamed": gamed, "name": found.name}


def read(path: Path) -> Saved:
    """A baseline as `write` left it.

    Raises ``PrefevalError`` for a file that is none, of another version, cut short or edited.
    """
    found = _load(path)
    head = {k: found.pop(k, None) for k in ("schema", "kind", "checksum")}
    if head["kind"] != KIND:
        raise PrefevalError(f"{path} is no baseline; {SAVE}")
    if head["schema"] != SCHEMA:
        raise PrefevalError(
            f"{path} is a baseline of version {head['schema']} and this prefeval reads {SCHEMA}; "
            f"{SAVE}"
        )
    if head["checksum"] != records.content_hash(found):
        raise PrefevalError(f"{path} was changed since it was written (its checksum); {SAVE}")
    frames = {name: pd.DataFrame(columns) for name, columns in found["frames"].items()}
    evidence = Evidence(**frames, calibration=_calibration(found["calibration"]))
    own = {k: found[k] for k in ("name", "terms", "prompts", "pairs", "answers", "chosen")}
    return Saved(**own, evidence=evidence)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        found = json.loads(content.decode("utf-8"))
    except FileNotFoundError:
        raise PrefevalError(f"no such file: {path}; check --baseline") from None
    except (
        OSError,
        EOFError,
        ValueError,
        zlib.error,
        RecursionError,
    ) as error:  # cut or overwritten
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise PrefevalError(f"{path} is no whole baseline ({why}); {SAVE}") from error
    if not isinstance(found, dict):
        raise PrefevalError(f"{path} is no baseline; {SAVE}")
    return found


def _calibration(found: Mapping[str, Any]) -> Calibration:
    gamed = None
    if rows := found["gamed"]:
        gamed = GamedRows(
            np.array(rows["preference"]),
            np.array(rows["length"]),
            np.array(rows["difficulty"]),
            rows["weight"],
        )
    return Calibration(found["C"], gamed, found["name"])


# -- whether two compare --------------------------------------------------------------------------


def require_alike(
    baseline: Saved, terms: Mapping[str, Any], prompts: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Notes on what differs harmlessly between a baseline and a checkpoint measured by ``terms``.

    Raises ``PrefevalError`` naming what differs where their numbers do not compare: a term, or the
    content of a prompt; or a prompt that the baseline lacks.
    """
    notes = []
    for name in {**baseline.terms, **terms}:
        a, b = baseline.terms.get(name), terms.get(name)
        if a == b:
            continue
        if name == "measuring version" and None in (a, b):
            notes.append("which version of prefeval measured one of the two is not recorded")
            continue
        raise PrefevalError(
            f"the baseline has another {name} ({_told(a)}) than the checkpoint ({_told(b)}): "
            f"nothing compares; measure the checkpoint as the baseline was, or {SAVE}"
        )
    return (*notes, *(_prompt_notes(baseline, prompts) if prompts is not None else ()))


def _told(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _prompt_notes(baseline: Saved, prompts: Mapping[str, str]) -> list[str]:
    other = sorted(i for i, h in prompts.items() if baseline.prompts.get(i, h) != h)
    extra = sorted(prompts.keys() - baseline.prompts.keys())
    same = len(prompts) - len(other) - len(extra)
    if other or extra or not same:
        what = f"{len(other)} prompts have other content" if other else ""
        if extra:
            what += f"{' and ' if what else ''}the baseline lacks {len(extra)}"
        names = ", ".join([*other, *extra][:3])
        raise PrefevalError(
            f"the baseline is of another suite: {what or 'no prompt is in both'}"
            f"{f' ({names})' if names else ''}; measure the checkpoint on the baseline's prompts, "
            f"or {SAVE}"
        )
    left = len(baseline.prompts) - same
    return [f"{same} of the baseline's {same + left} prompts are in both"] if left else []
