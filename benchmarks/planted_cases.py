"""The cases of the planted-cause benchmark: every fault at several strengths, and healthy runs.

Of both worlds alike; thresholds were looked at on "tune" only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from planted_faults import Case

LR = 3.5e-4  # of the lab's pair methods
DAMAGE = (
    "format_unlearned", "tool_use_unlearned", "refusal_unlearned", "overrefusal",
    "knowledge_unlearned", "mode_collapse", "loss_and_evaluation_disagree",
)  # fmt: skip


def cases() -> list[Case]:
    """All cases; names are unique and say what they are."""
    found = [c for world in ("tune", "judge") for c in (*_healthy(world), *_planted(world))]
    names = [c.name for c in found]
    assert len(names) == len(set(names)), "two cases of one name"
    return found


def _case(world: str, cause: str, tag: str, method: str, beta: float, **rest: Any) -> Case:
    seed = rest.pop("seed", 0) + (100 if world == "judge" else 0)
    name = f"{world}-{cause or 'healthy'}-{method}-{tag}-s{seed}"
    return Case(name, cause, method, beta, seed, world, **rest)


def _healthy(world: str) -> Iterator[Case]:
    for beta, seed in itertools.product((0.1, 0.15, 0.2, 0.3), range(5)):
        yield _case(world, "", f"b{beta}", "dpo", beta, seed=seed)
    for beta, seed in itertools.product((0.1, 0.3), range(3)):
        short, lower = {"max_steps": 48}, {"lr": 2e-4}
        yield _case(world, "", f"short{beta}", "dpo", beta, seed=seed, settings=short)
        yield _case(world, "", f"lr{beta}", "dpo", beta, seed=seed, settings=lower)
    for batch, seed in itertools.product((16, 64), range(2)):
        yield _case(
            world, "", f"batch{batch}", "dpo", 0.2, seed=seed, settings={"batch_size": batch}
        )
    for seed in range(3):
        yield _case(world, "", "smooth", "dpo", 0.15, seed=seed, settings={"label_smoothing": 0.1})
        yield _case(world, "", "long", "dpo", 0.3, seed=seed, settings={"epochs": 2})
    for beta, seed in itertools.product((0.1, 0.2, 0.3), range(4)):
        yield _case(world, "", f"b{beta}", "ipo", beta, seed=seed)
    for beta, seed in itertools.product((2.0, 5.0), range(4)):
        yield _case(world, "", f"b{beta}", "simpo", beta, seed=seed)
    for beta, seed in itertools.product((0.3, 0.6), range(4)):
        yield _case(world, "", f"b{beta}", "kto", beta, seed=seed, settings={"lr": 1.5e-4})
    for beta, seed in itertools.product((0.1, 0.3), range(3)):
        yield _case(world, "", f"b{beta}", "ppo", beta, seed=seed)


def _planted(world: str) -> Iterator[Case]:
    yield from _setup(world)
    yield from _steps(world)
    yield from _pairs(world)
    yield from _online(world)
    yield from _behaviour(world)
    yield from _others(world)


def _setup(world: str) -> Iterator[Case]:
    for beta in (0.05, 0.1, 0.3):
        yield _case(world, "policy_is_reference", f"b{beta}", "dpo", beta, plant="own_reference")
    for scale in (0.02, 0.05, 0.1, 0.3):
        yield _case(
            world,
            "wrong_reference",
            f"{scale}",
            "dpo",
            0.1,
            plant="shaken_reference",
            strength=scale,
        )
    for share in (0.1, 0.3, 1.0):
        yield _case(
            world, "bos_eos_broken", f"end{share}", "dpo", 0.1, plant="no_end", strength=share
        )
    yield _case(world, "bos_eos_broken", "bos", "dpo", 0.1, plant="double_bos")
    for length in (8, 14, 24):
        yield _case(
            world, "truncated_pairs", f"{length}", "dpo", 0.1, plant="cut_off", strength=length
        )
    for method in ("dpo", "ipo"):
        yield _case(world, "template_mismatch", "bare", method, 0.1, plant="bare")
    for beta in (0.1, 0.3):
        yield _case(world, "one_class_batches", f"b{beta}", "kto", beta, plant="sorted_thumbs")


def _steps(world: str) -> Iterator[Case]:
    """Faults of learning rate and β."""
    for lr in (1e-6, 3e-6, 1e-5):
        yield _case(world, "not_learning", f"lr{lr}", "dpo", 0.1, settings={"lr": lr})
    yield _case(world, "not_learning", "lr", "ipo", 0.1, settings={"lr": 1e-6})
    for method, beta in (("dpo", 3.0), ("dpo", 10.0), ("ipo", 3.0), ("kto", 3.0)):
        yield _case(world, "high_beta", f"b{beta}", method, beta)
    for method, beta in (("dpo", 0.002), ("dpo", 0.01), ("dpo", 0.03), ("ipo", 0.005),
                         ("kto", 0.01)):  # fmt: skip
        yield _case(
            world,
            "low_beta_drift",
            f"b{beta}",
            method,
            beta,
            accepted=("low_beta_drift", "logprob_collapse"),
            settings={"epochs": 2},
        )
    for method, lr in (("dpo", 1.4e-3), ("dpo", 2e-3), ("dpo", 3e-3), ("ipo", 2e-3)):
        yield _case(world, "logprob_collapse", f"lr{lr}", method, 0.1, settings={"lr": lr})
    for lr in (0.02, 0.05):
        yield _case(
            world,
            "diverged",
            f"lr{lr}",
            "dpo",
            0.3,
            settings={"lr": lr},
            accepted=("diverged", "logprob_collapse", "nan"),
        )
    for lr in (6e-4, 1e-3, 2e-3):
        yield _case(
            world,
            "no_anchor_drift",
            f"lr{lr}",
            "simpo",
            2.0,
            settings={"lr": lr, "epochs": 2},
            accepted=("no_anchor_drift", "logprob_collapse"),
        )


def _pairs(world: str) -> Iterator[Case]:
    """Faults of the preference data."""
    for method, share in (("dpo", 1.0), ("dpo", 0.9), ("ipo", 1.0), ("simpo", 1.0)):
        beta = 2.0 if method == "simpo" else 0.1
        yield _case(
            world, "inverted_labels", f"{share}", method, beta, plant="swap", strength=share
        )
    for method, share in (("dpo", 0.2), ("dpo", 0.3), ("dpo", 0.4), ("ipo", 0.4)):
        yield _case(world, "noisy_labels", f"{share}", method, 0.1, plant="swap", strength=share)
    for count, epochs in ((150, 16), (300, 8), (600, 5)):
        yield _case(
            world,
            "overfit",
            f"{count}",
            "dpo",
            0.2,
            plant="few",
            strength=count,
            settings={"epochs": epochs},
            accepted=("overfit", "logprob_collapse"),
        )
    for method, share in (("dpo", 0.08), ("dpo", 0.2), ("ipo", 0.2), ("simpo", 0.2)):
        beta = 2.0 if method == "simpo" else 0.1
        yield _case(world, "stale_pairs", f"{share}", method, beta, plant="foreign", strength=share)
    for method, share in (("dpo", 1.0), ("dpo", 0.6), ("ipo", 1.0)):
        yield _case(
            world, "near_identical_pairs", f"{share}", method, 0.1, plant="near", strength=share
        )
    for share in (0.1, 0.25, -0.1, -0.25):
        yield _case(
            world,
            "kto_imbalance",
            f"{share}",
            "kto",
            0.3,
            plant="imbalance",
            strength=share,
            settings={"lr": 1.5e-4},
        )


def _online(world: str) -> Iterator[Case]:
    for lr in (1e-3, 2e-3):
        yield _case(
            world,
            "ppo_kl_runaway",
            f"lr{lr}",
            "ppo",
            0.001,
            settings={"lr": lr},
            accepted=("ppo_kl_runaway", "entropy_collapse"),
        )
    for lr in (0.0, 0.3):
        yield _case(world, "ppo_value_failing", f"value{lr}", "ppo", 0.1, settings={"value_lr": lr})
    for lr in (1e-3, 2e-3):
        yield _case(
            world,
            "entropy_collapse",
            f"lr{lr}",
            "grpo",
            0.0,
            settings={"lr": lr},
            accepted=("entropy_collapse", "ppo_kl_runaway"),
        )


def _behaviour(world: str) -> Iterator[Case]:
    for method, beta in (("dpo", 0.1), ("dpo", 0.2), ("ipo", 0.1), ("simpo", 2.0)):
        yield _case(
            world,
            "length_exploited",
            f"b{beta}",
            method,
            beta,
            labels="long",
            accepted=("length_exploited", "judge_overoptimised"),
        )
    for share in (1.0, 0.7):
        yield _case(
            world,
            "mode_collapse",
            f"{share}",
            "dpo",
            0.1,
            plant="opener",
            strength=share,
            settings={"epochs": 2},
        )
    for family, cause in (("json", "format_unlearned"), ("tool", "tool_use_unlearned"),
                          ("refusal", "refusal_unlearned")):  # fmt: skip
        for share in (0.03, 0.08):
            yield _case(
                world, cause, f"{share}", "dpo", 0.1, plant=f"against_{family}", strength=share
            )


def _others(world: str) -> Iterator[Case]:
    for bias in (2.0, 4.0):
        yield _case(world, "judge_too_noisy", f"{bias}", "dpo", 0.2, plant="coin", strength=bias)
    yield _case(world, "suite_too_small", "16", "dpo", 0.2, prompts=16)
    for share in (1.0, 0.5):
        yield _case(
            world,
            "unknown",
            f"prompts{share}",
            "dpo",
            0.1,
            plant="other_prompts",
            strength=share,
            accepted=("unknown", *DAMAGE),
        )
    for scale in (0.1, 0.3):
        yield _case(
            world,
            "unknown",
            f"shaken{scale}",
            "dpo",
            0.2,
            plant="shaken_weights",
            strength=scale,
            accepted=("unknown", *DAMAGE),
        )
    yield _case(
        world,
        "compound",
        "swap-low",
        "dpo",
        0.01,
        plant="swap",
        accepted=("inverted_labels", "low_beta_drift"),
    )
    yield _case(
        world,
        "compound",
        "noise-lr",
        "dpo",
        0.1,
        plant="swap",
        strength=0.3,
        settings={"lr": 2e-3},
        accepted=("noisy_labels", "logprob_collapse"),
    )
    yield _case(
        world,
        "compound",
        "long-low",
        "dpo",
        0.01,
        labels="long",
        settings={"epochs": 2},
        accepted=("low_beta_drift", "length_exploited", "logprob_collapse"),
    )
    yield _case(
        world,
        "compound",
        "bos-lr",
        "dpo",
        0.1,
        plant="double_bos",
        settings={"lr": 2e-3},
        accepted=("bos_eos_broken", "logprob_collapse"),
    )
