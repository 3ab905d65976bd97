"""Conversations as data sets write them, read as chat turns.

Takes plain text, TRL's messages (``role``/``content``), ShareGPT's (``from``/``value``), and
Anthropic's transcripts ("\\n\\nHuman: ...\\n\\nAssistant: ..."). Pure functions of one row; what is
wrong with a row is raised as ``ValueError`` for the caller, who knows the row's number.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prefeval.records import Message, Messages

Turns = list[Message]

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
}
_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


class Unusable(Exception):
    """A row that cannot be used, though nothing is wrong with the file; the text is the reason
    under which it is counted."""


class Sides(NamedTuple):
    """A pair: the turns that both answers share, and the answers."""

    prompt: Messages
    chosen: str
    rejected: str


def parse_transcript(text: str) -> Turns | None:
    """The turns of a Human/Assistant transcript, None if ``text`` does not begin as one.

    A closing "Assistant:" with nothing behind it is where the answer goes, no turn.
    """
    parts = _SPEAKER.split(text)
    if len(parts) < 3 or parts[0].strip():
        return None
    roles = ("user" if speaker == "Human" else "assistant" for speaker in parts[1::2])
    turns = [_turn(role, text) for role, text in zip(roles, parts[2::2], strict=True)]
    if turns[-1]["role"] == "assistant" and not turns[-1]["content"]:
        turns.pop()
    return join_speakers(turns)


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content.strip()}


def join_speakers(turns: Sequence[Message]) -> Turns:
    """Consecutive turns of one speaker as one: chat templates refuse two user turns in a row."""
    joined: Turns = []
    for turn in turns:
        if joined and joined[-1]["role"] == turn["role"] != "tool":
            texts = [text for text in (joined[-1]["content"], turn["content"]) if text]
            joined[-1] = _turn(turn["role"], "\n\n".join(texts))
        else:
            joined.append(turn)
    return joined


def read_turns(value: Any, *, role: str) -> Turns:
    """The chat turns that a cell holds; a plain text is one turn of ``role``, none is no turn.

    Raises ``ValueError`` for a cell that is neither text nor messages.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return parse_transcript(value) or [_turn(role, value)]
    if isinstance(value, Mapping):
        value = _transposed(value)
    if not isinstance(value, Sequence):
        raise ValueError(f"neither text nor messages, but {type(value).__name__}")
    return join_speakers([_read_message(message) for message in value])


def _transposed(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One message, or the columns into which older ``datasets`` turn a list of them, as a list."""
    if not any(isinstance(column, list) for column in value.values()):
        return [dict(value)]
    columns = {key: column for key, column in value.items() if isinstance(column, list)}
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _read_message(message: Any) -> Message:
    if not isinstance(message, Mapping):
        raise ValueError(f"a message must have role and content, got {type(message).__name__}")
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    if role not in ROLES:
        raise ValueError(f"unknown role {role!r}; known roles: {', '.join(ROLES)}")
    if content is not None and not isinstance(content, str):
        raise ValueError(f"the content of a message must be text, got {type(content).__name__}")
    return _turn(ROLES[role], content or "")


def _shared(first: Sequence[Message], second: Sequence[Message]) -> int:
    """How many leading turns two conversations share."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count


def read_pair(prompt: Any, chosen: Any, rejected: Any) -> Sides:
    """A pair from its cells; ``prompt`` is None where the answers carry it as their shared start.

    Raises ``Unusable`` with the reason for a row to drop, ``ValueError`` for a malformed one.
    """
    asked = read_turns(prompt, role="user")
    if prompt is None and _is_text(chosen) and _is_text(rejected):
        asked, chosen, rejected = _split_text(chosen, rejected)
    won, lost = read_turns(chosen, role="assistant"), read_turns(rejected, role="assistant")
    if won == lost:
        raise Unusable("identical")
    shared = _shared(won, lost)
    if won[:shared][: len(asked)] == asked:  # the answers repeat the prompt
        asked = []
    asked, won, lost = join_speakers([*asked, *won[:shared]]), won[shared:], lost[shared:]
    return Sides(check_prompt(asked), _answer(won), _answer(lost))


def read_thumb(prompt: Any, completion: Any) -> tuple[Messages, str]:
    """Prompt and answer; without a ``prompt`` the answer is the conversation's last turn.

    Raises as ``read_pair`` does.
    """
    asked, said = read_turns(prompt, role="user"), read_turns(completion, role="assistant")
    if said[: len(asked)] == asked:
        asked = []
    answer = _answer(said[-1:])
    return check_prompt(join_speakers([*asked, *said[:-1]])), answer


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and parse_transcript(value) is None


def _split_text(chosen: str, rejected: str) -> tuple[Turns, str, str]:
    """Two plain texts cut where they part, back to the start of that word."""
    if chosen.strip() == rejected.strip():
        raise Unusable("identical")
    limit = min(len(chosen), len(rejected))
    end = next((i for i in range(limit) if chosen[i] != rejected[i]), limit)
    while end and not chosen[end - 1].isspace():
        end -= 1
    return [_turn("user", chosen[:end])], chosen[end:], rejected[end:]


def _answer(turns: Sequence[Message]) -> str:
    """The text of what must be one turn of the assistant."""
    if not turns:
        raise Unusable("empty answer")
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        raise Unusable("not one answer")
    if not turns[0]["content"]:
        raise Unusable("empty answer")
    return turns[0]["content"]


def check_prompt(turns: Sequence[Message]) -> Messages:
    """``turns`` as a prompt; raises ``Unusable`` when it asks nothing."""
    if not turns or not any(turn["role"] == "user" and turn["content"] for turn in turns):
        raise Unusable("empty prompt")
    if turns[-1]["role"] not in ("user", "tool"):
        raise Unusable("prompt does not end with the user")
    return tuple(turns)


def opening_key(prompt: Sequence[Message]) -> str:
    """A hash of the conversation's opening: the first turn of the user, case and spaces aside.

    Two prompts that differ only in how far the same conversation has come share it, so that a
    split by this key leaks no conversation, and no prompt, from one part into another.
    """
    opening = next((turn["content"] for turn in prompt if turn["role"] == "user"), "")
    return hashlib.sha256(" ".join(opening.casefold().split()).encode()).hexdigest()[:16]
