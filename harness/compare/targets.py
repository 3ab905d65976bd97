"""What ``prefeval compare`` is given: a run, a checkpoint of one, or ``RUN:TRIAL:STEP``; and what
must be alike in two of them before their numbers can be compared."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefeval import records
from prefeval.harness import judges, models
from prefeval.harness.run_folder import RunFolder
from prefeval.harness.task import Task
from prefeval.metrics.selection import Key
from prefeval.records import PrefevalError

TRIAL, EVALUATED = "trial.json", "checkpoints"
NEEDED = ("metrics.json", "completions.jsonl", "judgments.jsonl", "samples.jsonl", "pairs.jsonl",
          "checks.jsonl")  # fmt: skip
LENGTHS = ("max_length", "max_new_tokens", "greedy_new_tokens")
JUDGED = ("win_rate", "lc_win_rate", "flip_rate")
NOTED = ("dtype", "device", "backend")
MEND = "measure both alike: prefeval eval A B --reference REFERENCE --data DATA"


@dataclass(frozen=True)
class Target:
    """One checkpoint that was measured. ``is_run`` says that its run was named, not itself;
    ``chosen`` that its run recommends it, out of several, by some of the judged prompts."""

    run: Path
    folder: Path
    key: Key | None
    is_run: bool
    chosen: bool

    @property
    def path(self) -> str:
        """The run's name and the place in it."""
        return f"{self.run.name}/{self.folder.relative_to(self.run).as_posix()}"


def find(text: str) -> Target:
    """The checkpoint that ``text`` names; a run stands for the one that it recommends.

    Raises ``PrefevalError`` for what is no run or checkpoint, for a run that recommends none, and
    for a checkpoint that was not measured.
    """
    path = Path(text)
    if not path.exists() and ":" in text:
        path = _by_name(text)
    if not path.is_dir():
        raise PrefevalError(f"{text} is no folder; name a run, a checkpoint, or RUN:TRIAL:STEP")
    run = run_of(path)
    folder = _whole(path)
    if folder == run:
        return _target(run, _recommended(run), is_run=True)
    if folder == run / "reference":
        raise PrefevalError(
            f"{text} is what every number of the run is measured against: prefeval report "
            f"{run} shows each checkpoint beside it; compare two checkpoints"
        )
    if (folder / TRIAL).is_file():
        raise PrefevalError(f"{text} is a trial; name one of its checkpoints: {_some(run, folder)}")
    return _target(run, folder, is_run=False)


def run_of(path: Path) -> Path:
    """The run that a run, a trial or a checkpoint belongs to."""
    here = _whole(path)
    for folder in (here, *here.parents[:3]):
        if (folder / "task.json").is_file() and (folder / "manifest.json").is_file():
            return folder
    raise PrefevalError(
        f"{path} is no run of prefeval, nor a checkpoint in one (there is no task.json and "
        "manifest.json); a checkpoint from elsewhere is measured by prefeval eval"
    )


def _whole(path: Path) -> Path:
    """A path from the root without ".."; links stay, since a run may keep its trials elsewhere."""
    return Path(os.path.abspath(path))


def measured_in(run: Path) -> list[Path]:
    """The folder of every checkpoint that was measured."""
    found = [*run.glob("trials/*/checkpoint-*"), *run.glob(f"{EVALUATED}/*")]
    return sorted(f for f in found if (f / "metrics.json").is_file())


def key_of(folder: Path) -> Key | None:
    """Method, β, seed and step of a sweep's checkpoint; None for one of ``eval``."""
    saved = folder.parent / TRIAL
    if not saved.is_file():
        return None
    trial = records.read_json(saved)
    step = folder.name.rpartition("-")[2]
    if not step.isdecimal():
        return None
    return Key(str(trial["method"]), float(trial["beta"]), int(trial["seed"]), int(step))


def _target(run: Path, folder: Path, *, is_run: bool) -> Target:
    lacking = [name for name in NEEDED if not (folder / name).is_file()]
    if lacking:
        raise PrefevalError(
            f"{folder} was not measured (it lacks {', '.join(lacking)}); run its sweep or eval "
            f"again, or name one that was: {_some(run, run)}"
        )
    found = measured_in(run)
    chosen = len(found) > 1 and folder == _best(run, found)
    return Target(run, folder, key_of(folder), is_run, chosen)


