from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from prefeval import records
from prefeval.harness import steps
from prefeval.harness.run_folder import RunFolder
from prefeval.records import PrefevalError


def test_step_is_computed_once_and_read_afterwards(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> list[dict[str, int]]:
        calls.append(1)
        return [{"a": 1}]

    path = tmp_path / "deep" / "rows.jsonl"
    assert steps.rows_step(path, "k", compute) == [{"a": 1}]
    assert steps.rows_step(path, "k", compute) == [{"a": 1}]
    assert len(calls) == 1


def test_step_with_other_inputs_is_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    steps.rows_step(path, "old", lambda: [{"a": 1}])
    assert steps.rows_step(path, "new", lambda: [{"a": 2}]) == [{"a": 2}]


def test_step_whose_process_died_before_its_key_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    records.write_jsonl(path, [{"a": "half"}])  # the rows are there, their key is not
    assert not steps.is_done(path, "k")
    assert steps.rows_step(path, "k", lambda: [{"a": "whole"}]) == [{"a": "whole"}]


def test_failed_step_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(ZeroDivisionError):
        steps.rows_step(path, "k", lambda: [1 / 0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "mend"),
    [(errno.ENOSPC, "free space"), (errno.EROFS, "another --out"), (errno.EACCES, "another --out")],
)
def test_disk_error_is_one_line_with_the_mend(code: int, mend: str, tmp_path: Path) -> None:
    with pytest.raises(PrefevalError, match=mend), steps.disk_errors(tmp_path):
        raise OSError(code, "boom")


def test_other_errors_pass_through() -> None:
    with pytest.raises(FileNotFoundError), steps.disk_errors(Path("x")):
        raise FileNotFoundError(errno.ENOENT, "no such file")


def test_write_is_atomic_even_when_serialising_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    records.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        records.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_run_of_another_configuration_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.open("one")
    records.write_json(run.manifest, {"config_hash": "one"})
    run.open("one")
    with pytest.raises(PrefevalError, match="another configuration"):
        run.open("two")


def test_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(PrefevalError, match="not empty"):
        RunFolder(tmp_path).open("one")
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_run_in_use_is_refused_and_free_again_afterwards(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with (
        run.in_use(),
        pytest.raises(PrefevalError, match="in use"),
        RunFolder(tmp_path / "run").in_use(),
    ):
        pass
    with run.in_use():
        pass


def test_output_under_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PrefevalError, match="choose another --out"):
        RunFolder(tmp_path / "file" / "run").open("one")


def test_a_lone_surrogate_is_written_as_a_replacement_character(tmp_path: Path) -> None:
    rows = [{"text": "a\ud800b"}, {"text": "\U0001f600 \u2028"}]
    records.write_jsonl(tmp_path / "rows.jsonl", rows)
    assert records.read_jsonl(tmp_path / "rows.jsonl") == [{"text": "a\ufffdb"}, rows[1]]
    assert records.content_hash(rows) != records.content_hash(rows[:1])
