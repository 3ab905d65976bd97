"""The loop of ``prefeval watch`` over a trainer's folder; a stand-in measures at once."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prefeval.harness import live
from prefeval.harness.callback import gains as callback_gains
from prefeval.harness.evaluate import VERSION
from prefeval.harness.watch import files as watch_files
from prefeval.harness.watch import loop as watch
from prefeval.harness.watch import words as watch_words
from prefeval.harness.watch.loop import EXIT_REFUSED, Watch, Watching
from prefeval.harness.watch.stream import Measured
from prefeval.metrics.early_stopping import Gain
from prefeval.records import MetricResult, PrefevalError

METRICS = {
    n: MetricResult(n, 1.0, 10, 0.1, 0.8, 1.2, higher_is_better=better)
    for n, better in (("lc_win_rate", True), ("kl", None), ("length_ratio", None))
}


@dataclass
class StandIn:
    """A stream that keeps what it was asked and measures nothing."""

    folder: Path
    reference: Path
    asked: list[int] = field(default_factory=list)
    finished: int = 0
    recommends: bool = False
    before: Callable[[Path, int], None] = lambda path, step: None
    rows: dict[int, Measured] = field(default_factory=dict)

    @property
    def run(self) -> Any:
        path = self.folder
        return SimpleNamespace(
            folder=SimpleNamespace(path=path, report=path / "report.html"),
            task=SimpleNamespace(reference=str(self.reference)),
        )

    def known(self) -> list[Measured]:
        return [self.rows[step] for step in sorted(self.rows)]

    def measure(self, checkpoint: Path, step: int, **about: Any) -> Measured:
        self.before(checkpoint, step)
        assert (checkpoint / "model.safetensors").is_file()
        self.asked.append(step)
        kept = json.loads(json.dumps({**about, "content": f"of {step}", "version": VERSION}))
        self.rows[step] = Measured(step, checkpoint, METRICS, "measured", "", kept)
        return self.rows[step]

    def finish(self, log: Path | None = None) -> Any:
        self.finished += 1
        best = SimpleNamespace(step=max(self.rows)) if self.recommends else None
        return SimpleNamespace(recommended=best, verdict="Ship it." if best else "Ship nothing.")


@pytest.fixture
def stream(tmp_path: Path, tiny_folder: Path) -> StandIn:
    (tmp_path / "run").mkdir()
    (tmp_path / "out").mkdir()
    return StandIn(tmp_path / "run", tiny_folder)


@pytest.fixture
def asked(tmp_path: Path) -> Watching:
    """Measure what is there and end, as fast as can be."""
    return Watching(
        tmp_path / "out", watch_files.step_pattern(""), tmp_path / "out" / "prefeval.stop",
        settle=0.2, poll=0.02, once=True,
    )  # fmt: skip


@pytest.fixture
def save(tmp_path: Path, tiny_folder: Path) -> Callable[..., Path]:
    """``save(step)``: a checkpoint as a trainer that renames leaves it."""

    def write(step: int, name: str = "checkpoint") -> Path:
        temporary = tmp_path / f"tmp-{step}"
        shutil.copytree(tiny_folder, temporary)
        return temporary.rename(tmp_path / "out" / f"{name}-{step}")

    return write


def watching(
    stream: StandIn, asked: Watching, capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[dict[str, Any]]]:
    """The exit code and what was said, as JSON."""
    console = live.make_console(json_output=True)
    code = Watch(stream, asked, watch_words.Speaker(console, as_json=True)).run()  # type: ignore[arg-type]
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def events(rows: list[dict[str, Any]]) -> list[tuple[str, int | None]]:
    return [(row["event"], row.get("step")) for row in rows]


# -- order, and once each ---------------------------------------------------------------------


def test_everything_there_is_measured_in_the_order_of_steps(stream, asked, save, capsys):
    for step in (200, 1000, 30):
        save(step)
    code, rows = watching(stream, asked, capsys)
    assert code == 0
    assert events(rows) == [
        ("measured", 30),
        ("measured", 200),
        ("measured", 1000),
        ("ended", None),
    ]
    assert rows[0]["metrics"]["kl"] == {
        "name": "kl", "value": 1.0, "n": 10, "stderr": 0.1, "ci_low": 0.8, "ci_high": 1.2,
        "unit": "", "higher_is_better": None, "reason": "",
    }  # fmt: skip


def test_a_watch_that_is_started_again_measures_only_what_is_new(stream, asked, save, capsys):
    save(1), save(2)
    watching(stream, asked, capsys)
    save(3)
    _, rows = watching(stream, asked, capsys)
    assert stream.asked == [1, 2, 3]
    assert events(rows) == [("measured", 3), ("ended", None)]


def test_another_version_of_measuring_measures_again(stream, asked, save, capsys):
    save(1)
    watching(stream, asked, capsys)
    old = stream.rows[1]
    stream.rows[1] = replace(old, about={**old.about, "version": VERSION - 1})
    watching(stream, asked, capsys)
    assert stream.asked == [1, 1]


def test_a_step_that_was_written_again_is_looked_at_again(stream, asked, save, capsys):
    folder = save(1)
    watching(stream, asked, capsys)
    (folder / "config.json").write_text(
        (folder / "config.json").read_text(encoding="utf-8") + "\n", encoding="utf-8"
    )
    watching(stream, asked, capsys)
    assert stream.asked == [1, 1]


# -- while the trainer writes -----------------------------------------------------------------


def slowly(folder: Path, source: Path, seconds: float) -> None:
    """Write a checkpoint in place, its weights in ten pieces."""
    folder.mkdir()
    for file in source.iterdir():
        if file.name != "model.safetensors":
            shutil.copy(file, folder)
    data = (source / "model.safetensors").read_bytes()
    for i in range(10):
        with (folder / "model.safetensors").open("ab") as handle:
            handle.write(data[i * len(data) // 10 : (i + 1) * len(data) // 10])
        time.sleep(seconds / 10)


def test_a_checkpoint_is_measured_when_the_trainer_is_done_with_it(
    stream, asked, tmp_path, tiny_folder, capsys
):
    wanted = (tiny_folder / "model.safetensors").read_bytes()
    seen = []
    stream.before = lambda path, step: seen.append((path / "model.safetensors").read_bytes())

    def train() -> None:
        for step in (1, 2, 3):
            slowly(tmp_path / "out" / f"checkpoint-{step}", tiny_folder, 0.5)
        asked.stop_file.touch()

    trainer = threading.Thread(target=train)
    trainer.start()
    code, _ = watching(stream, replace(asked, once=False), capsys)
    trainer.join()
    assert code == 0
    assert stream.asked == [1, 2, 3]
    assert seen == [wanted] * 3


def test_one_that_still_changes_holds_back_later_steps(stream, asked, save, capsys):
    first, _ = save(1), save(2)
    until = time.monotonic() + 1

    def touch() -> None:
        while time.monotonic() < until:
            (first / "config.json").touch()
            time.sleep(0.03)

    toucher = threading.Thread(target=touch)
    toucher.start()
    watching(stream, replace(asked, once=False, idle=1.5), capsys)
    toucher.join()
    assert stream.asked == [1, 2]


def test_one_that_was_left_half_written_is_said_and_holds_nothing_back(stream, asked, save, capsys):
    broken = save(1) / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-100])
    save(2)
    code, rows = watching(stream, asked, capsys)
    assert stream.asked == [2]
    assert code == EXIT_REFUSED
    assert events(rows) == [("measured", 2), ("unfinished", 1), ("ended", None)]
    assert "truncated" in rows[1]["why"]


def test_a_pickle_is_named_at_once_and_not_measured(stream, asked, save, capsys):
    folder = save(1)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    code, rows = watching(stream, asked, capsys)
    assert code == EXIT_REFUSED
    assert "pickle" in rows[0]["why"]


# -- deletion ---------------------------------------------------------------------------------


def test_one_deleted_before_its_turn_is_said_and_the_others_follow(stream, asked, save, capsys):
    paths = [save(step) for step in (1, 2, 3)]
    stream.before = lambda path, step: shutil.rmtree(paths[1]) if step == 1 else None
    code, rows = watching(stream, asked, capsys)
    assert code == 0
    assert events(rows) == [("measured", 1), ("deleted", 2), ("measured", 3), ("ended", None)]


def test_one_deleted_while_it_is_measured_is_measured(stream, asked, save, capsys):
    folder = save(1)
    stream.before = lambda path, step: shutil.rmtree(folder)
    code, rows = watching(stream, asked, capsys)
    assert code == 0
    assert events(rows) == [("measured", 1), ("ended", None)]
    assert not list((stream.folder / watch.HELD).iterdir())


def test_a_watch_killed_while_measuring_goes_on_with_what_the_trainer_deleted(
    stream, asked, save, capsys
):
    folder = save(1)
    inode = (folder / "model.safetensors").stat().st_ino

    def killed(path: Path, step: int) -> None:
        raise KeyboardInterrupt

    stream.before = killed
    with pytest.raises(KeyboardInterrupt):
        watching(stream, asked, capsys)
    shutil.rmtree(folder)
    seen = []
    stream.before = lambda path, step: seen.append((path / "model.safetensors").stat().st_ino)
    code, rows = watching(stream, asked, capsys)
    assert (code, seen) == (0, [inode])
    assert events(rows)[0] == ("measured", 1)
    assert not list((stream.folder / watch.HELD).iterdir())


def test_kept_weights_stay_when_the_trainer_deletes(stream, asked, save, capsys):
    folder = save(1)
    watching(stream, replace(asked, keep=True), capsys)
    shutil.rmtree(folder)
    kept = Path(stream.rows[1].about["path"])
    assert (kept / "model.safetensors").is_file()
    _, rows = watching(stream, replace(asked, keep=True), capsys)
    assert stream.asked == [1]
    assert events(rows) == [("ended", None)]
    assert (kept / "model.safetensors").is_file()


# -- refusals ---------------------------------------------------------------------------------


def test_one_that_cannot_be_measured_is_said_once_and_the_watch_goes_on(
    stream, asked, save, capsys
):
    save(1), save(2)

    def refuse(path: Path, step: int) -> None:
        if step == 1:
            raise PrefevalError("another architecture; give the one that was tuned")

    stream.before = refuse
    code, rows = watching(stream, asked, capsys)
    assert code == EXIT_REFUSED
    assert events(rows) == [("refused", 1), ("measured", 2), ("ended", None)]
    assert rows[0]["why"] == "another architecture; give the one that was tuned"


# -- the end ----------------------------------------------------------------------------------


def test_nothing_at_all_is_an_error_that_names_the_mend(stream, asked, capsys):
    with pytest.raises(PrefevalError, match=r"no checkpoint came .* --pattern"):
        watching(stream, asked, capsys)


def test_idle_time_counts_from_the_last_change(stream, asked, save, capsys):
    save(1)
    start = time.monotonic()
    _, rows = watching(stream, replace(asked, once=False, idle=1.0), capsys)
    assert time.monotonic() - start >= 1.2  # the time to settle, then the idle time
    assert rows[-1]["why"] == "nothing new for 1 s"


def test_the_stop_file_ends_the_watch_when_the_rest_is_measured(stream, asked, save, capsys):
    save(1), save(2)
    asked.stop_file.touch()
    _, rows = watching(stream, replace(asked, once=False), capsys)
    assert stream.asked == [1, 2]
    assert rows[-1]["why"].endswith("prefeval.stop is there")


def test_the_report_is_written_when_none_waits_and_from_time_to_time(
    stream, asked, save, capsys, monkeypatch
):
    for step in (1, 2, 3):
        save(step)
    watching(stream, asked, capsys)
    assert stream.finished == 1
    monkeypatch.setattr(watch, "REPORT_EVERY", 0.0)
    stream.rows.clear()
    stream.finished = 0
    watching(stream, asked, capsys)
    assert stream.finished == 3


def test_the_end_names_the_recommended_weights_and_whether_they_are_still_there(
    stream, asked, save, capfd
):
    folder = save(7)
    stream.recommends = True
    console = live.make_console()
    Watch(stream, asked, watch_words.Speaker(console, as_json=False)).run()
    assert f"Ship it.\nits weights: {folder}\n" in capfd.readouterr().out
    shutil.rmtree(folder)
    Watch(stream, asked, watch_words.Speaker(console, as_json=False)).run()
    assert f"its weights: {folder} (the trainer has deleted them" in capfd.readouterr().out


# -- telling the trainer ----------------------------------------------------------------------


@pytest.fixture
def flat_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[tuple[int, int]]]:
    """``flat_after(step)``: gains of 5 (SE 1) up to a step, of nothing after; what was compared."""
    compared: list[tuple[int, int]] = []

    def plan(last: int) -> list[tuple[int, int]]:
        class Gains:
            def __init__(
                self, stream: Any, known: list[Measured], metric: str, sign: float
            ) -> None:
                self.steps = [m.step for m in known]

            def between(self, a: int, b: int) -> Gain:
                compared.append((self.steps[a], self.steps[b]))
                value = 5.0 if self.steps[b] <= last else 0.0
                return Gain(value, 1.0, 400, 1e-6 if value else 1.0)

        monkeypatch.setattr(callback_gains, "Gains", Gains)
        return compared

    return plan


def test_the_trainer_is_told_once_when_no_gain_is_shown(stream, asked, save, capsys, flat_after):
    compared = flat_after(2)
    for step in (1, 2, 3, 4, 5):
        save(step)
    _, rows = watching(stream, replace(asked, patience=2), capsys)
    told = [row for row in rows if row["event"] == "stop-training"]
    assert [(row["at_step"], row["best_step"]) for row in told] == [(4, 2)]
    file = asked.folder / "prefeval.stop-training"
    assert json.loads(file.read_text(encoding="utf-8"))["best_step"] == 2
    assert sorted(compared) == [(1, 2), (2, 3), (2, 4)]  # each once


def test_a_watch_started_again_comes_to_the_same(stream, asked, save, capsys, flat_after):
    flat_after(1)
    for step in (1, 2, 3):
        save(step)
    patient = replace(asked, patience=2)
    watching(stream, patient, capsys)
    file = asked.folder / "prefeval.stop-training"
    before = file.read_text(encoding="utf-8")
    file.unlink()
    watching(stream, patient, capsys)
    assert file.read_text(encoding="utf-8") == before


def test_a_stop_file_that_another_training_left_is_gone_before_anything_is_measured(
    stream, asked, save, capsys
):
    file = asked.folder / "prefeval.stop-training"
    file.write_text("{}")
    save(1)

    def look(path: Path, step: int) -> None:
        assert not file.exists(), "a trainer that saves now would stop"

    stream.before = look
    code, _ = watching(stream, replace(asked, patience=2), capsys)
    assert (code, stream.asked) == (0, [1])


def test_checkpoints_without_the_number_do_not_stop_a_training(
    stream, asked, save, capsys, flat_after, monkeypatch
):
    undefined = replace(METRICS["lc_win_rate"], value=float("nan"), reason="nothing was judged")
    monkeypatch.setitem(METRICS, "lc_win_rate", undefined)
    pairs = flat_after(1)
    for step in (1, 2, 3, 4):
        save(step)
    _, rows = watching(stream, replace(asked, patience=2), capsys)
    assert not any(row["event"] == "stop-training" for row in rows)
    assert pairs == []


def test_a_held_one_that_fails_is_said_though_the_trainer_has_deleted_it(
    stream, asked, save, capsys
):
    first = save(1)

    def killed(path: Path, step: int) -> None:
        shutil.rmtree(first)
        raise KeyboardInterrupt

    stream.before = killed
    with pytest.raises(KeyboardInterrupt):
        watching(stream, asked, capsys)

    def refuse(path: Path, step: int) -> None:
        raise PrefevalError("the judge is down")

    stream.before = refuse
    code, rows = watching(stream, asked, capsys)
    assert code == EXIT_REFUSED
    assert events(rows) == [("refused", 1), ("ended", None)]


def test_the_file_of_another_training_is_taken_away(stream, asked, save, capsys, flat_after):
    flat_after(9)
    (asked.folder / "prefeval.stop-training").write_text("not JSON", encoding="utf-8")
    save(1), save(2)
    watching(stream, replace(asked, patience=2), capsys)
    assert not (asked.folder / "prefeval.stop-training").exists()


def test_without_patience_no_file_is_written_or_taken(stream, asked, save, capsys):
    file = asked.folder / "prefeval.stop-training"
    file.write_text("{}", encoding="utf-8")
    save(1)
    watching(stream, asked, capsys)
    assert file.read_text(encoding="utf-8") == "{}"


# -- words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"), [("90", 90), ("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1d", 86400)]
)
def test_times_are_read(text: str, found: float):
    assert watch_words.seconds(text, "--idle") == found


@pytest.mark.parametrize("text", ["", "-1s", "1w", "soon", "1 2", "nan", "inf"])
def test_other_times_are_refused(text: str):
    with pytest.raises(PrefevalError, match="is no time"):
        watch_words.seconds(text, "--idle")
