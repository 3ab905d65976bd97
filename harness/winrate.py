"""``prefeval winrate``: raw and length-controlled win rates of saved judgments, a line a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from prefeval.harness import judgments as files
from prefeval.harness.judgments import Judgments, Source
from prefeval.metrics import joint_difficulty, length_control, stats
from prefeval.metrics.calibration import GamedRows, length_term
from prefeval.metrics.length_control import LengthControlled
from prefeval.metrics.stats import Array
from prefeval.metrics.style import Style, style_of, style_terms
from prefeval.records import PrefevalError

SEED = 0


@dataclass(frozen=True)
class Estimator:
    """What every model's fit shares, and what it is called beside the numbers."""

    difficulty: pd.Series[float]
    """by row of the judgments"""
    gamed: GamedRows | None
    name: str


@dataclass(frozen=True)
class Rates:
    """One model's result."""

    model: str
    fit: LengthControlled
    mean_len_output: float
    mean_len_baseline: float
    estimator: str
    notes: tuple[str, ...]
    style: LengthControlled | None = None
    """the second view: headings, list items and bold controlled too"""

    def to_json(self) -> dict[str, Any]:
        """Rates and errors in percent."""
        fit = self.fit
        return {
            "model": self.model,
            "n": fit.n,
            "win_rate": fit.win_rate,
            "win_rate_se": fit.win_rate_se,
            "lc_win_rate": fit.lc_win_rate,
            "lc_se_published": fit.lc_se_published,
            "lc_se": fit.lc_se,
            "lc_ci_low": fit.lc_ci_low,
            "lc_ci_high": fit.lc_ci_high,
            "coef_length": fit.coef_length,
            "coef_difficulty": fit.coef_difficulty,
            "coef_model": fit.coef_model,
            "C": fit.C,
            "mean_len_output": self.mean_len_output,
            "mean_len_baseline": self.mean_len_baseline,
            "overlap": 100 * fit.overlap.near,
            "length_matched_rate": fit.overlap.matched_rate,
            "extreme_change": fit.extreme,
            "reason": fit.reason,
            "estimator": self.estimator,
            "notes": list(self.notes),
            **({} if self.style is None else self._style_json(self.style)),
        }

    def _style_json(self, fit: LengthControlled) -> dict[str, Any]:
        return {
            "style_win_rate": fit.lc_win_rate,
            "style_ci_low": fit.lc_ci_low,
            "style_ci_high": fit.lc_ci_high,
            "coef_style": {
                "length": fit.coef_length,
                **dict(zip(Style._fields, fit.coef_style, strict=False)),
            },
        }


def estimator(
    judgments: Judgments,
    *,
    difficulty: Source | None = None,
    gamed: Source | None = None,
    join: files.Join = "identity",
) -> Estimator:
    """Difficulties and gamed rows from files; without a file of difficulties, a joint estimate
    where there are several models, and none where there is one."""
    rows = judgments.rows
    if difficulty is not None:
        table = files.read_difficulty(difficulty)
        values = files.difficulty_of(judgments, table, difficulty, join)
        said = f"difficulty of {Path(difficulty).name} joined by {join}"
    elif join == "row":
        raise PrefevalError("--join row is how rows meet --difficulty FILE; give that too")
    elif len(judgments.models) > 1:
        values = _joint(rows)
        said = f"difficulty estimated jointly from these {len(judgments.models)} models"
    else:
        values, said = np.zeros(len(rows)), "no difficulty term"
    extra = None
    if gamed is not None:
        frame = files.read_gamed(gamed)
        hard = frame["instruction_difficulty"]
        if difficulty is None:  # the file's are on another scale than those estimated here
            known = pd.Series(values, index=rows["prompt"]).groupby(level=0).first()
            index = frame.get("index", pd.Series(np.nan, index=frame.index))
            hard = known.reindex(index).fillna(0.0) if judgments.numbered else 0.0 * hard
        extra = GamedRows(
            frame["preference"].to_numpy(),
            np.tanh(frame["std_delta_len"].to_numpy()),
            hard.to_numpy(),
        )
    regularised = f"gamed rows of {Path(gamed).name}" if gamed is not None else "no gamed rows"
    name = f"length_controlled_v1: {said}; {regularised}; lengths in {judgments.unit}"
    return Estimator(pd.Series(values, index=rows.index), extra, name)


def _joint(rows: pd.DataFrame) -> Array:
    model, prompt = rows["model"].factorize()[0], rows["prompt"].factorize()[0]
    delta = (rows["len_baseline"] - rows["len_output"]).to_numpy()
    length = np.zeros(len(rows))
    for code in range(model.max() + 1):
        own = model == code
        length[own] = length_term(delta[own], np.ones((1, int(own.sum()))))[0]
    fit = joint_difficulty.joint_difficulty(rows["preference"], length, model, prompt)
    return np.asarray(fit.difficulty[prompt])


