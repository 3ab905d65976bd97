"""Checks of kind ``number``, by hand and on GSM8K's own answers."""

import json
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefeval.records import PrefevalError
from prefeval.suites import builtin, checks, maths


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        ("**42**", 42),
        ("It is 42.", 42),
        ("It costs $1,234.50.", Fraction(2469, 2)),
        ("1.234,50 €", Fraction(2469, 2)),
        ("3,5", Fraction(7, 2)),
        ("1 000 000", 1_000_000),
        ("12 500 km", 12_500),
        ("1'250", 1250),
        ("10{,}000", 10_000),
        ("−7 °C", -7),
        ("-$5", -5),
        ("$-5", -5),
        ("10 - 4 = 6", 6),
        ("9-4", 4),
        ("3/4 of it", Fraction(3, 4)),
        ("2½ cups", Fraction(5, 2)),
        ("2 1/2 cups", Fraction(5, 2)),
        (r"$\frac{3}{4}$", Fraction(3, 4)),
        ("1.5e3", 1500),
        (r"3 \times 10^4", 30_000),
        ("42 m^2", 42),
        ("6 cm²", 6),
        ("50%", 50),
        ("H2O", None),
        ("", None),
        ("1/0", None),
        ("none at all", None),
        ("He has 3 left.\n#### 18", 18),
        ("#### 18\nThat is for 7 days.", 18),
        (r"So \(x = 4\). Thus \boxed{12} in 5 steps.", 12),
        ("The answer is 12, for 3 people.", 12),
        ("**Answer:**\n\n12", 12),
        ("The answer is 3. No, wait: the final answer is 4.", 4),
        ("The answer is 5 + 7 = 12 for 2 people.", 12),
        ("First 3. Then 4. So there are 7.", 7),
        ("There are 7. I hope that helps!", None),
        ("1. Add 3 and 4.\n2. The sum is 7.", 7),
        ("3 kg cost $12.", 12),
        ("$12 for 3 kg.", 3),
    ],
)
def test_the_number_that_is_stated_as_the_answer(text, value):
    assert maths.stated(text) == value


@pytest.mark.parametrize(
    ("text", "strict", "loose"),
    [
        ("$12 for 3 kg.", False, True),
        ("There are 12. I hope that helps!", False, True),
        ("There are 12 in all.", True, True),
        ("First 12, then I add 3.\nThat makes 15.", False, False),
        ("The answer is 15.", False, False),
        ("twelve", False, False),
        (" ", False, False),
    ],
)
def test_loose_looks_anywhere_in_the_last_sentence_that_has_a_number(text, strict, loose):
    check = {"kind": "number", "answer": 12}
    assert checks.has_loose_reading(check)
    assert checks.run_check(check, text) is strict
    assert checks.run_check({**check, "loose": True}, text) is loose


@pytest.mark.parametrize(
    ("answer", "tolerance", "text", "passes"),
    [
        (0.1, 0, "0.1", True),  # and not the nearest binary fraction
        (0.1, 0, "0.10", True),
        (3.14, 0, "3.14159", False),
        (3.14, 0.01, "3.14159", True),
        (0.3333, 0.001, "1/3", True),
        (1e30, 0, "1e30", True),
        (-2, 0, "2", False),
    ],
)
def test_numbers_compare_exactly_but_for_the_tolerance(answer, tolerance, text, passes):
    check = {"kind": "number", "answer": answer, "tolerance": tolerance}
    assert checks.run_check(check, text) is passes


@given(st.decimals(-(10**9), 10**9, places=2), st.sampled_from(["{:,}", "{}", "${:,}", "{:e}"]))
def test_a_number_reads_back_in_every_form(value, form):
    assert maths.stated(f"So the total is {form.format(value)}.") == Fraction(str(value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "12"}, "answer must be a int or float"),
        ({"answer": True}, "answer must be a int or float"),
        ({"answer": float("nan")}, "must be finite"),
        ({"tolerance": -1}, "0 or more"),
        ({"unit": "kg"}, "unknown field unit"),
    ],
)
def test_a_faulty_check_is_named(change, message):
    with pytest.raises(PrefevalError, match=message):
        checks.validate_check({"kind": "number", "answer": 12, **change})


def test_rows_of_gsm8k_are_a_suite_as_they_are(tmp_path):
    rows = [
        {"question": "2 and 3?", "answer": "<<2+3=5>>5\n#### 5"},
        {"question": "One million?", "answer": "#### 1,000,000"},
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prompts = builtin.load_suite(tmp_path)
    assert {p.behaviour for p in prompts} == {"gsm8k"}
    assert {p.messages[0]["content"]: p.check["answer"] for p in prompts} == {
        "2 and 3?": 5,
        "One million?": 1_000_000,
    }
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": "?", "answer": "#### five"}))
    with pytest.raises(PrefevalError, match=r"test\.jsonl:1: no number follows #### .*'five'"):
        builtin.load_suite(tmp_path)


def test_gsm8ks_own_answers_pass_and_others_fail(shared):
    """All 1319, with their last line and, read off the working, as good as all without it."""
    path = shared / "data/gsm8k/test.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    answers = {row["question"]: re.sub("<<.*?>>", "", row["answer"]) for row in rows}
    prompts = builtin.load_suite(path)
    assert len(prompts) == 1319

    def share(change, *, loose=False):
        texts = {p.id: change(answers[p.messages[0]["content"]]) for p in prompts}
        return sum(checks.check_all(prompts, texts, loose=loose).values()) / 1319

    assert share(str) == 1
    assert share(lambda text: text.partition("####")[0]) > 0.97
    assert share(lambda text: text.partition("####")[0], loose=True) > 0.98
    assert share(lambda text: re.sub(r"#### .*", "#### 123456789", text)) == 0
    assert share(lambda text: text.partition("\n")[0]) < 0.15
