"""The types that cross a module or file boundary, and the versions of their files.

Standard library only: every part of prefeval may import this module, and it
imports none of them. All records are frozen; change one with ``dataclasses.replace``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

SCHEMA_VERSION = 1


class PrefevalError(Exception):
    """A person's mistake or a fault of their input: shown as one line that names the mend."""


class Message(TypedDict):
    """One chat turn, as Hugging Face templates take it."""

    role: str
    content: str


Messages = tuple[Message, ...]
TOOLS = "tools"
"""The role of a first turn that is no turn: the tools of the conversation, as JSON."""
Use = Literal["win_rate", "retention", "verifiable"]
Mode = Literal["sample", "greedy", "diverse", "sampled"]


@dataclass(frozen=True)
class Prompt:
    """One question of a suite.

    ``behaviour`` is its row in the retention matrix ("json", "refusal", ...) or its family of
    free prose; ``cluster`` is what intervals are clustered by (a person, an entity);
    ``check`` is data, not code: ``{"kind": "json_object", "keys": [...]}`` (see ``suites.checks``).
    """

    id: str
    messages: Messages
    behaviour: str
    use: Use
    cluster: str = ""
    check: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PreferencePair:
    """Two answers to one prompt, of which ``chosen`` was preferred."""

    id: str
    prompt: Messages
    chosen: str
    rejected: str
    behaviour: str = ""
    cluster: str = ""


@dataclass(frozen=True)
class Thumb:
    """One answer and whether it was liked: KTO's data, unpaired."""

    id: str
    prompt: Messages
    completion: str
    desirable: bool
    behaviour: str = ""
    cluster: str = ""


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. ``temperature`` 0 is greedy; there is no top-p or top-k, because
    the KL of a truncated sampler is another policy's."""

    mode: Mode
    temperature: float
    max_new_tokens: int
    n: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """One answer of one model. ``token_ids`` includes the end token when ``ended``."""

    prompt_id: str
    mode: Mode
    index: int
    text: str
    token_ids: tuple[int, ...]
    ended: bool


@dataclass(frozen=True)
class Comparison:
    """What a judge is shown: two answers to one prompt, in this order."""

    prompt: Prompt
    first: str
    second: str


@dataclass(frozen=True)
class Verdict:
    """A judge's answer: the probability that the first answer is better, or None when it could
    not be read (counted, never a silent tie)."""

    preference: float | None
    note: str = ""
    """why it could not be read, or what the judge said; for the audit, never for a number"""


@dataclass(frozen=True)
class Trial:
    """One cell of the grid. What ``beta`` sets is its method's lever (PPO: ``kl_coef``);
    ``settings`` are the trainer's other ones."""

    method: str
    beta: float
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The trial's folder: readable, and unique by its settings."""
        return f"{self.method}-b{self.beta:g}-s{self.seed}-{content_hash(self)[:8]}"


@dataclass(frozen=True)
class Checkpoint:
    """One saved model of one trial."""

    trial: Trial
    step: int
    path: str


@dataclass(frozen=True)
class MetricResult:
    """A number with its uncertainty. An undefined value is NaN with a ``reason``, never 0."""

    name: str
    value: float
    n: int
    stderr: float = math.nan
    ci_low: float = math.nan
    ci_high: float = math.nan
    unit: str = ""
    higher_is_better: bool | None = None
    reason: str = ""


def to_jsonable(value: Any) -> Any:
    """``value`` as plain JSON types: dataclasses become objects, NaN and infinities null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {k: to_jsonable(v) for k, v in asdict(value).items()}
    if isinstance(value, Mapping):
        return {str(k): to_jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_jsonable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):  # a numpy scalar
        return to_jsonable(value.item())
    return value


def content_hash(value: Any) -> str:
    """SHA-256 of a record's canonical JSON: equal content, equal hash, on any machine."""
    text = json.dumps(to_jsonable(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


SURROGATE = re.compile("[\ud800-\udfff]")


def write_text(path: Path, text: str) -> None:
    """Write beside and rename: a reader sees the old file or the new one, never half of one.

    A lone surrogate, which no UTF-8 can hold and some data sets do, becomes U+FFFD.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as handle:
            handle.write(SURROGATE.sub("\ufffd", text))
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write one record as JSON, atomically."""
    write_text(path, json.dumps(to_jsonable(value), indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Sequence[Any]) -> None:
    """Write records, one a line, atomically."""
    write_text(path, "".join(json.dumps(to_jsonable(r), ensure_ascii=False) + "\n" for r in rows))


def read_json(path: Path) -> Any:
    """Read one JSON file; a broken one is named."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PrefevalError(f"{path} is not valid JSON ({error}); delete it, run again") from error


def read_jsonl(path: Path, *, growing: bool = False) -> list[Any]:
    """Read a JSONL file; a broken line is named by its number.

    Of a ``growing`` file, which is appended to as it is read, a last line without its end is left
    out.
    """
    rows = []
    with path.open(encoding="utf-8") as handle:
        for number, line in enumerate(handle, 1):
            if line.strip() and not (growing and not line.endswith("\n")):
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise PrefevalError(
                        f"{path}:{number} is not valid JSON ({error.msg}); delete it, run again"
                    ) from error
    return rows