def rates(
    judgments: Judgments,
    how: Estimator,
    *,
    n_boot: int,
    style: bool = False,
    on_model: Callable[[str], None] = lambda model: None,
) -> list[Rates]:
    """Every model's rates, best length-controlled first; those without one at the end."""
    found = []
    for model in judgments.models:
        on_model(model)
        found.append(_of_model(judgments, model, how, n_boot, style))
    return sorted(found, key=lambda r: (math.isnan(r.fit.lc_win_rate), -_rank(r), r.model))


def _rank(rates: Rates) -> float:
    lc = rates.fit.lc_win_rate
    return rates.fit.win_rate if math.isnan(lc) else lc


def _of_model(judgments: Judgments, model: str, how: Estimator, n_boot: int, style: bool) -> Rates:
    rows = judgments.of(model)
    if not rows["preference"].notna().any():
        raise PrefevalError(f"model {model} has no verdict that was read: every preference is null")

    def fitted(terms: Array | None) -> LengthControlled:
        return length_control.length_controlled(
            rows["preference"],
            rows["len_output"],
            rows["len_baseline"],
            how.difficulty[rows.index],
            gamed=how.gamed,
            n_boot=n_boot,
            rng=np.random.default_rng(SEED),
            style=terms,
        )

    fit, second = fitted(None), None
    if style:
        counts = ([style_of(text) for text in rows[side]] for side in ("output", "baseline"))
        second = fitted(style_terms(*counts))
    notes = list(_notes(rows, judgments.unit))
    if model in judgments.itself:
        notes.insert(0, "the baseline against itself: 50 by construction")
        fit = replace(fit, lc_win_rate=50.0, lc_ci_low=50.0, lc_ci_high=50.0, lc_se=0.0)
        fit = replace(fit, lc_se_published=0.0, reason="", extreme=False)
        second = None
    notes += _too_few(fit)
    if fit.extreme:
        notes.append("extreme change: control moved the rate by over a quarter of its room and 10")
    return Rates(
        model,
        fit,
        float(rows["len_output"].mean()),
        float(rows["len_baseline"].mean()),
        how.name,
        tuple(notes),
        second,
    )


def _too_few(fit: LengthControlled) -> list[str]:
    """How many prompts would show a difference that these do not."""
    gap = abs(fit.lc_win_rate - 50)
    if not (fit.lc_ci_low < 50 < fit.lc_ci_high and gap >= 0.05 and fit.lc_se > 0):
        return []
    n = stats.required_n(fit.lc_se * math.sqrt(fit.n), gap)
    return [
        f"the interval holds 50: to show {gap:.1f} points with a power of 80% takes about {n} "
        f"prompts of this kind, not {fit.n}"
    ]


def _notes(rows: pd.DataFrame, unit: str) -> list[str]:
    """What a reader of the numbers must know of the rows."""
    found = []
    preference = rows["preference"].dropna()
    if unread := len(rows) - len(preference):
        found.append(f"{unread} of {len(rows)} verdicts are null: out of the fit and the raw rate")
    for column, whose in (("len_output", "model"), ("len_baseline", "baseline")):
        if empty := int((rows[column] == 0).sum()):
            found.append(f"{empty} empty answers of the {whose}")
    if preference.nunique() == 1:
        found.append(
            f"every preference is {preference.iloc[0]:g}: nothing tells length from quality"
        )
    delta = rows["len_baseline"] - rows["len_output"]
    if delta.nunique() == 1 and len(rows) > 1:
        found.append(f"the lengths differ by {abs(delta.iloc[0]):g} {unit} on every prompt")
    return found


def save_difficulty(judgments: Judgments, how: Estimator, path: Path) -> None:
    """The difficulties as a file that ``--difficulty`` takes, so that they stay as they are."""
    from prefeval import records

    if not how.difficulty.any():
        raise PrefevalError("one model has no difficulties to save; give a file of several")
    if not judgments.numbered:
        raise PrefevalError(
            "difficulties are saved by index, which annotations have with --instructions FILE alone"
        )
    frame = pd.DataFrame(
        {"index": judgments.rows["prompt"], "instruction_difficulty": how.difficulty}
    ).drop_duplicates("index")
    records.write_text(path, frame.sort_values("index").to_csv(index=False))


HEAD = ("model", "n", "win rate ± SE", "LC win rate [95%]", "published SE", "length", "C",
        "characters", "overlap", "")  # fmt: skip


