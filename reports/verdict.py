"""The sweep's verdict as the report shows it, read from summary.json["selection"].

The rule and its numbers are ``prefeval.metrics.usable``'s; here they are only put into words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from prefeval.metrics import INTERVAL_COLUMNS
from prefeval.metrics.advice import Advice
from prefeval.reports.labels import listed, name, short
from prefeval.reports.quantities import Number, beta_text, fixed, interval, missing
from prefeval.reports.run import CheckpointRow, Key, Run

TONES = {"usable": "ok", "not usable": "bad", "undecided": "unsure"}
SIGNS = {"usable": "✓", "not usable": "✗", "undecided": "?"}
MARGIN = 5.0
TIED = 0.1  # points; nearer bounds are ranked by their KL (metrics.usable)


@dataclass(frozen=True)
class Beta:
    """One β of one method: its chosen checkpoints (one a seed) and what was found.

    ``lc`` is the rate on the reporting half; ``worst`` the behaviour with the lowest change.
    """

    method: str
    beta: float
    keys: tuple[Key, ...]
    state: str
    reasons: tuple[str, ...]
    lc: Number
    worst: tuple[str, Number]
    damaged: tuple[str, ...] = ()
    choosing: Number = field(default_factory=lambda: missing("nothing was chosen"))
    """the rate on the half that ranks the β"""

    @property
    def tone(self) -> str:
        """CSS class of its state."""
        return TONES.get(self.state, "none")


@dataclass(frozen=True)
class Window:
    """The usable β of one method within the grid tried."""

    method: str
    grid: tuple[float, ...]
    usable: tuple[float, ...]
    gaps: tuple[float, ...]
    text: str
    at_edge: str
    extension: str


@dataclass(frozen=True)
class Reason:
    """One line of "why", with the tone of its mark."""

    tone: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """What to ship and why. ``state`` is "recommended", "none", "failed" or "unfinished"."""

    state: str
    recommended_key: Key | None
    lc: Number
    numbers: Mapping[str, Number]
    text: str
    betas: tuple[Beta, ...]
    windows: tuple[Window, ...]
    reasons: tuple[Reason, ...]
    warnings: tuple[str, ...]
    chosen_keys: frozenset[Key]
    margin: float
    halves: tuple[int, int] | None
    advice: tuple[Advice, ...] = ()

    @property
    def headline(self) -> str:
        """The answer in a line."""
        if self.recommended_key is not None:
            several = any(len(b.keys) > 1 for b in self.betas)
            return f"Ship {name(self.recommended_key, seeds=several)}"
        if self.state == "failed":
            return "No verdict: every trial failed"
        if self.state == "unfinished":
            return "No verdict yet: the run is unfinished"
        return "Ship nothing yet: no β is shown usable"

    @property
    def next_steps(self) -> tuple[Advice, ...]:
        """What to run next; what to ship and the windows are said elsewhere."""
        return tuple(a for a in self.advice if a.kind not in ("ship", "window"))

    def window(self, method: str) -> Window | None:
        """A method's window, if the verdict has one."""
        return next((w for w in self.windows if w.method == method), None)

    def window_text(self, method: str) -> str:
        """A method's usable β in a few words."""
        window = self.window(method)
        if window is None:
            return "no verdict"
        if not window.usable:
            return "no usable β"
        low, high = beta_text(window.usable[0]), beta_text(window.usable[-1])
        return f"usable at β {low}" if low == high else f"usable β {low} to {high}"

    def bands(self, method: str) -> list[tuple[float, float]]:
        """Runs of neighbouring usable β, each as (lowest, highest)."""
        window = self.window(method)
        found: list[tuple[float, float]] = []
        before = False
        for beta in window.grid if window else ():
            usable = window is not None and beta in window.usable
            if usable and before:
                found[-1] = (found[-1][0], beta)
            elif usable:
                found.append((beta, beta))
            before = usable
        return found


def worst_change(row: CheckpointRow) -> tuple[str, Number]:
    """The behaviour that changed most for the worse, and its change in points."""
    found = [
        (n.removeprefix("change_"), v) for n, v in row.numbers.items() if n.startswith("change_")
    ]
    known = [item for item in found if item[1].known]
    if not known:
        return "", missing(found[0][1].reason if found else "no retention checks in this run")
    return min(known, key=lambda item: item[1].value)


