"""Generation by vLLM in a process of its own; scoring as the Hugging Face backend does it.

Prompts are rendered, tokenised and decoded here, so that both backends continue the same tokens.
Full-vocabulary KL is not to be had from vLLM: where scoring begins the engine is stopped, which
gives its memory back, and the same checkpoint is loaded with transformers. That the two compute the
same model is then known of every answer that both have read, and required.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prefeval.harness import checkpoints, models
from prefeval.harness.backends import Backend, Scored
from prefeval.harness.backends.hugging_face import HuggingFaceBackend
from prefeval.harness.backends.vllm_process import Answer, Options, VllmProcess
from prefeval.minitrainers import batches
from prefeval.records import Completion, Messages, PrefevalError, Prompt, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prefeval.harness.task import Task

APART = {"float32": 0.01, "bfloat16": 0.2}
"""nats/token by which two implementations of one model may differ on average"""


class VllmBackend(HuggingFaceBackend):
    """A checkpoint, or an adapter on ``base``, that vLLM generates from.

    Nothing is loaded before it is needed. Raises ``PrefevalError`` for what `checkpoints.check`
    refuses, and later where vLLM cannot run the model.
    """

    def __init__(
        self,
        path: str | Path,
        base: str | Path,
        *,
        options: Options,
        dtype: str = "float32",
        device: str = "cpu",
        max_length: int,
        batch_size: int = 256,
    ) -> None:
        self.folder, self.base = checkpoints.check(path, base), base
        self.tokenizer = models.load_tokenizer(checkpoints.tokenizer_dir(self.folder, base))
        self.options, self.dtype, self.device = options, dtype, device
        self.max_length, self.batch_size = max_length, batch_size
        self.gaps: dict[str, tuple[float, ...]] = {}
        """of each greedy answer by its prompt's id: see `Answer.gaps`"""
        self._engine: VllmProcess | None = None
        self._room = 0
        self._drawn: dict[tuple[int, ...], float] = {}

    @cached_property
    def model(self) -> PreTrainedModel:  # type: ignore[override]
        """The checkpoint in this process, to score with; generation is over for now."""
        self.close()
        model = self._load(self.device)
        models.check_vocabulary(model, self.tokenizer)
        return model.eval()

    def close(self) -> None:
        """Stop the engine; the next prompt would start it again."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None

    def generate(self, prompts: Sequence[Prompt], sampling_: Sampling) -> list[Completion]:
        """As the Hugging Face backend's, with vLLM's own random numbers."""
        ids = self._prompt_ids([p.messages for p in prompts])
        rows = [(p, i) for p in range(len(prompts)) for i in range(sampling_.n)]
        eos = batches.end_of_turn(self.tokenizer).token_id
        if not rows:
            return []
        answers = self._started(max(map(len, ids)) + sampling_.max_new_tokens).generate(
            [(ids[p], row_seed(sampling_.seed, p, i)) for p, i in rows],
            temperature=sampling_.temperature,
            max_new_tokens=sampling_.max_new_tokens,
            end=eos,
        )
        out = []
        for (p, index), answer in zip(rows, answers, strict=True):
            ended = answer.tokens[-1:] == (eos,)
            text = self.tokenizer.decode(
                answer.tokens[: len(answer.tokens) - ended], skip_special_tokens=True
            )
            out.append(Completion(prompts[p].id, sampling_.mode, index, text, answer.tokens, ended))
            self._remember(prompts[p].id, ids[p], answer)
        return out

    def compare(
        self, reference: Backend, items: Sequence[tuple[Messages, Sequence[int]]]
    ) -> list[Scored]:
        """See `Backend.compare`.

        Raises ``PrefevalError`` where transformers gives the answers that vLLM drew other
        log-probabilities than vLLM did: the KL would be of one model on another's answers.
        """
        scored = super().compare(reference, items)
        prompts = self._prompt_ids([messages for messages, _ in items])
        apart, n_tokens = 0.0, 0
        for ids, (_, tokens), score in zip(prompts, items, scored, strict=True):
            drawn = self._drawn.get((*ids, *tokens))
            if drawn is not None:
                apart += abs(drawn - score.logps)
                n_tokens += score.n_tokens
        if n_tokens and not apart / n_tokens < APART[self.dtype]:
            raise PrefevalError(
                f"vLLM and transformers disagree about {self.folder}: what they give the same "
                f"answers lies {apart / n_tokens:.2g} nats/token apart; use --backend hugging_face"
            )
        return scored

    def _started(self, room: int) -> VllmProcess:
        """The engine, with room for so many tokens of prompt and answer."""
        if self._engine is None or room > self._room:
            self.close()
            self._room = max(room, self.max_length)
            settings = {
                "dtype": self.dtype,
                "max_model_len": self._room,
                "max_num_seqs": self.batch_size,
            }
            self._engine = VllmProcess(self._place, self.options, settings, device=self.device)
        return self._engine

    def _place(self, scratch: Path) -> Path:
        """Where vLLM finds the weights; an adapter is merged into a copy of its base."""
        if not models.is_adapter(self.folder):
            return self.folder
        merged = scratch / "merged"
        self._load("cpu").save_pretrained(merged)
        return merged

    def _load(self, device: str) -> PreTrainedModel:
        return checkpoints.load(self.folder, self.base, dtype=self.dtype, device=device)

    def _remember(self, prompt_id: str, ids: Sequence[int], answer: Answer) -> None:
        self._drawn[(*ids, *answer.tokens)] = sum(answer.logps)
        if answer.gaps:
            self.gaps[prompt_id] = answer.gaps


def row_seed(seed: int, place: int, index: int) -> int:
    """63 bits for the draws of one row: of the pass's seed, its prompt's place and its index."""
    return int(np.random.SeedSequence([seed, place, index]).generate_state(1, np.uint64)[0] >> 1)


def open_backend(task: Task, path: str, options: str) -> VllmBackend:
    """See `backends.open_backend`; ``options`` as `Options.parse` takes them."""
    return VllmBackend(
        path,
        task.reference,
        options=Options.parse(options),
        dtype=task.dtype,
        device=task.device,
        max_length=task.sizes.max_length,
        batch_size=task.sizes.generation_batch,
    )
