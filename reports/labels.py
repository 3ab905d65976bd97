"""How checkpoints are named, on the page, in the terminal and in files."""

from __future__ import annotations

from collections.abc import Iterable

from prefeval.reports.quantities import beta_text, fixed, interval, significant
from prefeval.reports.run import CheckpointRow, Key, method_name


def key_id(key: Key) -> str:
    """One id for a checkpoint in every chart and table of the page."""
    return f"{key.method}|{key.beta:.9g}|{key.seed}|{key.step}"


def trial_id(key: tuple[str, float, int] | tuple[str, float]) -> str:
    """A trial, or all seeds of a β, in the page's attributes: the beginning of ``key_id``."""
    return "|".join([key[0], f"{key[1]:.9g}", *(str(seed) for seed in key[2:3])])


def name(key: Key, *, seeds: bool = False) -> str:
    """A checkpoint in words: "DPO β = 0.1, step 200"."""
    seed = f", seed {key.seed}" if seeds else ""
    beta = f" β = {beta_text(key.beta)}" if key.beta else ""  # 0: of a training that did not say
    return f"{method_name(key.method)}{beta}{seed}, step {key.step}"


def short(key: Key) -> str:
    """Method and β, for a label in a chart: "DPO 0.1"."""
    beta = f" {beta_text(key.beta)}" if key.beta else ""
    return f"{method_name(key.method)}{beta}"


def listed(words: Iterable[str]) -> str:
    """Words in a sentence: "a, b and c"."""
    items = list(words)
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def tip(row: CheckpointRow) -> str:
    """What hovering a checkpoint shows, a line each."""
    lc, raw, true = row.get("lc_win_rate"), row.get("win_rate"), row.get("true_win_rate")
    lines = [
        name(row.key, seeds=True),
        f"LC win rate {fixed(lc.value)}% {interval(lc)} n={lc.n or '?'}",
        f"raw win rate {fixed(raw.value)}% {interval(raw)}",
        f"KL {significant(row.get('kl').value)} nats/sequence",
        f"length ratio {fixed(row.get('length_ratio').value, 2)}",
    ]
    if true.known:
        lines.insert(3, f"true win rate {fixed(true.value)}% {interval(true)}")
    return "\n".join(lines)
