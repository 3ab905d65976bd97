"""The doctor's checks of tokenizer, chat template and data: what a model is shown."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

from prefeval.harness import hub
from prefeval.harness.doctor.patient import (
    Check,
    Patient,
    answers_of,
    error,
    ok,
    skipped,
    spread,
    warning,
)
from prefeval.records import Thumb

TURNS = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi there"},
    {"role": "user", "content": "Bye"},
]
SYSTEM = {"role": "system", "content": "Be brief"}
NO_DATA = "no --data"
MEASURED = 2000  # rows whose length is looked at
MANY_CUT = 0.05  # share of answers cut at max_length, ours
MANY_UNKNOWN = 0.01  # share of tokens that are the unknown one, ours
CLIP = 300  # characters of an example that are shown


def tokenizer(patient: Patient) -> Check:
    """Whether it can be read, has an end token, and its template renders a prompt."""
    found = patient.tokenizer
    digest = hashlib.sha256(str(found.chat_template).encode()).hexdigest()[:12]
    return ok(f"{type(found).__name__}, {len(found)} tokens; chat template {digest}")


def conversation(patient: Patient) -> Check:
    """Whether the template renders every turn of a conversation."""
    try:
        text = patient.tokenizer.apply_chat_template(TURNS, tokenize=False)
    except Exception as fault:  # a template is a program
        return error(
            f"the chat template fails on a second question ({hub.first_line(fault)})",
            "correct it: data with several turns cannot be rendered",
        )
    if lost := [turn["content"] for turn in TURNS if turn["content"] not in text]:
        return error(
            f"the chat template leaves out what was said: {lost[0]!r}", "correct the template"
        )
    return ok("three turns are rendered")


def system(patient: Patient) -> Check:
    """Whether a system turn is taken, which the built-in suite and prompts with tools have."""
    mend = (
        "use a template that takes one; else a --suite without system turns and tools, and data "
        "without them"
    )
    try:
        text = patient.tokenizer.apply_chat_template([SYSTEM, *TURNS], tokenize=False)
    except Exception as fault:  # a template is a program
        return error(f"the chat template refuses a system turn ({hub.first_line(fault)})", mend)
    if SYSTEM["content"] not in text:
        return warning("the chat template drops a system turn", mend)
    return ok("a system turn is rendered")


def turn(patient: Patient) -> Check:
    """Whether the generation prompt is how the template's assistant turns begin."""
    from prefeval.minitrainers import batches

    batches.end_of_turn(patient.tokenizer)
    return ok("a prompt with the generation prompt is how the whole conversation begins")


def bos(patient: Patient) -> Check:
    """Whether there is one bos token, here and in programs that tokenise the rendered text."""
    from prefeval.minitrainers import batches

    bos_id = patient.tokenizer.bos_token_id
    if bos_id is None:
        return ok("the tokenizer has none")
    rendered = batches.prompt_text(patient.tokenizer, [{"role": "user", "content": "Hello"}])
    (ids,) = batches.tokenize(patient.tokenizer, [rendered])
    others = patient.tokenizer(rendered).input_ids
    n, n_others = (next((i for i, t in enumerate(x) if t != bos_id), len(x)) for x in (ids, others))
    if n_others > 1:
        return warning(
            f"the template writes {patient.tokenizer.bos_token} and the tokenizer adds another: "
            f"prefeval has {n}, a program that tokenises rendered text as it comes has {n_others}",
            "elsewhere tokenise with add_special_tokens=False, or take it out of one of the two",
        )
    return ok(f"{n} at the start" if n else "none at the start, though the tokenizer knows one")


def end(patient: Patient) -> Check:
    """Whether the template closes an assistant's turn with one token."""
    from prefeval.minitrainers import batches

    found = batches.end_of_turn(patient.tokenizer)
    text = patient.tokenizer.apply_chat_template(TURNS[:2], tokenize=False)
    closing = text[text.rindex(TURNS[1]["content"]) + len(TURNS[1]["content"]) :]
    if found.text not in closing:
        return warning(
            f"the chat template does not close the assistant's turn; prefeval ends answers with "
            f"the tokenizer's {found.text}, other trainers teach answers without end",
            f"write {found.text} after the assistant's content in the template",
        )
    return ok(f"answers end with {found.text} ({found.token_id})")


