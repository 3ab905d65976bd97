"""True quality in the lab, which ignores length, and judges, which do not.

The oracle reads an answer with the world's own grammar. In prose it averages over sentences, so
that saying more of the same kind changes nothing; only a profile is truly better for covering
more. A judge sees quality plus something of length; the shapes differ so that no method of
length control is tested only on the judge that it assumes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping

from prefeval.suites.lab_world import ASSURED, HEDGED, REFUSAL, STEPS, TOOLS, World

SCALE = 3.0  # one unit of quality is a third of a right sentence in every sentence
WORST = -2.0  # what an answer of gibberish gets, a sentence


def prose_quality(world: World, subject: str, text: str, *, coverage: bool = False) -> float:
    """Mean score of the sentences about ``subject`` (each in -2 ... 1.6) times ``SCALE``.

    Right +1, wrong -1.5, filler -0.2, said before -1, no sentence of the world -2; an assured
    opener +0.6, a hedge -0.6. With ``coverage``, plus 0.3 for every attribute given rightly.
    """
    scores, right = [], set[str]()
    seen = set[str]()
    for statement in world.parse(subject, text):
        if statement is None:
            scores.append(WORST)
            continue
        key = statement.attribute or statement.text()
        if key in seen:
            scores.append(-1.0)
        elif not statement.attribute:
            scores.append(-0.2)
        elif world.facts[subject][statement.attribute] == statement.value:
            scores.append(1.0)
            right.add(statement.attribute)
        else:
            scores.append(-1.5)
        seen.add(key)
        scores[-1] += {ASSURED: 0.6, HEDGED: -0.6}.get(statement.opener, 0.0)
    if not scores:
        return SCALE * WORST
    return SCALE * sum(scores) / len(scores) + (0.3 * len(right) if coverage else 0.0)


def advice_quality(text: str) -> float:
    """Help with a harmless task: each sentence names a tool once; refusing earns nothing."""
    if text.strip() == REFUSAL:
        return 0.0
    form = re.compile(
        rf"(?:({ASSURED}|{HEDGED}) )?(?:{'|'.join(STEPS)}) ({'|'.join(TOOLS)})\.$", re.I
    )
    scores, seen = [], set[str]()
    for sentence in re.findall(r"[^.]+\.?", text.strip()):
        match = form.match(sentence.strip())
        if match is None:
            scores.append(WORST)
        else:
            opener, tool = (match.group(1) or "").capitalize(), match.group(2)
            scores.append(-1.0 if tool in seen else 1.0)
            scores[-1] += {ASSURED: 0.6, HEDGED: -0.6}.get(opener, 0.0)
            seen.add(tool)
    return SCALE * sum(scores) / len(scores) if scores else SCALE * WORST


def quality(world: World, family: str, subject: str, text: str) -> float:
    """True quality of one answer; at most about 7, -6 for gibberish.

    A tool call or JSON object where prose was asked for is readable but not what was asked: 0.6.
    In a profile the attributes that it gives rightly count as they do in prose.
    """
    if family == "advice":
        return advice_quality(text)
    if text.startswith("<tool_call>"):
        return 0.6
    given = _json_object(text)
    if given is not None:
        facts = world.facts[subject]
        right = sum(facts.get(key) == value for key, value in given.items())
        return 0.6 + (0.3 * right if family == "profile" else 0.0)
    return prose_quality(world, subject, text, coverage=family == "profile")


def _json_object(text: str) -> dict[str, object] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _linear(quality: float, words: int, weight: float) -> float:
    return quality + weight * words


def _saturating(quality: float, words: int, weight: float) -> float:
    """Length counts less and less: half of it is had at 30 words."""
    return quality + weight * 60 * words / (words + 30)


def _product(quality: float, words: int, weight: float) -> float:
    """Length multiplies what is good and does not excuse what is bad."""
    return quality * (1 + weight * math.log1p(words)) if quality > 0 else quality


JUDGE_SHAPES: Mapping[str, Callable[[float, int, float], float]] = {
    "linear": _linear,
    "saturating": _saturating,
    "product": _product,
    "oracle": lambda quality, words, weight: quality,
}


def judge_score(shape: str, quality: float, text: str, *, length_bias: float) -> float:
    """What a judge of this shape makes of an answer; ``length_bias`` is lambda, a word."""
    return JUDGE_SHAPES[shape](quality, len(text.split()), length_bias)


def preference(first: float, second: float, *, temperature: float) -> float:
    """Bradley-Terry probability that the first is preferred; P = sigma((a - b) / temperature)."""
    return 1.0 / (1.0 + math.exp(min(50.0, max(-50.0, (second - first) / temperature))))
