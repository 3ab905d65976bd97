"""Faults that were there before the first step: of data, of encoding, of the reference."""

from __future__ import annotations

from prefeval.metrics.diagnosis.terms import Cause, Condition, Route

TRL = "rewards are 0 while policy and reference are one (TRL's and ours)"
EVERYTHING = (
    "low_beta_drift", "logprob_collapse", "overfit", "not_learning", "noisy_labels", "diverged",
    "no_anchor_drift", "mode_collapse", "format_unlearned", "refusal_unlearned",
    "tool_use_unlearned", "overrefusal", "knowledge_unlearned", "endless_answers",
    "length_exploited", "judge_overoptimised", "loss_and_evaluation_disagree",
)  # fmt: skip

CAUSES: tuple[Cause, ...] = (
    Cause(
        id="nan",
        title="The loss is no longer a number",
        verdict="From step {first_nonfinite_step:g} on the loss or its gradient is NaN or "
        "infinite: what was trained after it is not a model.",
        routes=(
            Route("log", (Condition("nonfinite_rows", above=0),), 0.98, "error"),
        ),
        alternatives=("a logger that wrote NaN for values it did not have",),
        actions=(
            "go back to the last checkpoint before step {first_nonfinite_step:g}; no later one is "
            "of use",
            "lower the learning rate by 3 to 10 times, warm up over 5 to 10% of the steps, clip "
            "gradients at 1",
            "look at that batch for empty answers and for labels that are all masked",
            "train in bfloat16 or float32, not in float16",
        ),
        references=("Micikevicius et al. 2018, arXiv 1710.03740 (range of float16)",),
        explains=EVERYTHING,
    ),
    Cause(
        id="policy_is_reference",
        title="The policy is compared with itself",
        verdict="Every reward is exactly 0 over {logged_rows:g} rows: the reference is the model "
        "that is being trained, so nothing holds it and the loss tells nothing.",
        routes=(
            Route(
                "log",
                (
                    Condition("reward_largest", below=1e-6, source=TRL),
                    Condition("logged_rows", above=4),
                ),
                0.97, "error",
            ),
        ),
        alternatives=("a learning rate of 0, or every parameter frozen",),
        actions=(
            "load the reference a second time, or precompute its log-probabilities before training",
            "with LoRA: give no ref_model and let the trainer switch the adapter off; see that the "
            "adapter is not merged and is trainable",
            "check step 2 of the next run: rewards must differ from 0",
        ),
        references=("TRL documentation, DPOTrainer, ref_model",),
        explains=EVERYTHING,
    ),
    Cause(
        id="wrong_reference",
        title="The reference is not the model that training started from",
        verdict="When training began the policy already differed from its reference "
        "({reward_start|pair_start:.3g} where it must be 0): the reference is another model, or "
        "sees another text.",
        routes=(
            Route(
                "log",
                (
                    Condition("reward_start", above=0.05),
                    Condition("reward_start_share", above=0.6),
                ),
                0.85, "error",
            ),
            Route(
                "run",
                (Condition("pair_start", above=0.05),),
                0.95, "error",
            ),
        ),
        alternatives=(
            "a run that was resumed, whose log begins at the resume",
            "dropout on while the reference is scored, or another precision for it",
        ),
        actions=(
            "start policy and reference from one checkpoint: the SFT model that wrote or was "
            "trained near the pairs",
            "with precomputed log-probabilities, compute them anew after any change of template, "
            "truncation or tokenizer",
            "check that the first logged loss is 0.693 (sigmoid losses) and rewards are 0",
        ),
        references=("Rafailov et al. 2023, arXiv 2305.18290, section 4 and appendix B",),
        explains=EVERYTHING,
    ),
    Cause(
        id="bos_eos_broken",
        title="Training answers do not begin or end as they should",
        verdict="{no_end_share:.0%} of uncut training answers have no end token and "
        "{bos_fault_share:.0%} of texts a doubled or inner BOS: the policy learns not to stop, or "
        "a prompt that it never sees in use.",
        routes=(
            Route("run", (Condition("no_end_share", above=0.02),), 0.97, "error"),
            Route("run", (Condition("bos_fault_share", above=0.02),), 0.97, "error"),
        ),
        alternatives=("answers that were cut before they were saved",),
        actions=(
            "tokenise with the chat template and add no special tokens a second time",
            "append the tokenizer's end token to every answer that is whole",
            "run prefeval doctor MODEL --data DATA: it shows one example token by token",
        ),
        references=("lm-evaluation-harness #2797 and trl #1930 (double BOS)",),
        explains=EVERYTHING,
    ),
    Cause(
        id="truncated_pairs",
        title="Many training answers were cut",
        verdict="{truncated_share:.0%} of training answers were cut at the longest length: they "
        "teach answers without an end, and cut off what made them better.",
        routes=(
            Route("run", (Condition("truncated_share", above=0.1),), 0.9, "error"),
            Route("run", (Condition("truncated_share", above=0.03),), 0.7, "warning"),
        ),
        actions=(
            "raise --max-length to the 99th percentile of prompt plus answer "
            "(prefeval audit DATA --reference MODEL prints it)",
            "or leave out the pairs that do not fit; never cut from the end of an answer",
        ),
        references=("TRL's DPO documentation, max_length and truncation_mode",),
        explains=EVERYTHING,
    ),
    Cause(
        id="template_mismatch",
        title="Training text is rendered otherwise than in use",
        verdict="{template_agreement:.0%} of training prompts are tokens that the reference's own "
        "template makes of them; it finds the training answers {ref_gap_to_held_out:+.0%} as "
        "likely, in nats a token, as held-out ones of the same source.",
        routes=(
            Route("run", (Condition("template_agreement", below=0.95),), 0.9, "error"),
        ),
        alternatives=("a template that was changed on purpose, and is used in use too",),
        actions=(
            "render both with the reference's own chat template; compare the template's hash in "
            "the manifest with the checkpoint's",
            "print one training prompt with its special tokens beside one from generation",
            "run prefeval doctor MODEL --data DATA",
        ),
        references=("lm-evaluation-harness #1841 and #3513 (templating parts separately)",),
        explains=EVERYTHING,
    ),
    Cause(
        id="one_class_batches",
        title="Batches hold thumbs of one kind",
        verdict="{one_class_rows:.0%} of batches have only liked or only disliked answers: KTO's "
        "baseline is then estimated on one side and the loss pulls one way.",
        routes=(
            Route("log", (Condition("one_class_rows", above=0.2),), 0.9, "error"),
            Route("log", (Condition("one_class_rows", above=0.05),), 0.7, "warning"),
        ),
        alternatives=("a batch of one or two a device",),
        actions=(
            "shuffle the thumbs (files are often sorted by label)",
            "use batches of 8 a device or more, so that both kinds are in each",
        ),
        references=("Ethayarajh et al. 2024, arXiv 2402.01306, section 4.2",),
        explains=("not_learning", "logprob_collapse", "low_beta_drift", "mode_collapse",
                  "format_unlearned", "tool_use_unlearned", "refusal_unlearned",
                  "kto_imbalance", "knowledge_unlearned", "loss_and_evaluation_disagree"),
        methods=("kto",),
    ),
)  # fmt: skip
