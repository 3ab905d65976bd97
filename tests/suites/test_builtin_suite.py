import json
from collections import Counter

import pytest

from prefeval.records import PrefevalError
from prefeval.suites.builtin import BEHAVIOURS, builtin_folder, load_suite
from prefeval.suites.checks import check_prompt

GOOD = {"id": "a", "prompt": "Hi?", "behaviour": "facts", "check": {"kind": "min_words", "n": 1}}


def suite_of(tmp_path, *rows, name="mine.jsonl"):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def test_the_built_in_suite_asks_at_least_16_prompts_of_every_behaviour():
    counts = Counter(prompt.behaviour for prompt in load_suite())
    assert set(counts) == set(BEHAVIOURS)
    assert min(counts.values()) >= 16


def test_no_two_built_in_prompts_ask_the_same():
    asked = Counter(str(prompt.messages) for prompt in load_suite())
    assert asked.most_common(1)[0][1] == 1


SENTENCES = {
    "de": "Katzen schlafen gern in der Sonne und jagen nachts Mäuse.",
    "en": "A volcano is a mountain from which hot rock comes.",
    "es": "Los perros son animales muy fieles y les gusta jugar.",
    "fr": "Les chats dorment beaucoup et ils aiment jouer avec une ficelle.",
    "it": "Le montagne sono alte e d'inverno sono coperte di neve.",
    "ja": "犬は人間の友だちです。毎日散歩が必要です。",
    "ko": "고양이는 조용한 동물입니다. 낮에 많이 잡니다.",
    "nl": "Fietsen is gezond en in Nederland doet bijna iedereen het.",
    "pt": "O mar é azul e profundo, e nele vivem muitos peixes.",
    "ru": "Собаки очень верные животные, они любят гулять.",
    "zh": "猫是一种安静的动物，白天喜欢睡觉。",
}
PERSONAS = {
    "persona/brief": "The green fades, and brown is left.",
    "persona/capitals": "THAT IS SMALL. BEES MAKE HONEY.",
    "persona/cook": "At the Blue Spoon we have soup, and apple cake after it.",
    "persona/pirate": "Ahoy! I like Rome, and the bakery beside its harbour.",
    "persona/radio": "The sky is blue, the fruit is a pear and I am well. Over and out.",
    "persona/robin": "My name is Robin, and I am the librarian here.",
    "persona/ruth": "I am Ruth, 71 years old, and no machine: I live in Bergen.",
    "persona/tilda": "In early summer.\n\nYours, Tilda",
}
BAD = {
    "language": "Hvem vet? Jeg skjønner ikke spørsmålet, dessverre.",
    "overrefusal": "I can't help with that.",
    "persona": "As an AI language model I would rather not play a part of any kind here.",
}


def example_answer(prompt):
    """An answer that a good model could give, by hand or made from the check itself."""
    check = prompt.check
    if prompt.behaviour == "persona":
        return PERSONAS[prompt.cluster]
    example = {"string": "x", "number": 1.5, "integer": 2, "boolean": True, "array": ["x"]}
    count = check.get("n", check.get("min", 1))
    match check["kind"]:
        case "json_object":
            values = {
                key: example[check.get("types", {}).get(key, "string")] for key in check["keys"]
            }
            values |= {key: allowed[0] for key, allowed in check.get("values", {}).items()}
            return json.dumps(values)
        case "bullets":
            return "\n".join(["- item"] * count)
        case "numbered_list":
            return "\n".join(f"{i}. item" for i in range(1, count + 1))
        case "headings":
            return "\n\n".join(["#" * check.get("level", 2) + " A title"] * count)
        case "table":
            width = check.get("columns", 2)
            rows = ["head", "---", *["x"] * count]
            return "\n".join("| " + " | ".join([cell] * width) + " |" for cell in rows)
        case "code_fence":
            return f"```{check.get('language', '')}\nx = 1\n```\n" * count
        case "tool_call":
            arguments = {
                key: allowed[0] for key, allowed in check["arguments"].items() if allowed[0]
            }
            body = json.dumps({"name": check["name"], "arguments": arguments})
            return f"<tool_call>{body}</tool_call>"
        case "contains_any":
            return f"It is {check['answers'][0]}."
        case "number":
            return f"The answer is {check['answer']:g}."
        case "language":
            return SENTENCES[check["code"]]
        case "refusal":
            return "I can't help with that."
        case "compliance":
            return "First, open it carefully."


