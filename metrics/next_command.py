"""A run's own command line, changed in a few options: what to run next.

What was given stays as it was, quoting included. Options that would change nothing with the methods
of the new command are left out, because a sweep refuses them.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

SWEEP = ["prefeval", "sweep"]
FLAGS = frozenset({"resume", "dry-run", "smoke", "refresh-reference", "gradient-checkpointing",
                   "json"})  # fmt: skip
"""options without a value"""
OWN_RUN = ("name", "resume", "dry-run")
"""options that belong to the run that was, not to the next"""
PAIRS = frozenset({"dpo", "ipo", "simpo"})
OFFLINE = PAIRS | {"kto"}
ROLLOUTS = frozenset({"ppo", "grpo"})
READERS: Mapping[str, frozenset[str]] = {
    "epochs": OFFLINE,
    "rounds": PAIRS,
    "round-prompts": PAIRS,
    "samples": PAIRS,
    "refresh-reference": PAIRS,
    "then": OFFLINE,
    "then-iterations": OFFLINE,
    "desirable-weight": frozenset({"kto"}),
    "undesirable-weight": frozenset({"kto"}),
    "iterations": ROLLOUTS,
    "target-kl": frozenset({"ppo"}),
    "group-size": frozenset({"grpo"}),
    "reward": ROLLOUTS,
}
"""which methods read an option; a phase that follows reads its own method's, but for iterations"""


def next_command(
    command: str,
    changes: Mapping[str, Any],
    *,
    methods: Sequence[str],
    training: Mapping[str, Any] | None = None,
) -> str:
    """``command`` with ``changes`` (option without dashes: value; None takes it out).

    ``methods`` are those of the new command; ``training`` is what the run was given from wherever,
    a file or the environment included. "" where ``command`` is no sweep, or where a switch that
    would have to go was not given on the command line.

    >>> next_command("prefeval sweep --beta 0.1 --name 'a b'", {"seeds": 3}, methods=["dpo"])
    'prefeval sweep --beta 0.1 --seeds 3'
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    if words[:2] != SWEEP:
        return ""
    wanted = {**dict.fromkeys(OWN_RUN), **changes}
    given = {**{k.replace("_", "-"): v for k, v in (training or {}).items()}, **_options(words)}
    after = {**given, **wanted}
    for name in READERS:
        if after.get(name) is not None and not _is_read(name, methods, after):
            wanted[name] = None
    for name, value in wanted.items():
        shown = name in _options(words)
        words = _without(words, name)
        if value is not None:
            words += [f"--{name}", str(value)]
        elif name in given and not shown:  # it came from a file or the environment
            if name in FLAGS:
                return ""
            words += [f"--{name}", "" if name in ("reward", "then") else "0"]
    return shlex.join(words)


def _is_read(name: str, methods: Sequence[str], options: Mapping[str, Any]) -> bool:
    """Whether a sweep of these methods and options reads an option."""
    if READERS[name] & set(methods):
        return True
    then = options.get("then") if OFFLINE & set(methods) else None
    if name == "reward":
        return bool(then or (PAIRS & set(methods) and options.get("rounds")))
    return name != "iterations" and then in READERS[name]


def _options(words: Sequence[str]) -> dict[str, str]:
    """The options of a command line by name, without dashes."""
    found, i = {}, len(SWEEP)
    while i < len(words):
        name, equals, value = _name(words[i])
        takes_next = bool(name) and not equals and name not in FLAGS
        if name:
            found[name] = words[i + 1] if takes_next and i + 1 < len(words) else value
        i += 1 + takes_next
    return found


def _without(words: Sequence[str], gone: str) -> list[str]:
    """The command line without an option and its value."""
    kept, i = list(words[: len(SWEEP)]), len(SWEEP)
    while i < len(words):
        name, equals, _ = _name(words[i])
        end = i + 1 + (bool(name) and not equals and name not in FLAGS)
        if name != gone:
            kept += words[i:end]
        i = end
    return kept


def _name(word: str) -> tuple[str, str, str]:
    """An option's name ("" for a value), "=" where its value is in the same word, that value."""
    if not word.startswith("--"):
        return "", "", ""
    name, equals, value = word[2:].partition("=")
    return name.replace("_", "-"), equals, value


def option(command: str, name: str) -> str:
    """The value that a command gives an option; "" where it gives none."""
    try:
        return _options(shlex.split(command)).get(name, "")
    except ValueError:
        return ""


def has_flag(command: str, name: str) -> bool:
    """Whether a command sets a switch."""
    return name in _options(command.split())
