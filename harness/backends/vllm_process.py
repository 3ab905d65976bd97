"""The process that vLLM runs in, seen from here: started, asked, and ended with whoever holds it.

vLLM needs a torch and a transformers of its own, so it has an environment of its own and is spoken
to in lines of JSON (see `vllm_worker`).
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from prefeval.records import PrefevalError

WORKER = Path(__file__).with_name("vllm_worker.py")
PYTHON = "PREFEVAL_VLLM"
START_SECONDS = 1800.0  # to load a model
ANSWER_SECONDS = 900.0  # without a single row finished
END_SECONDS = 10.0
VERSION = (
    "import importlib.metadata as m; d = m.packages_distributions().get('vllm', [])[:1]; "
    "print(*[f'{x} {m.version(x)}' for x in d])"
)
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process: what fails in it says why
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # as many threads as OMP_NUM_THREADS says, anywhere
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True)
class Options:
    """What ``--backend vllm:NAME=VALUE,...`` may set. No answer depends on it but by rounding."""

    python: str = ""
    """the interpreter of the environment that has vLLM; ``PREFEVAL_VLLM``, or this one if empty"""
    memory: float = 0.5
    """share of a GPU's memory, which the judge and the scoring model need too"""
    kv_cache: int = 1
    """GiB for keys and values on a CPU, where there is no ``VLLM_CPU_KVCACHE_SPACE``"""

    @classmethod
    def parse(cls, text: str) -> Options:
        """From ``python=/there/bin/python,memory=0.3``; ``PrefevalError`` for anything else."""
        given: dict[str, Any] = {}
        for part in text.split(",") if text else ():
            name, _, value = part.partition("=")
            try:
                given[name] = {"python": str, "memory": float, "kv_cache": int}[name](value)
            except (KeyError, ValueError):
                raise PrefevalError(
                    f"--backend vllm knows no {part!r}; it takes python=PATH, memory=0.5 (share of "
                    "a GPU) and kv_cache=1 (GiB on a CPU)"
                ) from None
        found = cls(**given)
        if not (0 < found.memory <= 1 and found.kv_cache > 0):
            raise PrefevalError("--backend vllm: memory is in (0, 1] and kv_cache at least 1")
        return found

    @property
    def interpreter(self) -> str:
        """The Python that has vLLM."""
        return os.path.expanduser(self.python or os.environ.get(PYTHON) or sys.executable)

    def version(self) -> tuple[str, str]:
        """Name and version of the distribution that brings vLLM.

        Raises ``PrefevalError`` where the interpreter is none or has no vLLM.
        """
        command = [self.interpreter, "-c", VERSION]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise PrefevalError(
                f"{self.interpreter} is no Python that runs ({type(error).__name__}); name the one "
                f"that has vLLM by --backend vllm:python=PATH or {PYTHON}"
            ) from None
        name, _, version = run.stdout.strip().partition(" ")
        if not version:
            raise PrefevalError(
                f"{self.interpreter} has no vLLM; install it in an environment of its own "
                "(python -m venv vllm && vllm/bin/pip install vllm) and name its Python by "
                f"--backend vllm:python=vllm/bin/python or {PYTHON}"
            )
        return name, version


@dataclass(frozen=True)
class Answer:
    """One row as vLLM continued it."""

    tokens: tuple[int, ...]
    logps: tuple[float, ...]
    """of these tokens, nats"""
    gaps: tuple[float, ...]
    """between the two likeliest tokens at each place, nats; greedy alone"""


