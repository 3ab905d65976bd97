"""Suites as files: the built-in one for real chat models, and anybody's own.

A suite is a folder of JSONL files (or one such file), a prompt a line:

    {"id": "json-01", "prompt": "Describe ...", "behaviour": "json",
     "check": {"kind": "json_object", "keys": ["name"]}}

``messages`` (a list of chat turns) may stand for ``prompt`` (one user turn). ``behaviour`` is the
row of the retention matrix, ``cluster`` what intervals are clustered by (default: the prompt
itself), ``use`` is "retention" unless said otherwise, ``check`` is a check of
``prefeval.suites.checks`` and may be left out only with ``"use": "win_rate"``. Rows of IFEval's own
file (``key``, ``prompt``, ``instruction_id_list``, ``kwargs``) and of GSM8K's (``question``,
``answer``) are taken as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from prefeval.records import TOOLS, Message, Messages, PrefevalError, Prompt, Use, content_hash
from prefeval.suites import bfcl, checks, ifeval, maths

BUILTIN = "builtin"
BEHAVIOURS = (
    *("json", "bullets", "lists", "tables", "headings", "code", "tool", "refusal", "overrefusal"),
    *("facts", "maths", "persona", "language"),
)
ROLES = ("system", "user", "assistant", "tool")
_FIELDS = {"id", "prompt", "messages", "tools", "behaviour", "use", "cluster", "check"}
_NESTED = ("check", "tools", "messages")
NO_ANSWERS: Mapping[str, list[Any]] = MappingProxyType({})


def builtin_folder() -> Path:
    """Where the built-in suite lies within the installed package."""
    return Path(__file__).with_name("builtin")


def _messages(row: Mapping[str, Any]) -> Messages:
    """The chat turns of a row; raises ``ValueError`` with what is wrong."""
    if ("prompt" in row) == ("messages" in row):
        raise ValueError('needs either "prompt" or "messages"')
    turns = [{"role": "user", "content": row["prompt"]}] if "prompt" in row else row["messages"]
    if not isinstance(turns, list) or not turns:
        raise ValueError('"messages" must be a list of chat turns, with at least one')
    for turn in turns:
        if not isinstance(turn, dict) or set(turn) != {"role", "content"}:
            raise ValueError('each chat turn needs "role" and "content", and nothing else')
        if turn["role"] not in ROLES:
            raise ValueError(f"unknown role {turn['role']!r}; known roles: {', '.join(ROLES)}")
        if not isinstance(turn["content"], str) or not turn["content"].strip():
            raise ValueError(f"the {turn['role']} turn has no text")
    if turns[-1]["role"] not in ("user", "tool"):
        raise ValueError(f"the last turn must be the user's, not the {turns[-1]['role']}'s")
    said = [Message(role=turn["role"], content=turn["content"]) for turn in turns]
    return (*_tools(row), *said)


def _tools(row: Mapping[str, Any]) -> Messages:
    """The turn that holds a row's tools, where it has some."""
    tools = row.get("tools", [])
    if not isinstance(tools, list) or not all(
        isinstance(tool, dict)
        and isinstance(tool.get("function"), dict)
        and isinstance(tool["function"].get("name"), str)
        for tool in tools
    ):
        raise ValueError(
            '"tools" must be a list of {"type": "function", "function": {"name": ...}}'
        )
    return (Message(role=TOOLS, content=json.dumps(tools, ensure_ascii=False)),) if tools else ()


