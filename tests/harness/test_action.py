"""action.yml and the examples, run step by step as scripts: gates that pass, fail and abstain on
real checkpoints of the smoke lab, the JUnit read by an independent parser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BASH = ["bash", "--noprofile", "--norc", "-eo", "pipefail"]  # as the runner calls it
EXPRESSION = re.compile(r"\$\{\{\s*([\w.-]+)\s*\}\}")
POLICY = """version: 1
metrics:
  lc_win_rate:
  behaviours:
  kl: {ceiling: 5} # nats: two steps of training are far below, noise in the weights far above
"""
PYTHON = """#!/bin/sh
# stands for the runner's python: an installation is written down and not done
if [ "$1 $2 $3" = "-m pip install" ]; then echo "$4" >>"$INSTALLED"; else exec {python} "$@"; fi
"""


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load((ROOT / name).read_text(), Loader=yaml.BaseLoader)
    return found


@dataclass
class Runner:
    """As much of a GitHub runner as composite actions need: expressions, env, outputs, summary."""

    work: Path
    cache: Path

    def __post_init__(self) -> None:
        tools = self.work / ".tools"
        tools.mkdir(parents=True)
        scripts = {
            "python": PYTHON.format(python=sys.executable),
            "prefeval": f'#!/bin/sh\nexec {sys.executable} -m prefeval "$@"\n',
        }
        for name, text in scripts.items():
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", "PREFEVAL_"))}
        self.env = {
            **kept,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PREFEVAL_CACHE": str(self.cache),
            "INSTALLED": str(self.work / "installed"),
            "GITHUB_OUTPUT": str(self.work / "output"),
            "GITHUB_STEP_SUMMARY": str(self.work / "summary.md"),
        }

    def steps(
        self, steps: list[Mapping[str, Any]], context: Mapping[str, str], env: Mapping[str, str]
    ) -> int:
        """Run every ``run`` step; an action by its own steps; the first failure's code."""
        for step in steps:
            if step.get("uses") == "./":
                action = load("action.yml")
                given = {k: str(v.get("default", "")) for k, v in action["inputs"].items()}
                given |= {k: self.filled(v, context) for k, v in step["with"].items()}
                inner = {f"inputs.{k}": v for k, v in given.items()}
                inner["github.action_path"] = str(ROOT)
                if code := self.steps(action["runs"]["steps"], inner, env):
                    return code
            elif "run" in step:
                own = {k: self.filled(v, context) for k, v in step.get("env", {}).items()}
                assert not EXPRESSION.search(step["run"]), "an input as text of a script"
                done = subprocess.run(
                    [*BASH, "-c", step["run"]],
                    env={**self.env, **env, **own}, cwd=self.work, timeout=300, check=False,
                    capture_output=True, text=True,
                )  # fmt: skip
                self.said = done.stdout + done.stderr
                if done.returncode:
                    return done.returncode
            else:
                assert step["uses"].split("@")[0].startswith("actions/")
        return 0

    def filled(self, text: str, context: Mapping[str, str]) -> str:
        return EXPRESSION.sub(lambda found: context[found[1]], text)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a smoke sweep; the same with a breath of noise; the same, broken."""
    import torch
    from safetensors.torch import load_file, save_file

    root = tmp_path_factory.mktemp("models")
    env = {**os.environ, "PREFEVAL_CACHE": str(root / "cache")}
    command = [sys.executable, "-m", "prefeval", "train", "dpo", "--smoke", "--out", str(root)]
    subprocess.run(command, env=env, check=True, capture_output=True, timeout=300)
    (source,) = root.glob("*/trials/*/checkpoint-*")
    for name, noise in (("same", 0.0), ("near", 0.02), ("broken", 5.0)):
        shutil.copytree(source, root / name)
        weights = load_file(source / "model.safetensors")
        draw = torch.Generator().manual_seed(0)
        moved = {
            k: w + noise * w.std() * torch.randn(w.shape, generator=draw)
            for k, w in weights.items()
        }
        save_file(moved, root / name / "model.safetensors", metadata={"format": "pt"})
    return root


@pytest.fixture
def runner(models: Path, tmp_path: Path) -> Runner:
    work = tmp_path / "checkout"
    return Runner(work, models / "cache")


@pytest.mark.slow
def test_the_example_workflow_passes_fails_and_abstains(models: Path, runner: Runner) -> None:
    """The baseline job once, then the gate job on three checkpoints in the same checkout."""
    junitparser = pytest.importorskip("junitparser", reason="junitparser is in [test]")
    workflow = load("examples/github-workflow.yml")
    (runner.work / "gate.yaml").write_text(POLICY)
    env = {
        **workflow["env"],
        "CHECKPOINT": str(models / "same"),
        "REFERENCE": "lab",
        "DATA": "lab",
        "JUDGE": "",
        "OPTIONS": "--smoke",
    }
    assert runner.steps(workflow["jobs"]["baseline"]["steps"], {}, env) == 0, runner.said
    baseline = runner.work / env["BASELINE"]
    assert baseline.stat().st_size < 200_000

    outcomes = {"same": (0, "pass"), "near": (4, "inconclusive"), "broken": (1, "fail")}
    env["OPTIONS"] = "--smoke --policy gate.yaml"
    for name, (code, outcome) in outcomes.items():
        env["CHECKPOINT"] = str(models / name)
        context = {f"env.{k}": v for k, v in env.items()}
        got = runner.steps(workflow["jobs"]["gate"]["steps"], context, env)
        assert got == code, runner.said
        assert (runner.work / "output").read_text().splitlines()[-1] == f"outcome={outcome}"
        (suite,) = junitparser.JUnitXml.fromfile(str(runner.work / "prefeval-gate.xml"))
        assert (suite.failures > 0) == (outcome == "fail")
        assert (suite.skipped > 0) == (outcome != "pass")
        assert suite.errors == 0
    summary = (runner.work / "summary.md").read_text()
    words = [line.split(":")[1].split()[1] for line in summary.splitlines() if "### " in line]
    assert words == ["PASS", "INCONCLUSIVE", "FAIL"]
    assert "✗ KL, ceiling" in summary
    assert (runner.work / "installed").read_text().split() == [".", str(ROOT), str(ROOT), str(ROOT)]

    # the script for other systems, in the same place: the baseline is there
    done = subprocess.run(
        [*BASH, str(ROOT / "examples" / "ci.sh")],
        env={**runner.env, **env, "OPTIONS": "--smoke", "POLICY": "gate.yaml"},
        cwd=runner.work, timeout=300, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    (suite,) = junitparser.JUnitXml.fromfile(str(runner.work / "prefeval-gate.xml"))
    assert suite.failures > 0


def test_a_checkpoint_that_cannot_be_measured_is_an_error_and_no_regression(
    models: Path, runner: Runner
) -> None:
    """No such baseline, and an input that is a command: code 2, outcome error, nothing run."""
    step = {
        "uses": "./",
        "with": {
            "checkpoint": str(models / "same"),
            "baseline": '$(touch pwned)"; touch pwned; ".json',
            "options": "--smoke",
        },
    }
    assert runner.steps([step], {}, {}) == 2
    assert (runner.work / "output").read_text() == "outcome=error\n"
    assert "<error" in (runner.work / "prefeval-gate.xml").read_text()
    assert not (runner.work / "pwned").exists()


def test_a_missing_baseline_is_an_error_of_the_script_and_saves_nothing(runner: Runner) -> None:
    done = subprocess.run(
        [*BASH, str(ROOT / "examples" / "ci.sh")],
        env={**runner.env, "CHECKPOINT": "a", "BASELINE": "typo.json", "OPTIONS": "--smoke"},
        cwd=runner.work, timeout=300, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "typo.json is no file" in done.stderr
    assert "SAVE_BASELINE=1" in done.stderr
    assert not (runner.work / "typo.json").exists()


def test_options_on_several_lines_all_reach_the_command(runner: Runner) -> None:
    (runner.work / ".tools" / "prefeval").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    given = {"checkpoint": "a", "baseline": "b.json", "options": "--smoke\n--prompts 8\n"}
    assert runner.steps([{"uses": "./", "with": given}], {}, {}) == 0
    assert runner.said.split()[-5:] == ["--smoke", "--prompts", "8", "--", "a"]


def test_the_action_declares_what_it_uses() -> None:
    """Every input is used, every expression is an input, and actions are pinned to a version."""
    text = (ROOT / "action.yml").read_text()
    action = load("action.yml")
    used = {name.partition(".")[2] for name in EXPRESSION.findall(text) if "inputs." in name}
    assert used == set(action["inputs"])
    for step in action["runs"]["steps"]:
        assert ("run" in step) == (step.get("shell") == "bash")
        assert "uses" not in step or re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])
    for name in ("gitlab-ci.yml", "pre-commit-config.yaml"):
        assert "examples/ci.sh" in (ROOT / "examples" / name).read_text()
        assert load(f"examples/{name}")
