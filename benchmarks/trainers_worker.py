"""What the workers of ``trainers.py`` share: their clock, their memory, and the line they print.

Nothing but the standard library is imported here, since the peer's environment lacks prefeval.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Options = dict[str, Any]


def read_options() -> Options:
    """The settings of this measurement: one JSON object, the only argument."""
    options: Options = json.loads(sys.argv[1])
    return options


def read_rows(options: Options) -> list[dict[str, Any]]:
    """The pairs that ``trainers_data.py`` wrote, a JSON object a line."""
    lines = Path(options["data"]).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def use_threads(options: Options) -> None:
    """Hold torch to the threads that both sides get."""
    import torch

    torch.set_num_threads(options["threads"])


def peak_megabytes() -> float:
    """The most memory that this process has held (resident), in units of 10^6 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def report(
    options: Options,
    *,
    seconds: Sequence[float],
    losses: Sequence[float],
    grad_norms: Sequence[float],
    tokens: Sequence[int],
    megabytes: float,
    megabytes_before: float,
    settings: str,
) -> None:
    """Print the measurement as the last line; the warm-up steps come first in every list."""
    counted = seconds[options["warmup"] :]
    print(
        json.dumps(
            {
                "median_seconds": statistics.median(counted),
                "peak_megabytes": megabytes,
                "megabytes_before": megabytes_before,
                "tokens_per_step": statistics.mean(tokens),
                "first_loss": losses[0],
                "final_loss": losses[-1],
                "settings": settings,
                "seconds": list(seconds),
                "losses": list(losses),
                "grad_norms": list(grad_norms),
                "tokens": list(tokens),
            }
        )
    )
