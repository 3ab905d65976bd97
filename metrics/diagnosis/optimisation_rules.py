"""What training did: too little, too much, or towards the wrong thing."""

from __future__ import annotations

from prefeval.metrics.diagnosis.terms import Cause, Condition, Route

BEHAVIOUR = (
    "format_unlearned", "refusal_unlearned", "tool_use_unlearned", "overrefusal",
    "knowledge_unlearned", "mode_collapse", "endless_answers", "length_exploited",
    "judge_overoptimised", "loss_and_evaluation_disagree",
)  # fmt: skip
COLLAPSE = (
    "calibrated on the lab: usable checkpoints lost up to 0.45, those that lost formats 0.65 and "
    "more"
)
PAIRS = ("dpo", "ipo", "kto")
RAFAILOV = "Rafailov et al. 2024, arXiv 2404.12358 (falling chosen log-probabilities)"

CAUSES: tuple[Cause, ...] = (
    Cause(
        id="diverged",
        title="Training diverged",
        verdict="The loss ended at {loss_ratio:.2g} times its start and rose to "
        "{loss_peak_ratio:.2g} times: steps were too large for it to come down.",
        routes=(
            Route(
                "log",
                (Condition("loss_ratio", above=2.0), Condition("movement", above=0.3)),
                0.9,
                "error",
            ),
            Route("log", (Condition("loss_ratio", above=6.0),), 0.8, "error"),
        ),
        alternatives=("a loss whose scale changes, or data of another kind later on",),
        actions=(
            "lower the learning rate by 3 to 10 times and warm up over 5 to 10% of the steps",
            "clip gradients at 1; look at the batches where the loss jumps",
            "take the last checkpoint before the rise",
        ),
        explains=("logprob_collapse", "low_beta_drift", "overfit", "noisy_labels",
                  "no_anchor_drift", "ppo_kl_runaway", "inverted_labels", *BEHAVIOUR),
    ),
    Cause(
        id="inverted_labels",
        title="Chosen and rejected are the wrong way round",
        verdict="Training learns its labels ({accuracy_last:.0%}) and held-out labels are ranked "
        "worse than by chance ({held_out_accuracy|eval_accuracy_last:.0%}): the columns are "
        "swapped in training, or a score that is better when low was taken as better when high.",
        routes=(
            Route(
                "run",
                (
                    Condition("held_out_accuracy", below=0.5, source="chance"),
                    Condition("margin", below=0.0, source="chance"),
                    Condition("accuracy_last", above=0.53),
                ),
                0.9, "error",
            ),
            Route(
                "log",
                (
                    Condition("eval_accuracy_last", below=0.47),
                    Condition("eval_margin_last", below=0.0, source="chance"),
                    Condition("accuracy_last", above=0.53),
                ),
                0.8, "error",
            ),
        ),
        alternatives=(
            "evaluation pairs of another task or another judge than the training pairs",
            "the evaluation file swapped and not the training file",
        ),
        actions=(
            "read ten training pairs and say which answer you would choose",
            "check how chosen was made from scores or ranks (rank 1 or the highest score?)",
            "swap the columns and train again; nothing of this run is of use",
        ),
        explains=("noisy_labels", "overfit", "logprob_collapse", "low_beta_drift", *BEHAVIOUR),
        methods=(*PAIRS, "simpo"),
    ),
    Cause(
        id="low_beta_drift",
        title="beta is too low: the policy has left its reference",
        verdict="At beta {beta:g} the policy has left its reference (KL {kl_per_token:.2g} "
        "nats a token): rejected answers lost {fall_rejected:.0%} of their log-probability "
        "and chosen ones {fall_chosen:.0%}.",
        routes=(
            Route(
                "run",
                (
                    Condition("beta", below=0.045, source="usable windows begin at about 0.05"),
                    Condition("damaged", above=0),
                ),
                0.9, "error",
            ),
            Route(
                "run",
                (
                    Condition("beta", below=0.045, source="usable windows begin at about 0.05"),
                    Condition("kl_per_token", above=0.35),
                ),
                0.85, "error",
            ),
            Route(
                "log",
                (
                    Condition("beta", below=0.045, source="usable windows begin at about 0.05"),
                    Condition("fall_rejected", above=0.5, source=COLLAPSE),
                ),
                0.8, "error",
            ),
        ),
        alternatives=(
            "a learning rate or a number of steps that would be too much at any beta",
            "labels so noisy that the policy is pulled about",
        ),
        actions=(
            "raise beta: prefeval sweep --beta 0.05:0.3 shows where the usable window lies",
            "or stop earlier, or lower the learning rate by 3 times",
            "add an NLL term on chosen answers (RPO) or anchor pairs of the formats that were lost",
        ),
        references=(
            "Rafailov et al. 2023, arXiv 2305.18290, equation 7",
            "Gao et al. 2022, arXiv 2210.10760 (over-optimisation against KL)",
        ),
        explains=("logprob_collapse", "overfit", "noisy_labels", *BEHAVIOUR),
        methods=PAIRS,
    ),
    Cause(
        id="no_anchor_drift",
        title="Nothing holds the policy: SimPO has drifted from the SFT model",
        verdict="Without a reference in its loss the policy lost {fall_chosen:.0%} of the "
        "log-probability of chosen answers and {fall_rejected:.0%} of rejected ones.",
        routes=(
            Route(
                "run",
                (Condition("kl_per_token", above=0.2), Condition("damaged", above=0)),
                0.9, "error",
            ),
            Route("log", (Condition("fall_both", above=0.5, source=COLLAPSE),), 0.75, "error"),
        ),
        alternatives=("a learning rate too high for any method",),
        actions=(
            "lower the learning rate (SimPO's authors: 3e-7 to 1e-6 for 7B models) or stop earlier",
            "lower gamma / beta, or add an SFT term on chosen answers",
            "or use DPO, whose reference holds the policy",
        ),
        references=("Meng et al. 2024, arXiv 2405.14734, section 4 and appendix",),
        explains=("logprob_collapse", "overfit", *BEHAVIOUR),
        methods=("simpo",),
        by_method=True,
    ),
    Cause(
        id="logprob_collapse",
        title="Log-probabilities of chosen and rejected answers have both collapsed",
        verdict="Chosen answers lost {fall_chosen:.0%} of the log-probability that the reference "
        "gave them and rejected ones {fall_rejected:.0%}: the probability went to something that "
        "is neither.",
        routes=(
            Route(
                "run",
                (
                    Condition("fall_both", above=0.15),
                    Condition("damaged", above=0, source="Holm over behaviours, margin 5 points"),
                ),
                0.85, "error",
            ),
            Route("run", (Condition("fall_both", above=1.0),), 0.85, "error", needs=("damaged",)),
            Route("log", (Condition("fall_both", above=1.0, source=COLLAPSE),), 0.9, "error"),
            Route("log", (Condition("fall_both", above=0.5, source=COLLAPSE),), 0.75, "warning"),
            Route(
                "log",
                (
                    Condition("log_delta_chosen_per_token", below=-0.6),
                    Condition("log_delta_rejected_per_token", below=-0.6),
                ),
                0.7, "warning",
            ),
        ),
        alternatives=(
            "a benign fall: the loss asks for a margin and not for likely answers; it is told "
            "apart by what the policy can still do, which only an evaluation shows",
            "beta too low, a learning rate too high, too many steps",
        ),
        actions=(
            "evaluate before shipping: prefeval eval CHECKPOINT --reference SFT",
            "lower the learning rate by 3 times or stop where the curve bends; raise beta",
            "add an NLL term on chosen answers, or drop the pairs whose answers look alike to the "
            "model (CHES)",
        ),
        references=(
            RAFAILOV,
            "Razin et al. 2024, arXiv 2410.08847 (displacement, CHES)",
            "Pal et al. 2024, arXiv 2402.13228 (DPO-Positive)",
        ),
        explains=("overfit", "noisy_labels", *BEHAVIOUR),
        methods=(*PAIRS, "simpo"),
    ),
    Cause(
        id="overfit",
        title="The training pairs are being memorised",
        verdict="Training accuracy is {accuracy_last:.0%}, and {held_out_gap|accuracy_gap:.0%} "
        "less on pairs that were not trained on.",
        routes=(
            Route(
                "run",
                (Condition("held_out_gap", above=0.15),
                 Condition("held_out_loss_rise", above=0.0, source="no rise"),),
                0.85, "warning",
            ),
            Route("run", (Condition("held_out_gap", above=0.2),), 0.8, "warning"),
            Route(
                "log",
                (Condition("eval_loss_rise", above=0.03), Condition("accuracy_gap", above=0.12)),
                0.85, "warning",
            ),
            Route("log", (Condition("accuracy_gap", above=0.25),), 0.75, "warning"),
        ),
        alternatives=("evaluation pairs that are harder or of another source",),
        actions=(
            "train for one epoch, or stop at the lowest evaluation loss",
            "get more pairs, or fresh ones from the policy itself: --rounds 3",
            "raise beta or lower the learning rate",
        ),
        references=("Tunstall et al. 2023, arXiv 2310.16944 (DPO overfits after an epoch)",),
        explains=("noisy_labels", *BEHAVIOUR),
        methods=(*PAIRS, "simpo"),
    ),
    Cause(
        id="noisy_labels",
        title="A large share of the labels is wrong",
        verdict="Training labels are followed in {accuracy_last:.0%} of pairs where clean ones are "
        "in {held_out_accuracy|eval_accuracy_last:.0%}; share of training labels flipped: about "
        "{text_label_noise|run_label_noise|label_noise:.0%}.",
        routes=(
            Route("run", (Condition("text_label_noise", above=0.1),), 0.8, "warning"),
            Route("run", (Condition("run_label_noise", above=0.1),), 0.8, "warning"),
            Route("log", (Condition("label_noise", above=0.1),), 0.7, "warning"),
            Route(
                "log",
                (
                    Condition("accuracy_last", below=0.56),
                    Condition("movement", above=0.08),
                    Condition("logged_rows", above=19),
                ),
                0.55, "warning",
            ),
        ),
        alternatives=(
            "pairs so alike that no label could be right",
            "training pairs of a harder kind than the held-out ones",
        ),
        actions=(
            "prefeval audit DATA estimates the noise and shows contradictory pairs",
            "use IPO, or DPO with label smoothing at about the share of flips",
            "keep the pairs on which two judges agree",
        ),
        references=(
            "Azar et al. 2023, arXiv 2310.12036 (IPO)",
            "Chowdhury et al. 2024, arXiv 2403.00409 (robust DPO)",
        ),
        explains=BEHAVIOUR,
        methods=("dpo", "ipo", "simpo"),
    ),
    Cause(
        id="high_beta",
        title="beta is too high: the policy may not move",
        verdict="At beta {beta:g} the policy moved by {movement:.1%} of its log-probabilities: the "
        "margin that the loss asks for is reached at once.",
        routes=(
            Route(
                "run",
                (
                    Condition("beta", above=0.9, source="usable windows end at about 0.3"),
                    Condition("kl_per_token", below=0.03),
                ),
                0.85, "warning",
            ),
            Route(
                "log",
                (
                    Condition("beta", above=0.9, source="usable windows end at about 0.3"),
                    Condition("movement", below=0.08),
                ),
                0.8, "warning",
            ),
        ),
        alternatives=("a learning rate too low as well",),
        actions=(
            "lower beta: prefeval sweep --beta 0.05:0.3",
            "compare methods at equal KL, never at equal beta",
        ),
        references=("Rafailov et al. 2023, arXiv 2305.18290, equation 7",),
        explains=("not_learning", "diverged", "overfit", "noisy_labels", *BEHAVIOUR),
        methods=PAIRS,
    ),
    Cause(
        id="not_learning",
        title="The policy is not learning",
        verdict="Over {logged_rows:g} rows the loss moved by {loss_departure:.1%} and the "
        "log-probabilities by {movement:.1%}; accuracy is {accuracy_last:.0%}.",
        routes=(
            Route(
                "log",
                (
                    Condition("logged_rows", above=9),
                    Condition("loss_departure", below=0.03),
                    Condition("movement", below=0.02),
                ),
                0.85, "warning",
            ),
            Route(
                "log",
                (
                    Condition("logged_rows", above=9),
                    Condition("loss_departure", below=0.03),
                    Condition("reward_margin_size", below=0.02),
                    Condition("movement", below=0.1),
                    Condition("accuracy_excess", below=0.1),
                ),
                0.75, "warning",
            ),
        ),
        alternatives=(
            "pairs whose two answers hardly differ",
            "parameters that are frozen or an adapter that is not attached",
            "beta too high",
        ),
        actions=(
            "raise the learning rate by 3 to 10 times (LoRA takes about ten times that of full "
            "fine-tuning)",
            "count the trainable parameters, and look at the gradient norm",
            "train longer; see prefeval audit DATA for pairs without contrast",
        ),
        explains=("noisy_labels", "loss_and_evaluation_disagree"),
        methods=(*PAIRS, "simpo"),
    ),
    Cause(
        id="near_identical_pairs",
        title="Chosen and rejected answers are nearly the same text",
        verdict="Pairs whose answers share over 80% of their words: {near_identical_share:.0%}; "
        "distance of their log-probabilities: {pair_gap:.0%}. The loss pushes both down together.",
        routes=(
            Route("run", (Condition("near_identical_share", above=0.3),), 0.9, "warning"),
            Route(
                "log",
                (Condition("pair_gap", below=0.05), Condition("pair_correlation", above=0.98)),
                0.6, "warning",
            ),
        ),
        alternatives=("edits that are all that matters (a sign, a number): then keep them",),
        actions=(
            "leave out pairs above 80% similarity, or sample answers at a higher temperature",
            "use DPO-Positive or an NLL term on chosen answers",
        ),
        references=("Pal et al. 2024, arXiv 2402.13228, section 3",),
        explains=("not_learning", "noisy_labels", "logprob_collapse", "stale_pairs", *BEHAVIOUR),
        methods=(*PAIRS, "simpo"),
    ),
    Cause(
        id="stale_pairs",
        title="The pairs were written by another policy",
        verdict="The reference gives the pairs' answers {ref_off_policy_gap:+.2f} nats a token "
        "against its own samples: it would hardly write them, so they teach it little about what "
        "it does write.",
        routes=(
            Route("run", (Condition("ref_off_policy_gap", below=-0.3),), 0.8, "warning"),
        ),
        alternatives=("answers of people or of a stronger model that were chosen on purpose",),
        actions=(
            "sample pairs from the policy itself: prefeval sweep --rounds 3",
            "or fine-tune on the chosen answers first (SFT), then DPO",
        ),
        references=("Tajwar et al. 2024, arXiv 2404.14367 (on-policy data)",),
        explains=BEHAVIOUR,
        methods=(*PAIRS, "simpo"),
    ),
    Cause(
        id="kto_imbalance",
        title="One class of thumbs outweighs the other",
        verdict="Liked answers pull {class_pull:.2g} times as hard as disliked ones; KTO's paper "
        "keeps that within 1 and 4/3.",
        routes=(
            Route(
                "log",
                (Condition("class_pull_excess", above=1.6, source="ours, on KTO's band"),),
                0.85, "warning",
            ),
        ),
        alternatives=("an imbalance that is meant, with few dislikes that matter",),
        actions=(
            "set the weights so that weight x number is alike: prefeval audit DATA prints them",
            "with very few of one kind, collect more of it",
        ),
        references=("Ethayarajh et al. 2024, arXiv 2402.01306, section 4.2",),
        explains=("not_learning", "logprob_collapse", "noisy_labels", *BEHAVIOUR),
        methods=("kto",),
    ),
)  # fmt: skip
