"""The pytest plugin: a gate's checks as tests. Without its options it does nothing.

    pytest --prefeval-checkpoint CKPT --prefeval-baseline FILE [--prefeval-policy gate.yaml]

    def test_gate(prefeval_check):                 # a test a check of the policy
        prefeval_check.require()                   # fails, or skips where it is inconclusive

    def test_refusals(prefeval_result):
        assert prefeval_result.metrics["retention_refusal"].ci_low > 90
        assert prefeval_result.gate().outcome != "fail"

The checkpoint must be measured (``prefeval eval``, ``prefeval gate``): tests load no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from prefeval.harness.gate.baseline import Saved
    from prefeval.metrics.gate.decision import Check, Verdict
    from prefeval.records import MetricResult
    from prefeval.reports.gate.data import Gated

OPTIONS = ("checkpoint", "baseline", "policy")
HELP = {
    "checkpoint": "What prefeval_result is of: a measured checkpoint, a run, or a baseline file.",
    "baseline": "What it is gated against: a baseline file, a measured checkpoint, 'reference'.",
    "policy": "Margins, floors, ceilings (prefeval gate --print-policy); the usual ones if empty.",
}
MISSING = "give --prefeval-checkpoint and --prefeval-baseline"


@dataclass(frozen=True)
class PrefevalCheck:
    """One check of the gate, as a test takes it."""

    check: Check

    def require(self) -> None:
        """Fail where the check is shown worse than its limit; skip where it is inconclusive."""
        from prefeval.reports.gate import words

        told = f"{words.title(self.check)}: {words.measured(self.check)}; {words.why(self.check)}"
        if self.check.outcome == "fail":
            pytest.fail(told, pytrace=False)
        if self.check.outcome == "inconclusive":
            pytest.skip(told)


@dataclass(frozen=True)
class PrefevalResult:
    """A measured checkpoint beside its baseline; read when first asked."""

    checkpoint: str
    baseline: str
    policy: str

    @cached_property
    def _saved(self) -> Saved:
        from prefeval.harness.gate import command as gate

        return gate.load(self.checkpoint)

    @cached_property
    def metrics(self) -> Mapping[str, MetricResult]:
        """The checkpoint's metrics by name, with 95% intervals; diversity is left out."""
        import numpy as np

        from prefeval import metrics

        evidence = replace(self._saved.evidence, diverse=self._saved.evidence.diverse[:0])
        return {r.name: r for r in metrics.compute(evidence, np.random.default_rng(0))}

    @cached_property
    def gated(self) -> Gated:
        """The gate with its names and notes."""
        from prefeval.harness.gate import command as gate
        from prefeval.harness.gate import policy as gate_policy

        policy = gate_policy.read(Path(self.policy) if self.policy else None)
        baseline = None if self.baseline == gate.REFERENCE else gate.load(self.baseline)
        return gate.gate(self._saved, baseline, policy)

    def gate(self) -> Verdict:
        """The verdict: ``outcome`` is pass, fail or inconclusive, ``checks`` are behind it."""
        return self.gated.verdict


RESULT = pytest.StashKey[PrefevalResult]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--prefeval-checkpoint``, ``--prefeval-baseline`` and ``--prefeval-policy``."""
    group = parser.getgroup("prefeval", "a preference-tuned checkpoint against its baseline")
    for name in OPTIONS:
        group.addoption(f"--prefeval-{name}", default="", help=HELP[name])


def _result(config: pytest.Config) -> PrefevalResult | None:
    """What the options name; None where they are not given."""
    if RESULT not in config.stash:
        given = [config.getoption(f"--prefeval-{name}") for name in OPTIONS]
        if not all(given[:2]):
            return None
        config.stash[RESULT] = PrefevalResult(*given)
    return config.stash[RESULT]


@pytest.fixture(scope="session")
def prefeval_result(request: pytest.FixtureRequest) -> PrefevalResult:
    """The checkpoint's metrics with intervals, and its gate; skipped without the options."""
    found = _result(request.config)
    if found is None:
        pytest.skip(MISSING)
    return found


@pytest.fixture
def prefeval_check(request: pytest.FixtureRequest) -> PrefevalCheck:
    """One check of the gate: a test that asks for it is run once for each of them."""
    if not hasattr(request, "param"):
        pytest.skip(MISSING)
    return PrefevalCheck(request.param)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test a check, for tests that take ``prefeval_check``."""
    if "prefeval_check" not in metafunc.fixturenames:
        return
    found = _result(metafunc.config)
    if found is None:
        return
    from prefeval.records import PrefevalError

    try:
        checks = found.gate().checks
    except PrefevalError as error:
        raise pytest.UsageError(f"prefeval: {error}") from error
    ids = [c.name if c.kind == "change" else f"{c.name}-{c.kind}" for c in checks]
    metafunc.parametrize("prefeval_check", checks, ids=ids, indirect=True)
