"""Diagnosis from logs that are simulated at the scale of a 7B model, a cause planted in each, and
the engine on rules made for the test. What the lab's runs show is in benchmarks/diagnosis.py."""

from __future__ import annotations

import math
import re
import string

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefeval.metrics import diagnosis
from prefeval.metrics.diagnosis import engine, from_log, from_run
from prefeval.metrics.diagnosis.terms import Cause, Condition, Route, Signal, SignalSpec

BETA = 0.1


def rows(
    *,
    n: int = 60,
    level: float = -280.0,
    chosen: float = -20.0,
    rejected: float = -60.0,
    accuracy: float = 0.75,
    beta: float = BETA,
    batch: float = 12.0,
    seed: int = 0,
    offset: float = 0.0,
) -> pd.DataFrame:
    """A DPO log: ``chosen`` and ``rejected`` are the log-ratios (nats/sequence) reached at the end,
    by a curve that saturates; ``batch`` is the noise of a batch's reference level."""
    rng = np.random.default_rng(seed)
    share = 1 - np.exp(-3 * np.arange(n) / n)
    up = chosen * share + offset + rng.normal(0, 0.01 + abs(chosen) / 30, n) * (share > 0)
    down = rejected * share + offset + rng.normal(0, 0.01 + abs(rejected) / 30, n) * (share > 0)
    margin = beta * (up - down)
    return pd.DataFrame(
        {
            "step": np.arange(1, n + 1) * 10.0 - 9,
            "epoch": np.arange(1, n + 1) / n,
            "loss": np.log1p(np.exp(-margin)) + rng.normal(0, 0.01, n),
            "chosen_logps": level + rng.normal(0, batch, n) + up,
            "rejected_logps": level - 15 + rng.normal(0, batch, n) + down,
            "reward_chosen": beta * up,
            "reward_rejected": beta * down,
            "reward_margin": margin,
            "accuracy": np.clip(0.5 + (accuracy - 0.5) * share + rng.normal(0, 0.03, n), 0, 1),
            "grad_norm": np.abs(rng.normal(5, 1, n)),
        }
    )


def evaluations(accuracy: float, losses: list[float], margin: float) -> pd.DataFrame:
    n = len(losses)
    return pd.DataFrame(
        {
            "step": np.linspace(100, 600, n),
            "loss": losses,
            "accuracy": np.full(n, accuracy) + np.linspace(-0.01, 0.01, n),
            "reward_margin": margin * np.linspace(0.5, 1, n),
        }
    )


NO_EVALS = pd.DataFrame({"step": []})


def said(train: pd.DataFrame, evals: pd.DataFrame = NO_EVALS, method: str = "dpo", **known: float):
    signals = from_log.log_signals(train, evals, method=method, settings=known)
    found = diagnosis.diagnose(signals, method=method)
    return [f.cause for f in found.findings if f.severity != "info"]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "shape",
    [
        {"chosen": 5.0, "rejected": -20.0, "accuracy": 0.7},
        {"chosen": -20.0, "rejected": -60.0},
        {"chosen": -90.0, "rejected": -150.0, "beta": 0.05},  # as published runs at low beta fall
        {"level": -40.0, "chosen": -2.0, "rejected": -6.0, "batch": 3.0},
        {"n": 15, "chosen": -8.0, "rejected": -20.0},
    ],
)
def test_a_healthy_log_raises_no_alarm(shape: dict[str, float], seed: int) -> None:
    train = rows(seed=seed, **shape)  # type: ignore[arg-type]
    evals = evaluations(0.68, [0.65, 0.6, 0.58, 0.57], 0.8)
    assert said(train, evals, beta=shape.get("beta", BETA)) == []
    assert said(train) == []


def test_a_collapse_is_first_and_outranks_overfitting() -> None:
    train = rows(chosen=-330.0, rejected=-420.0, accuracy=0.95)
    evals = evaluations(0.6, [0.6, 0.65, 0.8, 1.1], 1.0)
    assert said(train, evals)[0] == "logprob_collapse"
    assert "overfit" in said(train, evals)[1:]
    assert said(train.drop(columns=["reward_chosen", "reward_rejected"]))[0] == "logprob_collapse"


def test_low_beta_needs_a_known_beta() -> None:
    train = rows(chosen=-330.0, rejected=-420.0, beta=0.01)
    assert said(train, beta=0.01)[0] == "low_beta_drift"
    assert "low_beta_drift" not in said(train)


def test_a_policy_that_is_its_own_reference() -> None:
    train = rows(beta=0.0)
    assert said(train)[0] == "policy_is_reference"


