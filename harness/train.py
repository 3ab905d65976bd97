"""One trial: a method trained from the reference, then every checkpoint measured."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefeval import records
from prefeval.harness import checkpoints, costs, models, rewards, steps
from prefeval.harness import data as preference_data
from prefeval.harness.evaluate import Evaluator
from prefeval.harness.judges import identity
from prefeval.harness.task import Task
from prefeval.minitrainers import METHODS
from prefeval.records import PrefevalError, Trial

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prefeval.minitrainers.batches import Encoded

VERSION = 4  # of training: raise it when a change to a trainer changes its checkpoints

OnRow = Callable[[Mapping[str, Any]], None]
Rows = list[dict[str, Any]]

# -- what all trials share, computed once ------------------------------------------------------


def prepare_pairs(task: Task) -> Rows:
    """The training pairs in tokens, with the reference's log-probabilities (nats/sequence)."""
    from prefeval.harness.judges.reward_model import encode
    from prefeval.minitrainers import pairs as pair_methods

    source = task.data / "pairs.jsonl"

    def compute() -> Rows:
        pairs = preference_data.load_pairs(source).items
        tokenizer = models.load_tokenizer(task.reference)
        encoded = encode(tokenizer, pairs, max_length=task.sizes.max_length)
        if not encoded:
            raise PrefevalError(
                f"all {len(pairs)} pairs have prompts longer than {task.sizes.max_length} tokens; "
                "raise --max-length"
            )
        _count_truncated(task, "pairs", [e for p in encoded for e in (p.chosen, p.rejected)])
        with _as_trained(task) as reference:
            known = pair_methods.with_reference(reference, pair_methods.PairData(encoded))
        assert known.ref_chosen_logps is not None
        assert known.ref_rejected_logps is not None
        return [
            {"id": p.id, "chosen": p.chosen, "rejected": p.rejected, "ref": [float(c), float(r)]}
            for p, c, r in zip(
                encoded, known.ref_chosen_logps, known.ref_rejected_logps, strict=True
            )
        ]

    key = _data_key(task, source.name)
    return steps.rows_step(task.reference_dir / "train_pairs.jsonl", key, compute)


def prepare_thumbs(task: Task) -> Rows:
    """The thumbs in tokens, each with a mismatched answer, and the reference on both."""
    from prefeval.minitrainers import batches, kto

    source = task.data / "thumbs.jsonl"

    def compute() -> Rows:
        thumbs = preference_data.load_thumbs(source).items
        tokenizer = models.load_tokenizer(task.reference)
        texts = [(t.prompt, t.completion) for t in thumbs]
        encoded = batches.encode_all(tokenizer, texts, max_length=task.sizes.max_length)
        fits = [
            kto.EncodedThumb(t.id, e, t.desirable)
            for t, e in zip(thumbs, encoded, strict=True)
            if e.completion_ids
        ]
        _count_truncated(task, "thumbs", [t.example for t in fits])
        with _as_trained(task) as reference:
            data = kto.ThumbData(fits)
            known = kto.with_reference(reference, data, max_length=task.sizes.max_length)
        assert known.ref_logps is not None
        assert known.ref_mismatched_logps is not None
        return [
            {
                "id": t.id,
                "example": t.example,
                "desirable": t.desirable,
                "mismatched": m,
                "ref": [float(lp), float(mlp)],
            }
            for t, m, lp, mlp in zip(
                fits, known.mismatched, known.ref_logps, known.ref_mismatched_logps, strict=True
            )
        ]

    key = _data_key(task, source.name)
    return steps.rows_step(task.reference_dir / "train_thumbs.jsonl", key, compute)


def prepare_reward_model(task: Task, settings: Mapping[str, Any], on_row: OnRow) -> None:
    """PPO's reward: a Bradley-Terry model of the training pairs, shared by all its trials.

    Never the judge: a policy must not be judged by what it was trained on.
    """
    _train_scorer(task, "pairs.jsonl", Path(task.run) / "reward_model", settings, on_row)


def prepare_judge(task: Task, settings: Mapping[str, Any], on_row: OnRow) -> None:
    """The judge where none is named: a reward model of pairs that no policy trains on."""
    _train_scorer(task, "pairs_judge.jsonl", Path(task.run) / "judge", settings, on_row)


