"""``prefeval watch DIR``: the checkpoints of a training that runs elsewhere, measured as they come.

Files are all that trainer and watch share:

    DIR/checkpoint-200/         the trainer writes; measured once whole, in step order, once each
    DIR/prefeval.stop           anybody writes: no checkpoint will follow; measure the rest, end
    DIR/prefeval.stop-training  the watch writes where no gain is shown any more (``--patience``)

What is measured is in the run folder (see `stream`), so that a watch which was killed
goes on where it was.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefeval.harness import live
from prefeval.harness.evaluate import VERSION
from prefeval.harness.watch import files as watch_files
from prefeval.harness.watch.files import Found, Settled
from prefeval.harness.watch.holds import Holds
from prefeval.harness.watch.stop import Adviser
from prefeval.harness.watch.stream import Stream
from prefeval.harness.watch.words import Speaker
from prefeval.records import PrefevalError

if TYPE_CHECKING:
    from prefeval.metrics.selection import Selection

HELD = "held"
EXIT_REFUSED = 3
REPORT_EVERY = 60.0  # seconds, while others wait to be measured


@dataclass(frozen=True)
class Watching:
    """What a person asked of a watch; times in seconds, 0 of ``idle`` is for ever."""

    folder: Path
    pattern: re.Pattern[str]
    stop_file: Path
    settle: float = 10.0
    poll: float = 2.0
    idle: float = 0.0
    once: bool = False
    keep: bool = False
    replace: bool = False
    metric: str = "lc_win_rate"
    patience: int = 0


@dataclass(frozen=True)
class Look:
    """What there was: ready to measure, by step; still changing; at rest and not whole."""

    at: float
    ready: tuple[Found, ...]
    changing: tuple[Found, ...]
    broken: tuple[Found, ...]


class Watch:
    """Looks, measures, and looks again, until there is a reason to end."""

    def __init__(self, stream: Stream, asked: Watching, speaker: Speaker) -> None:
        self.stream, self.asked, self.say = stream, asked, speaker
        run, reference = stream.run.folder.path, Path(stream.run.task.reference)
        self._holds = Holds(run / HELD, reference, keep=asked.keep)
        self._adviser = (
            Adviser(asked.folder, asked.metric, asked.patience, speaker) if asked.patience else None
        )
        self._settled = Settled(asked.settle, time.monotonic())
        self._done: set[tuple[str, watch_files.Signature]] = set()
        self._refused: set[tuple[str, watch_files.Signature]] = set()
        self._seen: dict[Path, int] = {}
        self._told: set[tuple[Path, str]] = set()
        self._durations: list[float] = []
        self._concluded, self._stale = time.monotonic(), False
        self._selection: Selection | None = None

    def run(self) -> int:
        """Until the stop file, idle time, or with ``--once`` the last one there; the exit code."""
        self._remember()
        with self.say.at_work():
            while True:
                look = self._look()
                if look.ready:
                    self._measure(look.ready[0], waiting=len(look.ready) - 1)
                    continue
                if self._stale:
                    self._conclude()
                if why := self._why_end(look):
                    return self._end(why, look)
                self.say.status(self._waiting_for(look))
                time.sleep(self.asked.poll)

    def _remember(self) -> None:
        """What an earlier watch measured; where it was measured from is in its folder."""
        known = self.stream.known()
        for measured in known:
            if measured.about.get("version") == VERSION and "files" in measured.about:
                files = tuple((str(n), int(s), int(t)) for n, s, t in measured.about["files"])
                self._done.add((measured.about["source"], files))
        for left in self._holds.left_behind():
            if left.key in self._done:
                self._holds.give_back(left)
        if known:
            self.say.line(f"measured before: step {', '.join(str(m.step) for m in known)}")
            self._stale = True
        self._stop_training()

    # -- looking ------------------------------------------------------------------------------

    def _look(self) -> Look:
        """What there is now.

        One that still changes holds back the later ones, so that steps come in order; one that
        rests half-written does not.
        """
        here = watch_files.find(self.asked.folder, self.asked.pattern)
        self._note_deleted(here)
        found = sorted([*here, *self._holds.left_behind()], key=lambda f: f.step)
        parts: tuple[list[Found], list[Found], list[Found]] = ([], [], [])
        ready, changing, broken = parts
        now = time.monotonic()
        for one in found:
            if one.key in self._done or one.key in self._refused:
                continue
            if one in here and not self._settled.see(one, now):
                changing.append(one)
            elif why := watch_files.why_not_whole(one, here):
                self._tell_once(one, f"step {one.step} is not whole: {why}")
                broken.append(one)
            elif not changing:
                ready.append(one)
        if self.asked.keep:
            self._keep(ready)
        return Look(now, *map(tuple, parts))

    def _keep(self, ready: list[Found]) -> None:
        for one in ready:
            try:
                self._holds.take(one)
            except FileNotFoundError:
                continue  # the next look says so

    def _note_deleted(self, here: list[Found]) -> None:
        """Say which were there at the last look and are not, without having been measured."""
        paths = {f.path for f in here}
        settled = {path for path, _ in self._done | self._refused}
        held = {f.path for f in self._holds.left_behind()}
        for path, step in self._seen.items():
            if path not in paths | held and str(path) not in settled:
                self._say_deleted(path, step)
        self._seen = {f.path: f.step for f in here}

    def _say_deleted(self, path: Path, step: int) -> None:
        text = f"step {step} was deleted before it was measured: {path}"
        self.say.event("deleted", text, step=step, checkpoint=path)

    def _tell_once(self, found: Found, text: str) -> None:
        if (found.path, text) not in self._told:
            self._told.add((found.path, text))
            self.say.line(text)

    def _waiting_for(self, look: Look) -> str:
        steps = ", ".join(str(f.step) for f in [*look.changing, *look.broken][:4])
        what = f"step {steps} to be whole" if steps else "a checkpoint"
        return f"waiting for {what} in {self.asked.folder}; {len(self._done)} are measured"

    # -- measuring ----------------------------------------------------------------------------

    def _measure(self, found: Found, *, waiting: int) -> None:
        start = time.monotonic()
        self.say.status(self._words(found, waiting))
        try:
            model, notes = self._holds.take(found)
            keeps = self.asked.keep or not found.has_config  # `prefeval score` loads what is there
            measured = self.stream.measure(
                model, found.step, replace=self.asked.replace, source=str(found.path),
                path=str(model if keeps else found.model), files=found.files,
            )  # fmt: skip
        except FileNotFoundError:
            self._holds.give_back(found)
            time.sleep(self.asked.poll)
            return  # gone or being written again: the next look says which
        except PrefevalError as error:
            self._holds.give_back(found)
            if found.path.is_dir() or self.asked.keep or found.path not in self._seen:
                self._refuse(found, str(error))
            return
        self._done.add(found.key)
        self._holds.give_back(found)
        took = time.monotonic() - start
        self._settled.changed = time.monotonic()
        self.say.measured(measured, found, live.duration(took), notes)
        if measured.state == "measured":
            self._durations.append(took)
            self._stale = True
            self._stop_training()
            if waiting and time.monotonic() - self._concluded > REPORT_EVERY:
                self._conclude()

    def _words(self, found: Found, waiting: int) -> str:
        left = ""
        if self._durations:
            mean = sum(self._durations) / len(self._durations)
            left = f", about {live.duration(mean * (waiting + 1))} left"
        return f"measuring step {found.step}{left}" + (f"; {waiting} wait" if waiting else "")

    def _refuse(self, found: Found, why: str) -> None:
        """One that cannot be measured as it is; it is looked at again when its files change."""
        self._refused.add(found.key)
        self._settled.changed = time.monotonic()
        text = f"step {found.step} is not measured: {why}"
        self.say.event("refused", text, step=found.step, checkpoint=found.path, why=why)

    def _conclude(self) -> None:
        self.say.status("writing the verdict and the report")
        self._selection = self.stream.finish(log=self.asked.folder)
        self._concluded, self._stale = time.monotonic(), False

    def _stop_training(self) -> None:
        """Tell the trainer to stop where no gain is shown any more, or take that back."""
        if self._adviser is not None:
            self._adviser.look(self.stream)

    # -- the end ------------------------------------------------------------------------------

    def _why_end(self, look: Look) -> str:
        """Why to end where nothing was ready; "" to go on."""
        if look.changing:
            return ""
        if self.asked.once:
            return "--once"
        if self.asked.stop_file.exists():
            return f"{self.asked.stop_file} is there"
        if self.asked.idle and look.at - self._settled.changed >= self.asked.idle:
            return f"nothing new for {live.duration(self.asked.idle)}"
        return ""

    def _end(self, why: str, look: Look) -> int:
        """Say what there is and what there is not."""
        known = self.stream.known()
        if not known and not self._refused and not look.broken:
            raise PrefevalError(
                f"no checkpoint came in {self.asked.folder} ({why}); look at the folder, or name "
                r"its checkpoints: --pattern 'run-(\d+)'"
            )
        for one in look.broken:
            lacks = watch_files.why_not_whole(one, look.broken)
            text = f"step {one.step} never was whole: {lacks}"
            self.say.event("unfinished", text, step=one.step, checkpoint=one.path, why=lacks)
        report = self.stream.run.folder.report if known else None
        bad = f"{len(self._refused)} refused, {len(look.broken)} unfinished"
        said = f"ended: {why}; {len(known)} measured, {bad}"
        said += f"\n{self._verdict()}\nreport: {report}" if known else ""
        self.say.event("ended", said, why=why, report=report)
        return EXIT_REFUSED if self._refused or look.broken else 0

    def _verdict(self) -> str:
        """The verdict, and where the weights of the recommended step are."""
        assert self._selection is not None
        if (best := self._selection.recommended) is None:
            return self._selection.verdict
        (found,) = (m for m in self.stream.known() if m.step == best.step)
        places = [Path(found.about[name]) for name in ("path", "source")]
        here = next((place for place in places if place.is_dir()), None)
        path = here or f"{places[1]} (the trainer has deleted them; --keep keeps weights)"
        return f"{self._selection.verdict}\nits weights: {path}"