def _by_name(text: str) -> Path:
    """The one checkpoint that ``RUN:TRIAL`` or ``RUN:TRIAL:STEP`` names, by the trial's start."""
    run, _, rest = text.partition(":")
    name, _, step = rest.partition(":")
    if not Path(run).is_dir():
        raise PrefevalError(f"{text}: {run} is no folder; give RUN:TRIAL:STEP")
    everything = measured_in(run_of(Path(run)))
    labels = [(f.parent.name if f.parent.name != EVALUATED else f.name, f) for f in everything]
    found = [f for label, f in labels if label.startswith(name)]
    if step:
        found = [f for f in found if f.name.rpartition("-")[2].lstrip("0") == step.lstrip("0")]
    trials = {f.parent if f.parent.name != EVALUATED else f for f in found}
    if len(trials) != 1:
        names = ", ".join(sorted(f.name for f in trials)[:4])
        why = f"{len(trials)} fit it ({names})" if trials else "none fits it"
        raise PrefevalError(
            f"{text}: {why}; those measured are {_some(Path(run), run_of(Path(run)))}"
        )
    return found[-1]


def _recommended(run: Path) -> Path:
    """The checkpoint that a sweep recommends, or the only one that ``eval`` measured."""
    found = measured_in(run)
    if len(found) == 1:
        return found[0]
    if (best := _best(run, found)) is not None:
        return best
    raise PrefevalError(f"{run} recommends no checkpoint; name one: {_some(run, run)}")


def _best(run: Path, found: list[Path]) -> Path | None:
    """Which of the measured checkpoints a sweep recommends."""
    summary = RunFolder(run).summary
    saved = records.read_json(summary) if summary.is_file() else {}
    best = (saved.get("selection") or {}).get("recommended")
    if best is None:
        return None
    wanted = Key(best["method"], best["beta"], best["seed"], best["step"])
    return next((folder for folder in found if key_of(folder) == wanted), None)


def _some(run: Path, where: Path) -> str:
    """A few measured checkpoints under ``where``, for an error."""
    found = [f for f in measured_in(_whole(run)) if f.is_relative_to(_whole(where))]
    if not found:
        return "none yet"
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(str(f) for f in found[:3]) + more


# -- what must be alike ------------------------------------------------------------------------


@dataclass(frozen=True)
class Terms:
    """What two checkpoints may be compared in: measures that may not, with the reason; notes."""

    without: Mapping[str, str]
    notes: tuple[str, ...]


def terms(a: Target, b: Target) -> Terms:
    """Raise ``PrefevalError`` where no number of A and B compares, else say what does not."""
    if a.run == b.run:
        return Terms({}, ())
    (first, one), (second, other) = (_read(t.run) for t in (a, b))
    hashes = [m.get("hashes") or {} for m in (one, other)]
    for name, what in (("reference", "references"), ("template", "chat templates")):
        if hashes[0].get(name) != hashes[1].get(name):
            short = " and ".join(str(h.get(name))[:8] for h in hashes)
            raise PrefevalError(
                f"A and B have different {what} ({short}): no number compares; {MEND}"
            )
    for name in LENGTHS:
        sizes = [getattr(t.sizes, name) for t in (first, second)]
        if sizes[0] != sizes[1]:
            option = name.replace("greedy_new_tokens", "max_new_tokens").replace("_", "-")
            raise PrefevalError(
                f"A and B were measured with different lengths (--{option} {sizes[0]} and "
                f"{sizes[1]}): no number compares; {MEND}"
            )
    without, notes = {}, []
    judged = [judge_of(t) for t in (first, second)]
    if judged[0] != judged[1]:
        why = f"the judges differ ({_told(judged[0])}; {_told(judged[1])})"
        without = dict.fromkeys(JUDGED, why)
        notes.append(f"Win rates and flips are not compared: {why}; {MEND} --judge JUDGE")
    elif first.length_unit != second.length_unit:
        why = f"lengths are controlled in {first.length_unit} and in {second.length_unit}"
        without["lc_win_rate"] = why
        notes.append(f"LC win rates are not compared: {why}")
    if first.sizes.diverse_samples != second.sizes.diverse_samples:
        without["distinct"] = "different numbers of samples a prompt"
    for name in NOTED:
        values = [getattr(t, name) for t in (first, second)]
        if values[0] != values[1]:
            notes.append(f"A was measured with {name} {values[0]}, B with {values[1]}")
    versions = [str(m.get("prefeval_version")) for m in (one, other)]
    if versions[0] != versions[1]:
        notes.append(f"A was measured by prefeval {versions[0]}, B by {versions[1]}")
    return Terms(without, tuple(notes))


def _read(run: Path) -> tuple[Task, Mapping[str, Any]]:
    return Task.read(run / "task.json"), records.read_json(run / "manifest.json")


def judge_of(task: Task) -> str:
    """What a judge's verdicts depend on: its settings, and a trained one's weights."""
    name, _, argument = task.judge.partition(":")
    folder = Path(argument)
    if name == "reward_model" and any(folder.glob("*.safetensors")):
        return f"{name}:{models.weights_hash(folder)}"
    return judges.identity(task.judge)


def _told(judge: str) -> str:
    return judge if len(judge) <= 60 else judge[:57] + "..."
