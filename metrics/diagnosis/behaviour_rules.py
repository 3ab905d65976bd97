"""What the policy does otherwise than its reference. Most have a cause above them."""

from __future__ import annotations

from prefeval.metrics.diagnosis.terms import Cause, Condition, Route

HOLM = "shown over the margin of 5 points, Holm over behaviours"
ANCHOR = "mix 5 to 10% of pairs or SFT examples of this behaviour into the training data"


def _unlearned(name: str, signal: str, title: str, verdict: str, actions: tuple[str, ...]) -> Cause:
    return Cause(
        id=name,
        title=title,
        verdict=verdict,
        routes=(Route("run", (Condition(signal, above=0.0, source=HOLM),), 0.8, "error"),),
        alternatives=(
            "pairs that teach against it: prefeval audit DATA counts them",
            "drift at large: look at KL and at other behaviours",
        ),
        actions=actions,
        explains=("loss_and_evaluation_disagree",),
    )


CAUSES: tuple[Cause, ...] = (
    _unlearned(
        "format_unlearned", "format_loss", "Formats that the SFT model kept are lost",
        "The format that lost most is followed {format_loss:.0f} points less often than by the "
        "reference.",
        (ANCHOR, "raise beta or stop earlier", "look at the samples that lost their format"),
    ),
    _unlearned(
        "refusal_unlearned", "refusal_loss", "Harmful requests are no longer refused",
        "Refusals of harmful requests fell by {refusal_loss:.0f} points.",
        (ANCHOR, "do not ship: run the safety suite on every checkpoint", "raise beta"),
    ),
    _unlearned(
        "tool_use_unlearned", "tool_loss", "Tool calls are lost",
        "Right tool calls fell by {tool_loss:.0f} points.",
        (ANCHOR, "raise beta or stop earlier", "see that pairs with tool calls keep their syntax"),
    ),
    _unlearned(
        "overrefusal", "overrefusal_loss", "Harmless requests are refused",
        "Harmless requests are answered {overrefusal_loss:.0f} points less often.",
        ("add harmless look-alikes to the pairs, with answers chosen over refusals",
         "count refusals among chosen answers: prefeval audit DATA", "raise beta"),
    ),
    _unlearned(
        "knowledge_unlearned", "knowledge_loss", "Right answers are lost",
        "Facts or sums are right {knowledge_loss:.0f} points less often.",
        (ANCHOR, "raise beta or stop earlier"),
    ),
    Cause(
        id="mode_collapse",
        title="Answers to one prompt have become the same",
        verdict="Diversity within a prompt is {distinct_within_share:.0%} of the reference's; the "
        "commonest opening rose by {opener_rise:+.0f} points.",
        routes=(
            Route("run", (Condition("distinct_within_share", below=0.7),), 0.8, "warning"),
            Route(
                "run",
                (Condition("opener_rise", above=15.0),
                 Condition("distinct_within_share", below=0.9)),
                0.75, "warning",
            ),
        ),
        alternatives=("longer answers, which repeat themselves more",),
        actions=(
            "raise beta, or stop earlier",
            "see whether chosen answers share a pattern that rejected ones lack",
            "for PPO and GRPO add an entropy bonus",
        ),
        references=("Kirk et al. 2023, arXiv 2310.06452",),
    ),
    Cause(
        id="endless_answers",
        title="Answers no longer end",
        verdict="{ending_loss:.0f} points fewer answers end than of the reference's under the same "
        "limit ({truncation_rate:.0f}% are cut there); ending while training: {log_eos_rate:.0%}.",
        routes=(
            Route("run", (Condition("ending_loss", above=10.0),), 0.85, "error"),
            Route("log", (Condition("log_eos_fall", above=0.1),), 0.75, "error"),
        ),
        alternatives=("a limit on new tokens that the reference itself nearly reaches",
                      "training answers without an end token (bos_eos_broken)"),
        actions=(
            "check that training answers end in the end token, and none is cut",
            "raise beta; control length in the pairs",
            "check generation_config.eos_token_id: prefeval doctor MODEL",
        ),
        explains=("length_exploited",),
    ),
    Cause(
        id="length_exploited",
        title="Much of the gain is length",
        verdict="Answers are {length_ratio:.2f} times as long; of a win rate of {win_rate:.1f}% "
        "length control leaves {lc_win_rate:.1f}%.",
        routes=(
            Route(
                "run",
                (
                    Condition("length_ratio", above=1.25),
                    Condition("length_share", above=0.2),
                ),
                0.85, "warning",
            ),
            Route(
                "run",
                (
                    Condition("length_ratio", above=1.5),
                    Condition("length_predicts", above=0.6),
                    Condition("length_share", above=0.1),
                ),
                0.85, "error",
            ),
            Route(
                "log",
                (Condition("length_growth", above=1.6), Condition("reward_rise", above=0.0)),
                0.6, "warning",
            ),
        ),
        alternatives=("a task in which longer answers are better: read the samples",),
        actions=(
            "read the length-controlled win rate, at every checkpoint",
            "balance length in the pairs: prefeval audit DATA shows what length alone predicts",
            "use SimPO or length-normalised DPO; penalise length in the reward",
        ),
        references=(
            "Dubois et al. 2024, arXiv 2404.04475 (length-controlled AlpacaEval)",
            "Park et al. 2024, arXiv 2403.19159 (length in DPO)",
        ),
        explains=(
            "judge_overoptimised", "loss_and_evaluation_disagree", "format_unlearned",
            "knowledge_unlearned",
        ),
    ),
    Cause(
        id="judge_overoptimised",
        title="The judge is pleased and the answers are not better",
        verdict="The judge's win rate is {win_rate:.1f}% and the true one {true_win_rate:.1f}%.",
        routes=(
            Route(
                "run",
                (
                    Condition("win_rate", above=50.0, source="chance"),
                    Condition("judge_excess", above=8.0),
                ),
                0.75, "warning",
            ),
        ),
        alternatives=("a gold measure that misses what the judge sees",),
        actions=(
            "judge with another model than the one that labelled or rewarded",
            "take the checkpoint at the gold measure's peak against the square root of KL",
            "raise beta or the KL coefficient",
        ),
        references=("Gao et al. 2022, arXiv 2210.10760", "Rafailov et al. 2024, arXiv 2406.02900"),
        explains=("loss_and_evaluation_disagree",),
    ),
)  # fmt: skip
