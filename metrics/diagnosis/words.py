"""A finding in words, for the terminal and the report alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def evidence(row: Mapping[str, Any]) -> str:
    """``KL from the reference 0.31 [0.25, 0.37] nats/token (n = 448); threshold > 0.2 (ours)``,
    from the fields of an `Evidence`, as they are or as JSON has them."""
    text = f"{row['text']} {_number(row['value'])}"
    low, high = row.get("ci_low"), row.get("ci_high")
    if _is_number(low) and _is_number(high):
        text += f" [{_number(low)}, {_number(high)}]"
    text += f" {row['unit']}" if row["unit"] else ""
    text += f" (n = {row['n']})" if row["n"] > 1 else ""
    return f"{text}; threshold {row['threshold']} ({row['source']})"


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _number(value: Any) -> str:
    return f"{value:.3g}" if _is_number(value) else "unknown"
