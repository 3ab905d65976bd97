"""Mixed precision: bfloat16 by autocast, at the speed of float32 where a processor lacks it.

A product of two bfloat16 numbers is exact in float32, in which autocast's matrix products sum. On a
processor without bfloat16 instructions those are emulated, five times slower than float32's own on
AVX-512. There they are computed in float32 from the same rounded numbers and rounded once at the
end: the same result up to the order of summation.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from torch._ops import OpOverload

    from prefeval.minitrainers.loop import TrainConfig

AT_ONCE = 1 << 23  # elements of a product's three matrices in float32: 32 MiB
aten = torch.ops.aten
PRODUCTS = frozenset({aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default})
COMPOSED = frozenset({aten.linear.default, aten.matmul.default})


@contextmanager
def autocast(config: TrainConfig) -> Iterator[None]:
    """Mixed precision as configured; nothing for float32.

    With gradient checkpointing a layer's weights are cast again when it is, and not kept.
    """
    if config.dtype != "bfloat16":
        yield
        return
    kind, keep = torch.device(config.device).type, not config.gradient_checkpointing
    with torch.autocast(kind, dtype=torch.bfloat16, cache_enabled=keep), products(config):
        yield


class Place(Protocol):
    """Where and in what type something is computed."""

    @property
    def dtype(self) -> str:
        """float32 or bfloat16."""

    @property
    def device(self) -> str:
        """cpu, cuda, ..."""


def products(place: Place) -> AbstractContextManager[Any]:
    """Inside the block bfloat16 matrix products are computed as fast as the processor can."""
    cpu = torch.device(place.device).type == "cpu"
    if place.dtype == "bfloat16" and cpu and not has_bfloat16_instructions():
        return Float32Products()  # type: ignore[no-untyped-call]
    return nullcontext()


def product(a: Tensor, b: Tensor) -> Tensor:
    """(m, k) times (k, n) in bfloat16, summed in float32.

    A vocabulary's weight or logits are never whole in float32: the longest of the three sides is
    taken in parts. What is given in float32 is rounded part by part too.
    """
    (m, k), n = a.shape, b.shape[1]
    parts = math.ceil((a.numel() + b.numel() + m * n) / AT_ONCE)
    if parts <= 1:
        return torch.mm(a.bfloat16().float(), b.bfloat16().float()).bfloat16()
    longest = max(m, k, n)
    size = math.ceil(longest / parts)
    slices = [slice(start, start + size) for start in range(0, longest, size)]
    if longest == k:
        total = a.new_zeros(m, n, dtype=torch.float32)
        for s in slices:
            total.addmm_(a[:, s].bfloat16().float(), b[s].bfloat16().float())
        return total.bfloat16()
    found = a.new_empty(m, n, dtype=torch.bfloat16)
    for s in slices:
        if longest == m:
            found[s] = torch.mm(a[s].bfloat16().float(), b.bfloat16().float())
        else:
            found[:, s] = torch.mm(a.bfloat16().float(), b[:, s].bfloat16().float())
    return found


def rounded_product(a: Tensor, b: Tensor) -> Tensor:
    """(m, k) times (k, n) in bfloat16, of factors in any type and whatever autocast says. On a
    processor without bfloat16 instructions a factor in float32 is never whole in bfloat16."""
    if a.device.type != "cpu" or has_bfloat16_instructions():
        return torch.mm(a.bfloat16(), b.bfloat16())
    with torch.autocast("cpu", enabled=False):
        return product(a, b)


def has_bfloat16_instructions() -> bool:
    """Whether this processor multiplies bfloat16 matrices itself; on others than x86, where torch
    does not say, its own way is left."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class Float32Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside the block, bfloat16 matrix products on a CPU are computed in float32."""

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Every tensor operation passes here, forward and backward."""
        if func in COMPOSED:  # which inference mode does not take apart
            with self:
                return func.decompose(*args, **(kwargs or {}))
        if func in PRODUCTS and args[0].dtype is torch.bfloat16 and args[0].device.type == "cpu":
            if func is aten.mm.default:
                return product(*args)
            args = [a.float() if isinstance(a, Tensor) else a for a in args]
            return func(*args, **(kwargs or {})).bfloat16()
        return func(*args, **(kwargs or {}))
