"""IFEval's verifiable instructions (Zhou et al. 2023, arXiv 2311.07911), by if-verifiable.

Strict takes the answer as it is; loose also without its first line, its last line, both, and
without asterisks, and any of these eight may follow (the paper's section 2.2). Two checkers of the
package want data that it does not carry, so sentences and capital words are split here:
``SPLIT_HERE`` names them. Language is detected with a fixed seed; the package leaves it to chance,
and puts a random letter in the place of "#" or "!", which are counted here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from typing import Any

from prefeval.records import PrefevalError

NUMBER_SENTENCES = "length_constraints:number_sentences"
CAPITAL_WORDS = "change_case:capital_word_frequency"
LETTERS = "keywords:letter_frequency"
SPLIT_HERE = (NUMBER_SENTENCES, CAPITAL_WORDS)
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])|\n\s*\n")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|No|Inc|Jr|Sr)|\b[A-Z])\.$"
)
_WORD = re.compile(r"\w+(?:[-'’]\w+)*")


@cache
def checkers() -> Mapping[str, Any]:
    """The package's checkers by the instruction's id; ``PrefevalError`` where it is missing."""
    try:
        import langdetect
        from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT
    except ImportError:
        raise PrefevalError(
            "checks of kind 'ifeval' need if-verifiable: pip install 'prefeval[ifeval]'"
        ) from None
    langdetect.DetectorFactory.seed = 0
    found: Mapping[str, Any] = INSTRUCTION_DICT
    return found


def sentences(text: str) -> list[str]:
    """The sentences of a text, by their ends and by empty lines; initials and titles end none."""
    found: list[str] = []
    for piece in _SENTENCE_END.split(text):
        piece = piece.strip()
        if found and _ABBREVIATION.search(found[-1]):
            found[-1] = f"{found[-1]} {piece}"
        elif piece:
            found.append(piece)
    return found


def variants(text: str) -> list[str]:
    """The eight readings of loose accuracy, the text itself first."""
    lines = text.split("\n")
    cuts = [lines[first : len(lines) - last] for first, last in product((0, 1), (0, 1))]
    plain = [text, *("\n".join(cut).strip() for cut in cuts[1:])]
    return [*plain, *(p.replace("*", "") for p in plain)]


def follows(instruction: str, kwargs: Mapping[str, Any], prompt: str, text: str) -> bool:
    """Whether ``text`` follows one instruction; an empty answer follows none."""
    if not text.strip():
        return False
    given = {k: v for k, v in kwargs.items() if v is not None}
    is_sign = instruction == LETTERS and not re.fullmatch("[a-zA-Z]", given["letter"])
    if is_sign or instruction in SPLIT_HERE:
        return _follows_here(instruction, given, text)
    checker = checkers()[instruction](instruction)
    checker.build_description(**given)
    if "prompt" in (checker.get_instruction_args() or {}):
        checker.build_description(prompt=prompt)
    return bool(checker.check_following(text))


def _follows_here(instruction: str, kwargs: Mapping[str, Any], text: str) -> bool:
    if instruction == NUMBER_SENTENCES:
        count, wanted, relation = len(sentences(text)), kwargs["num_sentences"], kwargs["relation"]
    elif instruction == LETTERS:
        count, wanted = text.lower().count(kwargs["letter"].lower()), kwargs["let_frequency"]
        relation = kwargs["let_relation"]
    else:
        count = sum(word.isupper() for word in _WORD.findall(text))
        wanted, relation = kwargs["capital_frequency"], kwargs["capital_relation"]
    return count < int(wanted) if relation == "less than" else count >= int(wanted)


def follows_all(
    instructions: Sequence[str],
    kwargs: Sequence[Mapping[str, Any]],
    prompt: str,
    text: str,
    *,
    loose: bool = False,
) -> list[bool]:
    """Each instruction of a prompt by itself; prompt-level accuracy asks for all."""
    readings = variants(text) if loose else [text]
    return [
        any(follows(name, given, prompt, reading) for reading in readings)
        for name, given in zip(instructions, kwargs, strict=True)
    ]


def fault(instructions: Sequence[Any], kwargs: Sequence[Any]) -> str:
    """What is wrong with a check's fields, in words; "" when nothing is."""
    if not instructions or len(instructions) != len(kwargs):
        return f"ifeval has {len(instructions)} instructions and {len(kwargs)} kwargs; pair them"
    if not all(isinstance(given, dict) for given in kwargs):
        return "ifeval's kwargs must be objects, one an instruction"
    if not all(isinstance(name, str) for name in instructions):
        return "ifeval's instructions must be texts"
    known = checkers()
    if unknown := [name for name in instructions if name not in known]:
        return f"unknown instruction {unknown[0]!r}; known: {', '.join(sorted(known))}"
    for name, given in zip(instructions, kwargs, strict=True):  # what is missing is drawn at random
        needs = set(known[name](name).get_instruction_args_keys()) - {"prompt"}
        has = {k for k, v in given.items() if v is not None} - {"prompt"}
        if needs != has:
            return f"{name} takes {', '.join(sorted(needs)) or 'nothing'}, got {sorted(has)}"
    return ""


def as_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of IFEval's own file as a suite's: strict, the whole prompt."""
    check = {
        "kind": "ifeval",
        "instructions": row["instruction_id_list"],
        "kwargs": [
            {k: v for k, v in (given or {}).items() if v is not None} for given in row["kwargs"]
        ],
    }
    return {
        "id": f"ifeval-{row['key']}", "prompt": row["prompt"], "behaviour": "ifeval",
        "check": check,
    }  # fmt: skip