def test_a_wrong_reference() -> None:
    assert said(rows(offset=9.0), beta=BETA)[0] == "wrong_reference"
    assert "wrong_reference" not in said(rows(offset=0.0), beta=BETA)


def test_nan_names_the_step() -> None:
    train = rows()
    train.loc[30:, ["loss", "grad_norm"]] = np.nan
    found = diagnosis.diagnose(from_log.log_signals(train, NO_EVALS))
    assert found.findings[0].cause == "nan"
    assert f"step {train['step'][30]:g}" in found.findings[0].verdict


def test_nothing_learned() -> None:
    assert said(rows(chosen=-0.02, rejected=-0.03, accuracy=0.51)) == ["not_learning"]


def test_a_high_beta() -> None:
    assert said(rows(chosen=-0.5, rejected=-1.5, beta=3.0), beta=3.0) == ["high_beta"]


def test_inverted_labels_need_labels_of_another_source() -> None:
    evals = evaluations(0.36, [0.75, 0.8, 0.85, 0.9], -0.8)
    assert said(rows(), evals)[0] == "inverted_labels"


def test_overfitting() -> None:
    evals = evaluations(0.62, [0.62, 0.6, 0.7, 0.85], 0.5)
    assert said(rows(accuracy=0.97), evals)[0] == "overfit"


def test_flipped_labels_are_told_from_evaluations_of_the_same_time() -> None:
    train = rows(accuracy=0.62)
    assert "noisy_labels" in said(train, evaluations(0.8, [0.62, 0.58, 0.55, 0.54], 0.8))
    later = evaluations(0.62, [0.65, 0.6, 0.58, 0.57], 0.8)
    later["step"] += train["step"].max()  # of epochs that the log's rows do not show
    later["accuracy"] = 0.8
    assert "noisy_labels" not in said(train, later)


def test_divergence() -> None:
    train = rows()
    train.loc[40:, "loss"] = np.linspace(2, 9, len(train) - 40)
    assert said(train)[0] == "diverged"


def test_thumbs_of_one_kind_a_batch_and_in_all() -> None:
    train = rows().drop(columns=["reward_margin", "accuracy"])
    train["count_chosen"], train["count_rejected"] = 8.0, 8.0
    assert said(train, method="kto") == []
    one = train.assign(count_chosen=[16.0, 0.0] * 30, count_rejected=[0.0, 16.0] * 30)
    assert said(one, method="kto")[0] == "one_class_batches"
    rare = train.assign(count_chosen=1.0, count_rejected=15.0)
    assert said(rare, method="kto")[0] == "kto_imbalance"
    weighted = {"desirable_weight": 15.0, "undesirable_weight": 1.0}
    assert said(rare, method="kto", **weighted) == []


def test_simpo_is_known_by_rewards_without_a_reference() -> None:
    train = rows()
    train["reward_chosen"] = 2.0 * train["chosen_logps"]
    assert from_log.reference_free(train)
    assert not from_log.reference_free(rows())
    assert "wrong_reference" not in said(train, method="")


def ppo_rows(**columns: object) -> pd.DataFrame:
    n = 40
    rng = np.random.default_rng(0)
    base = {
        "step": np.arange(n) + 1.0,
        "reward": np.linspace(0, 1, n) + rng.normal(0, 0.05, n),
        "kl": np.linspace(0.1, 6, n),
        "entropy": np.linspace(1.0, 0.8, n),
        "length": np.full(n, 100.0),
        "value_explained": np.linspace(0.1, 0.7, n),
    }
    return pd.DataFrame({**base, **columns})


def test_ppo() -> None:
    n = 40
    assert said(ppo_rows(), method="ppo", target_kl=6.0) == []
    runaway = ppo_rows(kl=np.linspace(0.1, 80, n))
    assert said(runaway, method="ppo")[0] == "ppo_kl_runaway"
    over = said(ppo_rows(kl=np.linspace(0.1, 15, n)), method="ppo", target_kl=3.0)
    assert over[0] == "ppo_kl_runaway"
    assert said(ppo_rows(entropy=np.linspace(1, 0.1, n)), method="ppo") == ["entropy_collapse"]
    failing = ppo_rows(value_explained=np.full(n, -0.4))
    assert said(failing, method="ppo") == ["ppo_value_failing"]
    assert said(failing[:2], method="ppo") == []  # two iterations are no end


