"""How this process runs torch: one thread whatever the machine, or results differ by machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread inside the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def no_bars() -> None:
    """Keep the libraries' own progress bars out of ours.

    Their lock between processes is a semaphore, which a process that is killed leaves behind; one
    between threads does.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]
    from transformers.utils import logging

    tqdm.set_lock(threading.RLock())
    logging.disable_progress_bar()