def stops(patient: Patient) -> Check:
    """Whether generation stops on the token that answers end with."""
    from prefeval.minitrainers import batches

    found = batches.end_of_turn(patient.tokenizer)
    given: Any = patient.generation.get("eos_token_id")
    stop = given if isinstance(given, list) else [] if given is None else [given]
    if found.token_id not in stop:
        named = [f"{i} ({patient.tokenizer.convert_ids_to_tokens(i)})" for i in stop]
        told = ", ".join(named) or "nothing"
        return error(
            f"answers end with {found.text} ({found.token_id}), and generation_config.json stops "
            f"on {told}: transformers and vLLM would not stop; prefeval does",
            f'set "eos_token_id": {found.token_id} in generation_config.json and config.json',
        )
    return ok(f"generation stops on {found.text}")


def pad(patient: Patient) -> Check:
    """The pad token and side. Here losses are masked by length, so that neither matters."""
    found = patient.tokenizer
    side = f"padding on the {found.padding_side}"
    if found.pad_token_id is None:
        return warning(
            f"there is no pad token ({side}); prefeval needs none, many trainers do",
            'set "pad_token" in tokenizer_config.json to a token that nothing else uses',
        )
    if found.pad_token_id == found.eos_token_id:
        return ok(
            f"{found.pad_token} is the end token too ({side}); prefeval masks by length; a trainer "
            "that masks by the pad token would never teach answers to end"
        )
    return ok(f"{found.pad_token} ({side}); prefeval masks by length")


def data(patient: Patient) -> Check:
    """Whether the data are in a format that is read, and what is dropped."""
    if not patient.data:
        return skipped(NO_DATA)
    found = patient.loaded_data
    kind = "thumbs, for KTO alone" if isinstance(found.items[0], Thumb) else "pairs"
    said = f"{kind}: {found.describe()}"
    if sum(found.dropped.values()) > found.rows / 2:
        return warning(said, "look at the rows: more than half cannot be used")
    return ok(said)


def example(patient: Patient) -> Check:
    """One example as the model sees it, special tokens and all."""
    if not patient.encoded:
        return error(
            f"no example leaves room for an answer within {patient.max_length} tokens",
            "raise --max-length",
        )
    first = patient.encoded[0]
    prompt, answer = (
        _clip(patient.tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        for ids in (first.prompt_ids, first.completion_ids)
    )
    return ok(f"prompt {prompt} answer {answer}")


def _clip(text: str) -> str:
    """In quotes, line breaks escaped, the middle left out of a long one."""
    if len(text) > CLIP:
        text = f"{text[: CLIP // 2]} ... {text[-CLIP // 2 :]}"
    return json.dumps(text, ensure_ascii=False)


def unknown(patient: Patient) -> Check:
    """Whether the tokenizer can spell the data."""
    if not patient.data:
        return skipped(NO_DATA)
    token = patient.tokenizer.unk_token_id
    ids = [i for e in patient.encoded for i in (*e.prompt_ids, *e.completion_ids)]
    share = sum(i == token for i in ids) / max(1, len(ids))
    if share > MANY_UNKNOWN:
        return error(
            f"{share:.0%} of the data's tokens are {patient.tokenizer.unk_token}",
            "use the tokenizer and the data that belong to this model",
        )
    return ok(f"{share:.1%} of {len(ids)} tokens are unknown")


def context(patient: Patient) -> Check:
    """The data's lengths in tokens, beside ``max_length`` and the model's context."""
    if not patient.data:
        return skipped(NO_DATA)
    from prefeval.minitrainers import batches

    rows = [
        (item.prompt, answer)
        for item in spread(patient.loaded_data.items, MEASURED)
        for answer in answers_of(item)
    ]
    with hub.quiet():  # of sequences that are longer than the model's context
        whole = batches.encode_all(patient.tokenizer, rows, max_length=1 << 30)
    limit, lengths = patient.max_length, sorted(e.length for e in whole)
    cut = sum(n > limit for n in lengths) / len(lengths)
    crowded = sum(len(e.prompt_ids) >= limit for e in whole) / len(whole)
    said = (
        f"{len(lengths)} answers with their prompts: median {_quantile(lengths, 0.5)} tokens, 99% "
        f"{_quantile(lengths, 0.99)}, longest {lengths[-1]}; {cut:.1%} are cut at {limit}, "
        f"{crowded:.1%} have no room for an answer; the model was made for "
        f"{patient.context or 'an unknown number'}"
    )
    if cut > MANY_CUT:
        longer = patient.context is None or patient.context > limit
        return warning(
            said,
            f"sweep with --max-length {_quantile(lengths, 0.99)}"
            if longer
            else "leave out the longest rows, or use a model of a longer context",
        )
    return ok(said)


def _quantile(ordered: Sequence[int], q: float) -> int:
    return ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)]
