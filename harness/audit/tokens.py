"""What a reference's tokenizer and chat template make of preference data; no model is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from prefeval.harness import hub
from prefeval.metrics.data.findings import Finding, finding
from prefeval.minitrainers import batches
from prefeval.records import Messages, PreferencePair, PrefevalError, Thumb, content_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Item = PreferencePair | Thumb


class Encoded(NamedTuple):
    """Tokens of one prompt with one answer, end token counted; -1 where it cannot be rendered."""

    prompt: int
    answer: int
    is_prefix: bool


def answers_of(item: Item) -> dict[str, str]:
    """The answers of a row by name."""
    if isinstance(item, Thumb):
        return {"completion": item.completion}
    return {"chosen": item.chosen, "rejected": item.rejected}


def findings(
    items: Sequence[Item], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> list[Finding]:
    """Template, prefixes, special tokens, lengths in tokens, and what ``max_length`` cuts."""
    end = batches.end_of_turn(tokenizer)
    template = content_hash(tokenizer.chat_template)[:12]
    found = [
        Finding(
            "template", "chat_template", 1.0, 1,
            f"the reference has a chat template (hash {template}); turns end with {end.text!r}",
            unit="", level="ok",
        )
    ]  # fmt: skip
    names = list(answers_of(items[0]))
    reasons: Counter[str] = Counter()
    sides = {
        name: [_encode(tokenizer, i, name, end.text, reasons) for i in items] for name in names
    }
    rows = np.asarray([[e[:2] for e in side] for side in sides.values()])  # (answers, n, 2)
    read = (rows >= 0).all(axis=(0, 2))
    says = "of rows cannot be rendered by the chat template"
    if reasons:
        says += f" ({reasons.most_common(1)[0][0]})"
    found.append(finding("template", "not_rendered", float(1 - read.mean()), says, n=len(items)))
    if not read.any():
        return found
    prefix = np.asarray([[e.is_prefix for e in side] for side in sides.values()])[:, read]
    found.append(
        finding(
            "template", "prefix_broken", float((~prefix).any(axis=0).mean()), n=int(read.sum()),
            says="of rows have a prompt whose tokens are no prefix of prompt and answer",
        )
    )  # fmt: skip
    special = {t for t in tokenizer.all_special_tokens if t.strip()}
    held = [any(t in text for t in special for text in answers_of(i).values()) for i in items]
    found.append(
        finding(
            "template", "special_tokens", float(np.mean(held)), n=len(items),
            says="of rows have special tokens of this tokenizer within an answer",
        )
    )  # fmt: skip
    return [*found, *_lengths(rows[:, read], names, max_length)]


def _encode(
    tokenizer: PreTrainedTokenizerBase, item: Item, name: str, end: str, reasons: Counter[str]
) -> Encoded:
    try:
        prompt = batches.prompt_text(tokenizer, item.prompt)
        asked, whole = batches.tokenize(tokenizer, [prompt, prompt + answers_of(item)[name] + end])
    except PrefevalError as error:
        reasons[str(error)] += 1
        return Encoded(-1, -1, False)
    except Exception as error:  # a template is a program, and raises what it likes
        reasons[hub.first_line(error)] += 1
        return Encoded(-1, -1, False)
    return Encoded(len(asked), len(whole) - len(asked), whole[: len(asked)] == asked)


def _lengths(rows: np.ndarray, names: Sequence[str], max_length: int) -> list[Finding]:
    """Tokens of prompts and answers, and what the limit cuts; ``rows`` (answers, n, 2)."""
    found = [_tokens("prompt", rows[0, :, 0])]
    found += [_tokens(name, side) for name, side in zip(names, rows[:, :, 1], strict=True)]
    over = rows.sum(axis=2) - max_length
    n = rows.shape[1]
    shares = (
        ("prompt_too_long", (rows[:, :, 0] >= max_length).any(axis=0),
         "of rows have no room for an answer within {} tokens"),
        ("truncated", (over > 0).any(axis=0), "of rows have an answer cut by --max-length"),
        ("end_token_cut", ((over == 1) & (rows[:, :, 0] < max_length)).any(axis=0),
         "of rows would lose the end token alone (prefeval cuts a token more there)"),
    )  # fmt: skip
    return found + [
        finding("tokens", name, float(flags.mean()), words.format(max_length), n=n)
        for name, flags, words in shares
    ]


def _tokens(name: str, counts: np.ndarray) -> Finding:
    high = np.quantile(counts, 0.95)
    says = f"median tokens of {name}; 95% have at most {high:.0f}, the longest {counts.max()}"
    return finding(
        "tokens", f"{name}_tokens", float(np.median(counts)), says, n=len(counts), unit="tokens"
    )


def room(tokenizer: PreTrainedTokenizerBase, prompt: Messages, max_length: int) -> bool:
    """Whether a prompt can be rendered and leaves room for an answer."""
    try:
        ids = batches.tokenize(tokenizer, [batches.prompt_text(tokenizer, prompt)])[0]
    except Exception:  # a template is a program; the row was counted as not rendered
        return False
    return len(ids) < max_length - 1
