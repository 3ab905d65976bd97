"""What ``prefeval doctor`` examines: a model, its tokenizer and some data, each opened once, and
what a check of it finds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from prefeval.harness import checkpoints, models
from prefeval.harness import data as preference_data
from prefeval.harness.backends import DEFAULT
from prefeval.records import Message, Messages, PreferencePair, PrefevalError, Prompt, Thumb

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from prefeval.harness.backends.hugging_face import HuggingFaceBackend
    from prefeval.minitrainers.batches import Encoded

Level = Literal["ok", "warning", "error", "skipped"]
N_EXAMPLES = 6
OWN_EXAMPLES = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Name three colours.", "Red, green and blue."),
    ("Why do leaves fall in autumn?", "Trees drop their leaves to save water and energy."),
)
"""Asked where there are no data."""


@dataclass(frozen=True)
class Check:
    """What one check found: a level, a line that says it, and for a fault its mend."""

    level: Level
    said: str
    mend: str = ""
    id: str = ""


def ok(said: str) -> Check:
    """Nothing is wrong."""
    return Check("ok", said)


def warning(said: str, mend: str) -> Check:
    """A sweep runs, but a number or a later program may be off."""
    return Check("warning", said, mend)


def error(said: str, mend: str) -> Check:
    """A sweep fails, or its numbers are wrong."""
    return Check("error", said, mend)


def skipped(why: str) -> Check:
    """Not looked at."""
    return Check("skipped", why)


class Example(NamedTuple):
    """A conversation and the assistant's answer to it."""

    messages: Messages
    answer: str


class Patient:
    """A model and what it is to be used with.

    Every part raises ``PrefevalError`` as its loader does; checks look at parts whose own check
    went well.
    """

    def __init__(
        self,
        source: str,
        *,
        data: str = "",
        judge: str = "",
        backend: str = DEFAULT,
        device: str = "cpu",
        dtype: str = "float32",
        max_length: int = 512,
        max_new_tokens: int = 128,
        is_lab: bool = False,
    ) -> None:
        self.source, self.data, self.judge, self.backend = source, data, judge, backend
        self.device, self.dtype, self.is_lab = device, dtype, is_lab
        self.asked_length, self.max_new_tokens = max_length, max_new_tokens

    @cached_property
    def folder(self) -> Path:
        """What was named: a whole model or an adapter."""
        return models.model_dir(self.source)

    @cached_property
    def base(self) -> Path:
        """The folder with all weights: the model itself, or the base that an adapter names."""
        if not models.is_adapter(self.folder):
            return self.folder
        config = json.loads((self.folder / "adapter_config.json").read_text(encoding="utf-8"))
        return models.model_dir(config["base_model_name_or_path"])

    @cached_property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer is."""
        return checkpoints.tokenizer_dir(self.folder, self.base)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, with its chat template."""
        return models.load_tokenizer(self.tokenizer_folder)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The weights' ``config.json``."""
        return models.read_config(self.base)

    @cached_property
    def context(self) -> int | None:
        """How many tokens the model was made for."""
        return models.context_length(self.base)

    @property
    def max_length(self) -> int:
        """Tokens of prompt and answer, as a sweep would bound them."""
        return min(self.asked_length, self.context or self.asked_length)

    @cached_property
    def generation(self) -> dict[str, Any]:
        """What ``generate`` of transformers and vLLM would do unasked."""
        path = self.base / "generation_config.json"
        found: Any = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else self.config
        return dict(found)

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model in float32; an adapter is merged into its base."""
        return self.loaded("float32")

    def loaded(self, dtype: str) -> PreTrainedModel:
        """The model in another type."""
        return checkpoints.load(self.folder, self.base, dtype=dtype, device=self.device)

    @cached_property
    def hugging_face(self) -> HuggingFaceBackend:
        """The model as the default backend asks it."""
        from prefeval.harness.backends.hugging_face import HuggingFaceBackend

        return HuggingFaceBackend(self.model, self.tokenizer, max_length=self.max_length)

    @cached_property
    def loaded_data(self) -> preference_data.LoadedPairs | preference_data.LoadedThumbs:
        """Pairs, or thumbs where the data are such."""
        try:
            return preference_data.load_pairs(self.data)
        except PrefevalError as fault:
            if "look like thumbs" not in str(fault):
                raise
            return preference_data.load_thumbs(self.data)

    @cached_property
    def examples(self) -> list[Example]:
        """A few conversations with answers: spread over the data, or prefeval's own."""
        if not self.data:
            turns = [(Message(role="user", content=q), a) for q, a in OWN_EXAMPLES]
            return [Example((turn,), answer) for turn, answer in turns]
        items = spread(self.loaded_data.items, N_EXAMPLES)
        return [Example(item.prompt, answers_of(item)[0]) for item in items]

    @cached_property
    def encoded(self) -> list[Encoded]:
        """The examples in tokens, as a trainer would have them; none without an answer."""
        from prefeval.minitrainers import batches

        found = batches.encode_all(self.tokenizer, self.examples, max_length=self.max_length)
        return [e for e in found if e.completion_ids]

    @property
    def prompts(self) -> list[Prompt]:
        """The examples' conversations, to be asked."""
        return [
            Prompt(f"example-{i}", e.messages, "prose", "win_rate")
            for i, e in enumerate(self.examples)
        ]


def answers_of(item: PreferencePair | Thumb) -> tuple[str, ...]:
    """The answers of a row, the better one first."""
    return (item.completion,) if isinstance(item, Thumb) else (item.chosen, item.rejected)


def spread(items: Sequence[Any], n: int) -> list[Any]:
    """At most ``n`` items, evenly over all."""
    kept = min(n, len(items))
    return [items[i * len(items) // kept] for i in range(kept)]
