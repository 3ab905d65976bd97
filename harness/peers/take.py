"""``prefeval import``: other tools' files beside the checkpoints of a run.

Results of lm-evaluation-harness and Inspect become extra metrics of the checkpoint that they are
of. A trainer's log becomes the training log of a trial that prefeval did not train, and its
evaluations extra metrics of the checkpoints at their steps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prefeval import records
from prefeval.harness import models
from prefeval.harness.compare import targets as compare_targets
from prefeval.harness.peers import extra, read_inspect, read_lm_eval
from prefeval.harness.peers.extra import Imported
from prefeval.harness.peers.read_lm_eval import Peer
from prefeval.harness.run_folder import CHECKPOINT, RunFolder
from prefeval.harness.steps import disk_errors
from prefeval.records import MetricResult, PrefevalError

LOG, TRIAL = "train.jsonl", "trial.json"
EXIT_USAGE = 2
Say = Callable[[str], object]


def command(files: Sequence[Path], into: str, *, replace: bool, say: Say) -> int:
    """Import every file that can be; exit code 2 where one could not, each with its line."""
    taking = Taking(into, replace, say)
    with taking.run.in_use(), disk_errors(taking.run.path, "copy the run to where you may write"):
        for file in _expanded(files):
            try:
                taking.take(file)
            except PrefevalError as error:
                taking.failed += 1
                say(f"! {error}")
        if taking.changed:
            from prefeval.harness import score

            score.conclude(taking.run)
    return EXIT_USAGE if taking.failed else 0


def _expanded(files: Sequence[Path]) -> list[Path]:
    """Files, and of a folder with results those results; samples go with their results."""
    found: list[Path] = []
    for path in files:
        inside = [
            f for f in sorted(path.rglob("*")) if f.suffix == ".eval"
            or (f.name.startswith("results_") and f.suffix == ".json")
        ] if path.is_dir() else []  # fmt: skip
        found += inside or [path]
    return [f for f in dict.fromkeys(found) if not f.name.startswith("samples_")]


class Taking:
    """Files on their way into one run."""

    def __init__(self, into: str, replace: bool, say: Say) -> None:
        self.path = Path(into)
        given = self.path if self.path.exists() else Path(into.partition(":")[0])
        root = compare_targets.run_of(given)
        self.run = RunFolder(root)
        whole = self.path.exists() and self.path.resolve() == root.resolve()
        self.all = compare_targets.measured_in(root)
        self.chosen = None if whole else compare_targets.find(into).folder
        self.replace, self._say = replace, say
        self.failed, self.changed = 0, False

    def take(self, file: Path) -> None:
        """One file. Raises ``PrefevalError`` for one that cannot be read or placed."""
        if file.is_dir():
            return self._take_log(file)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise PrefevalError(f"{file} cannot be read ({error.strerror}); check it") from error
        digest = models.file_hash(file)
        if file.suffix == ".eval" or data[:4] == b"PK\x03\x04":
            return self._take_metrics(file, read_inspect.read_zip(file, digest))
        document = _document(file, data)
        if read_lm_eval.is_lm_eval(document):
            return self._take_metrics(file, read_lm_eval.read(file, document, digest))
        if read_inspect.is_inspect(document):
            return self._take_metrics(file, read_inspect.read(file, document, digest))
        return self._take_log(file)

    # -- results ------------------------------------------------------------------------------

    def _take_metrics(self, file: Path, peer: Peer) -> None:
        folder = self._place(file, peer.model)
        named: dict[str, Imported] = {}
        notes = list(peer.notes)
        for one in peer.metrics:
            if named.setdefault(one.result.name, one) is not one:
                notes.append(f"{file.name}: {one.result.name} is in it twice; the first is taken")
        notes += extra.add(folder, list(named.values()), replace_known=self.replace)
        self.changed |= bool(named)
        label = folder.relative_to(self.run.path)
        with_documents = sum(bool(one.documents) for one in named.values())
        self._say(
            f"{file.name}: {len(named)} metrics beside {label}, {with_documents} with their "
            "documents"
        )
        for note in notes:
            self._say(f"! {note}")

    def _place(self, file: Path, model: str) -> Path:
        """The checkpoint that a file is of: the one named, else the one that the file names."""
        fitting = [f for f in self.all if _is_of(model, f)]
        if self.chosen is not None:
            if self.chosen not in fitting:
                self._say(
                    f"! {file.name} says that it is of {model or 'no model'}, and "
                    f"{self.chosen.name} is taken to be that; if not, delete its {extra.FILE}"
                )
            return self.chosen
        if len(fitting) == 1:
            return fitting[0]
        if len(self.all) == 1:
            self._say(f"! {file.name} says that it is of {model or 'no model'}; taken as it is")
            return self.all[0]
        some = ", ".join(str(f) for f in self.all[:2])
        raise PrefevalError(
            f"{file.name} is of {model or 'no model'}, which is none of the run's "
            f"{len(self.all)} checkpoints; name the one it is of: --into {some}, ..."
        )

    # -- training logs ------------------------------------------------------------------------

    def _take_log(self, file: Path) -> None:
        from prefeval.harness.logs import training_log

        log = training_log.read(file)
        folder = self._trial()
        rows = training_log.rows_of(log.train)
        if rows:
            records.write_jsonl(folder / LOG, rows)
        self._say(f"{log.path.name}: {len(rows)} steps of training beside {folder.name}")
        self.changed = True
        digest = models.file_hash(log.path)
        for row in training_log.rows_of(log.evals):
            at = folder / f"checkpoint-{row['step']:06d}"
            if at in self.all:
                found = [_evaluated(k, v, log.path, digest) for k, v in row.items() if k != "step"]
                for note in extra.add(at, found, replace_known=self.replace):
                    self._say(f"! {note}")
                self._say(f"{log.path.name}: {len(found)} evaluations beside {at.name}")
        for note in log.notes:
            self._say(f"! {note}")

    def _trial(self) -> Path:
        """The folder whose training a log is of. Raises ``PrefevalError`` where it is prefeval's
        own training, or none can be told."""
        one = self.chosen or (self.all[0] if len(self.all) == 1 else None)
        folders = {f.parent for f in self.all if (f.parent / TRIAL).is_file()}
        if one is not None and (one.parent / TRIAL).is_file():
            folders = {one.parent}
        elif one is not None:
            return one  # eval's: the log lies with what was measured
        if len(folders) != 1:
            raise PrefevalError(
                f"a log is of one training, and {self.run.path} has {len(folders)}; name a "
                "checkpoint of it: --into RUN/..."
            )
        (folder,) = folders
        if "trainer" not in (records.read_json(folder / TRIAL).get("settings") or {}):
            raise PrefevalError(
                f"{folder.name} was trained by prefeval, which has its own log of it; a log is "
                "imported into a run of prefeval watch or eval"
            )
        return folder


def _document(file: Path, data: bytes) -> Any:
    """A JSON document; None where a training log's reader is to look at it.

    Raises ``PrefevalError`` for a results file that is broken.
    """
    if file.suffix != ".json":
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        if b'"log_history"' in data or data.lstrip()[:1] != b"{":
            return None
        raise PrefevalError(f"{file.name} is not valid JSON ({error}); copy it again") from error


def _is_of(model: str, folder: Path) -> bool:
    """Whether a model's path or name, as a file has it, is a checkpoint's: the whole path, or its
    last two parts, since a run may have been copied."""
    if not model:
        return False
    saved = folder / CHECKPOINT
    own = [folder, Path(records.read_json(saved)["path"])] if saved.is_file() else [folder]
    given = Path(model)
    return any(
        given.absolute() == path.absolute()
        or (len(given.parts) > 1 and given.parts[-2:] == path.parts[-2:])
        for path in own
    )


def _evaluated(column: str, value: float, path: Path, digest: str) -> Imported:
    finite = math.isfinite(value)
    why = "no interval: a trainer's log has neither n nor a standard error"
    result = MetricResult(
        extra.name("trainer", column), value if finite else math.nan, 0, unit=extra.UNIT,
        reason=why if finite else "NaN or infinite in the file",
    )  # fmt: skip
    source = {"file": path.name, "sha256": digest, "harness": "trainer", "metric": column}
    return Imported(result, source)
