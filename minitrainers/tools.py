"""Tools in a prompt: through the chat template where it shows them, else in a system turn.

A conversation with tools begins with a turn of the role ``records.TOOLS``, whose text is their
JSON, a list as OpenAI and Hugging Face write it. The system turn has the form of Hermes (Nous
Research), which most open models with tools have learned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prefeval.records import TOOLS, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM = """You can call functions. They are described here as JSON, one a line:
<tools>
{tools}
</tools>
Write each call as JSON with the function's name and its arguments, within tags:
<tool_call>
{{"name": "...", "arguments": {{...}}}}
</tool_call>
If no function fits, answer in words."""


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """The conversation as the chat template renders it, up to where the assistant speaks."""

    def rendered(turns: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None) -> str:
        text: str = tokenizer.apply_chat_template(
            list(turns), tools=tools, add_generation_prompt=True, tokenize=False
        )
        return text

    if not messages or messages[0]["role"] != TOOLS:
        return rendered(messages, None)
    tools, turns = json.loads(messages[0]["content"]), messages[1:]
    if (shown := rendered(turns, tools)) != rendered(turns, None):
        return shown
    return rendered(with_system_turn(turns, tools), None)


def with_system_turn(turns: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The turns after a system turn that describes the tools; one that is there stays before it."""
    text = SYSTEM.format(tools="\n".join(json.dumps(t, ensure_ascii=False) for t in tools))
    if turns and turns[0]["role"] == "system":
        text, turns = f"{turns[0]['content']}\n\n{text}", turns[1:]
    return [Message(role="system", content=text), *turns]
