"""What the README and docs say of the lab's studies, measured: prints Markdown.

    python scripts/study.py rounds        # rounds against the same budget of pairs that grow stale
    python scripts/study.py controller    # whether PPO's controller holds its target
    python scripts/study.py exploration   # PPO, GRPO and rounds of DPO on what the reference lacks

Each trains on the lab (built on first use) with three seeds, and measures on people and tasks that
training never mentions. On one core they take about ten minutes each; ``--seeds 1`` shortens them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prefeval.harness import models
from prefeval.harness.backends.hugging_face import HuggingFaceBackend
from prefeval.harness.lab import lab as labs
from prefeval.harness.lab import rewards as lab_rewards
from prefeval.harness.settings import LAB_TRAINING
from prefeval.harness.threads import no_bars, one_thread
from prefeval.minitrainers import load, make_config
from prefeval.minitrainers.rollouts import PromptData
from prefeval.minitrainers.rounds import OnPolicy
from prefeval.records import PrefevalError, Prompt, Sampling
from prefeval.suites import lab_oracle, lab_prompts
from prefeval.suites.lab_world import ASSURED

LENGTHS = {"max_length": labs.MAX_LENGTH, "max_new_tokens": 96}


class Measured(NamedTuple):
    """A policy on held-out prompts: a value a prompt, and its KL."""

    values: np.ndarray[Any, Any]
    kl: float
    length: float


class Bench:
    """The lab, its reference, and how a policy is measured."""

    def __init__(self) -> None:
        self.lab = labs.build(on_progress=lambda stage, share: None)
        self.world = self.lab.world
        self.judge = f"lab:seed={self.lab.config.seed},people={self.lab.config.people}"
        self.tokenizer = models.load_tokenizer(self.lab.reference)
        self.reference = self._backend(self.new_policy())
        self.work = Path(tempfile.mkdtemp())

    def new_policy(self) -> Any:
        """The reference, to be trained."""
        return models.load_model(self.lab.reference)

    def _backend(self, model: Any) -> HuggingFaceBackend:
        return HuggingFaceBackend(model, self.tokenizer, max_length=labs.MAX_LENGTH)

    def measure(
        self, policy: Any, prompts: Sequence[Prompt], value: Callable[[Prompt, str], float]
    ) -> Measured:
        """One sample a prompt at temperature 1; its value, and the exact KL along it."""
        backend = self._backend(policy)
        drawn = backend.generate(prompts, Sampling("sample", 1.0, 96, seed=77))
        rows = [(p.messages, c.token_ids) for p, c in zip(prompts, drawn, strict=True)]
        scored = backend.compare(self.reference, rows)
        values = [value(p, c.text) for p, c in zip(prompts, drawn, strict=True)]
        length = float(np.mean([len(c.token_ids) for c in drawn]))
        return Measured(np.array(values), float(np.mean([s.kl for s in scored])), length)

    def quality(self, prompt: Prompt, text: str) -> float:
        """True quality, which ignores length."""
        check = prompt.check or {}
        return lab_oracle.quality(self.world, check["family"], check["subject"], text)

    def train(self, method: str, data: Any, settings: dict[str, Any], **extra: Any) -> Any:
        """A policy trained from the reference."""
        policy = self.new_policy()
        config = make_config(method, **settings)
        out = Path(tempfile.mkdtemp(dir=self.work))
        load(method).train(policy, self.tokenizer, data, config, out_dir=out, **extra)
        return policy


def interval(differences: np.ndarray[Any, Any], clusters: Sequence[str]) -> tuple[float, float]:
    """95% bootstrap interval of a mean over clusters; rows are seeds, columns prompts."""
    rng = np.random.default_rng(0)
    names = sorted(set(clusters))
    sums = np.array([differences[:, [c == n for c in clusters]].sum() for n in names])
    counts = np.array([differences.shape[0] * sum(c == n for c in clusters) for n in names])
    draws = rng.integers(len(names), size=(4000, len(names)))
    low, high = np.quantile(sums[draws].sum(1) / counts[draws].sum(1), (0.025, 0.975))
    return float(low), float(high)


# -- rounds ------------------------------------------------------------------------------------


def rounds(bench: Bench, seeds: int) -> None:
    """Rounds on the policy's own answers against as many rounds on the reference's.

    Prompts, labels (the lab's labelling judge, as noisy as the pairs' labels), pairs a step and
    steps are the same: only whose answers are compared differs.
    """
    d = bench.lab.data_config
    labels = f"shape={d.judge},length_bias={d.length_bias},temperature={d.temperature},noise=0"
    prompts = lab_prompts.prose_prompts(bench.world, held_out=True)
    clusters = [p.cluster for p in prompts]
    settings = {**LAB_TRAINING["dpo"], **LENGTHS, "rounds": 8, "round_prompts": 768}
    settings.pop("epochs")
    print(
        f"DPO, 8 rounds of 768 prompts, 2 answers each, {seeds} seeds; measured on {len(prompts)} "
        "held-out prompts\n\n| β | pairs by | quality (seeds) | mean | KL | length |\n"
        "|---:|---|---|---:|---:|---:|"
    )
    base = bench.measure(bench.new_policy(), prompts, bench.quality)
    print(f"| | reference | | {base.values.mean():.2f} | 0 | {base.length:.0f} |", flush=True)
    for beta in (0.1, 0.3):
        found: dict[str, list[Measured]] = {"the reference": [], "the policy": []}
        for seed in range(seeds):
            for name, measured in found.items():
                data = OnPolicy(
                    lab_rewards.labels(bench.judge, labels, seed),
                    ref=bench.new_policy(),
                    writer=bench.new_policy() if name == "the reference" else None,
                )
                policy = bench.train("dpo", data, {**settings, "beta": beta, "seed": seed})
                measured.append(bench.measure(policy, prompts, bench.quality))
        for name, measured in found.items():
            each = ", ".join(f"{m.values.mean():.2f}" for m in measured)
            mean = np.mean([m.values.mean() for m in measured])
            kl, length = (np.mean([getattr(m, n) for m in measured]) for n in ("kl", "length"))
            print(
                f"| {beta} | {name} | {each} | {mean:.2f} | {kl:.2f} | {length:.0f} |", flush=True
            )
        fixed, own = (np.stack([m.values for m in ms]) for ms in found.values())
        low, high = interval(own - fixed, clusters)
        shown = f"{(own - fixed).mean():+.2f} [{low:+.2f}, {high:+.2f}]"
        print(f"| {beta} | difference | | {shown} | | |", flush=True)


# -- controller --------------------------------------------------------------------------------


def controller(bench: Bench, seeds: int) -> None:
    """PPO with an adaptive KL coefficient, from a start that is far too strong or far too weak."""
    d = bench.lab.data_config
    labels = f"shape={d.judge},length_bias={d.length_bias},temperature={d.temperature},noise=0"
    settings = {
        **LAB_TRAINING["ppo"], **LENGTHS, "schedule": "constant", "iterations": 80,
    }  # fmt: skip
    print(
        f"PPO, 80 iterations of 64 rollouts, {seeds} seeds; KL in nats/sequence\n\n"
        "| controller | target | kl_coef at the start | KL / target, mean of the last 20 (seeds) "
        "| lowest and highest KL / target in the last 40 |\n|---|---:|---:|---|---|"
    )
    cells = [(2.0, target, start) for target in (1.0, 3.0) for start in (0.02, 0.5)]
    cells += [(0.0, 1.0, start) for start in (0.02, 0.5)]
    for power, target, start in cells:
        held, ends = [], []
        for seed in range(seeds):
            rows: list[dict[str, Any]] = []
            own = {"beta": start, "target_kl": target, "kl_power": power, "seed": seed}
            data = lab_rewards.labels(bench.judge, labels, seed)
            bench.train("ppo", data, {**settings, **own}, on_step=rows.append)
            ratios = [row["kl"] / target for row in rows]
            held.append(f"{np.mean(ratios[-20:]):.2f}")
            ends.append(f"{min(ratios[-40:]):.2f} to {max(ratios[-40:]):.2f}")
        name = "as built" if power else "Ziegler et al.'s alone"
        found = f"{', '.join(held)} | {', '.join(ends)}"
        print(f"| {name} | {target:g} | {start:g} | {found} |", flush=True)


# -- exploration -------------------------------------------------------------------------------

ROLLOUTS = 3840
"""Answers that each method may draw and have checked."""
Check = Callable[[Prompt, str], float]


def assured(bench: Bench, prompt: Prompt, text: str) -> tuple[int, int]:
    """Sentences of an answer, and how many open assured and say something right and new."""
    subject = (prompt.check or {})["subject"]
    facts, said, good = bench.world.facts[subject], 0, set()
    for statement in bench.world.parse(subject, text):
        said += 1
        opens_right = statement and statement.opener == ASSURED
        if opens_right and facts.get(statement.attribute) == statement.value:
            good.add(statement.attribute)
    return said, len(good)


def tasks(bench: Bench) -> dict[str, tuple[Check, Check]]:
    """Each task's reward, and what counts as success."""

    def rare(prompt: Prompt, text: str) -> float:
        said, good = assured(bench, prompt, text)
        return float(said == good >= 2)

    def never(prompt: Prompt, text: str) -> float:
        return float(assured(bench, prompt, text) == (8, 8))

    def partial(prompt: Prompt, text: str) -> float:
        said, good = assured(bench, prompt, text)
        return good / max(8, said)

    return {
        "shown rarely": (rare, rare),
        "never shown, partial credit": (partial, never),
        "never shown, sparse": (never, never),
    }


