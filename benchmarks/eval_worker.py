"""One measurement of ``eval.py``, in a process of its own; prints a JSON object."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from trainers_worker import Options, read_options, use_threads
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefeval.harness import models
from prefeval.harness.backends.hugging_face import HuggingFaceBackend
from prefeval.harness.data import load_pairs
from prefeval.minitrainers import sampling
from prefeval.minitrainers.batches import end_of_turn, prompt_text

MEGABYTE = 1e6


class Memory:
    """The most that this process held while the block ran, above what it held at its start."""

    def __enter__(self) -> Memory:
        self._process, self._over = psutil.Process(), threading.Event()
        self._before = self.most = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        self.megabytes = (self.most - self._before) / MEGABYTE

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self.most = max(self.most, self._process.memory_info().rss)


def kl(options: Options) -> dict[str, Any]:
    """Full-vocabulary KL over ``tokens`` tokens, above the two models."""
    tokenizer = models.load_tokenizer(options["folder"])
    policy, ref = (models.load_model(options["folder"]) for _ in range(2))
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(1.001)
    rows = options["tokens"] // options["length"]
    draw = torch.Generator().manual_seed(0)
    answers = torch.randint(0, len(tokenizer) - 1, (rows, options["length"]), generator=draw)
    ask = ({"role": "user", "content": "Say something."},)
    items = [(ask, row.tolist()) for row in answers]
    ours, theirs = (HuggingFaceBackend(m, tokenizer, max_length=512) for m in (policy, ref))
    ours.compare(theirs, items[:1])  # first use
    start = time.perf_counter()
    with Memory() as memory:
        found = ours.compare(theirs, items)
    return {
        "seconds": time.perf_counter() - start,
        "megabytes": memory.megabytes,
        "tokens": sum(s.n_tokens for s in found),
    }


def generate(options: Options) -> dict[str, Any]:
    """Tokens a second of the sampling loop, or of ``model.generate``."""
    tokenizer = models.load_tokenizer(options["folder"])
    model = models.load_model(options["folder"]).eval()
    draw = torch.Generator().manual_seed(0)
    shape = (options["batch"], options["prompt"])
    prompts = torch.randint(3, len(tokenizer) - 1, shape, generator=draw)
    run = _loop if options["side"] == "prefeval" else _transformers
    run(model, tokenizer, prompts[:2], 4)  # first use
    start = time.perf_counter()
    made = run(model, tokenizer, prompts, options["new"])
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "tokens": made, "tokens_a_second": made / seconds}


def _loop(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: torch.Tensor, new: int
) -> int:
    answers = sampling.generate(
        model,
        prompts.tolist(),
        max_new_tokens=new,
        temperature=1.0,
        eos_token_id=-1,  # never: both sides make as many tokens
        seed=0,
        batch_size=len(prompts),
    )
    return sum(map(len, answers))


def _transformers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: torch.Tensor, new: int
) -> int:
    torch.manual_seed(0)
    with torch.inference_mode():
        made = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            pad_token_id=tokenizer.pad_token_id or 0,
        )
    return int((made.shape[1] - prompts.shape[1]) * len(prompts))


def score(options: Options) -> dict[str, Any]:
    """Log-probabilities of the answers of pairs, ``batch`` answers at once; what both sides read
    is written for the peer."""
    tokenizer = models.load_tokenizer(options["folder"])
    backend = HuggingFaceBackend(models.load_model(options["folder"]), tokenizer, max_length=2048)
    pairs = load_pairs(options["data"]).items
    random.Random(0).shuffle(pairs)
    pairs = sorted(
        (p for p in pairs[: options["pairs"]]), key=lambda p: len(str(p.prompt)) + len(p.chosen)
    )
    end = end_of_turn(tokenizer).text
    requests = [
        (prompt_text(tokenizer, p.prompt), answer + end)
        for p in pairs
        for answer in (p.chosen, p.rejected)
    ]
    Path(options["requests"]).write_text(json.dumps(requests))
    items = [(p.prompt, p.chosen, p.rejected) for p in pairs]
    step = options["batch"] // 2
    backend.pair_logps(items[:1])  # first use
    start = time.perf_counter()
    found = [s for i in range(0, len(items), step) for s in backend.pair_logps(items[i : i + step])]
    return {
        "seconds": time.perf_counter() - start,
        "logps": [x for s in found for x in (s.chosen_logps, s.rejected_logps)],
    }


def main() -> None:
    """Measure what the options ask for."""
    options = read_options()
    use_threads(options)
    cases: dict[str, Callable[[Options], dict[str, Any]]]
    cases = {"kl": kl, "generate": generate, "score": score}
    case = cases[options["case"]]
    print(json.dumps(case(options)))


if __name__ == "__main__":
    main()
