"""The pytest plugin in a pytest of its own: inert without options, a test a check with them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = "pytester"
At = Callable[[Path, float, int], Path]
TESTS = """
def test_gate(prefeval_check):
    prefeval_check.require()

def test_numbers(prefeval_result):
    json = prefeval_result.metrics["retention_json"]
    assert (json.n, json.unit) == (60, "percent")
    assert json.ci_low < json.value < json.ci_high or json.value == 100
    assert prefeval_result.gate().outcome == "{outcome}"
"""


@pytest.fixture
def child(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Runs the tests above in a process of their own, where the plugin is found as installed."""

    def run(outcome: str, *options: object) -> pytest.RunResult:
        pytester.makepyfile(TESTS.replace("{outcome}", outcome))
        policy = pytester.path / "gate.yaml"
        policy.write_text(
            "version: 1\nmetrics:\n  win_rate: {margin: 12}\n  json: {margin: 8}\n"
            "  implicit_accuracy: {margin: 1}\n"
        )
        given = ("-p", "no:cacheprovider", "--prefeval-policy", policy, *options)
        return pytester.runpytest_subprocess("-rs", "-v", *map(str, given))

    return run


def test_without_its_options_tests_are_skipped(child: Callable[..., pytest.RunResult]) -> None:
    found = child("pass")
    found.assert_outcomes(skipped=2)
    found.stdout.fnmatch_lines(["*give --prefeval-checkpoint and --prefeval-baseline*"])


def test_each_check_is_a_test_that_fails_or_skips(
    child: Callable[..., pytest.RunResult], run: Path, at: At
) -> None:
    found = child(
        "fail", "--prefeval-checkpoint", at(run, 0.1, 20), "--prefeval-baseline", at(run, 0.3, 20)
    )
    found.assert_outcomes(passed=2, failed=1, skipped=1)
    found.stdout.fnmatch_lines(
        [
            "*test_gate?win_rate? PASSED*",
            "*test_gate?json? FAILED*",
            "*test_gate?implicit_accuracy? SKIPPED*",
            "*json: −33.3 points*upper bound*",
        ]
    )


def test_a_checkpoint_passes_beside_itself(
    child: Callable[..., pytest.RunResult], run: Path, at: At
) -> None:
    same = at(run, 0.1, 20)
    found = child("pass", "--prefeval-checkpoint", same, "--prefeval-baseline", same)
    found.assert_outcomes(passed=4)


def test_what_cannot_be_read_is_one_error_that_says_why(
    child: Callable[..., pytest.RunResult], run: Path, at: At
) -> None:
    found = child("pass", "--prefeval-checkpoint", run / "no", "--prefeval-baseline", run)
    assert found.ret != 0
    found.stdout.fnmatch_lines(["*UsageError: prefeval: *no is no file, run or checkpoint*"])


def test_the_plugin_imports_nothing_heavy() -> None:
    """It is loaded by every pytest of an environment that has prefeval."""
    script = "import pytest, sys; before = set(sys.modules); import prefeval.harness.pytest_plugin;"
    script += "print(*(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "pandas", "numpy", "scipy", "typer", "rich"}
    assert not heavy & set(run.stdout.split())
