"""How the tools of a conversation reach the model."""

import json

import pytest

from prefeval.minitrainers import batches, tools
from prefeval.records import TOOLS, Message

FUNCTION = {"name": "weather", "description": "The weather", "parameters": {"type": "object"}}
OFFERED = [{"type": "function", "function": FUNCTION}]
ASKED = (
    Message(role=TOOLS, content=json.dumps(OFFERED)),
    Message(role="user", content="Is it raining?"),
)
SHOWN = "{% if tools %}{% for t in tools %}[{{ t.function.name }}]{% endfor %}{% endif %}"


@pytest.fixture
def with_template(tokenizer, monkeypatch):
    def change(before):
        monkeypatch.setattr(tokenizer, "chat_template", before + tokenizer.chat_template)
        return tokenizer

    return change


def test_tools_go_through_a_template_that_shows_them(with_template):
    text = batches.prompt_text(with_template(SHOWN), ASKED)
    assert text == "[weather]<begin><user>Is it raining?<end><assistant>"


def test_else_they_are_described_in_a_system_turn(tokenizer):
    text = batches.prompt_text(tokenizer, ASKED)
    system, _, rest = text.removeprefix("<begin><system>").partition("<end>")
    assert rest == "<user>Is it raining?<end><assistant>"
    assert json.dumps(OFFERED[0]) in system.splitlines()
    assert '<tool_call>\n{"name": "...", "arguments": {...}}\n</tool_call>' in system
    assert TOOLS not in text.split("<")[2]


def test_a_system_turn_that_is_there_stays_before_them():
    turns = [Message(role="system", content="Be brief."), *ASKED[1:]]
    system, user = tools.with_system_turn(turns, OFFERED)
    assert system["content"].startswith("Be brief.\n\nYou can call functions.")
    assert user == ASKED[1]


def test_a_conversation_without_tools_is_rendered_as_ever(with_template):
    assert batches.prompt_text(with_template(SHOWN), ASKED[1:]) == (
        "<begin><user>Is it raining?<end><assistant>"
    )
