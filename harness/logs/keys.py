"""What trainers call the numbers they log: one table from their names to prefeval's columns.

A name is compared by its words, whatever their case and whatever stands between them:
``rewards/chosen``, ``Rewards_Chosen`` and ``rewardsChosen`` are one. If the whole name is in no
table, words that only say where a number comes from (``train``, ``objective``, ``mean``) are left
out, and then what stands in front of a known name. ``eval`` and its like make it a number of an
evaluation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

# Column: the names it has in logs, the best one first where a log has several. prefeval's own
# trainers, TRL, Axolotl and transformers log with "/"; LLaMA-Factory's trainer_log.jsonl has
# current_steps, reward, accuracy; OpenRLHF acc, chosen_reward, reject_reward, act_loss; verl
# actor/..., critic/..., response_length/...; NeMo-Aligner rewards_chosen_mean; the authors' DPO
# rewards_train/chosen; open-instruct training_step, rewards/margin.
# Units: *_logps, delta_* and kl are nats/sequence (log-probabilities of a SimPO or IPO run of TRL
# are means over tokens), kl_per_token and entropy nats/token, length tokens, tokens as logged
# (TRL counts from the start of the run, prefeval a step's own).
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "step": (
        "global_step", "trainer/global_step", "training_step", "training_steps", "step", "steps",
        "current_steps", "counters/updates", "iteration", "iter", "update", "wandb_step",
        "counters/examples", "episode",
    ),
    "epoch": ("epoch", "epochs", "current_epoch", "trainer/epoch"),
    "loss": ("loss", "total_loss", "loss/total", "dpo_loss", "kto_loss", "loss_mean"),
    "chosen_logps": (
        "logps/chosen", "chosen_logps", "policy_chosen_logps", "logp/chosen", "chosen_logprobs",
        "logprobs/chosen", "chosen_logp",
    ),
    "rejected_logps": (
        "logps/rejected", "rejected_logps", "policy_rejected_logps", "logp/rejected",
        "rejected_logprobs", "logprobs/rejected", "rejected_logp",
    ),
    "ref_chosen_logps": (
        "ref_logps/chosen", "ref_chosen_logps", "reference_chosen_logps", "logps/ref_chosen",
        "reference_logps/chosen",
    ),
    "ref_rejected_logps": (
        "ref_logps/rejected", "ref_rejected_logps", "reference_rejected_logps",
        "logps/ref_rejected", "reference_logps/rejected",
    ),
    "logps": ("logps", "logp", "logprobs"),
    "delta_chosen": ("delta_chosen", "logratios/chosen", "chosen_logratios"),
    "delta_rejected": ("delta_rejected", "logratios/rejected", "rejected_logratios"),
    "reward_chosen": (
        "rewards/chosen", "reward/chosen", "chosen_reward", "chosen_rewards", "rewards_chosen_mean",
    ),
    "reward_rejected": (
        "rewards/rejected", "reward/rejected", "rejected_reward", "rejected_rewards",
        "reject_reward", "rewards_rejected_mean",
    ),
    "reward_margin": (
        "rewards/margins", "rewards/margin", "reward_margin", "reward_margins", "margins",
    ),
    "margin": ("margin", "delta_margin", "logratios/margin"),
    "accuracy": (
        "rewards/accuracies", "rewards/accuracy", "reward_accuracy", "reward_accuracies",
        "reward_acc", "preference_accuracy", "accuracy", "accuracies", "acc", "acc_mean",
    ),
    "kl": ("objective/kl", "kl", "kl_divergence", "mean_kl", "kl_per_sequence", "ppo/mean_kl"),
    "kl_per_token": (
        "kl_per_token", "objective/kl_per_token", "objective/kl_avg", "actor/kl_loss", "kl_loss",
        "critic/kl", "actor/reward_kl_penalty",
    ),
    "entropy": (
        "entropy", "policy/entropy_avg", "policy/entropy", "actor/entropy", "actor/entropy_loss",
        "entropy_loss",
    ),
    "grad_norm": (
        "grad_norm", "gradient_norm", "actor/grad_norm", "optim/grad_norm", "policy_grad_norm",
    ),
    "lr": ("lr", "learning_rate", "actor/lr", "policy_lr"),
    "chosen_logits": ("logits/chosen", "chosen_logits"),
    "rejected_logits": ("logits/rejected", "rejected_logits"),
    "nll_loss": ("nll_loss", "sft_loss", "nll"),
    "tokens": (
        "tokens", "num_tokens", "total_tokens", "num_input_tokens_seen", "tokens_seen",
        "perf/total_num_tokens",
    ),
    "length": (
        "length", "completions/mean_length", "completion_length", "response_length/mean",
        "response_length", "response_lengths", "tokens/responses_len_mean", "generation_length",
        "val/sequence_lengths",
    ),
    "chosen_length": ("chosen_length", "chosen_lengths", "length/chosen", "lengths/chosen"),
    "rejected_length": (
        "rejected_length", "rejected_lengths", "length/rejected", "lengths/rejected",
    ),
    "count_chosen": ("count/chosen", "chosen_count", "num_chosen"),
    "count_rejected": ("count/rejected", "rejected_count", "num_rejected"),
    "reward": (
        "objective/scores", "critic/score/mean", "reward", "rewards", "scores", "env/reward_mean",
        "ppo/mean_scores", "critic/rewards/mean",
    ),
    "reward_std": ("reward_std", "rewards_std", "env/reward_std", "ppo/std_scores", "scores_std"),
    "value_loss": (
        "value_loss", "loss/value", "loss/value_avg", "critic_loss", "critic/vf_loss", "vf_loss",
    ),
    "policy_loss": (
        "policy_loss", "loss/policy", "loss/policy_avg", "actor_loss", "act_loss", "actor/pg_loss",
        "pg_loss",
    ),
    "value_explained": (
        "value_explained", "explained_variance", "critic/vf_explained_var", "vf_explained_var",
        "val/var_explained", "ppo/val/var_explained",
    ),
    "clip_fraction": (
        "clip_fraction", "policy/clipfrac", "policy/clipfrac_avg", "clipfrac", "actor/pg_clipfrac",
        "pg_clipfrac", "clip_ratio/region_mean", "clip_ratio", "ppo_clip_ratio",
    ),
    "kl_coef": (
        "kl_coef", "kl_ctl", "kl_coefficient", "actor/kl_coef", "actor/reward_kl_penalty_coeff",
    ),
    "eos_rate": (
        "eos_rate", "ended", "val/contain_eos_token", "val/model_contain_eos_token", "stop_rate",
        "val/stop_rate",
    ),
    "truncation_rate": (
        "truncation_rate", "completions/clipped_ratio", "response_length/clip_ratio",
        "truncated_rate", "truncate_ratio",
    ),
}  # fmt: skip
COUNTERS = ("step", "epoch")

# Known, and no column: another quantity or unit under a name that could be taken for one, and what
# trainers write down for themselves. A "*" is the end of what is compared.
NOT_READ = (
    # PPO: the KL of one update from the policy before it; entropy and rewards summed over a
    # sequence or with the KL penalty in them; "val" is the value function
    "approx_kl", "policy/approxkl", "policy/approxkl_avg", "policy/policykl", "actor/ppo_kl",
    "ppo_kl", "objective/entropy", "objective/rlhf_reward", "objective/non_score_reward",
    "ppo/mean_non_score_reward", "objective/scores_margin", "val/clipfrac", "val/clipfrac_avg",
    "val/ratio", "val/ratio_avg", "val/ratio_var", "val/num_eos_tokens",
    "val/ref_contain_eos_token", "val/vpred", "val/error", "val/mean", "val/var",
    "ppo/val/vpred", "ppo/val/error", "ppo/val/clipfrac", "ppo/val/mean", "ppo/val/var",
    "value_grad_norm", "critic/grad_norm", "critic_grad_norm", "value_lr", "critic/lr",
    "critic_lr", "critic/vf_clipfrac", "return", "policy/advantages*", "policy/ratio*", "returns*",
    "critic/advantages*", "critic/returns*", "critic/values*", "critic/score*", "critic/rewards*",
    "actor/pg_clipfrac_lower", "prompt_length*", "response_length*", "completions*", "clip_ratio*",
    "cispo_clip_ratio", "sampling*", "vespo*", "tools*", "frac_reward_zero_std", "flat_groups",
    "mean_token_accuracy", "aux_loss", "preference_loss", "rewards_all_mean", "rewards_all_std",
    "rewards/average", "rewards/probabilities", "log_odds_ratio", "log_odds_chosen", "beta",
    "loss/kl", "loss/score", "loss/dpo", "loss/xpo", "mixture_coef", "alpha",
    # of the machine and the schedule
    "total_steps", "max_steps", "percentage", "elapsed_time", "remaining_time", "throughput",
    "runtime", "train_runtime", "train_loss_final", "samples_per_second", "steps_per_second",
    "tokens_per_second", "step_time", "total_flos", "flops", "sft_flops", "seconds", "timestamp",
    "wandb_runtime", "wandb_timestamp", "peak_memory_mb", "memory*", "time*", "timing*", "perf*",
    "examples_per_second", "eps", "global_seqlen*", "mfu*", "num_turns*", "val_core*", "val_aux*",
    "predict_loss", "num_examples", "vram_allocated", "vram_reserved", "message", "type", "name",
)  # fmt: skip

# A plain "kl" beside one of these is a mean over tokens: TRL's GRPO and RLOO, OpenRLHF's PPO.
KL_PER_TOKEN_BESIDE = ("completions/mean_length", "frac_reward_zero_std", "response_length")

TRAIN_WORDS = frozenset({"train", "training"})
EVAL_WORDS = frozenset({"eval", "evaluation", "val", "valid", "validation", "test", "dev"})
IDLE_WORDS = frozenset({
    "objective", "policy", "actor", "metrics", "metric", "mean", "avg", "average", "global", "dpo",
    "ipo", "kto", "simpo", "cpo", "orpo", "bco", "ppo", "grpo", "rloo", "optim", "env", "model",
    "stats", "log", "logs",
})  # fmt: skip


@dataclass(frozen=True)
class Match:
    """Which column a name is, and of which rows; the smaller ``rank``, the surer."""

    column: str
    is_eval: bool
    rank: tuple[int, int]


def words(name: str) -> tuple[str, ...]:
    """``"eval_rewards/Chosen"`` as ("eval", "rewards", "chosen"); W&B's "run - " is left out."""
    name = name.rpartition(" - ")[2].strip()
    if name.startswith("_"):  # W&B's own: _step, _runtime, _timestamp
        name = f"wandb{name}"
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", " ", name)
    return tuple(re.findall(r"[a-z0-9]+", spaced.lower()))