def parse_prompt(row: Any, bfcl_answers: Mapping[str, list[Any]] = NO_ANSWERS) -> Prompt:
    """One row of a suite as a ``Prompt``; raises ``ValueError`` with what is wrong with it."""
    if not isinstance(row, dict):
        raise ValueError("a row must be a JSON object")
    if {"instruction_id_list", "kwargs", "key"} <= set(row):
        row = ifeval.as_row(row)
    elif bfcl.is_row(row):
        row = bfcl.as_row(row, bfcl_answers)
    elif maths.is_gsm8k(row):
        row = maths.as_row(row, content_hash(row["question"])[:10])
    if unknown := sorted(set(row) - _FIELDS):
        known = ", ".join(sorted(_FIELDS))
        raise ValueError(f"unknown field {', '.join(unknown)}; known fields: {known}")
    for key in ("id", "behaviour"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise ValueError(f'"{key}" is missing or no text')
    use = row.get("use", "retention")
    if use not in get_args(Use):
        raise ValueError(f"unknown use {use!r}; known: {', '.join(get_args(Use))}")
    check, cluster = row.get("check"), row.get("cluster", row["id"])
    if check is None and use != "win_rate":
        raise ValueError(f'"check" is missing, which a prompt with use {use!r} needs')
    if not isinstance(cluster, str):
        raise ValueError(f'"cluster" must be text, got {cluster!r}')
    if check is not None:
        checks.validate_check(check)
    return Prompt(row["id"], _messages(row), row["behaviour"], use, cluster, check)


def _read(path: Path, seen: dict[str, str]) -> list[Prompt]:
    """The prompts of one file. ``seen`` maps the ids so far to where they stand."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        answers = bfcl.answers_beside(path)
    except UnicodeDecodeError as error:
        raise PrefevalError(f"{path} is not UTF-8 ({error.reason}); save it as UTF-8") from error
    return [
        _prompt(f"{path}:{number}", partial(json.loads, line), seen, answers)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _prompt(
    where: str, row: Callable[[], Any], seen: dict[str, str], answers: Mapping[str, list[Any]]
) -> Prompt:
    """One prompt; ``PrefevalError`` that says ``where`` it cannot be used or has a taken id."""
    try:
        prompt = parse_prompt(row(), answers)
    except json.JSONDecodeError as error:
        raise PrefevalError(f"{where}: not valid JSON ({error.msg}); correct the line") from error
    except (ValueError, RecursionError, PrefevalError) as error:
        raise PrefevalError(f"{where}: {error}") from error
    if prompt.id in seen:
        raise PrefevalError(f"{where}: id {prompt.id!r} is taken by {seen[prompt.id]}; rename one")
    seen[prompt.id] = where
    return prompt


def from_rows(rows: Iterable[Mapping[str, Any]], source: str) -> list[Prompt]:
    """The prompts of a table's rows, sorted by id.

    A table gives every row all fields, so an empty one counts as absent; ``check``, ``tools`` and
    ``messages`` may also be their JSON. Raises ``PrefevalError`` as `load_suite`, naming the row.
    """
    seen: dict[str, str] = {}
    prompts = [
        _prompt(f"{source}: row {i}", partial(_from_table, row), seen, NO_ANSWERS)
        for i, row in enumerate(rows)
    ]
    return sorted(prompts, key=lambda prompt: prompt.id)


def _from_table(row: Mapping[str, Any]) -> Any:
    read = {
        key: json.loads(value) if key in _NESTED and isinstance(value, str) else _filled(value)
        for key, value in row.items()
    }
    return {key: value for key, value in read.items() if value is not None}


def _filled(value: Any) -> Any:
    """A value without the empty fields of its objects."""
    if isinstance(value, Mapping):
        return {key: _filled(part) for key, part in value.items() if part is not None}
    return [_filled(part) for part in value] if isinstance(value, list) else value


def files_of(folder: Path) -> list[Path]:
    """The files of a folder that hold a prompt a line: its own, and BFCL's."""
    return sorted([*folder.glob("*.jsonl"), *folder.glob("BFCL_*.json")])


def load_suite(source: str | os.PathLike[str] = BUILTIN) -> list[Prompt]:
    """The prompts of a suite, sorted by id: ``"builtin"``, a folder of JSONL files, or one file.

    Raises ``PrefevalError`` naming file and line for a row that cannot be used: missing or unknown
    fields, unknown checks, an id that is given twice.
    """
    path = builtin_folder() if os.fspath(source) == BUILTIN else Path(source).expanduser()
    if path.is_dir():
        files = files_of(path)
        if not files:
            raise PrefevalError(f"suite {path} has no .jsonl file; add one, a prompt a line")
    elif path.is_file():
        files = [path]
    else:
        raise PrefevalError(
            f"no suite {str(source)!r}; give {BUILTIN!r}, a folder of .jsonl files, one such file "
            "or a hub's data set (owner/name)"
        )
    seen: dict[str, str] = {}
    prompts = [prompt for file in files for prompt in _read(file, seen)]
    if not prompts:
        raise PrefevalError(f"suite {path} is empty; write a prompt a line into {files[0].name}")
    return sorted(prompts, key=lambda prompt: prompt.id)