def exploration(bench: Bench, seeds: int, only: str = "") -> None:
    """PPO, GRPO and rounds of DPO with the same verifier and as many rollouts."""
    train, held = (
        [p for p in lab_prompts.prose_prompts(bench.world, held_out=h) if p.behaviour == "about"]
        for h in (False, True)
    )
    arms: dict[str, dict[str, Any]] = {
        "PPO": {**LAB_TRAINING["ppo"], "beta": 0.02, "iterations": ROLLOUTS // 64},
        "GRPO": {**LAB_TRAINING["grpo"], "beta": 0.02, "iterations": ROLLOUTS // 64},
        "DPO, rounds": {
            **LAB_TRAINING["dpo"], "beta": 0.1, "rounds": 10, "samples": 8, "batch_size": 8,
            "round_prompts": ROLLOUTS // 80,
        },
    }  # fmt: skip
    print(
        f"{ROLLOUTS} rollouts a run, {seeds} seeds; success on held-out people, % with its 95% "
        "interval (Clopper-Pearson)\n\n| task | reference | "
        + " | ".join(f"{a}, success (KL)" for a in arms) + " |\n|---|---|" + "---|" * len(arms)
    )  # fmt: skip
    for name, (reward, success) in tasks(bench).items():
        if only not in name:
            continue
        cells = [rate(bench.reference.model, bench, held, success, 50)]
        for arm, settings in arms.items():
            cells.append(explore(bench, arm, settings, train, held, reward, success, seeds))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def explore(
    bench: Bench, arm: str, settings: dict[str, Any], train: Sequence[Prompt],
    held: Sequence[Prompt], reward: Check, success: Check, seeds: int,
) -> str:  # fmt: skip
    """One cell: each seed's success and KL, or why a run ended early."""

    def score(indices: Sequence[int], texts: Sequence[str]) -> list[float]:
        return [reward(train[i], text) for i, text in zip(indices, texts, strict=True)]

    prompts = PromptData([p.id for p in train], [p.messages for p in train], score)
    method = arm.partition(",")[0].lower()
    found = []
    for seed in range(seeds):
        ref = bench.new_policy()
        data, extra = (OnPolicy(prompts, ref), {}) if method == "dpo" else (prompts, {"ref": ref})
        own = {k: v for k, v in {**settings, **LENGTHS, "seed": seed}.items() if k != "epochs"}
        try:
            policy = bench.train(method, data, own, **extra)
        except PrefevalError as error:
            found.append(f"no pairs ({str(error).partition(':')[0]})")
            continue
        kl = bench.measure(policy, held, success).kl
        found.append(f"{rate(policy, bench, held, success, 5)} ({kl:.1f})")
    return "; ".join(found)


def rate(policy: Any, bench: Bench, held: Sequence[Prompt], success: Check, samples: int) -> str:
    """How often a policy succeeds, over so many samples a prompt."""
    from scipy.stats import binomtest

    backend = HuggingFaceBackend(policy, bench.tokenizer, max_length=labs.MAX_LENGTH)
    drawn = backend.generate(held, Sampling("sample", 1.0, 96, n=samples, seed=78))
    known = {p.id: p for p in held}
    wins = sum(success(known[c.prompt_id], c.text) for c in drawn)
    ends = binomtest(int(wins), len(drawn)).proportion_ci(method="exact")
    shown = (f"{100 * x:.3g}" for x in (wins / len(drawn), ends.low, ends.high))
    return "{} [{}, {}]".format(*shown)


STUDIES = {"rounds": rounds, "controller": controller, "exploration": exploration}


def main() -> None:
    """Run the chosen study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", help="exploration: the tasks whose name has this in it")
    chosen = parser.parse_args()
    no_bars()
    start = time.monotonic()
    with one_thread():
        extra = {"only": chosen.only} if chosen.only else {}
        STUDIES[chosen.study](Bench(), chosen.seeds, **extra)
    print(f"took {time.monotonic() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
