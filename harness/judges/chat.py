"""A local chat model as a judge: ``chat:FOLDER[,mode=logprobs|text|json][,new_tokens=256]``.

``logprobs`` reads P(A) / (P(A) + P(B)) from the first token of the reply, over the whole
vocabulary; the others let it write, greedily.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from prefeval.harness import models
from prefeval.harness.judges import chat_prompt
from prefeval.records import Comparison, PrefevalError, Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 16


class ChatJudge:
    """Verdicts of a causal LM with a chat template."""

    name = "chat"
    expensive = True

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        identity: Mapping[str, Any],
        *,
        context: int | None = None,
        mode: str = "logprobs",
        new_tokens: int = 256,
    ) -> None:
        self.context = context
        self.model, self.tokenizer = model.eval(), tokenizer
        self.mode, self.new_tokens = chat_prompt.require_mode(mode), new_tokens
        self._identity = identity

    @property
    def settings(self) -> Mapping[str, Any]:
        """What a verdict depends on, beside the texts."""
        asked = [chat_prompt.SYSTEM, chat_prompt.ASK[self.mode]]
        written = {} if self.mode == "logprobs" else {"new_tokens": self.new_tokens}
        return {**self._identity, "mode": self.mode, "prompt": asked, **written}

    def compare(self, items: Sequence[Comparison]) -> list[Verdict]:
        """One verdict for each comparison, in order. A comparison that is longer than the model's
        context cannot be read, and is not cut."""
        room = self.context
        reply = 1 if self.mode == "logprobs" else self.new_tokens
        rows = [self._ids(item) for item in items]
        fits = [i for i, ids in enumerate(rows) if room is None or len(ids) + reply <= room]
        found = [Verdict(None, "longer than the judge's context")] * len(rows)
        ask = self._first_token if self.mode == "logprobs" else self._written
        order = sorted(fits, key=lambda i: len(rows[i]))
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            for place, verdict in zip(places, ask([rows[i] for i in places]), strict=True):
                found[place] = verdict
        return found

    def _ids(self, item: Comparison) -> list[int]:
        asked = chat_prompt.messages(item, self.mode)
        if not self._knows_system:
            first, second = asked
            asked = [{**second, "content": f"{first['content']}\n\n{second['content']}"}]
        return list(self._template(asked))

    def _template(self, asked: list[dict[str, str]]) -> Any:
        return self.tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, return_dict=False
        )

    @cached_property
    def _knows_system(self) -> bool:
        """Whether the chat template takes a system turn; some refuse it."""
        import jinja2

        try:
            self._template([{"role": r, "content": "x"} for r in ("system", "user")])
        except jinja2.TemplateError:
            return False
        return True

    def _first_token(self, rows: Sequence[list[int]]) -> list[Verdict]:
        import torch

        from prefeval.minitrainers.batches import pad
        from prefeval.minitrainers.logps import causal_lm, hidden_states, lm_logits

        lm = causal_lm(self.model)
        ids, mask, _ = (x.to(lm.device) for x in pad(rows, [[1] * len(row) for row in rows]))
        with torch.inference_mode():
            hidden = hidden_states(lm.base_model, ids, mask)
            last = hidden[torch.arange(len(rows)), mask.sum(-1) - 1]
            p = lm_logits(lm, last).softmax(-1).cpu()
        letters = self._letters()
        found = []
        for row in p:
            a, b = (float(row[list(letters[letter])].sum()) for letter in "AB")
            held = f"P(A) {a:.3f}, P(B) {b:.3f}"
            found.append(Verdict(a / (a + b) if a + b >= 0.5 else None, held))
        return found

    def _letters(self) -> dict[str, set[int]]:
        """The tokens that begin a reply with each letter."""
        found = {}
        for letter in "AB":
            spelt = [
                self.tokenizer.encode(t, add_special_tokens=False) for t in (letter, f" {letter}")
            ]
            found[letter] = {ids[0] for ids in spelt if len(ids) == 1}
            if not found[letter]:
                raise PrefevalError(
                    f"the judge's tokenizer has no token for {letter}; use mode=text"
                )
        return found

    def _written(self, rows: Sequence[list[int]]) -> list[Verdict]:
        from prefeval.minitrainers import batches, sampling

        eos = batches.end_of_turn(self.tokenizer).token_id
        replies = sampling.generate(
            self.model, list(rows), max_new_tokens=self.new_tokens, temperature=0.0,
            eos_token_id=eos, seed=0, batch_size=len(rows),
        )  # fmt: skip
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in replies]
        return [Verdict(chat_prompt.read(t, self.mode), t[-200:]) for t in texts]


def from_folder(argument: str, *, device: str = "cpu", dtype: str = "float32") -> ChatJudge:
    """``FOLDER,mode=...,new_tokens=...``."""
    folder, *parts = argument.split(",")
    if not folder:
        raise PrefevalError("the judge 'chat' needs a model: chat:FOLDER")
    options = dict(part.partition("=")[::2] for part in parts)
    if unknown := set(options) - {"mode", "new_tokens"}:
        raise PrefevalError(
            f"the judge 'chat' does not know {min(unknown)!r}; use mode=, new_tokens="
        )
    if not options.get("new_tokens", "1").isdecimal():
        raise PrefevalError("chat: new_tokens must be a whole number")
    models.check_model_dir(folder)
    identity = {
        "weights": models.weights_hash(folder),
        "tokenizer": models.tokenizer_hash(folder),
        "dtype": dtype,
    }
    return ChatJudge(
        models.load_model(folder, dtype=dtype, device=device),
        models.load_tokenizer(folder),
        identity,
        context=models.context_length(folder),
        mode=options.get("mode", "logprobs"),
        new_tokens=int(options.get("new_tokens", "256")),
    )
