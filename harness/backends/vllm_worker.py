"""vLLM in a process of its own, whose Python need not be prefeval's: run as a script, it imports
nothing of prefeval.

The first line of stdin says which model and how, each further one is a request, and every answer is
a line of JSON on what was stdout; whatever libraries print there goes to stderr. The process ends
with its stdin, so that it never outlives who started it.

    {"model": .., "scratch": .., "dtype": .., "max_model_len": .., "max_num_seqs": .., "memory": ..}
    -> {"ready": "0.32.0"}
    {"rows": [[[prompt ids], seed], ..], "temperature": 0, "max_new_tokens": 8, "end": 2}
    -> {"alive": 1}, .., {"row": 0, "tokens": [..], "logps": [..], "gaps": [..]}, .., {"done": 1}
    -> {"error": ".."} instead, from which nothing is to be expected any more
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [p for p in sys.path if os.path.abspath(p) != HERE]  # where a vllm.py lies

Send = Callable[[Mapping[str, Any]], None]


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests: queue.Queue[Any] = queue.Queue()
    settings = json.loads(sys.stdin.readline())
    threading.Thread(target=read, args=(requests, settings["scratch"]), daemon=True).start()

    def send(answer: Mapping[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        engine, version = start(settings)
        send({"ready": version})
        while True:
            answer(engine, requests.get(), send)
    except Exception as error:
        send({"error": " ".join(f"{type(error).__name__}: {error}".split())})
        raise


def read(requests: queue.Queue[Any], scratch: str) -> None:
    """Hand requests on; where they end, whoever sent them is gone: leave no process, no files."""
    for line in sys.stdin:
        requests.put(json.loads(line))
    shutil.rmtree(scratch, ignore_errors=True)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def start(settings: Mapping[str, Any]) -> tuple[Any, str]:
    """The engine, and vLLM's version."""
    import vllm

    engine = vllm.LLM(
        model=settings["model"],
        dtype=settings["dtype"],
        max_model_len=settings["max_model_len"],
        max_num_seqs=settings["max_num_seqs"],
        gpu_memory_utilization=settings["memory"],
        load_format="safetensors",
        skip_tokenizer_init=True,
        generation_config="vllm",  # not the model's, whose top-p and penalties are another policy
        distributed_executor_backend="uni",
        enforce_eager=True,  # compiling takes longer than the few prompts of an evaluation
        seed=0,
    )
    return engine, vllm.__version__


def answer(engine: Any, request: Mapping[str, Any], send: Send) -> None:
    """Continue every row, and say of each finished one that there is life."""
    from tqdm import tqdm  # type: ignore[import-untyped]
    from vllm import SamplingParams

    class Bar(tqdm):  # type: ignore[misc]
        """What vLLM tells of rows that are finished."""

        def update(self, n: float | None = 1) -> Any:
            send({"alive": n})
            return super().update(n)

    greedy = request["temperature"] == 0
    prompts = [{"prompt_token_ids": ids} for ids, _ in request["rows"]]
    params = [
        SamplingParams(
            temperature=request["temperature"],
            max_tokens=request["max_new_tokens"],
            stop_token_ids=[request["end"]],
            ignore_eos=True,
            detokenize=False,
            logprobs=2 if greedy else 0,
            seed=seed,
        )
        for _, seed in request["rows"]
    ]
    for row, output in enumerate(engine.generate(prompts, params, use_tqdm=Bar)):
        found = output.outputs[0]
        tokens = list(found.token_ids)
        likely = [{t: p.logprob for t, p in at.items()} for at in found.logprobs]
        ranked = [sorted(at.values(), reverse=True) for at in likely]
        send(
            {
                "row": row,
                "tokens": tokens,
                "logps": [at[t] for at, t in zip(likely, tokens, strict=True)],
                "gaps": [top[0] - top[1] for top in ranked] if greedy else [],
            }
        )
    send({"done": len(prompts)})


if __name__ == "__main__":
    main()
