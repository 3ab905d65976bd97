"""Ctrl-C and SIGTERM end a command alike: what it holds is put down, and it says how to go on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


class Stopped(BaseException):
    """Ctrl-C or SIGTERM, as an exception that no library takes for its own."""

    def __init__(self, signal_number: int) -> None:
        self.exit_code = 128 + signal_number


@contextmanager
def stop() -> Iterator[None]:
    """Let both signals end the command alike, unless whoever started it has them ignored."""

    def raise_stopped(number: int, frame: object) -> NoReturn:
        raise Stopped(number)

    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    ours = [s for s, handler in before.items() if handler in usual]
    for number in ours:
        signal.signal(number, raise_stopped)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])
