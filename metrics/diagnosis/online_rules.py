"""Faults of trainers that learn from the policy's own answers: PPO, GRPO."""

from __future__ import annotations

from prefeval.metrics.diagnosis.optimisation_rules import BEHAVIOUR
from prefeval.metrics.diagnosis.terms import Cause, Condition, Route

ONLINE = ("ppo", "grpo")
ROWS = Condition("logged_rows", above=9)  # a start says nothing of where it leads

CAUSES: tuple[Cause, ...] = (
    Cause(
        id="ppo_kl_runaway",
        title="The KL from the reference runs away",
        verdict="KL ended at {kl|kl_last:.3g} nats a sequence "
        "({kl_per_token|kl_last_per_token:.2g} a token) while the reward rose by "
        "{reward_rise:+.2g}: the policy pays any KL for reward.",
        routes=(
            Route("run", (Condition("kl_per_token", above=0.35),), 0.9, "error"),
            Route("run", (Condition("kl_over_target", above=2.0),), 0.9, "error"),
            Route("log", (Condition("kl_over_target", above=2.0),), 0.9, "error"),
            Route("log", (Condition("kl_last_per_token", above=0.35),), 0.85, "error"),
            Route("log", (Condition("kl_last", above=40.0),), 0.75, "error"),
        ),
        alternatives=("a target that is too low for the task", "a reward on a scale far above 1"),
        actions=(
            "raise the KL coefficient, or use the adaptive controller with a target (--target-kl)",
            "normalise or clip rewards; lower the learning rate",
            "take the checkpoint at the best held-out quality, not at the highest reward",
        ),
        references=("Ziegler et al. 2019, arXiv 1909.08593, section 2.2",
                    "Gao et al. 2022, arXiv 2210.10760"),
        explains=("entropy_collapse", "ppo_value_failing", *BEHAVIOUR),
        methods=ONLINE,
    ),
    Cause(
        id="entropy_collapse",
        title="The policy's entropy has collapsed",
        verdict="Entropy fell to {entropy_share:.0%} of where it began: the policy no longer tries "
        "anything, and no more can be learned from its samples.",
        routes=(
            Route("log", (Condition("entropy_share", below=0.4), ROWS), 0.8, "warning"),
        ),
        alternatives=("a task with one right answer, which the policy has found",),
        actions=(
            "add an entropy bonus, raise the KL coefficient, or lower the learning rate",
            "sample at temperature 1, without top-p or top-k",
            "stop earlier: look at distinct answers per prompt",
        ),
        references=("Cui et al. 2025, arXiv 2505.22617 (entropy in RL for language models)",),
        explains=BEHAVIOUR,
        methods=ONLINE,
    ),
    Cause(
        id="ppo_value_failing",
        title="The value model predicts nothing",
        verdict="The value model explains {value_explained_last:.0%} of the variance of returns at "
        "the end; advantages are then noise around the mean reward.",
        routes=(
            Route("log", (Condition("value_explained_last", below=0.1), ROWS), 0.85, "warning"),
            Route("log", (Condition("value_loss_ratio", above=2.0), ROWS), 0.6, "warning"),
        ),
        alternatives=("rewards that hardly vary, so that there is nothing to explain",),
        actions=(
            "start the value model from the reward model, and raise its learning rate",
            "train it alone for some iterations before the policy moves",
            "or use GRPO, which needs none",
        ),
        references=("Schulman et al. 2017, arXiv 1707.06347, equation 9",),
        methods=("ppo",),
    ),
)  # fmt: skip
