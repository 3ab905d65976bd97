"""What any trainer with these libraries holds: the least that a memory figure can be compared with.

    python benchmarks/memory_floor.py MODEL

Peak resident memory (MB) of a process that imports torch and transformers, loads tokenizer and
model in float32, keeps gradients and Adam's two moments, and runs one forward and backward pass of
two tokens: no data, no reference, no log, and no activation to speak of.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

MMAP_THRESHOLD = -3  # glibc's M_MMAP_THRESHOLD: freed tensors go back at once


def peak() -> float:
    """The highest resident size since it was last cleared, MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (line,) = [li for li in lines if li.startswith("VmHWM")]
    return int(line.split()[1]) * 1.024e-3


def main(folder: str) -> None:
    """Load, touch everything that training must hold, and print the peak after each part."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(MMAP_THRESHOLD, 1 << 20)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print(f"libraries                                  {peak():7.0f}")
    held: list[object] = [AutoTokenizer.from_pretrained(folder)]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    print(f"tokenizer and model                        {peak():7.0f}")
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-9)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-9, fused=True)
    optimiser.step()
    optimiser.zero_grad()
    libc.malloc_trim(0)
    hidden = model.model(input_ids=torch.zeros(1, 2, dtype=torch.long), use_cache=False)
    hidden.last_hidden_state.sum().backward()
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.full_like(parameter, 1e-9)
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the passing peak
    optimiser.step()
    print(f"gradients, moments and a pass of two tokens {peak():6.0f}")
    held.clear()


if __name__ == "__main__":
    main(sys.argv[1])