@cache
def _names() -> Mapping[str, tuple[str, int]]:
    """Joined words of every name: its column and place."""
    return {
        "".join(words(name)): (column, place)
        for column, names in COLUMNS.items()
        for place, name in enumerate(names)
    }


@cache
def _long_names() -> frozenset[str]:
    """Names of two words or more: long enough to be known after words of any kind."""
    names = (words(name) for names in COLUMNS.values() for name in names)
    return frozenset("".join(found) for found in names if len(found) > 1)


@cache
def _not_read() -> tuple[frozenset[str], tuple[tuple[str, ...], ...]]:
    whole = frozenset("".join(words(name)) for name in NOT_READ if not name.endswith("*"))
    return whole, tuple(words(name) for name in NOT_READ if name.endswith("*"))


def _of_one_reward(name: str) -> bool:
    """TRL's GRPO logs every reward function by name: rewards/format/mean, rewards/accuracy/std."""
    return bool(re.search(r"(?:^|/)rewards/[^/]+/(?:mean|std)$", name.rpartition(" - ")[2]))


@cache
def look_up(name: str) -> Match | str | None:
    """The column of a name, "" for one that is known and not read, None for an unknown one."""
    if _of_one_reward(name):
        return ""
    parts = [part_words for part in re.split(r"[/.]", name) if (part_words := words(part))]
    for stage in range(len(parts)):  # the whole name, then without what stands before a "/"
        before = {word for part in parts[:stage] for word in part}
        found = _look_up(tuple(word for part in parts[stage:] for word in part), 2 * stage)
        if isinstance(found, Match):
            return Match(found.column, found.is_eval or bool(before & EVAL_WORDS), found.rank)
        if found is not None:
            return found
    everything = words(name)
    for cut in range(1, len(everything) - 1):
        rest = "".join(everything[cut:])
        if rest in _long_names():
            column, place = _names()[rest]
            return Match(column, bool(set(everything[:cut]) & EVAL_WORDS), (99, place))
    return None


