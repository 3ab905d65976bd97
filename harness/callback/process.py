"""The trainer's end of the process that evaluates: it starts it, asks, and looks for replies.

No thread and no fork of the trainer: a spawned process that runs its own module, so that the
training script, which need not guard its main, never runs twice, and nothing that training computes
with (random states, threads, modes, memory) is shared.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefeval.harness.callback.worker import Opening
from prefeval.harness.executors.local import THREAD_VARIABLES, THREADS

LOG = "worker.log"
TICK = 0.05
LAUNCHER = (
    "RANK",
    "WORLD_SIZE",
    "MASTER_",
    "LOCAL_",
    "GROUP_",
    "ROLE_",
    "TORCHELASTIC",
    "ACCELERATE_",
)
"""Variables of a distributed launcher: the worker is no rank of the training."""


class Process:
    """A worker and what it is to do, in order; one that dies is started again, once in a row."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._waiting: deque[dict[str, Any]] = deque()
        self._deaths = self._unasked = self._upto = 0
        self._start()

    def _start(self) -> None:
        out = Path(self._opening.out)
        try:
            out.mkdir(parents=True, exist_ok=True)
            log: Any = (out / LOG).open("ab")
        except OSError:  # the worker meets the same fault, and says so
            log = subprocess.DEVNULL
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "prefeval.harness.callback.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            env=_environment(), start_new_session=True,  # an interrupt is the trainer's to handle
        )  # fmt: skip
        if log != subprocess.DEVNULL:
            log.close()
        assert self._child.stdout is not None
        os.set_blocking(self._child.stdout.fileno(), False)
        self._text = b""
        self._end = weakref.finalize(self, _kill, self._child)

    def ask(self, request: Mapping[str, Any]) -> None:
        """Ask after all that was asked before; one request is sent at a time."""
        self._waiting.append(dict(request))
        if len(self._waiting) == 1:
            self._send(request)

    def cancel(self) -> None:
        """Take back what is asked for and not begun."""
        while len(self._waiting) > 1:
            self._waiting.pop()

    def open(self, upto: int) -> None:
        """Ask for the stream to be opened, for a training that is at step ``upto``."""
        self._upto = upto
        self.ask(self._open_request())

    def _open_request(self) -> dict[str, Any]:
        return {"open": asdict(self._opening) | {"upto": self._upto}}

    def _send(self, request: Mapping[str, Any]) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(request).encode() + b"\n")
            self._child.stdin.flush()
        except OSError:  # it is dead: `reply` finds out
            pass

    def reply(self, timeout: float) -> dict[str, Any] | None:
        """The next reply, or None where there is none within ``timeout`` seconds.

        {"kind": "gone", "error": ...} where the worker died on the same request twice: then all
        requests are given up, and it is asked no more.
        """
        until = time.monotonic() + timeout
        while self._waiting:
            line = self._line()
            if line is None:
                if (gone := self._restart()) is not None:
                    return gone
            elif line and self._unasked:
                self._unasked -= 1
            elif line:
                self._waiting.popleft()
                self._deaths = 0
                found: dict[str, Any] = json.loads(line)
                self._upto = max(self._upto, found.get("step") or 0)
                if self._waiting:
                    self._send(self._waiting[0])
                return found
            if time.monotonic() >= until:
                return None
            time.sleep(TICK)
        return None

    def _line(self) -> bytes | None:
        """A whole line; b"" where there is none yet, None where there will be none."""
        assert self._child.stdout is not None
        ended = False
        while b"\n" not in self._text:
            try:
                found = os.read(self._child.stdout.fileno(), 1 << 16)
            except BlockingIOError:
                break
            if not found:
                ended = True
                break
            self._text += found
        if b"\n" in self._text:
            line, _, self._text = self._text.partition(b"\n")
            return line
        return None if ended else b""

    def _restart(self) -> dict[str, Any] | None:
        """Start the worker again with what it has not answered; the second time, give up."""
        code = self._child.wait()
        self._deaths += 1
        if self._deaths > 1:
            step = self._waiting[0].get("step")
            self._waiting.clear()
            why = "was killed (out of memory?)" if code == -9 else f"ended with exit code {code}"
            log = Path(self._opening.out) / LOG
            error = f"the process that evaluates {why} twice in a row; its messages are in {log}"
            return {"kind": "gone", "error": error, "step": step}
        self._end()  # its pipes
        self._start()
        if "open" not in self._waiting[0]:
            self._unasked = 1
            self._send(self._open_request())
        self._send(self._waiting[0])
        return None

    def close(self) -> None:
        """End the worker where it is."""
        self._waiting.clear()
        self._end()


def _environment() -> dict[str, str]:
    found = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER)}
    return found | dict.fromkeys(THREAD_VARIABLES, str(THREADS))


def _kill(child: subprocess.Popen[bytes]) -> None:
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    child.kill()
    child.wait()


def shared(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the main rank has, on every rank."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