def lines(found: Sequence[Rates], unit: str) -> list[str]:
    """The table, its notes, and which estimator it is."""
    head = [unit if h == "characters" else h for h in HEAD]
    table = [head, *([*_cells(r)] for r in found)]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    text = []
    for row in table:
        cells = [row[0].ljust(widths[0])]
        cells += [c.rjust(w) for c, w in zip(row[1:-1], widths[1:-1], strict=True)]
        text.append("  ".join([*cells, row[-1]]).rstrip())
    text += ["", f"estimator: {found[0].estimator}"]
    for r in found:
        if r.fit.reason:
            matched = r.fit.overlap.matched_rate
            said = "none" if math.isnan(matched) else f"{matched:.2f}"
            text.append(
                f"{r.model}: {r.fit.reason}; raw {r.fit.win_rate:.2f}, length-matched {said}"
            )
        text += [f"{r.model}: {note}" for note in r.notes]
    return [*text, *_style_lines(found)]


def _style_lines(found: Sequence[Rates]) -> list[str]:
    """The second view."""
    text = []
    for r in found:
        if r.style is not None and not r.style.reason:
            fit = r.style
            ends = (
                "" if math.isnan(fit.lc_ci_low) else f" [{fit.lc_ci_low:.2f}, {fit.lc_ci_high:.2f}]"
            )
            terms = ("length", *Style._fields)
            coefs = (fit.coef_length, *fit.coef_style)
            said = ", ".join(f"{t} {c:.2f}" for t, c in zip(terms, coefs, strict=False))
            text.append(f"{r.model}: {fit.lc_win_rate:.2f}{ends}; {said}")
    head = ["", "length and style controlled (headings, list items, bold; coefficients as above):"]
    return [*head, *text] if text else []


def _cells(r: Rates) -> Sequence[str]:
    fit = r.fit

    def number(value: float, digits: int = 2) -> str:
        return "-" if math.isnan(value) else f"{value:.{digits}f}"

    lc = "not identified" if fit.reason else number(fit.lc_win_rate)
    if not math.isnan(fit.lc_ci_low):
        lc += f" [{number(fit.lc_ci_low)}, {number(fit.lc_ci_high)}]"
    return (
        r.model,
        str(fit.n),
        f"{number(fit.win_rate)} ± {number(fit.win_rate_se)}",
        lc,
        number(fit.lc_se_published),
        number(fit.coef_length),
        "-" if math.isnan(fit.C) else f"{fit.C:.3g}",
        f"{r.mean_len_output:.0f} / {r.mean_len_baseline:.0f}",
        f"{number(100 * fit.overlap.near, 0)}%",
        "extreme" if fit.extreme else "",
    )


def show(options: Mapping[str, Any]) -> None:
    """``prefeval winrate``: compute and print."""
    import json

    from prefeval import records

    found, unit = compute(options)
    if options["json_output"]:
        print(json.dumps(records.to_jsonable([r.to_json() for r in found]), ensure_ascii=False))
    else:
        print("\n".join(lines(found, unit)))


def compute(options: Mapping[str, Any]) -> tuple[list[Rates], str]:
    """The rates of a file as the options ask, and the unit of its lengths."""
    if options["bootstrap"] < 0:
        raise PrefevalError("--bootstrap must be 0 (none) or more")
    if options["join"] not in ("identity", "row"):
        raise PrefevalError(f"unknown --join {options['join']!r}; use identity or row")
    unit, length = "characters", len
    if options["tokenizer"]:
        from prefeval.harness import models

        tokenizer = models.load_tokenizer(options["tokenizer"])
        unit = f"tokens of {Path(options['tokenizer']).name}"
        length = lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])  # noqa: E731
    judgments = files.read(
        options["file"], instructions=options["instructions"], length=length, unit=unit
    )
    how = estimator(
        judgments,
        difficulty=options["difficulty"],
        gamed=options["gamed"],
        join=options["join"],
    )
    if options["save_difficulty"] is not None and options["join"] == "row":
        raise PrefevalError("--join row gives prompts their neighbours' difficulties; save none")
    if options["save_difficulty"] is not None:
        save_difficulty(judgments, how, options["save_difficulty"])
    if options["style"] and not judgments.has_texts:
        raise PrefevalError("--style counts marks in the texts, which annotations have alone")
    found = with_progress(judgments, how, options["bootstrap"], options["style"])
    return found, judgments.unit


def with_progress(judgments: Judgments, how: Estimator, n_boot: int, style: bool) -> list[Rates]:
    """`rates`, with a bar on a terminal where there is something to wait for."""
    import sys

    if n_boot == 0 or len(judgments.models) < 3 or not sys.stderr.isatty():
        return rates(judgments, how, n_boot=n_boot, style=style)
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("bootstrap", total=len(judgments.models))
        seen = 0

        def on_model(model: str) -> None:
            nonlocal seen
            progress.update(task, completed=seen, description=model)
            seen += 1

        return rates(judgments, how, n_boot=n_boot, style=style, on_model=on_model)