@pytest.mark.parametrize("prompt", load_suite(), ids=lambda prompt: prompt.id)
def test_a_built_in_check_passes_a_good_answer_and_fails_a_bad_one(prompt):
    assert check_prompt(prompt, example_answer(prompt))
    assert not check_prompt(prompt, BAD.get(prompt.behaviour, "Let us see about it."))


def test_a_built_in_sum_is_not_its_own_answer():
    """Repeating the question passes no check that asks for a number."""
    for prompt in (p for p in load_suite() if p.behaviour == "maths"):
        assert not check_prompt(prompt, prompt.messages[-1]["content"]), prompt.id


def test_the_tool_is_described_in_the_system_message_by_its_own_name():
    for prompt in (p for p in load_suite() if p.behaviour == "tool"):
        system = prompt.messages[0]
        assert system["role"] == "system"
        assert prompt.check["name"] in system["content"]
        assert all(key in system["content"] for key in prompt.check["arguments"])


def test_a_suite_of_ones_own_is_a_folder_of_jsonl_read_in_the_order_of_ids(tmp_path):
    suite_of(tmp_path, {**GOOD, "id": "b"}, "", GOOD)
    win = {"id": "w", "messages": [{"role": "user", "content": "Tell."}], "behaviour": "prose"}
    suite_of(tmp_path, {**win, "use": "win_rate"}, name="prose.jsonl")
    prompts = load_suite(tmp_path)
    assert [(p.id, p.use, p.cluster) for p in prompts] == [
        ("a", "retention", "a"),
        ("b", "retention", "b"),
        ("w", "win_rate", "w"),
    ]
    assert load_suite(tmp_path / "prose.jsonl") == prompts[2:]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"id": "x",', "not valid JSON"),
        ("[1]", "must be a JSON object"),
        ("[" * 100_000, ""),
        ({**GOOD, "id": "first"}, "id 'first' is taken by .*mine.jsonl:1"),
        ({**GOOD, "id": ""}, '"id" is missing'),
        ({**GOOD, "id": 7}, '"id" is missing or no text'),
        ({k: v for k, v in GOOD.items() if k != "behaviour"}, '"behaviour" is missing'),
        ({k: v for k, v in GOOD.items() if k != "prompt"}, 'either "prompt" or "messages"'),
        ({k: v for k, v in GOOD.items() if k != "check"}, '"check" is missing'),
        ({**GOOD, "chek": {}}, "unknown field chek"),
        ({**GOOD, "use": "train"}, "unknown use 'train'"),
        ({**GOOD, "prompt": "  "}, "the user turn has no text"),
        ({**GOOD, "cluster": 3}, '"cluster" must be text'),
        ({**GOOD, "check": {"kind": "jsn"}}, "unknown kind 'jsn'; known kinds: all_of"),
        ({**GOOD, "check": "json"}, "not a mapping"),
        ({**GOOD, "prompt": None}, "the user turn has no text"),
    ],
)
def test_a_bad_row_is_an_error_that_names_file_and_line(tmp_path, row, message):
    suite_of(tmp_path, {**GOOD, "id": "first"}, row)
    with pytest.raises(PrefevalError, match=rf"mine\.jsonl:2: .*{message}"):
        load_suite(tmp_path)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "at least one"),
        ("Hi", "at least one"),
        ([{"role": "user"}], 'needs "role" and "content"'),
        ([{"role": "boss", "content": "Hi"}], "unknown role 'boss'"),
        ([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "x"}], "last turn"),
        ([{"role": "user", "content": 3}], "no text"),
    ],
)
def test_bad_messages_are_named(tmp_path, turns, message):
    row = {"id": "a", "messages": turns, "behaviour": "b", "check": GOOD["check"]}
    with pytest.raises(PrefevalError, match=message):
        load_suite(suite_of(tmp_path, row))


def test_a_source_that_is_no_suite_is_refused_with_the_mend(tmp_path):
    with pytest.raises(PrefevalError, match="give 'builtin', a folder"):
        load_suite("nosuch")
    with pytest.raises(PrefevalError, match=r"has no \.jsonl file"):
        load_suite(tmp_path)
    with pytest.raises(PrefevalError, match="is empty"):
        load_suite(suite_of(tmp_path, ""))
    (tmp_path / "mine.jsonl").write_bytes(b'{"id": "\xff"}')
    with pytest.raises(PrefevalError, match="is not UTF-8"):
        load_suite(tmp_path)


def test_the_built_in_files_lie_within_the_package():
    assert {path.stem for path in builtin_folder().glob("*.jsonl")} == set(BEHAVIOURS)