def read(run: Run) -> Verdict:
    """The verdict of a run; without a selection the last checkpoint of every β stands for it."""
    saved = run.selection
    if not saved:
        failed = bool(run.trials) and all(t.status == "failed" for t in run.trials)
        return _failed(run) if failed else _unfinished(run)
    best = saved.get("recommended") or None
    key = (
        Key(best["method"], float(best["beta"]), int(best["seed"]), int(best["step"]))
        if best
        else None
    )
    betas = tuple(_beta(b) for b in saved.get("betas") or ())
    margin = float(saved.get("margin") or MARGIN)
    choosing, reporting = saved.get("prompts_choosing"), saved.get("prompts_reporting")
    mine = next((b for b in betas if key in b.keys), None)
    lc = _rate(best.get("pooled")) if best else missing("nothing is recommended")
    return Verdict(
        state="recommended" if key else "none",
        recommended_key=key,
        lc=lc,
        numbers=_numbers(best.get("numbers") or {}) if best else {},
        text=str(saved.get("verdict") or ""),
        betas=betas,
        windows=tuple(_window(w) for w in saved.get("windows") or ()),
        reasons=_why(best, mine, lc, margin, _ranked(mine, betas)) if best else _why_not(betas),
        warnings=tuple(str(w) for w in saved.get("warnings") or ()),
        chosen_keys=frozenset(k for b in betas for k in b.keys),
        margin=margin,
        halves=(int(choosing), int(reporting)) if choosing and reporting else None,
        advice=tuple(_advice(a) for a in run.summary.get("advice") or ()),
    )


def _advice(saved: Mapping[str, Any]) -> Advice:
    """What to do next, as the sweep saved it."""
    return Advice(*(str(saved.get(name) or "") for name in ("kind", "said", "why", "command")))


def _failed(run: Run) -> Verdict:
    """Nothing was measured: say why, each reason once."""
    reasons = dict.fromkeys(t.error or "no reason was saved" for t in run.trials)
    return replace(
        _unfinished(run),
        state="failed",
        lc=missing("every trial failed"),
        text="Mend what the trials say, and run the same command again.",
        reasons=tuple(Reason("bad", why) for why in reasons),
    )


def _unfinished(run: Run) -> Verdict:
    """No selection: say how far the run got."""
    done = sum(t.status == "finished" for t in run.trials)
    planned = f" of {len(run.trials)}"
    betas, last = [], {c.key[:3]: c for c in run.checkpoints}
    for c in last.values():
        reasons = ("the verdict is made when every trial has finished",)
        betas.append(
            Beta(
                c.key.method,
                c.key.beta,
                (c.key,),
                "no verdict",
                reasons,
                c.get("lc_win_rate"),
                worst_change(c),
            )
        )
    return Verdict(
        state="unfinished",
        recommended_key=None,
        lc=missing("the run is unfinished"),
        numbers={},
        text="Run the same command again to continue; what is finished is kept.",
        betas=tuple(betas),
        windows=(),
        reasons=(Reason("unsure", f"{done}{planned} trials have finished"),),
        warnings=(),
        chosen_keys=frozenset(c.key for c in last.values()),
        margin=MARGIN,
        halves=None,
    )


def _beta(saved: Mapping[str, Any]) -> Beta:
    method, beta, step = saved["method"], float(saved["beta"]), int(saved["step"])
    changes = {b["behaviour"]: _change(b) for b in saved.get("behaviours") or ()}
    known = {b: c for b, c in changes.items() if c.known}
    worst = min(known, key=lambda b: known[b].value) if known else ""
    return Beta(
        method=method,
        beta=beta,
        keys=tuple(Key(method, beta, int(s), step) for s in saved.get("seeds") or (0,)),
        state=str(saved.get("state")),
        reasons=tuple(str(r) for r in saved.get("reasons") or ()),
        lc=_rate(saved.get("reported")),
        worst=(worst, known[worst]) if known else ("", missing("no retention checks in this run")),
        damaged=tuple(saved.get("damaged") or ()),
        choosing=_rate(saved.get("choosing")),
    )


