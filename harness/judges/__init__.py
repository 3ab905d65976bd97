"""Who decides which of two answers is better: one protocol, one file an implementation.

Adding a judge is a file here and a line in ``JUDGES``; packages add theirs through the entry point
group ``prefeval.judges``. A judge is named on the command line as ``name`` or ``name:argument``,
and its factory is called with the argument and with ``device`` and ``dtype``, where models run.

A judge whose verdicts cost something says so by an attribute ``expensive``: they are then kept (see
``verdict_cache``), one by one where it has ``stream(items)``, which yields places and verdicts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from prefeval.metrics import style
from prefeval.records import Comparison, PrefevalError, Prompt, Verdict

if TYPE_CHECKING:
    import pandas as pd

ENTRY_POINTS = "prefeval.judges"
JUDGES: dict[str, str] = {
    "lab": "prefeval.harness.judges.lab:from_text",
    "reward_model": "prefeval.harness.judges.reward_model:from_folder",
    "chat": "prefeval.harness.judges.chat:from_folder",
    "endpoint": "prefeval.harness.judges.endpoint:from_text",
    "person": "prefeval.harness.judges.person:from_sheet",
    "saved": "prefeval.harness.judges.saved:from_file",
}
COLUMNS = [
    *("prompt_id", "cluster", "behaviour", "preference", "preference_first", "preference_second"),
    *("true_preference", "len_output", "len_baseline", "difficulty"),
    *style.COLUMNS,
]


class Judge(Protocol):
    """A judge of pairs of answers."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that its verdicts depend on, as JSON: it keys caches and goes into the manifest."""
        ...

    def compare(self, items: Sequence[Comparison]) -> list[Verdict]:
        """One verdict for each comparison, in order."""
        ...


JudgeFactory = Callable[..., Judge]


def plugins() -> dict[str, Any]:
    """Third parties' judges by name, as entry points not yet loaded."""
    from importlib.metadata import entry_points

    found: dict[str, Any] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name in JUDGES or entry.name in found:
            raise PrefevalError(
                f"judge plugin {entry.name!r} ({entry.value}) has the name of another judge; "
                "rename or uninstall it"
            )
        found[entry.name] = entry
    return found


def get(name: str) -> JudgeFactory:
    """The factory of the judge of this name; ``PrefevalError`` for an unknown or broken one."""
    if name in JUDGES:
        module, _, function = JUDGES[name].partition(":")
        factory: JudgeFactory = getattr(import_module(module), function)
        return factory
    extra = plugins()
    if name not in extra:
        known = ", ".join([*JUDGES, *extra])
        raise PrefevalError(f"unknown judge {name!r}; the judges are {known}")
    try:
        loaded: JudgeFactory = extra[name].load()
    except Exception as error:
        raise PrefevalError(
            f"judge plugin {name!r} failed ({type(error).__name__}: {error}); "
            "update or uninstall the package it comes from"
        ) from error
    return loaded


def open_judge(spec: str, *, device: str = "cpu", dtype: str = "float32") -> Judge:
    """The judge that ``"name"`` or ``"name:argument"`` names, such as ``reward_model:runs/rm``."""
    name, _, argument = spec.partition(":")
    return get(name)(argument, device=device, dtype=dtype)


def identity(spec: str) -> str:
    """The judge without the options on which no verdict depends (its module's ``PACE``)."""
    name, _, argument = spec.partition(":")
    free = (
        getattr(import_module(JUDGES[name].partition(":")[0]), "PACE", ()) if name in JUDGES else ()
    )
    if not free:
        return spec
    kept = [part for part in argument.split(",") if part.partition("=")[0] not in free]
    return f"{name}:{','.join(kept)}"


def judge_both_orders(
    judge: Judge,
    prompts: Sequence[Prompt],
    outputs: Mapping[str, str],
    baselines: Mapping[str, str],
    *,
    truth: Callable[[Prompt, str, str], float] | None = None,
) -> pd.DataFrame:
    """Every prompt's output against its baseline, each shown first once: ``Evidence.judgments``.

    Parameters
    ----------
    prompts
        The comparisons to make, (n,).
    outputs, baselines
        The policy's and the reference's answers by prompt id.
    truth
        The oracle, if there is one: 1 where the output is truly better, 0 where it is worse.

    Returns
    -------
    One row a prompt, sorted by id. ``preference_first`` (output shown first), ``preference_second``
    (output shown second) and their mean ``preference`` are probabilities that the output wins; NaN
    where a verdict could not be read, and then the mean is too: one order alone carries the judge's
    liking for a position. Lengths are in characters, ``style.COLUMNS`` are counts.

    Raises
    ------
    PrefevalError
        For a prompt without an answer on either side, a repeated id, or a judge that returns
        another number of verdicts than it was asked for.
    """
    import pandas as pd

    prompts = sorted(prompts, key=lambda prompt: prompt.id)
    _require_answers(prompts, outputs, baselines)
    shown = [Comparison(p, outputs[p.id], baselines[p.id]) for p in prompts]
    swapped = [Comparison(p, baselines[p.id], outputs[p.id]) for p in prompts]
    verdicts = judge.compare([*shown, *swapped])
    if len(verdicts) != 2 * len(prompts):
        raise PrefevalError(
            f"judge {judge.name} gave {len(verdicts)} verdicts on {2 * len(prompts)} comparisons; "
            "it must give one for each, in order"
        )
    rows = []
    for index, prompt in enumerate(prompts):
        output, baseline = outputs[prompt.id], baselines[prompt.id]
        first = _probability(judge, prompt, verdicts[index])
        second = 1.0 - _probability(judge, prompt, verdicts[len(prompts) + index])
        rows.append(
            {
                "prompt_id": prompt.id,
                "cluster": prompt.cluster,
                "behaviour": prompt.behaviour,
                "preference": (first + second) / 2,
                "preference_first": first,
                "preference_second": second,
                "true_preference": truth(prompt, output, baseline) if truth else math.nan,
                "len_output": len(output),
                "len_baseline": len(baseline),
                "difficulty": 0.0,
                **style.columns_of(output, baseline),
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def _require_answers(
    prompts: Sequence[Prompt], outputs: Mapping[str, str], baselines: Mapping[str, str]
) -> None:
    ids = [prompt.id for prompt in prompts]
    if doubled := [name for name, count in Counter(ids).items() if count > 1]:
        raise PrefevalError(f"prompt id {doubled[0]!r} is given twice; rename one")
    for side, answers in (("policy", outputs), ("reference", baselines)):
        if missing := [name for name in ids if name not in answers]:
            raise PrefevalError(
                f"{len(missing)} prompts have no answer of the {side}, first {missing[0]!r}; "
                "generate them again"
            )


def _probability(judge: Judge, prompt: Prompt, verdict: Verdict) -> float:
    """A verdict's preference; NaN for one that could not be read, an error for no probability."""
    if verdict.preference is None:
        return math.nan
    if not 0.0 <= verdict.preference <= 1.0:
        raise PrefevalError(
            f"judge {judge.name} gave {verdict.preference!r} on prompt {prompt.id!r}; "
            "a preference lies between 0 and 1, and is None where it cannot be read"
        )
    return verdict.preference
