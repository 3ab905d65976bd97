"""Pairwise judgments from files: AlpacaEval's ``annotations.json``, or a table of preferences.

    annotations.json   instruction, output_1, output_2, generator_1 (baseline), generator_2 (model),
                       preference: 1 the baseline's answer wins, 2 the model's, 1.5 or 0 a tie
    a table            model, instruction_index, preference_01 (1: the model wins), len_output,
                       len_baseline, and row_in_file where the published file's order is wanted

A prompt is known by its identity (its index, or its text), never by where its row stands.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from prefeval.harness import tables
from prefeval.records import PrefevalError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Join = Literal["identity", "row"]
Source = str | os.PathLike[str]
LENGTHS = ["len_output", "len_baseline"]
TABLE = ["instruction_index", "preference_01", *LENGTHS]
ANNOTATION = ["instruction", "output_1", "output_2", "preference"]
DIFFICULTY = ("instruction_difficulty", "difficulty")
INDEX = ("index", "instruction_index")
GAMED = ["preference", "std_delta_len", "instruction_difficulty"]


@dataclass(frozen=True)
class Judgments:
    """Every judgment, a row each.

    ``rows`` has ``model``, ``prompt`` (its identity), ``row`` (its place in the published file),
    ``preference`` (in [0, 1], NaN where there was no verdict), ``len_output``, ``len_baseline``,
    and the texts ``output`` and ``baseline`` where they are known;
    ``numbered`` says whether prompts are known by their index, or else by their text.
    """

    rows: pd.DataFrame
    numbered: bool
    unit: str = "characters"
    itself: frozenset[str] = frozenset()
    """models whose every answer is the baseline's"""

    @property
    def models(self) -> list[str]:
        """Their names, in the order of the file."""
        return list(dict.fromkeys(self.rows["model"]))

    @property
    def has_texts(self) -> bool:
        """Whether the answers themselves were there."""
        return "output" in self.rows

    def of(self, model: str) -> pd.DataFrame:
        """One model's rows."""
        return self.rows[self.rows["model"] == model]


def read(
    source: Source,
    *,
    instructions: Source | None = None,
    length: Callable[[str], int] = len,
    unit: str = "characters",
) -> Judgments:
    """Judgments of one model or many.

    Parameters
    ----------
    instructions
        A JSON list of the prompts in their order (texts, or objects with ``instruction``): gives
        annotations, which know their prompts by text, the index that tables go by.
    length, unit
        What annotations' answers are measured in.

    Raises
    ------
    PrefevalError
        For a file that cannot be read, columns that are missing, a preference out of range, a
        length that is none, a prompt that a model has twice, or one that ``instructions`` lacks.
    """
    frame = _frame(source)
    if {"output_1", "output_2"} <= set(frame.columns):
        return _annotations(source, frame, instructions, length, unit)
    if instructions is not None or unit != "characters":
        raise PrefevalError(
            f"{source} is a table, which has its indices and lengths already; --instructions and "
            "--tokenizer are for annotations with their texts"
        )
    return _table(source, frame)


def _table(source: Source, frame: pd.DataFrame) -> Judgments:
    if "model" not in frame:
        frame = frame.assign(model=Path(source).name.split(".")[0])
    _require(source, frame, TABLE)
    position = frame.groupby("model", sort=False).cumcount()
    rows = pd.DataFrame(
        {
            "model": frame["model"].astype(str),
            "prompt": _numbers(source, frame, "instruction_index", whole=True),
            "row": (
                _numbers(source, frame, "row_in_file", whole=True)
                if "row_in_file" in frame
                else position
            ),
            "preference": _preferences(source, frame["preference_01"], 0.0),
            **{name: _numbers(source, frame, name) for name in LENGTHS},
        }
    )
    return Judgments(_checked(source, rows), numbered=True)