def _train_scorer(
    task: Task, source: str, folder: Path, settings: Mapping[str, Any], on_row: OnRow
) -> None:
    """Train a reward model on one file of pairs, and audit it on the held-out ones."""
    from prefeval.harness.judges import reward_model
    from prefeval.minitrainers.loop import TrainConfig

    key = records.content_hash([_data_key(task, source, "pairs_held_out.jsonl"), settings])
    done = folder / "audit.json"
    if steps.is_done(done, key) and (folder / "model").is_dir():
        return
    steps.forget(done)
    pairs = preference_data.load_pairs(task.data / source).items
    held_out = preference_data.load_pairs(task.data / "pairs_held_out.jsonl").items
    config = TrainConfig("reward_model", max_length=task.sizes.max_length, **settings)
    trained = reward_model.train(
        task.reference, pairs, held_out, config, out_dir=folder, on_step=on_row
    )
    with steps.disk_errors(done):
        records.write_json(done, {"audit": trained.audit, "text": trained.audit.describe()})
        steps.mark_done(done, key)


def _count_truncated(task: Task, kind: str, answers: Sequence[Encoded]) -> None:
    """Note how many answers were cut at the longest length, and so never come to their end."""
    counts = {"answers": len(answers), "truncated": sum(e.truncated for e in answers)}
    records.write_json(task.reference_dir / f"truncated_{kind}.json", counts)


def truncation_notes(task: Task) -> list[str]:
    """What to say of the answers that were cut, a line a kind of data where there are any."""
    notes = []
    for path in sorted(task.reference_dir.glob("truncated_*.json")):
        counts = records.read_json(path)
        if counts["truncated"]:
            kind = path.stem.removeprefix("truncated_")
            notes.append(
                f"{counts['truncated']} of {counts['answers']} answers in the {kind} were cut at "
                f"{task.sizes.max_length} tokens and have no end token; raise --max-length if that "
                "is many"
            )
    return notes


@contextmanager
def _as_trained(task: Task) -> Iterator[PreTrainedModel]:
    """The reference in the very arithmetic of a policy in training, or the first loss is off."""
    from prefeval.minitrainers.loop import TrainConfig
    from prefeval.minitrainers.precision import autocast

    config = TrainConfig("reference", dtype=task.dtype, device=task.device)  # type: ignore[arg-type]
    with autocast(config):
        yield models.load_model(task.reference, dtype="float32", device=task.device)


def _data_key(task: Task, *files: str) -> str:
    """Hash of the reference, its arithmetic, and the content of these files of the run's data."""
    return records.content_hash(
        [
            VERSION,
            models.weights_hash(task.reference),
            models.tokenizer_hash(task.reference),
            task.dtype,
            task.device,
            task.sizes.max_length,
            {name: models.file_hash(task.data / name) for name in files},
        ]
    )


def _trial_key(task: Task, trial: Trial) -> str:
    """Hash of all that a trial's checkpoints depend on: the reward of its own answers too."""
    settings, kind = trial.settings, METHODS[trial.method].data
    files = []
    own = kind == "prompts" or settings.get("rounds") or settings.get("then")
    if kind == "thumbs":
        files.append("thumbs.jsonl")
    elif kind == "pairs" and not settings.get("rounds"):
        files.append("pairs.jsonl")
    learns_from: list[Any] = []
    if own:
        reward = str(settings.get("reward", rewards.MODEL))
        learns_from.append(identity(task.judge))  # which names the lab's world
        if reward.partition(":")[0] in (rewards.MODEL, rewards.JUDGE):
            files.append("pairs.jsonl")
        if reward == rewards.MODEL:
            learns_from.append(models.weights_hash(rewards.reward_model(task)))
        if reward.startswith("judge:reward_model:"):
            folder = reward.removeprefix("judge:reward_model:")
            learns_from += [models.weights_hash(folder), models.tokenizer_hash(folder)]
    return records.content_hash([trial, _data_key(task, *sorted(set(files))), learns_from])


# -- one trial ---------------------------------------------------------------------------------


def train_trial(task: Task, trial: Trial, on_row: OnRow) -> Path:
    """Train unless that is done; returns the trial's folder.

    A trial that was stopped goes on from its last saved state, unless what it learns from has
    changed since.
    """
    from prefeval.minitrainers.run import STATE

    folder = Path(task.run) / "trials" / trial.name
    key = _trial_key(task, trial)
    log, begun = folder / "train.jsonl", folder / ".begun"
    if not steps.is_done(log, key):
        with steps.disk_errors(folder):
            if not (begun.is_file() and begun.read_text(encoding="utf-8") == key):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                records.write_json(folder / "trial.json", trial)
                records.write_text(begun, key)
            train(task, trial, folder, on_row)
            steps.mark_done(log, key)
            (folder / STATE).unlink(missing_ok=True)
    return folder


def measure_trial(folder: Path, trial: Trial, evaluator: Evaluator, on_row: OnRow) -> None:
    """Measure every checkpoint that is not measured yet, and note what the trial cost."""
    start = time.perf_counter()
    saved = saved_checkpoints(folder)
    for number, checkpoint in enumerate(saved, 1):
        on_row({"stage": "evaluate", "at": number, "of": len(saved)})
        evaluator.measure(checkpoint, checkpoint)
    if not (folder / "costs.json").exists():
        costs.record(folder, trial, time.perf_counter() - start)