@given(scale=st.floats(0.05, 20))
@settings(max_examples=30, deadline=None)
def test_the_diagnosis_does_not_depend_on_the_length_of_answers(scale: float) -> None:
    train = rows(chosen=-330.0, rejected=-420.0)
    longer = train.assign(**{c: train[c] * scale for c in ("chosen_logps", "rejected_logps")})
    longer = longer.drop(columns=["reward_chosen", "reward_rejected"])
    assert said(longer) == said(train.drop(columns=["reward_chosen", "reward_rejected"]))


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(
                ["loss", "chosen_logps", "rejected_logps", "reward_chosen", "reward_rejected",
                 "reward_margin", "accuracy", "kl", "entropy", "reward", "length", "grad_norm",
                 "count_chosen", "count_rejected", "value_loss", "delta_chosen", "epoch"]
            ),
            st.floats(width=32) | st.sampled_from([0.0, 0.5, math.nan, math.inf]),
            min_size=1,
        ),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from(["", "dpo", "ipo", "kto", "simpo", "ppo", "grpo"]),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_log_raises(content: list[dict[str, float]], method: str) -> None:
    train = pd.DataFrame(content)
    train["step"] = np.arange(len(train)) + 1.0
    signals = from_log.log_signals(train, NO_EVALS, method=method)
    found = diagnosis.diagnose(signals, method=method)
    assert {s.cause for s in found.skipped} | {c.cause for c in found.checks}


# -- the engine ------------------------------------------------------------------------------------

SPEC = {n: SignalSpec(f"text of {n}", "nats", f"the key {n}") for n in "abc"}


def rule(
    name: str, *conditions: Condition, explains: tuple[str, ...] = (), **route: object
) -> Cause:
    return Cause(
        id=name, title=name, verdict="a is {a:.1f}, c is {c:.1f}, one is {c|a:.0f}",
        routes=(Route("log", conditions, 0.8, **{"severity": "warning", **route}),),  # type: ignore[arg-type]
        actions=("mend",), explains=explains,
    )  # fmt: skip


def test_an_interval_must_lie_beyond_the_threshold() -> None:
    condition = Condition("a", above=1.0)
    assert condition.holds(Signal(1.5))
    assert condition.holds(Signal(1.5, 1.1, 1.9))
    assert not condition.holds(Signal(1.5, 0.9, 2.1))
    assert not condition.holds(Signal(math.nan))
    assert Condition("a", below=1.0).holds(Signal(0.5, 0.1, 0.9))
    assert not Condition("a", below=1.0).holds(Signal(0.5, -1.0, 1.2))


def test_found_checked_and_skipped() -> None:
    rules = [
        rule("symptom", Condition("a", above=1)),
        rule("root", Condition("a", above=2), explains=("symptom",)),
        rule("absent", Condition("a", above=9)),
        rule("blind", Condition("b", above=0)),
    ]
    found = engine.diagnose({"a": Signal(3.0)}, rules, SPEC)
    assert [f.cause for f in found.findings] == ["root", "symptom"]
    assert found.findings[1].explained_by == "root"
    assert found.findings[0].verdict == "a is 3.0, c is unknown, one is 3"
    assert [c.cause for c in found.checks] == ["absent"]
    assert "text of a 3" in found.checks[0].seen
    assert found.skipped[0].cause == "blind"
    assert found.skipped[0].needs == ("the key b",)


def test_what_was_measured_outranks_what_a_log_suggests() -> None:
    cause = Cause(
        "x", "x", "x",
        routes=(
            Route("log", (Condition("a", above=1),), 0.7, "error"),
            Route("run", (Condition("b", above=1),), 0.9, "error"),
        ),
        actions=("mend",),
    )  # fmt: skip
    assert engine.diagnose({"a": Signal(5.0)}, [cause], SPEC).findings
    assert not engine.diagnose({"a": Signal(5.0), "b": Signal(0.0)}, [cause], SPEC).findings


def test_evidence_has_the_threshold_of_the_route_that_decided() -> None:
    grave = Route("log", (Condition("a", above=2),), 0.9, "error")
    mild = Route("log", (Condition("a", above=1),), 0.7, "warning")
    for routes in ((grave, mild), (mild, grave)):
        cause = Cause("x", "x", "x", routes=routes, actions=("mend",))
        (finding,) = engine.diagnose({"a": Signal(3.0)}, [cause], SPEC).findings
        assert (finding.severity, finding.evidence[0].threshold) == ("error", "> 2")


