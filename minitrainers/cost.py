"""What a step costs: floating-point operations by formula, and memory as the system counts it.

A token takes 2 operations a weight forward and 4 backward (Kaplan et al. 2020, arXiv 2001.08361,
section 2.1), and attention 4 d operations a layer for every token that it looks at. The head counts
where it is run, which is on the tokens that are scored or drawn and on no others.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from prefeval.minitrainers.logps import causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prefeval.minitrainers.batches import Encoded
    from prefeval.minitrainers.loop import TrainConfig

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


class Cost:
    """Operations of one model under one configuration."""

    def __init__(self, model: PreTrainedModel, config: TrainConfig) -> None:
        lm = causal_lm(model)
        text = lm.config.get_text_config()
        tables = [e.weight for e in (lm.get_input_embeddings(), lm.get_output_embeddings()) if e]
        outside = {id(table) for table in tables}
        self._body = sum(p.numel() for p in lm.parameters() if id(p) not in outside)
        self._head = tables[-1].numel()
        heads = text.num_attention_heads
        width = heads * (getattr(text, "head_dim", None) or text.hidden_size // heads)
        self._attention = 4 * width * text.num_hidden_layers
        gradient = 1 if config.lora_rank else 2  # of activations alone, or of weights too
        self._step = 1 + gradient + config.gradient_checkpointing

    def forward(self, lengths: Iterable[int], scored: int) -> float:
        """One pass over sequences of these lengths, ``scored`` tokens of which have logits."""
        body = sum(2 * self._body * n + self._attention * n * (n + 1) / 2 for n in lengths)
        return float(body + 2 * self._head * scored)

    def padded(self, rows: int, width: int, *, causal: bool) -> float:
        """The body's part of a pass over a padded batch. Kernels skip what a causal mask hides,
        and nothing of what another mask does."""
        attention = self._attention * width * width * (0.5 if causal else 1.0)
        return float(rows * (2 * self._body * width + attention))

    def step(self, lengths: Iterable[int], scored: int) -> float:
        """Forward and backward, with what gradient checkpointing computes twice."""
        return self._step * self.forward(lengths, scored)

    def step_on(self, examples: Iterable[Encoded]) -> float:
        """`step` on rows of prompt and completion."""
        rows = list(examples)
        return self.step((e.length for e in rows), sum(len(e.completion_ids) for e in rows))


def return_freed_memory() -> None:
    """Give glibc's freed memory back to the system, and from now on every block of a megabyte and
    more as it is freed.

    It keeps those of up to 32 MB in a heap that fragments, and a training step frees many: 5% of
    the peak was measured. For the rest of the process, and for runs that ask for little memory.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another libc
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 20)
            libc.malloc_trim(0)


def peak_memory_mb(device: str) -> float:
    """The most that this process has held until now: resident on a CPU, allocated on a GPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