class VllmProcess:
    """One engine on one model. Ends with `close`, with this object, and with this process.

    ``place(scratch)`` gives the folder of the model, and may write it into ``scratch``, which goes
    when the engine does. Raises ``PrefevalError`` where vLLM cannot run it.
    """

    def __init__(
        self,
        place: Callable[[Path], Path],
        options: Options,
        settings: Mapping[str, Any],
        *,
        device: str = "cpu",
        worker: Path = WORKER,
        start_seconds: float = START_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        scratch = Path(tempfile.mkdtemp(prefix="prefeval-vllm-"))
        self._log, self._seconds = scratch / "log", answer_seconds
        try:
            self._model = place(scratch)
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [options.interpreter, str(worker)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=_environment(options, device, scratch),
                    text=True,
                    encoding="utf-8",
                    errors="replace",
                    start_new_session=True,  # Ctrl-C is for us, who then close its stdin
                )
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        self.close = weakref.finalize(self, _end, self._process, scratch)
        self._lines: queue.Queue[str] = queue.Queue()
        heard = (self._process.stdout, self._lines)
        threading.Thread(target=_read, args=heard, daemon=True).start()
        self._say({**settings, "model": str(self._model), "scratch": str(scratch),
                   "memory": options.memory})  # fmt: skip
        self._hear(start_seconds)

    def generate(
        self,
        rows: Sequence[tuple[Sequence[int], int]],
        *,
        temperature: float,
        max_new_tokens: int,
        end: int,
    ) -> list[Answer]:
        """Continue every row of prompt ids, each with draws of its own seed, in order."""
        self._say({"rows": rows, "temperature": temperature, "max_new_tokens": max_new_tokens,
                   "end": end})  # fmt: skip
        found: dict[int, Answer] = {}
        while "done" not in (line := self._hear(self._seconds)):
            if "row" in line:
                fields = (tuple(line[name]) for name in ("tokens", "logps", "gaps"))
                found[line["row"]] = Answer(*fields)
        if sorted(found) != list(range(len(rows))):
            raise self._failed(f"it answered {len(found)} of {len(rows)} prompts")
        return [found[row] for row in range(len(rows))]

    def _say(self, line: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it is gone; what it said last, and is heard next, says why
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()

    def _hear(self, seconds: float) -> dict[str, Any]:
        """The next line; ``PrefevalError`` where none comes, or one that is no answer."""
        limit, dead = time.monotonic() + seconds, False
        while True:
            try:
                line = self._lines.get(timeout=0.5)
                break
            except queue.Empty:
                if dead:  # though a child of its own may hold the pipe open
                    line = ""
                    break
                dead = self._process.poll() is not None
                if time.monotonic() > limit:
                    raise self._failed(f"nothing came from it for {seconds:g} s") from None
        if not line:
            raise self._failed(self._death())
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise self._failed(f"it said {line.strip()[:80]!r}")
        if "error" in found:
            raise self._failed(str(found["error"]))
        return found

    def _death(self) -> str:
        """How it died, and the last that it said."""
        try:
            code = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return "it closed its output"
        if code == -signal.SIGKILL:
            return "it was killed: out of memory?"
        said = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(said) if line.strip()), "nothing said")
        return f"it ended with exit code {code}: {last}"

    def _failed(self, why: str) -> PrefevalError:
        self.close()
        return PrefevalError(f"vLLM cannot run {self._model} ({why[:400]}); {_mend(why)}")


def _mend(why: str) -> str:
    """What a person can do about it."""
    if "head_dim" in why:
        return "use --backend hugging_face; of the lab's model the heads grow by --lab hidden=128"
    if "memory" in why:
        return "try fewer --workers, or --backend vllm:memory=0.3 (GPU) or vllm:kv_cache=4 (CPU)"
    if "max_model_len" in why:
        return "lower --max-new-tokens, or use --backend hugging_face, which goes beyond it"
    return "use --backend hugging_face"


def _environment(options: Options, device: str, scratch: Path) -> dict[str, str]:
    """The process's environment: its own temporary folder, and the GPU that ``device`` names."""
    found = {
        "VLLM_CPU_KVCACHE_SPACE": str(options.kv_cache),
        **os.environ,
        **ENVIRONMENT,
        "TMPDIR": str(scratch),
    }
    _, colon, index = device.partition(":")
    if colon:
        seen = found.get("CUDA_VISIBLE_DEVICES", "").split(",")
        found["CUDA_VISIBLE_DEVICES"] = seen[int(index)] if seen != [""] else index
    return found


def _read(stream: IO[str], lines: queue.Queue[str]) -> None:
    """Lines as they come, and "" when no more can."""
    with stream:
        for line in stream:
            lines.put(line)
    lines.put("")


def _end(process: subprocess.Popen[str], scratch: Path) -> None:
    """Close its stdin, which ends it, and make sure of it and of its children."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    shutil.rmtree(scratch, ignore_errors=True)