def test_every_rule_reads_known_signals_and_names_what_it_explains() -> None:
    names = {c.id for c in diagnosis.CAUSES}
    assert len(names) == len(diagnosis.CAUSES)
    for cause in (*diagnosis.CAUSES, diagnosis.UNKNOWN):
        sentences = [cause.verdict, *cause.actions]
        fields = {
            name
            for text in sentences
            for _, field, _, _ in string.Formatter().parse(text)
            for name in (field or "").split("|")
            if name
        }
        read = {s for r in cause.routes for s in r.signals} | fields
        assert read <= set(diagnosis.SPECS), cause.id
        assert set(cause.explains) <= names - {cause.id}, cause.id
        assert cause.actions, cause.id
        for route in cause.routes:
            assert 0 < route.confidence < 1
            for condition in route.conditions:
                assert condition.source
                assert math.isnan(condition.above) != math.isnan(condition.below)


ASKED = [
    "policy_is_reference", "wrong_reference", "template_mismatch", "bos_eos_broken",
    "truncated_pairs", "one_class_batches", "not_learning", "high_beta", "low_beta_drift",
    "logprob_collapse", "inverted_labels", "noisy_labels", "overfit", "diverged", "nan",
    "stale_pairs", "near_identical_pairs", "no_anchor_drift", "kto_imbalance", "ppo_kl_runaway",
    "ppo_value_failing", "entropy_collapse", "length_exploited", "judge_overoptimised",
    "mode_collapse", "format_unlearned", "refusal_unlearned", "tool_use_unlearned",
    "overrefusal", "endless_answers", "judge_too_noisy", "suite_too_small",
    "loss_and_evaluation_disagree",
]  # fmt: skip


def test_the_causes_that_were_asked_for_are_there() -> None:
    assert set(ASKED) <= {c.id for c in diagnosis.CAUSES}
    assert all(re.fullmatch(r"[a-z_]+", c.id) for c in diagnosis.CAUSES)


# -- signals of runs -------------------------------------------------------------------------------


def test_faults_of_encoding_are_counted() -> None:
    good = from_run.Answer([1, 4, 9, 5], [7, 8, 2], False, -3.0)
    held_out = pd.DataFrame(
        {"ref_chosen_logps": [-3.0] * 9, "ref_rejected_logps": [-3.0] * 9,
         "chosen_lengths": [3] * 9, "rejected_lengths": [3] * 9}
    )  # fmt: skip
    answers = [good] * 90 + [
        *[from_run.Answer([1, 1, 4, 9, 5], [7, 8, 2], False, -3.0)] * 4,
        *[from_run.Answer([1, 4, 9, 5], [7, 8], False, -3.0)] * 3,
        *[from_run.Answer([1, 4, 9, 5], [7, 8], True, -3.0)] * 3,
    ]
    found = from_run.training_signals(answers, held_out, end_ids=[2], bos_id=1)
    assert found["bos_fault_share"].value == pytest.approx(0.04)
    assert found["no_end_share"].value == pytest.approx(3 / 97)
    assert found["truncated_share"].value == pytest.approx(0.03)
    rare = [a._replace(ref_logps=-9.0) for a in answers]
    gap = from_run.training_signals(rare, held_out, end_ids=[2], bos_id=1)["ref_gap_to_held_out"]
    assert gap.value < -1.9


def test_the_kinds_of_behaviours() -> None:
    kinds = {
        "json": "format", "tables": "format", "overrefusal": "overrefusal", "refusal": "refusal",
        "xstest_safe": "overrefusal", "xstest_unsafe": "refusal", "tool": "tool",
        "bfcl_simple": "tool", "facts": "knowledge", "gsm8k": "knowledge", "persona": "format",
    }  # fmt: skip
    assert {name: from_run.behaviour_class(name) for name in kinds} == kinds


def test_a_loss_counts_only_where_it_is_shown() -> None:
    def checks(lost: int, n: int = 60) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "prompt_id": [f"p{i}" for i in range(n)],
                "cluster": [f"p{i}" for i in range(n)],
                "behaviour": "json",
                "passed": [0] * lost + [1] * (n - lost),
                "ref_passed": 1,
            }
        )

    assert from_run.behaviour_signals(checks(1))["format_loss"].value == 0
    shown = from_run.behaviour_signals(checks(20))
    assert shown["format_loss"].value == pytest.approx(100 / 3)
    assert shown["damaged"].value == 1


def test_answers_that_a_limit_cuts_are_compared_with_the_references() -> None:
    n = 100
    cut_alike = pd.DataFrame({"ended": [0, 1] * 50, "ref_ended": [1, 0] * 50, "cluster": range(n)})
    assert from_run.sample_signals(cut_alike)["ending_loss"].value == 0
    endless = cut_alike.assign(ended=[0, 0, 0, 1] * 25, ref_ended=1)
    loss = from_run.sample_signals(endless)["ending_loss"]
    assert loss.value == pytest.approx(75)
    assert loss.ci_low > 60
