"""What a person types: every mistake is one line on stderr and exit code 2, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from prefeval.harness import cli


class Said(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    error: str


Say = Callable[..., Said]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Say:
    """The real entry point in this process, in an empty folder and without PREFEVAL_* set."""
    for name in [n for n in os.environ if n.startswith("PREFEVAL_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Said:
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert isinstance(end.value.code, int)
        return Said(end.value.code, *capsys.readouterr())

    return run


PLAN = ("sweep", "--dry-run", "--device", "cpu")


@pytest.mark.parametrize(
    ("arguments", "wrong", "mend"),
    [
        (["sweep", "--nope"], "No such option: --nope", "see prefeval sweep --help"),
        (["sweep", "--metods", "dpo"], "No such option: --metods", "--methods"),
        (["train"], "Missing argument", "see prefeval train --help"),
        (["nope"], "No such command 'nope'", "see prefeval --help"),
        (["sweep", "stray"], "unexpected extra argument", "see prefeval sweep --help"),
        (["sweep", "--beta"], "'--beta' requires an argument", ""),
        (["sweep", "--max-steps", "many"], "'--max-steps'", "integer"),
        (["sweep", "--workers", "-1"], "'--workers'", "0"),
        (["sweep", "--checkpoints", "0"], "'--checkpoints'", "1"),
        (["sweep", "--methods", "dop"], "unknown method 'dop'", "choose from dpo, ipo"),
        (["sweep", "--methods", ","], "no method given", "choose from dpo, ipo"),
        (["sweep", "--beta", "0.3:0.05"], "range 0.3:0.05 is reversed", "write 0.05:0.3"),
        (["sweep", "--beta", "-0.1"], "beta must be a number > 0, got -0.1", "try 0.05:0.3"),
        (["sweep", "--beta", "low:high"], "cannot read 'low'", "try 0.05:0.3"),
        (["sweep", "--seeds", "some"], "cannot read seeds 'some'", "write a count (3)"),
        (["sweep", "--lr", "inf"], "--lr must be a number", "0: the default"),
        (["sweep", "--executor", "cloud"], "unknown executor 'cloud'", "use local"),
        (["sweep", "--dtype", "float8"], "unknown --dtype 'float8'", "use float32"),
        (["sweep", "--lab", "nose=1"], "unknown lab knob 'nose'", "knobs are anchors"),
        (["sweep", "--model", "sft"], "needs data of your own", "--data pairs.jsonl"),
        (["sweep", "--data", "pairs.jsonl"], "data of your own needs its model", "--model DIR"),
        (["train", "dpo", "--beta", "0.1,0.3"], "runs one trial", "for a grid use sweep"),
        (["eval", "./nowhere", "--device", "cpu"], "no such model folder: nowhere", "give a"),
        (["report", "nowhere"], "nowhere is no run folder", "manifest.json"),
        (["lab", "--out", "."], "", "choose a new folder with --out"),
    ],
)
def test_mistake_is_one_line_on_stderr_and_exit_code_2(
    say: Say, tmp_path: Path, arguments: list[str], wrong: str, mend: str
) -> None:
    (tmp_path / "something").touch()
    code, out, error = say(*arguments)
    assert code == 2
    assert out == ""
    assert error.startswith("prefeval: ")
    assert error.count("\n") == 1
    assert wrong in error
    assert mend in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["something"]


def test_similar_command_is_suggested_where_the_parser_can(say: Say) -> None:
    code, _, error = say("swep")
    assert code == 2
    assert error.count("\n") == 1


def test_installed_command_prints_no_traceback() -> None:
    """Through a new interpreter, as a shell runs it."""
    for arguments in (["sweep", "--nope"], ["sweep", "--methods", "dop"], []):
        run = subprocess.run(
            [sys.executable, "-m", "prefeval", *arguments], capture_output=True, text=True
        )
        assert run.returncode == 2
        assert run.stdout == ""
        assert "Traceback" not in run.stderr


def test_command_alone_shows_what_there_is(say: Say) -> None:
    code, out, error = say()
    assert (code, out) == (2, "")
    assert error.startswith("Usage: prefeval")
    help_text = say("--help")
    assert help_text.code == 0
    for command in ("sweep", "train", "eval", "report", "lab"):
        assert f"\n  {command} " in help_text.out
        assert f"\n  {command} " in error


def test_version_is_printed_whatever_the_environment_holds(
    say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFEVAL_VERSION", "9.9")
    assert say("--version") == (0, "prefeval 0.1.0\n", "")


def test_underscores_and_hyphens_name_the_same_option(say: Say) -> None:
    hyphens = say(*PLAN, "--max-steps", "3", "--batch-size", "8")
    underscores = say(*PLAN, "--max_steps", "3", "--batch_size", "8")
    assert hyphens.code == 0
    assert hyphens == underscores
    assert hyphens != say(*PLAN, "--max_steps", "4", "--batch_size", "8")


def grid_line(said: Said, method: str = "dpo") -> list[str]:
    """The grid that a dry run shows for a method."""
    assert said.code == 0, said.error
    (line,) = [text for text in said.out.splitlines() if text.split()[:1] == [method]]
    return line.replace(",", "").split()[2:]


def test_defaults_give_way_to_the_file_to_the_environment_to_flags(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.yaml").write_text("beta: 0.1\nmax-steps: 3\n", encoding="utf-8")
    assert grid_line(say(*PLAN)) == ["0.05", "0.0909", "0.165", "0.3"]
    assert grid_line(say(*PLAN, "--config", "x.yaml")) == ["0.1"]
    monkeypatch.setenv("PREFEVAL_SWEEP_BETA", "0.2")
    assert grid_line(say(*PLAN)) == ["0.2"]
    assert grid_line(say(*PLAN, "--config", "x.yaml")) == ["0.2"]
    assert grid_line(say(*PLAN, "--config", "x.yaml", "--beta", "0.25")) == ["0.25"]


def test_file_and_flags_of_the_same_values_name_the_same_run(say: Say, tmp_path: Path) -> None:
    """Ranges stay text (YAML reads 2:10 as 130); lists and mappings are written out."""
    text = "methods: [dpo, simpo]\nbeta: {dpo: [0.1, 0.3], simpo: 2:10}\nlab: {noise: 0.1}\n"
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    flags = ("--methods", "dpo,simpo", "--beta", "dpo=0.1/0.3,simpo=2:10", "--lab", "noise=0.1")
    from_file = say(*PLAN, "--config", "x.yaml")
    assert grid_line(from_file, "simpo") == ["2", "3.42", "5.85", "10"]
    assert from_file == say(*PLAN, *flags)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (b"betta: 0.1\n", "x.yaml sets 'betta', which is no option"),
        (b"config: y.yaml\n", "x.yaml sets 'config'"),
        (b"- beta\n", "x.yaml must hold option: value lines"),
        (b"a: 1\nbeta: [0.1\n", "x.yaml is not valid YAML at line 3"),
        (b"beta: \xff\n", "x.yaml is not UTF-8"),
        (b"max_steps: many\n", "'--max-steps'"),
    ],
)
def test_faulty_configuration_file_is_one_line(
    say: Say, tmp_path: Path, text: bytes, wrong: str
) -> None:
    (tmp_path / "x.yaml").write_bytes(text)
    code, out, error = say(*PLAN, "--config", "x.yaml")
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert wrong in error


def test_missing_configuration_file_is_named(say: Say) -> None:
    code, _, error = say(*PLAN, "--config", "none.yaml")
    assert code == 2
    assert error == "prefeval: cannot read none.yaml (No such file or directory); check --config\n"


def test_file_names_options_and_arguments_as_the_command_line_does(
    say: Say, tmp_path: Path
) -> None:
    (tmp_path / "x.yaml").write_text("json: true\n", encoding="utf-8")
    code, out, error = say(*PLAN, "--config", "x.yaml")
    assert (code, out) == (0, "")
    assert "20 trials" in error
    (tmp_path / "y.yaml").write_text("method: dop\n", encoding="utf-8")
    assert "unknown method 'dop'" in say("train", "--config", "y.yaml").error
    (tmp_path / "z.yaml").write_text("checkpoint: [one, two]\n", encoding="utf-8")
    assert "'checkpoint', which is no option" in say("eval", "--config", "z.yaml", "one").error


def interrupt() -> None:
    raise KeyboardInterrupt


def test_interrupt_prints_the_command_that_continues(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["prefeval", "sweep", "--name", "two words"])
    assert cli.run_guarded(interrupt) == 130
    assert "To continue: prefeval sweep --name 'two words'" in capsys.readouterr().err


def test_fault_of_the_program_itself_is_not_hidden() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.run_guarded(broken)
