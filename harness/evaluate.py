"""One checkpoint measured: completions, scores, verdicts, checks and metrics, a file each.

The reference is measured first and once; every checkpoint is then compared with what it said.
A step whose file answers the same inputs is skipped, so an interrupted evaluation goes on where
it was, and saved completions can be scored again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefeval import metrics, records
from prefeval.harness import backends, checkpoints, judges, measured, models, steps
from prefeval.harness import data as preference_data
from prefeval.harness.task import Task, read_prompts
from prefeval.harness.verdict_cache import cached
from prefeval.records import Completion, MetricResult, PreferencePair, PrefevalError, Prompt
from prefeval.suites import checks

if TYPE_CHECKING:
    import pandas as pd

    from prefeval.harness.backends import Backend

VERSION = 8  # of measuring: raise it when a change to it, a check or a metric changes a number
ORIGIN = "answers_of.json"
"""Beside completions: whose they are and what was asked, for ``prefeval score``."""
PASSED = ("passed", "passed_loose")
CHECKS = {"greedy": "checks.jsonl", "sampled": "sampled.jsonl"}
"""Where the outcomes of the checks lie, by the pass whose answers were checked."""
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


def load_held_out(task: Task) -> list[PreferencePair]:
    """The pairs that nothing was trained on; none where the data are thumbs alone."""
    path = task.data / "pairs_held_out.jsonl"
    return preference_data.load_pairs(path).items if path.stat().st_size else []


def _model_hash(path: str | Path, base: str) -> list[str]:
    """What a model's answers depend on: its weights, its tokenizer and its chat template."""
    folder = models.model_dir(path)
    return [
        checkpoints.weights_hash(folder, base),
        models.tokenizer_hash(checkpoints.tokenizer_dir(folder, base)),
    ]