def _annotations(
    source: Source,
    frame: pd.DataFrame,
    instructions: Source | None,
    length: Callable[[str], int],
    unit: str,
) -> Judgments:
    _require(source, frame, ANNOTATION)
    name = Path(source).name.split(".")[0]
    model = frame.get("generator_2", pd.Series([name] * len(frame))).astype(str)
    baseline = frame.get("generator_1", pd.Series(["baseline"] * len(frame))).astype(str)
    for one, against in baseline.groupby(model, sort=False):
        if against.nunique() > 1:
            raise PrefevalError(
                f"{source}: {one} is judged against {', '.join(sorted(set(against)))}; a win rate "
                "has one baseline, so split the file"
            )
    for column in ("output_1", "output_2", "instruction"):
        if (wrong := ~frame[column].map(lambda x: isinstance(x, str))).any():
            raise PrefevalError(
                f"{source}: row {int(np.argmax(wrong))} has no text in {column}; correct it"
            )
    ties = frame["preference"].mask(frame["preference"] == 0, 1.5)
    occurrence = frame.groupby([model, frame["instruction"]], sort=False).cumcount()
    prompt: Any = list(zip(frame["instruction"], occurrence, strict=True))
    if instructions is not None:
        prompt = _indices(source, prompt, instructions)
    rows = pd.DataFrame(
        {
            "model": model,
            "prompt": pd.Series(prompt, index=frame.index, dtype=object),
            "row": frame.groupby(model, sort=False).cumcount(),
            "preference": _preferences(source, ties, 1.0),
            "len_output": frame["output_2"].map(length).astype(float),
            "len_baseline": frame["output_1"].map(length).astype(float),
            "output": frame["output_2"],
            "baseline": frame["output_1"],
        }
    )
    same = (frame["output_1"] == frame["output_2"]).groupby(model).all()
    itself = frozenset(same[same].index)
    return Judgments(_checked(source, rows), instructions is not None, unit, itself)


def prompts_of(texts: Iterable[str]) -> list[tuple[str, int]]:
    """Each text, and how often it came before: a prompt's identity where texts may repeat."""
    seen: Counter[str] = Counter()
    found = []
    for text in texts:
        found.append((text, seen[text]))
        seen[text] += 1
    return found


def _indices(source: Source, prompts: Sequence[tuple[str, int]], instructions: Source) -> list[int]:
    """The index of each (text, occurrence) in a list of prompts."""
    listed = read_list(instructions)
    found = [x.get("instruction") if isinstance(x, Mapping) else x for x in listed]
    texts = [x for x in found if isinstance(x, str)]
    if not texts or len(texts) < len(found):
        raise PrefevalError(
            f"{instructions} must be a JSON list of prompts, or of objects with one"
        )
    known = {prompt: index for index, prompt in enumerate(prompts_of(texts))}
    if lost := [text for text, again in prompts if (text, again) not in known]:
        raise PrefevalError(
            f"{source}: {len(lost)} prompts are not in {instructions}, first {lost[0][:60]!r}; "
            "give the list that the model answered"
        )
    return [known[prompt] for prompt in prompts]


def _preferences(source: Source, given: pd.Series[Any], low: float) -> pd.Series[float]:
    """Preferences from [low, low + 1] to [0, 1]; null, of which nothing was read, to NaN."""
    numbers = pd.to_numeric(given, errors="coerce")
    if (wrong := numbers.isna() & given.notna()).any():
        at = int(np.argmax(wrong))
        raise PrefevalError(f"{source}: row {at} has the preference {given.iloc[at]!r}; no number")
    outside = numbers.notna() & ~numbers.between(low, low + 1)
    if outside.any():
        at = int(np.argmax(outside))
        scale = "1, 1.5 or 2, or between" if low else "between 0 and 1"
        hint = "" if low or numbers.max() > 2 else "; AlpacaEval's own are 1 higher: subtract it"
        raise PrefevalError(
            f"{source}: row {at} has the preference {numbers.iloc[at]:g}, which must be {scale}"
            + hint
        )
    return numbers.astype(float) - low


def _numbers(
    source: Source, frame: pd.DataFrame, column: str, *, whole: bool = False
) -> pd.Series[Any]:
    """A column of finite numbers >= 0."""
    numbers = pd.to_numeric(frame[column], errors="coerce").astype(float)
    bad = ~np.isfinite(numbers) | (numbers < 0) | (whole & (numbers % 1 != 0))
    if bad.any():
        at = int(np.argmax(bad))
        raise PrefevalError(
            f"{source}: row {at} has {frame[column].iloc[at]} in {column}, which must be a "
            f"{'whole ' if whole else ''}number of 0 or more"
        )
    return numbers.astype(int) if whole else numbers


