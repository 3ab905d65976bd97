"""What makes the measurement itself unable to decide."""

from __future__ import annotations

from prefeval.metrics.diagnosis.terms import Cause, Condition, Route

CAUSES: tuple[Cause, ...] = (
    Cause(
        id="judge_too_noisy",
        title="The judge is too noisy to rank checkpoints",
        verdict="{flip_rate:.0f}% of verdicts flip when the answers change places and "
        "{unread_rate:.1f}% cannot be read.",
        routes=(
            Route("run", (Condition("flip_rate", above=35.0),), 0.85, "warning"),
            Route("run", (Condition("unread_rate", above=5.0),), 0.85, "warning"),
        ),
        alternatives=("answers so alike that any judge would flip",),
        actions=(
            "use a stronger judge, or a prompt that asks for the answer in one fixed form",
            "judge in both orders (prefeval does) and on more prompts",
        ),
        references=("Zheng et al. 2023, arXiv 2306.05685, section 3.3",),
    ),
    Cause(
        id="suite_too_small",
        title="The suite is too small to decide",
        verdict="The win rate is known to {win_rate_half:.0f} points either way; changes below "
        "{win_rate_detectable:.0f} points would be missed.",
        routes=(
            Route("run", (Condition("win_rate_half", above=15.0),), 0.9, "warning"),
            Route("run", (Condition("win_rate_half", above=6.0),), 0.9, "info"),
        ),
        actions=(
            "measure on more prompts (--prompts)",
            "compare checkpoints in pairs on the same prompts",
        ),
        references=("Miller 2024, arXiv 2411.00640",),
    ),
    Cause(
        id="loss_and_evaluation_disagree",
        title="The loss improved and the evaluation did not",
        verdict="Training accuracy reached {accuracy_last:.0%} and the length-controlled win rate "
        "is {lc_win_rate:.1f}%.",
        routes=(
            Route(
                "run",
                (
                    Condition("accuracy_last", above=0.55),
                    Condition("lc_win_rate", below=50.0, source="chance"),
                ),
                0.7, "warning",
            ),
        ),
        alternatives=("a judge that prefers something else than the labels do",),
        actions=(
            "stop on the evaluation and not on the loss",
            "see whether labels and judge agree: prefeval audit DATA",
        ),
        references=("Rafailov et al. 2024, arXiv 2406.02900",),
    ),
)  # fmt: skip

UNKNOWN = Cause(
    id="unknown",
    title="Something is wrong, and none of the known causes fits",
    verdict="The run is damaged or abnormal and no rule names why.",
    routes=(
        Route("run", (Condition("damaged", above=0),), 0.5, "warning"),
        Route("run", (Condition("lc_win_rate", below=50.0, source="chance"),), 0.5, "warning"),
        Route("run", (Condition("ref_gap_to_held_out", below=-0.25),), 0.5, "warning"),
        Route("log", (Condition("grad_norm_spike", above=30.0),), 0.4, "warning"),
        Route("log", (Condition("loss_peak_ratio", above=3.0),), 0.4, "warning"),
    ),
    actions=(
        "read the samples that changed most, and the batches at the largest gradient norms",
        "change one thing at a time: half the learning rate, twice beta",
    ),
)
