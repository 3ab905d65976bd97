"""One checkpoint measured: completions, scores, verdicts, checks and metrics, a file each.

The reference is measured first and once; every checkpoint is then compared with what it said.
A step whose file answers the same inputs is skipped, so an interrupted evaluation goes on where
it was, and saved completions can be scored again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from prefeval import metrics, records
from prefeval.harness import data as preference_data
from prefeval.harness import judges, models, steps
from prefeval.harness.task import Task, read_prompts
from prefeval.metrics import length_control
from prefeval.metrics.evidence import Evidence
from prefeval.records import Completion, MetricResult, Prompt
from prefeval.suites import checks

if TYPE_CHECKING:
    from prefeval.harness.backends.hugging_face import HuggingFaceBackend

VERSION = 1  # of the measurements: raise it when a change here changes a number
FRAMES = ("judgments", "samples", "pairs", "checks")
BOOTSTRAP_SEED = 20_260_101


@dataclass(frozen=True)
class Suite:
    """The prompts of a run by their use."""

    win_rate: list[Prompt]
    retention: list[Prompt]
    diverse: list[Prompt]


def load_suite(task: Task) -> Suite:
    """The prompts in the run's data folder; the diverse ones are spread over the win-rate ones."""
    prompts = read_prompts(task.data / "prompts.jsonl")
    win_rate = [p for p in prompts if p.use == "win_rate"]
    stride = max(1, len(win_rate) // max(1, task.sizes.diverse_prompts))
    return Suite(
        win_rate,
        [p for p in prompts if p.use == "retention"],
        win_rate[::stride][: task.sizes.diverse_prompts],
    )


class Evaluator:
    """Measures checkpoints of one task; the reference and its answers are loaded once."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.suite = load_suite(task)
        self.reference = self.backend(task.reference)
        self.judge = judges.open_judge(task.judge, device=task.device, dtype=task.dtype)
        self.held_out = preference_data.load_pairs(task.data / "pairs_held_out.jsonl").items
        self.key = records.content_hash(
            [
                VERSION,
                task.sizes,
                [p.id for p in self.held_out],
                [*self.suite.win_rate, *self.suite.retention],
                self.judge.settings,
                models.weights_hash(task.reference),
                task.dtype,
            ]
        )

    def backend(self, path: str) -> HuggingFaceBackend:
        """A model of this task, ready to generate and score."""
        from prefeval.harness.backends.hugging_face import HuggingFaceBackend

        model = models.load_model(path, dtype=self.task.dtype, device=self.task.device)
        return HuggingFaceBackend(
            model,
            models.load_tokenizer(path),
            max_length=self.task.sizes.max_length,
            batch_size=self.task.sizes.generation_batch,
        )

    # -- the reference, once a run ------------------------------------------------------------

    def measure_reference(self) -> None:
        """What the reference says, how it scores the held-out pairs, and how it fares against
        fresh samples of itself."""
        out = self.task.reference_dir
        self._completions(out, self.reference, self.key, reference=True)
        self._pair_logps(out, self.reference, self.key)
        self._checks(out, self.key, reference=True)
        steps.rows_step(out / "self_play.jsonl", self.key, self._self_play)

    def _self_play(self) -> list[dict[str, Any]]:
        """Fresh samples of the reference judged against its own first one (an A/A comparison)."""
        texts = self._texts(self.task.reference_dir, "sample")
        rows = []
        for index in range(1, 1 + self.task.sizes.self_play):
            frame = judges.judge_both_orders(
                self.judge, self.suite.win_rate, texts[index], texts[0]
            )
            rows += _plain_rows(frame.assign(replicate=index))
        return rows

    # -- one checkpoint -----------------------------------------------------------------------

    def measure(self, checkpoint: Path, out: Path) -> list[MetricResult]:
        """All files of one checkpoint, in ``out``; returns its metrics."""
        key = records.content_hash([self.key, models.weights_hash(checkpoint)])
        done = out / "metrics.json"
        if not steps.is_done(done, key):
            policy = None
            if not all(steps.is_done(out / f"{name}.jsonl", key) for name in ("samples", "pairs")):
                policy = self.backend(str(checkpoint))
                self._completions(out, policy, key, reference=False)
                self._samples(out, policy, key)
                self._pair_logps(out, policy, key)
            self._judgments(out, key)
            self._checks(out, key, reference=False)
            results = metrics.compute(self.evidence(out), np.random.default_rng(BOOTSTRAP_SEED))
            with steps.disk_errors(done):
                records.write_json(done, {"schema": records.SCHEMA_VERSION, "metrics": results})
                steps.mark_done(done, key)
        return read_metrics(done)

    def evidence(self, out: Path) -> Evidence:
        """The saved measurements of one checkpoint as the frames that metrics read."""
        return read_evidence(out, self.task, read_calibration(self.task))

    def _completions(
        self, out: Path, backend: HuggingFaceBackend, key: str, *, reference: bool
    ) -> None:
        def generate() -> list[Completion]:
            asked = {
                "sample": self.suite.win_rate,
                "greedy": self.suite.retention,
                "diverse": self.suite.diverse,
            }
            return [
                completion
                for mode, prompts in asked.items()
                for completion in backend.generate(
                    prompts, self.task.sizes.sampling(mode, reference=reference)
                )
            ]

        steps.rows_step(out / "completions.jsonl", key, generate)

    def _texts(self, folder: Path, mode: str) -> list[dict[str, str]]:
        """Texts by prompt, one mapping an index."""
        return _texts(_read_completions(folder), mode)

    def _samples(self, out: Path, policy: HuggingFaceBackend, key: str) -> None:
        """The policy's own samples under policy and reference: KL and lengths."""

        def score() -> list[dict[str, Any]]:
            own = _first_samples(_read_completions(out))
            base = _first_samples(_read_completions(self.task.reference_dir))
            prompts = self.suite.win_rate
            scored = policy.compare(
                self.reference, [(p.messages, own[p.id].token_ids) for p in prompts]
            )
            return [
                {
                    "prompt_id": p.id,
                    "cluster": p.cluster,
                    "behaviour": p.behaviour,
                    "kl": s.kl,
                    "k1": s.logps - s.ref_logps,
                    "entropy": s.entropy / max(1, s.n_tokens),
                    "n_tokens": s.n_tokens,
                    "ref_n_tokens": len(base[p.id].token_ids),
                    "ended": int(own[p.id].ended),
                    "ref_ended": int(base[p.id].ended),
                }
                for p, s in zip(prompts, scored, strict=True)
            ]

        steps.rows_step(out / "samples.jsonl", key, score)

    def _pair_logps(self, out: Path, backend: HuggingFaceBackend, key: str) -> None:
        """Log-probabilities of the held-out pairs; the reference's join the policy's when read."""

        def score() -> list[dict[str, Any]]:
            pairs = self.held_out
            chosen = backend.completion_logps([(p.prompt, p.chosen) for p in pairs])
            rejected = backend.completion_logps([(p.prompt, p.rejected) for p in pairs])
            return [
                {
                    "pair_id": p.id,
                    "cluster": p.cluster,
                    "chosen_logps": c[0],
                    "rejected_logps": r[0],
                    "chosen_lengths": c[1],
                    "rejected_lengths": r[1],
                }
                for p, c, r in zip(pairs, chosen, rejected, strict=True)
                if c[1] and r[1]
            ]

        steps.rows_step(out / "pairs.jsonl", key, score)

    def _judgments(self, out: Path, key: str) -> None:
        truth = getattr(self.judge, "truth", None)

        def judge() -> list[dict[str, Any]]:
            frame = judges.judge_both_orders(
                self.judge,
                self.suite.win_rate,
                self._texts(out, "sample")[0],
                self._texts(self.task.reference_dir, "sample")[0],
                truth=truth,
            )
            return _plain_rows(frame.drop(columns="difficulty"))

        steps.rows_step(out / "judgments.jsonl", key, judge)

    def _checks(self, out: Path, key: str, *, reference: bool) -> None:
        def check() -> list[dict[str, Any]]:
            prompts = self.suite.retention
            passed = checks.check_all(prompts, (self._texts(out, "greedy") or [{}])[0])
            rows = [
                {
                    "prompt_id": p.id,
                    "cluster": p.cluster,
                    "behaviour": p.behaviour,
                    "passed": int(passed[p.id]),
                }
                for p in prompts
            ]
            if not reference:
                before = {
                    row["prompt_id"]: row["passed"]
                    for row in records.read_jsonl(self.task.reference_dir / "checks.jsonl")
                }
                rows = [{**row, "ref_passed": before[row["prompt_id"]]} for row in rows]
            return rows

        steps.rows_step(out / "checks.jsonl", key, check)


def read_metrics(path: Path) -> list[MetricResult]:
    """The metrics of one checkpoint; what JSON calls null is NaN again."""
    rows: list[dict[str, Any]] = records.read_json(path)["metrics"]
    for row in rows:
        row.update({k: math.nan for k in _FLOATS if row[k] is None})
    return [MetricResult(**row) for row in rows]


_FLOATS = ("value", "stderr", "ci_low", "ci_high")


def read_calibration(
    task: Task,
) -> tuple[length_control.Calibration, Mapping[str, float]]:
    """What length control freezes before a run: the A/A rows, and each prompt's difficulty."""
    rows = records.read_jsonl(task.reference_dir / "self_play.jsonl")
    if not rows:
        return length_control.Calibration(), {}
    frame = pd.DataFrame(rows)
    preference = frame["preference"].astype(float).to_numpy()
    difficulty = length_control.difficulty_from_self_play(frame["prompt_id"].tolist(), preference)
    gamed = length_control.gamed_rows(
        preference,
        frame["len_output"],
        frame["len_baseline"],
        difficulty.loc[frame["prompt_id"]].to_numpy(),
    )
    name = "length_controlled_v1, C fixed, difficulty and length from reference self-play"
    by_prompt = {str(k): float(v) for k, v in difficulty.items()}
    return length_control.Calibration(gamed=gamed, name=name), by_prompt


def read_evidence(
    out: Path,
    task: Task,
    calibration: tuple[length_control.Calibration, Mapping[str, float]],
) -> Evidence:
    """The frames of one checkpoint, joined with the reference's by id."""
    frames = {
        name: pd.DataFrame(records.read_jsonl(out / f"{name}.jsonl"))
        for name in FRAMES
        if (out / f"{name}.jsonl").exists()
    }
    frozen, difficulty = calibration
    judged = frames["judgments"]
    judged["difficulty"] = [difficulty.get(i, 0.0) for i in judged["prompt_id"]]
    reference = pd.DataFrame(records.read_jsonl(task.reference_dir / "pairs.jsonl"))
    if len(reference):
        names = {"chosen_logps": "ref_chosen_logps", "rejected_logps": "ref_rejected_logps"}
        reference = reference.rename(columns=names)[["pair_id", *names.values()]]
        frames["pairs"] = frames["pairs"].merge(reference, on="pair_id", validate="1:1")
    frames["diverse"] = _diverse(out, task)
    return Evidence(**frames, calibration=frozen)


def _diverse(out: Path, task: Task) -> pd.DataFrame:
    columns = ["prompt_id", "index", "text"]
    own, base = (
        pd.DataFrame(
            [(c.prompt_id, c.index, c.text) for c in _read_completions(f) if c.mode == "diverse"],
            columns=columns,
        )
        for f in (out, task.reference_dir)
    )
    base = base.rename(columns={"text": "ref_text"})
    return own.merge(base, on=["prompt_id", "index"], validate="1:1")


def _read_completions(folder: Path) -> list[Completion]:
    return [
        Completion(**{**row, "token_ids": tuple(row["token_ids"])})
        for row in records.read_jsonl(folder / "completions.jsonl")
    ]


def _texts(completions: Sequence[Completion], mode: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for c in completions:
        if c.mode == mode:
            while len(found) <= c.index:
                found.append({})
            found[c.index][c.prompt_id] = c.text
    return found


def _first_samples(completions: Sequence[Completion]) -> dict[str, Completion]:
    return {c.prompt_id: c for c in completions if c.mode == "sample" and c.index == 0}


def _plain_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [records.to_jsonable(row) for row in frame.to_dict(orient="records")]