def _checked(source: Source, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, no prompt twice."""
    twice = rows.duplicated(["model", "prompt"])
    if twice.any():
        first = rows[twice].iloc[0]
        raise PrefevalError(
            f"{source}: model {first['model']} has prompt {show(first['prompt'])} twice "
            f"({int(twice.sum())} such rows); keep one"
        )
    return rows.reset_index(drop=True)


def show(prompt: Any) -> str:
    """A prompt's identity in words."""
    return repr(prompt[0][:60]) if isinstance(prompt, tuple) else str(prompt)


def read_difficulty(source: Source) -> pd.Series[float]:
    """A table of difficulties by index: ``index`` (or ``instruction_index``) and
    ``instruction_difficulty`` (or ``difficulty``)."""
    frame = _frame(source)
    index = next((c for c in INDEX if c in frame), None)
    value = next((c for c in DIFFICULTY if c in frame), None)
    if index is None or value is None:
        raise PrefevalError(
            f"{source} must have columns index and instruction_difficulty; found "
            f"{', '.join(map(str, frame.columns))}"
        )
    numbers = pd.to_numeric(frame[value], errors="coerce").astype(float)
    known = pd.Series(numbers.to_numpy(), index=_numbers(source, frame, index, whole=True))
    if known.index.duplicated().any():
        raise PrefevalError(f"{source} has index {known.index[known.index.duplicated()][0]} twice")
    if not np.isfinite(known).all():
        at = known.index[~np.isfinite(known)][0]
        raise PrefevalError(f"{source} has no number for index {at}; correct it")
    return known


def difficulty_of(
    judgments: Judgments, table: pd.Series[float], source: Source, join: Join
) -> NDArray[np.float64]:
    """The difficulty of every row's prompt; a prompt that the table lacks is an error."""
    if join == "identity" and not judgments.numbered:
        raise PrefevalError(
            f"the annotations know their prompts by text and {source} by index; give the prompts "
            "in their order by --instructions FILE (AlpacaEval's alpaca_eval.json), or --join row"
        )
    keys = judgments.rows["prompt" if join == "identity" else "row"]
    found = np.asarray(table.reindex(keys), dtype=np.float64)
    if (lost := np.isnan(found)).any():
        row = judgments.rows[lost].iloc[0]
        raise PrefevalError(
            f"{source} lacks {len(set(keys[lost]))} prompts, first {keys[lost].iloc[0]} of model "
            f"{row['model']}; give the table of the same prompts"
        )
    return found


def read_gamed(source: Source) -> pd.DataFrame:
    """The baseline's judgments against variants of itself: ``preference`` in [0, 1],
    ``std_delta_len`` (standardised difference of lengths), ``instruction_difficulty``, and
    ``index`` where there is one."""
    frame = _frame(source)
    _require(source, frame, GAMED)
    columns = [*GAMED, *(["index"] if "index" in frame else [])]
    found: pd.DataFrame = frame[columns].apply(pd.to_numeric, errors="coerce").astype(float)
    if (bad := ~np.isfinite(found.to_numpy()).all(axis=1)).any():
        raise PrefevalError(f"{source}: row {int(np.argmax(bad))} is not all numbers; correct it")
    if (bad := ~found["preference"].between(0, 1)).any():
        raise PrefevalError(f"{source}: row {int(np.argmax(bad))} has no preference in [0, 1]")
    return found


def _require(source: Source, frame: pd.DataFrame, columns: Sequence[str]) -> None:
    if missing := [c for c in columns if c not in frame.columns]:
        raise PrefevalError(
            f"{source} has no column {', '.join(missing)}; found "
            f"{', '.join(map(str, frame.columns))}"
        )


def _frame(source: Source) -> pd.DataFrame:
    """A table from parquet, csv, json or jsonl."""
    path = Path(source).expanduser()
    if not path.is_file():
        raise PrefevalError(f"no such file: {source}")
    try:
        match path.suffix.lower():
            case ".parquet":
                frame: pd.DataFrame = pd.read_parquet(path)
            case ".csv":
                frame = pd.read_csv(path)
            case ".jsonl" | ".ndjson":
                frame = pd.DataFrame(_lines(path))
            case ".json":
                frame = pd.DataFrame(_rows(path))
            case _:
                raise PrefevalError(f"{source} must be a .json, .jsonl, .csv or .parquet file")
    except PrefevalError:
        raise
    except Exception as error:  # pandas and pyarrow raise many kinds
        said = (
            tables.diagnose(path) or f"{source} cannot be read ({_first_line(error)}); correct it"
        )
        raise PrefevalError(said) from error
    if frame.empty:
        raise PrefevalError(f"{source} is empty; give a file with at least one row")
    return frame


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _lines(path: Path) -> list[Any]:
    with path.open(encoding="utf-8") as handle:
        return [json.loads(line) for line in handle if line.strip()]


def _rows(path: Path) -> list[Any]:
    rows = read_list(path)
    if not all(isinstance(row, dict) for row in rows):
        raise PrefevalError(f"{path} must be a list of objects, one a judgment")
    return rows


def read_list(source: Source) -> list[Any]:
    """A JSON file that is a list; ``PrefevalError`` for any other."""
    path = Path(source).expanduser()
    if not path.is_file():
        raise PrefevalError(f"no such file: {source}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PrefevalError(f"{source} is not valid JSON ({error}); fetch it again") from error
    if not isinstance(found, list):
        raise PrefevalError(f"{source} must be a JSON list")
    return found