def _look_up(name: tuple[str, ...], rank: int) -> Match | str | None:
    whole, beginnings = _not_read()
    scoped = tuple(w for w in name if w not in TRAIN_WORDS | EVAL_WORDS)
    is_eval = bool(EVAL_WORDS & set(name))
    bare = tuple(w for w in scoped if w not in IDLE_WORDS)
    candidates = ((name, False), (scoped, is_eval), (bare, is_eval))
    for place, (candidate, of_eval) in enumerate(candidates):
        joined = "".join(candidate)
        if joined in _names():
            column, order = _names()[joined]
            return Match(column, of_eval, (rank + (place == 2), order))
        if joined in whole or any(candidate[: len(b)] == b for b in beginnings):
            return ""
    return None


@dataclass(frozen=True)
class Plan:
    """Which name each column is read from, for training and for evaluation rows."""

    train: Mapping[str, str]
    evals: Mapping[str, str]
    unrecognised: tuple[str, ...]

    @property
    def has_metrics(self) -> bool:
        """Whether there is anything but counters."""
        return bool((self.train.keys() | self.evals.keys()) - set(COUNTERS))


def plan(names: Iterable[str]) -> Plan:
    """Choose, for every column, the surest of a file's names.

    Another that is known whole is passed over (the running mean beside the loss); one that was only
    guessed from its end is unrecognised.
    """
    names = list(names)
    marks = {"".join(words(name)) for name in KL_PER_TOKEN_BESIDE}
    kl_per_token = any("".join(w for w in words(n) if w not in TRAIN_WORDS) in marks for n in names)
    best: dict[tuple[str, bool], tuple[tuple[int, int], str]] = {}
    unrecognised = []
    for name in names:
        match = look_up(name)
        if match is None:
            unrecognised.append(name)
        if not isinstance(match, Match):
            continue
        column = match.column
        if column == "kl" and kl_per_token and words(name)[-2:] != ("objective", "kl"):
            column = "kl_per_token"
        place = (column, match.is_eval and column not in COUNTERS)
        passed_over = (match.rank, name)
        if place not in best or match.rank < best[place][0]:
            passed_over, best[place] = best.get(place, ((0, 0), "")), passed_over
        if passed_over[0][0] > 1:
            unrecognised.append(passed_over[1])
    train = {column: name for (column, of_eval), (_, name) in best.items() if not of_eval}
    evals = {column: name for (column, of_eval), (_, name) in best.items() if of_eval}
    unrecognised = [name for name in names if name in set(unrecognised)]
    return Plan(train, evals, tuple(unrecognised))