def _window(saved: Mapping[str, Any]) -> Window:
    return Window(
        method=str(saved["method"]),
        grid=tuple(float(b) for b in saved.get("grid") or ()),
        usable=tuple(float(b) for b in saved.get("usable") or ()),
        gaps=tuple(float(b) for b in saved.get("gaps") or ()),
        text=str(saved.get("text") or ""),
        at_edge=str(saved.get("at_edge") or ""),
        extension=str(saved.get("extension") or ""),
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _rate(saved: Mapping[str, Any] | None) -> Number:
    """A saved ``Rate``."""
    if not saved:
        return missing("not in the saved verdict")
    n = saved.get("n")
    return Number(
        _number(saved.get("lc_win_rate")),
        _number(saved.get("ci_low")),
        _number(saved.get("ci_high")),
        int(n) if n is not None else None,
        str(saved.get("reason") or ""),
    )


def _change(saved: Mapping[str, Any]) -> Number:
    """A saved ``BehaviourChange``, in points."""
    value, low, high = (_number(saved.get(k)) for k in ("change", "ci_low", "ci_high"))
    reason = "" if math.isfinite(value) else "undefined: no prompts of this behaviour"
    return Number(value, low, high, int(saved.get("n") or 0), reason)


def _numbers(columns: Mapping[str, Any]) -> dict[str, Number]:
    """Metric columns (``m``, ``m_ci_low``, ``m_ci_high``, ``m_n``) as numbers by name."""
    names = [c for c in columns if not c.endswith(("_ci_low", "_ci_high", "_n"))]
    found = {}
    for column in names:
        n = columns.get(f"{column}_n")
        low, high = INTERVAL_COLUMNS.get(column, (f"{column}_ci_low", f"{column}_ci_high"))
        found[column] = Number(
            _number(columns[column]),
            _number(columns.get(low)),
            _number(columns.get(high)),
            int(n) if n is not None else None,
        )
    return found


def _why(
    best: Mapping[str, Any],
    mine: Beta | None,
    lc: Number,
    margin: float,
    ranked: tuple[Reason, ...],
) -> tuple[Reason, ...]:
    """The reasons for the recommended checkpoint, the strongest first."""
    found = [
        Reason(
            "ok",
            f"Wins at equal length: {fixed(lc.value)}% {interval(lc)}",
        ),
        *ranked,
    ]
    if mine is not None and mine.worst[0]:
        behaviour, change = mine.worst
        found.append(
            Reason(
                "ok",
                f"No behaviour shown worse by more than {margin:g} points; the worst is"
                f" {behaviour}, {fixed(change.value, sign=True)} {interval(change, sign=True)}",
            )
        )
    if open_ := best.get("not_ruled_out"):
        found.append(
            Reason("unsure", f"Not ruled out: a loss over {margin:g} points in {listed(open_)}")
        )
    rivals = best.get("rivals") or ()
    alike = [r for r in rivals if not r.get("distinguishable") and r.get("state") == "usable"]
    if alike:
        words = [short(Key(r["method"], float(r["beta"]), 0, 0)) for r in alike]
        extra = [f"{len(words) - 5} more"] if len(words) > 5 else []
        found.append(
            Reason(
                "unsure", f"Not shown better than these, usable too: {listed([*words[:5], *extra])}"
            )
        )
    elif rivals:
        found.append(Reason("ok", "Shown better than every other usable β, or the only one"))
    return tuple(found)


def _ranked(mine: Beta | None, betas: Sequence[Beta]) -> tuple[Reason, ...]:
    """What put it before other usable β: its lower bound on prompts that report nothing."""
    usable = [b.choosing for b in betas if b.state == "usable" and b.choosing.has_interval]
    if mine is None or len(usable) < 2 or not mine.choosing.has_interval:
        return ()
    rate = mine.choosing
    if rate.low < max(other.low for other in usable) - TIED:
        return ()
    where = f"{rate.n} prompts that choose" if rate.n else "half that chooses"
    words = f"{fixed(rate.value)}% {interval(rate)}"
    return (Reason("ok", f"Highest lower bound of {len(usable)} usable β on the {where}: {words}"),)


def _why_not(betas: Sequence[Beta]) -> tuple[Reason, ...]:
    """Why nothing is recommended: what happened to each group of β, and the nearest miss."""
    found = []
    groups = (
        ("usable", "usable on the reporting half but not on the choosing half"),
        ("undecided", "undecided"),
        ("not usable", "not usable"),
    )
    for state, words in groups:
        group = [b for b in betas if b.state == state]
        if group:
            near = group[0]  # they come best first
            why = f": {near.reasons[0]}" if near.reasons else ""
            found.append(
                Reason(TONES[state], f"{len(group)} β {words}; nearest {short(near.keys[0])}{why}")
            )
    return tuple(found) or (Reason("unsure", "no β was evaluated"),)