def saved_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a finished trial; ``PrefevalError`` where one is lost or damaged."""
    found = sorted(folder.glob("checkpoint-*"))
    again = f"to train the trial anew, delete {folder} and run the same command again"
    last = records.read_jsonl(folder / "train.jsonl")[-1]["step"]
    if not any(path.name.endswith(f"-{last:06d}") for path in found):
        raise PrefevalError(f"the checkpoint of step {last} is gone; {again}")
    for path in found:
        try:
            checkpoints.check(path, None)
        except PrefevalError as error:
            raise PrefevalError(f"{error}; {again}") from error
    return found


def train(task: Task, trial: Trial, folder: Path, on_row: OnRow) -> None:
    """Run the trial's trainer, and the phase that follows it where there is one; its checkpoints
    and ``train.jsonl`` land in ``folder``."""
    from prefeval.minitrainers import run

    settings = dict(trial.settings)
    then, reward = settings.pop("then", None), settings.pop("reward", rewards.MODEL)
    state = run.read_state(folder)
    policy = _Policy(task, folder, on_row, reward, trial.seed)
    if then and state is not None and state.method == then["method"]:
        first_step = state.first_step
    else:
        first_step = policy.train(trial.method, {**settings, "beta": trial.beta})
    if then:
        then = dict(then)
        policy.train(then.pop("method"), then, first_step=first_step)


class _Policy:
    """A trial's model, as one phase of training hands it to the next."""

    def __init__(self, task: Task, folder: Path, on_row: OnRow, reward: str, seed: int) -> None:
        self.task, self.folder, self.on_row = task, folder, on_row
        self.reward, self.seed = reward, seed
        self.model: PreTrainedModel | None = None

    def train(self, method: str, settings: Mapping[str, Any], first_step: int = 0) -> int:
        """One phase; returns the step that it ended with."""
        from prefeval.minitrainers import load, lora, make_config

        task = self.task
        config = make_config(
            method,
            seed=self.seed,
            max_length=task.sizes.max_length,
            device=task.device,
            dtype=task.dtype,
            **{k: tuple(v) if k == "save_at" else v for k, v in settings.items()},
        )
        if config.lora_rank:
            config = replace(config, base_hash=models.weights_hash(task.reference))
        if self.model is None:
            self.model = lora.attach(self._reference(), config)
        extra: dict[str, Any] = {}
        match METHODS[method].data:
            case "pairs" if config.rounds:
                from prefeval.minitrainers.rounds import OnPolicy

                keeps = not (config.lora_rank or config.refresh_reference)
                data: Any = OnPolicy(
                    self._rewarded(config.max_new_tokens).prompts,
                    ref=self._reference() if keeps else None,
                )
            case "pairs":
                data = _pair_data(prepare_pairs(task))
            case "thumbs":
                data = _thumb_data(prepare_thumbs(task))
            case "prompts":
                rewarded = self._rewarded(config.max_new_tokens)
                data = rewarded.prompts
                extra = {"first_step": first_step}
                extra |= {"ref": self._reference()} if not config.lora_rank else {}
                extra |= {"value_body": rewarded.body} if method == "ppo" else {}
        saved = load(method).train(
            self.model,
            models.load_tokenizer(task.reference),
            data,
            config,
            out_dir=self.folder,
            on_step=self.on_row,
            **extra,
        )
        return int(saved[-1].step)

    def _reference(self) -> PreTrainedModel:
        return models.load_model(self.task.reference, dtype="float32", device=self.task.device)

    def _rewarded(self, new_tokens: int) -> rewards.Rewarded:
        room = self.task.sizes.max_length - new_tokens
        return rewards.open_reward(self.task, self.reward, room=room, seed=self.seed)


def _pair_data(rows: Rows) -> Any:
    from prefeval.minitrainers.batches import Encoded
    from prefeval.minitrainers.pairs import EncodedPair, PairData

    pairs = [EncodedPair(r["id"], Encoded(*r["chosen"]), Encoded(*r["rejected"])) for r in rows]
    reference = np.array([r["ref"] for r in rows])
    return PairData(pairs, reference[:, 0], reference[:, 1])


def _thumb_data(rows: Rows) -> Any:
    from prefeval.minitrainers.batches import Encoded
    from prefeval.minitrainers.kto import EncodedThumb, ThumbData

    thumbs = [EncodedThumb(r["id"], Encoded(*r["example"]), r["desirable"]) for r in rows]
    reference = np.array([r["ref"] for r in rows])
    return ThumbData(
        thumbs, [Encoded(*r["mismatched"]) for r in rows], reference[:, 0], reference[:, 1]
    )
