"""What length control freezes before a run, as a file of a version."""

import json

import numpy as np
import pytest

from prefeval import records
from prefeval.harness import measured
from prefeval.harness.task import Task
from prefeval.metrics import length_control, stats
from prefeval.records import PrefevalError


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return [
        {
            "prompt_id": f"p{i % 20:02d}", "cluster": f"c{i % 10}",
            "preference": None if i == 3 else float(rng.random()),
            "len_output": int(rng.integers(10, 90)), "len_baseline": int(rng.integers(10, 90)),
        }
        for i in range(80)
    ]  # fmt: skip


def saved(tmp_path, content) -> Task:
    (tmp_path / "reference").mkdir()
    records.write_json(tmp_path / "reference" / measured.CALIBRATION, content)
    return Task(str(tmp_path), "", "")


def test_what_was_frozen_is_read_back_to_the_bit(rows, tmp_path):
    task = saved(tmp_path, measured.calibrate(rows))
    calibration, difficulty = measured.read_calibration(task)
    preference = [np.nan if r["preference"] is None else r["preference"] for r in rows]
    want = length_control.difficulty_from_self_play([r["prompt_id"] for r in rows], preference)
    assert difficulty == dict(want)
    gamed = length_control.gamed_rows(
        preference,
        [r["len_output"] for r in rows],
        [r["len_baseline"] for r in rows],
        want.loc[[r["prompt_id"] for r in rows]],
    )
    assert calibration.C == length_control.DEFAULT_C
    assert "reference self-play" in calibration.name
    for name in ("preference", "length", "difficulty"):
        assert np.array_equal(getattr(calibration.gamed, name), getattr(gamed, name))
    assert len(gamed.preference) == 79
    read = np.isfinite(preference)
    clusters = [r["cluster"] for r in rows]
    again = stats.bounded_mean(np.array(preference)[read], np.array(clusters)[read]).scaled(100)
    assert calibration.self_play == again


def test_without_self_play_the_estimator_says_so(tmp_path):
    calibration, difficulty = measured.read_calibration(saved(tmp_path, measured.calibrate([])))
    assert calibration.name == f"{length_control.Calibration().name}; lengths in characters"
    assert (calibration.gamed, calibration.self_play) == (None, None)
    assert difficulty == {}


def test_a_calibration_of_another_version_is_refused(rows, tmp_path):
    task = saved(tmp_path, {**measured.calibrate(rows), "version": 0})
    with pytest.raises(PrefevalError, match="is a calibration of version 0 and this prefeval"):
        measured.read_calibration(task)
    assert json.loads((tmp_path / "reference/calibration.json").read_text())["unit"] == "characters"
