"""What a sweep runs: ranges of the lever, methods and seeds, as a person writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from prefeval.minitrainers import METHODS
from prefeval.records import PrefevalError

POINTS = 4
MOST = 1000  # points of a grid, or seeds: more is a slip of the keyboard
EXAMPLE = "try 0.05:0.3"

# Methods whose beta is another scale than the pull to a reference: their own default grid.
OWN_GRID: Mapping[str, tuple[float, ...]] = {"simpo": (2.0, 3.42, 5.85, 10.0)}


def parse_range(text: str) -> tuple[float, ...]:
    """``a:b`` (4 log-spaced points, ends included), ``a:b:n``, ``a:b:n:lin`` or ``0.05,0.1,0.3``.

    Raises ``PrefevalError`` for a range that is reversed, not positive or unreadable.

    >>> parse_range("0.05:0.3")
    (0.05, 0.0909, 0.165, 0.3)
    """
    text = text.strip()
    if ":" not in text:
        values = [_number(part, text) for part in text.split(",")]
    else:
        low, high, count, spacing = _parts(text)
        if low > high:
            raise PrefevalError(f"range {text} is reversed: write {high:g}:{low:g}")
        if low == high or count == 1:
            raise PrefevalError(f"range {text} has one point: write {low:g}, or widen it")
        steps = [i / (count - 1) for i in range(count)]
        if spacing == "lin":
            values = [low + (high - low) * s for s in steps]
        else:
            values = [math.exp(math.log(low) + math.log(high / low) * s) for s in steps]
        values = [low, *(float(f"{v:.3g}") for v in values[1:-1]), high]
    if len(set(values)) < len(values):
        raise PrefevalError(f"range {text} names a value twice; name each once")
    return tuple(values)


def _parts(text: str) -> tuple[float, float, int, str]:
    parts = text.split(":")
    if len(parts) > 4 or (len(parts) == 4 and parts[3] not in ("lin", "log")):
        raise PrefevalError(f"cannot read the range {text!r}: write a:b, a:b:n or a:b:n:lin")
    count = POINTS
    if len(parts) > 2:
        count = int(parts[2]) if parts[2].isdecimal() else 0
        if not 1 <= count <= MOST:
            raise PrefevalError(
                f"range {text} needs a whole number of points up to {MOST}, e.g. 0.05:0.3:6"
            )
    return _number(parts[0], text), _number(parts[1], text), count, (parts[3:] or ["log"])[0]


def _number(part: str, text: str) -> float:
    try:
        value = float(part)
    except ValueError:
        raise PrefevalError(f"cannot read {part!r} in {text!r} as a number; {EXAMPLE}") from None
    if not (math.isfinite(value) and value > 0):
        raise PrefevalError(f"beta must be a number > 0, got {part.strip()}; {EXAMPLE}")
    return value


def parse_methods(text: str) -> tuple[str, ...]:
    """``dpo,kto`` as method names, each once."""
    methods = tuple(dict.fromkeys(m.strip().lower() for m in text.split(",") if m.strip()))
    for method in methods:
        if method not in METHODS:
            raise PrefevalError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    if not methods:
        raise PrefevalError(f"no method given; choose from {', '.join(METHODS)}")
    return methods


def parse_then(text: str) -> str:
    """``ppo``: the method of a phase that follows; it must learn from the policy's own answers."""
    method = text.strip().lower()
    able = [m for m, about in METHODS.items() if about.data == "prompts"]
    if method not in able:
        raise PrefevalError(f"cannot follow with {text!r}; use --then {' or '.join(able)}")
    return method


def parse_seeds(text: str) -> tuple[int, ...]:
    """``3`` as seeds 0, 1, 2; ``0,5`` as those two."""
    parts = [p.strip() for p in text.split(",")]
    if not all(p.isdecimal() for p in parts):
        raise PrefevalError(f"cannot read seeds {text!r}; write a count (3) or a list (0,5)")
    values = tuple(int(p) for p in parts)
    if len(values) == 1:
        if not 1 <= values[0] <= MOST:
            raise PrefevalError(f"seeds must be at least 1 and at most {MOST}, e.g. 3")
        return tuple(range(values[0]))
    return tuple(dict.fromkeys(values))


def parse_betas(text: str, methods: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Each method's grid: one range for all that share the scale, or ``dpo=...;simpo=...``.

    ``0.05:0.3`` sets the methods with a reference anchor; SimPO keeps its own grid (2 to 10).
    Named ranges are separated by ``,`` or ``;``; a list within a named range by ``/``.

    >>> parse_betas("dpo=0.1,simpo=2:10:2", ["dpo", "simpo"])
    {'dpo': (0.1,), 'simpo': (2.0, 10.0)}
    """
    if "=" not in text:
        shared = parse_range(text)
        alone = len(methods) == 1
        return {m: shared if alone or m not in OWN_GRID else OWN_GRID[m] for m in methods}
    named: dict[str, tuple[float, ...]] = {}
    for part in text.replace(";", ",").split(","):
        method, equals, grid = part.partition("=")
        if not equals or method.strip() not in methods:
            raise PrefevalError(
                f"cannot read {part!r} in --beta: name one of {', '.join(methods)}, "
                "e.g. dpo=0.05:0.3,simpo=2:10"
            )
        if (name := method.strip()) in named:
            raise PrefevalError(f"--beta names {name} twice; write a list: {name}=0.1/0.3")
        named[method.strip()] = parse_range(grid.replace("/", ","))
    missing = [m for m in methods if m not in named]
    if missing:
        raise PrefevalError(f"--beta names no range for {', '.join(missing)}; add {missing[0]}=a:b")
    return named