class Evaluator:
    """Measures checkpoints of one task; the reference and its answers are loaded once."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.suite = load_suite(task)
        self.reference = backends.open_backend(task, task.reference)
        self.judge = cached(
            judges.open_judge(task.judge, device=task.device, dtype=task.dtype),
            Path(task.run) / "verdicts.sqlite",
        )
        self.held_out = load_held_out(task)
        self.key = records.content_hash(
            [
                VERSION,
                task.sizes,
                self.held_out,
                [*self.suite.win_rate, *self.suite.retention],
                self.judge.settings,
                _model_hash(task.reference, task.reference),
                task.dtype,
                task.device,
                *([backends.identity(task.backend)] if task.backend != backends.DEFAULT else []),
            ]
        )

    # -- the reference, once a run ------------------------------------------------------------

    def measure_reference(self) -> None:
        """What the reference says, how it scores the held-out pairs, and how it fares against
        fresh samples of itself."""
        out = self.task.reference_dir
        source = _model_hash(self.task.reference, self.task.reference)
        self._completions(out, self.reference, self.key, source, reference=True)
        self._pair_logps(out, self.reference, self.key)
        self._checks(out, self.key, "greedy", reference=True)
        self._checks(out, self.key, "sampled", reference=True)
        rows = steps.rows_step(out / "self_play.jsonl", self.key, self._self_play)
        frozen = out / measured.CALIBRATION
        key = records.content_hash([self.key, self.task.length_unit])
        if not steps.is_done(frozen, key):
            content = measured.calibrate(self._in_unit(rows), self.task.length_unit)
            with steps.disk_errors(frozen):
                records.write_json(frozen, content)
                steps.mark_done(frozen, key)

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

    def _in_unit(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Self-play's rows with the lengths in the task's unit."""
        if self.task.length_unit != measured.TOKENS:
            return rows
        n = {
            (c.prompt_id, c.index): len(c.token_ids)
            for c in measured.read_completions(self.task.reference_dir)
            if c.mode == "sample"
        }
        return [
            {**row, "len_output": n[row["prompt_id"], row["replicate"]],
             "len_baseline": n[row["prompt_id"], 0]}
            for row in rows
        ]  # fmt: skip

    # -- one checkpoint -----------------------------------------------------------------------

    def key_of(self, checkpoint: Path) -> str:
        """What the files of one checkpoint are computed from."""
        return records.content_hash([self.key, _model_hash(checkpoint, self.task.reference)])

    def measure(self, checkpoint: Path, out: Path, key: str | None = None) -> list[MetricResult]:
        """All files of one checkpoint, in ``out``; returns its metrics.

        ``key`` is `key_of` the checkpoint unless its weights are gone and nothing needs them.
        """
        key = key or self.key_of(checkpoint)
        metrics_key = records.content_hash([key, self.task.length_unit, sorted(metrics.plugins())])
        done = out / "metrics.json"
        saved = [out / f"{name}.jsonl" for name in ("completions", *measured.FRAMES)]
        if not (steps.is_done(done, metrics_key) and all(steps.is_done(f, key) for f in saved)):
            steps.forget(done)
            needs_policy = ("completions", "samples", "pairs")
            if not all(steps.is_done(out / f"{name}.jsonl", key) for name in needs_policy):
                policy = backends.open_backend(self.task, str(checkpoint))
                source = _model_hash(checkpoint, self.task.reference)
                self._completions(out, policy, key, source, reference=False)
                self._samples(out, policy, key)
                self._pair_logps(out, policy, key)
            self._judgments(out, key)
            self._checks(out, key, "greedy", reference=False)
            self._checks(out, key, "sampled", reference=False)
            evidence = measured.read_evidence(out, self.task, measured.read_calibration(self.task))
            results = metrics.compute(evidence, np.random.default_rng(BOOTSTRAP_SEED))
            with steps.disk_errors(done):
                versions = {"schema": records.SCHEMA_VERSION, "measuring": VERSION}
                records.write_json(done, {**versions, "metrics": results})
                steps.mark_done(done, metrics_key)
        return measured.read_metrics(done)

    def adopt(self, out: Path, key: str, checkpoint: Path | None) -> None:
        """Take the completions in ``out`` as they are, and forget what was computed from them.

        The scores that models gave are kept where they answer ``key`` already, or where
        ``checkpoint`` is None: its weights are gone. Nothing is forgotten before all is known.

        Raises ``PrefevalError`` where the completions are not of this task's prompts or of the
        checkpoint's weights.
        """
        self._require_own(out, checkpoint)
        scores = [out / f"{name}.jsonl" for name in ("samples", "pairs")]
        for path in scores:
            if checkpoint is None and path.is_file():
                steps.mark_done(path, key)
            elif not steps.is_done(path, key):
                steps.forget(path)
        derived = ("judgments.jsonl", *CHECKS.values(), "self_play.jsonl", "metrics.json")
        for name in derived:
            steps.forget(out / name)
        steps.forget(out / measured.CALIBRATION)
        steps.mark_done(out / "completions.jsonl", key)

    def _require_own(self, out: Path, checkpoint: Path | None) -> None:
        """Raise unless the completions in ``out`` are the answers that this task asks for."""
        origin = out / ORIGIN
        saved = records.read_json(origin) if origin.is_file() else {}
        source = _model_hash(checkpoint, self.task.reference) if checkpoint else saved.get("model")
        if saved != records.to_jsonable({"model": source, "asked": self._asked_hash()}):
            raise PrefevalError(
                f"{out / 'completions.jsonl'} are answers of other weights or to other prompts "
                "than the run has now; run its sweep or eval again to generate anew"
            )
        reference = out == self.task.reference_dir
        wanted = {
            (mode, p.id, i)
            for mode, prompts in self._asked().items()
            for i in range(self.task.sizes.sampling(mode, reference=reference).n)
            for p in prompts
        }
        found = [(c.mode, c.prompt_id, c.index) for c in measured.read_completions(out)]
        if len(found) != len(set(found)) or set(found) != wanted:
            odd = sorted(set(found) ^ wanted) or sorted(f for f in found if found.count(f) > 1)
            mode, prompt, index = odd[0]
            raise PrefevalError(
                f"{out / 'completions.jsonl'} does not hold each prompt's answers once: look at "
                f"the {mode} answer {index} to {prompt!r}; run the sweep again to generate anew"
            )

    def _asked_hash(self) -> str:
        return records.content_hash(
            {mode: [(p.id, p.messages) for p in prompts] for mode, prompts in self._asked().items()}
        )

    def _asked(self) -> dict[str, list[Prompt]]:
        """The prompts of each pass of generation."""
        passes = {
            "sample": self.suite.win_rate,
            "greedy": self.suite.retention,
            "diverse": self.suite.diverse,
        }
        return passes | ({"sampled": self.suite.retention} if self.task.sizes.suite_samples else {})

    def _completions(
        self, out: Path, backend: Backend, key: str, source: list[str], *, reference: bool
    ) -> None:
        def generate() -> list[Completion]:
            return [
                completion
                for mode, prompts in self._asked().items()
                for completion in backend.generate(
                    prompts, self.task.sizes.sampling(mode, reference=reference)
                )
            ]

        if not steps.is_done(out / "completions.jsonl", key):
            with steps.disk_errors(out):
                out.mkdir(parents=True, exist_ok=True)
                steps.forget(out / "completions.jsonl")
                origin = {"model": source, "asked": self._asked_hash()}
                records.write_json(out / ORIGIN, origin)
        steps.rows_step(out / "completions.jsonl", key, generate)

    def _texts(self, folder: Path, mode: str) -> list[dict[str, str]]:
        """Texts by prompt, one mapping an index."""
        return measured.texts_by_prompt(measured.read_completions(folder), mode)

    def _samples(self, out: Path, policy: Backend, key: str) -> None:
        """The policy's own samples and the reference's under both: KL each way, and lengths."""

        def score() -> list[dict[str, Any]]:
            own = measured.first_samples(measured.read_completions(out))
            base = measured.first_samples(measured.read_completions(self.task.reference_dir))
            prompts = self.suite.win_rate
            scored = policy.compare(
                self.reference, [(p.messages, own[p.id].token_ids) for p in prompts]
            )
            forward = self.reference.compare(
                policy, [(p.messages, base[p.id].token_ids) for p in prompts]
            )
            return [
                {
                    "prompt_id": p.id,
                    "cluster": p.cluster,
                    "behaviour": p.behaviour,
                    "kl": s.kl,
                    "k1": s.logps - s.ref_logps,
                    "k2": s.k2,
                    "k3": s.k3,
                    "forward_kl": f.kl,
                    "logps": s.logps,
                    "ref_logps": s.ref_logps,
                    "entropy": s.entropy / max(1, s.n_tokens),
                    "n_tokens": s.n_tokens,
                    "ref_n_tokens": len(base[p.id].token_ids),
                    "ended": int(own[p.id].ended),
                    "ref_ended": int(base[p.id].ended),
                    "kl_by_position": [float(f"{x:.4g}") for x in s.kl_by_position],
                }
                for p, s, f in zip(prompts, scored, forward, strict=True)
            ]

        steps.rows_step(out / "samples.jsonl", key, score)

    def _pair_logps(self, out: Path, backend: Backend, key: str) -> None:
        """Log-probabilities of the held-out pairs; the reference's join the policy's when read."""

        def score() -> list[dict[str, Any]]:
            pairs = self.held_out
            scored = backend.pair_logps([(p.prompt, p.chosen, p.rejected) for p in pairs])
            return [
                {"pair_id": p.id, "cluster": p.cluster, **vars(s)}
                for p, s in zip(pairs, scored, strict=True)
                if s.chosen_lengths and s.rejected_lengths
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

    def _checks(self, out: Path, key: str, mode: str, *, reference: bool) -> None:
        """Pass or fail of every answer of one pass, strict and loose, beside the reference's."""

        def check() -> list[dict[str, Any]]:
            rows = [
                row
                for index, texts in enumerate(self._texts(out, mode))
                for row in self._checked(texts, index)
            ]
            if not reference:
                saved = records.read_jsonl(self.task.reference_dir / CHECKS[mode])
                before = {(row["prompt_id"], row["index"]): row for row in saved}
                for row in rows:
                    found = before[row["prompt_id"], row["index"]]
                    row.update({f"ref_{k}": found[k] for k in PASSED})
            return rows

        steps.rows_step(out / CHECKS[mode], key, check)

    def _checked(self, texts: dict[str, str], index: int) -> list[dict[str, Any]]:
        found = checks.outcomes(self.suite.retention, texts)
        return [
            {
                "prompt_id": p.id,
                "index": index,
                "cluster": p.cluster,
                "behaviour": p.behaviour,
                "passed": None if (o := found[p.id]).passed is None else int(o.passed),
                "passed_loose": None if o.loose is None else int(o.loose),
                **({"error": o.error} if o.error else {}),
            }
            for p in self.suite.retention
        ]


def _plain_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [records.to_jsonable(row) for row in frame.to_dict(orient="records")]
