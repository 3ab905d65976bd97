"""What the worker uses of vLLM, by a naive loop over transformers: tests put it in vLLM's place.

``STAND_IN_SHIFT`` is added to every log-probability, as if it computed another model.
"""

import os
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM

__version__ = "stand-in"
SHIFT = float(os.environ.get("STAND_IN_SHIFT", "0"))


class SamplingParams(SimpleNamespace):
    """The fields by name."""


class LLM:
    """A model of a folder; no cache, no batch, every row by itself."""

    def __init__(self, model: str, **options: Any) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.longest = options["max_model_len"]
        if self.longest > self.model.config.max_position_embeddings:
            raise ValueError(f"User-specified max_model_len ({self.longest}) is too large")

    def generate(self, prompts: list[Any], params: list[Any], use_tqdm: Any) -> list[Any]:
        """One result a row, in order; the bar is told of each."""
        bar = use_tqdm(total=len(prompts))
        found = []
        for prompt, row in zip(prompts, params, strict=True):
            found.append(SimpleNamespace(outputs=[self.row(prompt["prompt_token_ids"], row)]))
            bar.update(1)
        bar.close()
        return found

    @torch.inference_mode()
    def row(self, prompt: list[int], params: Any) -> Any:
        """Token by token, to the end token or to the longest."""
        assert params.ignore_eos
        assert len(prompt) + params.max_tokens <= self.longest
        draws = torch.Generator().manual_seed(params.seed)
        tokens: list[int] = []
        likely = []
        while len(tokens) < params.max_tokens and tokens[-1:] != params.stop_token_ids:
            logps = self.model(torch.tensor([[*prompt, *tokens]])).logits[0, -1].log_softmax(-1)
            if params.temperature == 0:
                token = int(logps.argmax())
            else:
                token = int(torch.multinomial(logps.exp(), 1, generator=draws))
            shown = {token, *logps.topk(params.logprobs).indices.tolist()}
            likely.append({t: SimpleNamespace(logprob=float(logps[t]) + SHIFT) for t in shown})
            tokens.append(token)
        return SimpleNamespace(token_ids=tokens, logprobs=likely)
