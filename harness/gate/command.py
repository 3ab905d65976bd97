"""``prefeval gate``: one checkpoint against a baseline; pass, fail or inconclusive.

    saved results (measured first, if need be) + baseline + policy -> verdict -> exit code, files

The decision is ``metrics.gate.decision``'s; what two checkpoints must have in common is
``harness.gate.baseline``'s.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefeval import records
from prefeval.harness.compare import targets
from prefeval.harness.evaluate import VERSION as MEASURING
from prefeval.harness.executors import JobFailed
from prefeval.harness.gate import baseline as gate_baseline
from prefeval.harness.gate import looks as gate_looks
from prefeval.harness.gate import policy as gate_policy
from prefeval.harness.gate.baseline import Saved
from prefeval.harness.steps import disk_errors
from prefeval.metrics import comparison, pooling
from prefeval.metrics.gate import anytime as gate_anytime
from prefeval.metrics.gate import decision as gates
from prefeval.metrics.gate import lines as gate_lines
from prefeval.metrics.gate import policy as policies
from prefeval.metrics.gate.policy import Policy
from prefeval.records import PrefevalError
from prefeval.reports import labels
from prefeval.reports.gate import junit as gate_junit
from prefeval.reports.gate import text as gate_text
from prefeval.reports.gate.data import Gated

if TYPE_CHECKING:
    from rich.console import Console

    from prefeval.metrics.comparison import Joined

SEED = 20_260_101
EXIT_INFRASTRUCTURE = 5
REFERENCE = "reference"
"""``--baseline reference``: what the checkpoint was tuned from, from its own results."""
RATES = ("win_rate", "true_win_rate")
MODEL = ("config.json", "adapter_config.json")


def command(options: Mapping[str, Any]) -> int:
    """``prefeval gate``: 0 pass, 1 fail, 4 inconclusive, 5 where a model or a judge failed."""
    if options["print_policy"]:
        print(gate_policy.text(), end="")
        return 0
    try:
        return _command(options)
    except JobFailed as error:
        _write_junit(options["junit"], gate_junit.junit_error(str(error), "infrastructure"))
        print(f"prefeval: {error}", file=sys.stderr)
        return EXIT_INFRASTRUCTURE
    except PrefevalError as error:
        _write_junit(options["junit"], gate_junit.junit_error(str(error), "usage"))
        raise
    except Exception as error:  # its code must never read as a regression's
        import traceback

        told = f"{type(error).__name__}: {error}"
        _write_junit(options["junit"], gate_junit.junit_error(told, "infrastructure"))
        traceback.print_exc()
        return EXIT_INFRASTRUCTURE


def _command(options: Mapping[str, Any]) -> int:
    from prefeval.harness import live

    mapped = options["inconclusive"]
    if mapped not in ("", "pass", "fail"):
        raise PrefevalError(f"unknown --inconclusive {mapped!r}; use pass or fail, or leave it out")
    if not options["checkpoint"]:
        raise PrefevalError("no checkpoint given; prefeval gate CHECKPOINT --baseline FILE")
    saving: Path | None = options["save_baseline"]
    if bool(saving) == bool(options["baseline"]):
        raise PrefevalError("give one of --baseline and --save-baseline")
    console = live.make_console(json_output=options["json_output"])
    policy = gate_policy.read(options["policy"])
    named = options["baseline"]
    baseline = None if saving or named == REFERENCE else load(named)
    checkpoint = load(options["checkpoint"], options, baseline, console)
    if saving:
        gate_baseline.write(saving, checkpoint)
        console.print(f"baseline: {saving}", markup=False, highlight=False, soft_wrap=True)
        return 0
    gated = gate(checkpoint, baseline, policy, mapped=mapped, anytime=options["anytime"])
    _tell(gated, options, console)
    return gated.code


def _tell(gated: Gated, options: Mapping[str, Any], console: Console) -> None:
    if options["json_output"]:
        print(json.dumps(gate_text.as_object(gated), ensure_ascii=False))
    else:
        gate_text.show(gated, console)
    _write_junit(options["junit"], gate_junit.junit(gated))
    if (path := options["markdown"]) is not None:
        with disk_errors(path, "choose another --markdown"):
            path.parent.mkdir(parents=True, exist_ok=True)
            records.write_text(path, gate_text.markdown(gated))
    elif summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with disk_errors(Path(summary)), Path(summary).open("a", encoding="utf-8") as handle:
            handle.write(gate_text.markdown(gated))


def _write_junit(path: Path | None, text: str) -> None:
    if path is not None:
        with disk_errors(path, "choose another --junit"):
            path.parent.mkdir(parents=True, exist_ok=True)
            records.write_text(path, text)


# -- results, saved or to be measured -------------------------------------------------------------


def load(
    text: str,
    options: Mapping[str, Any] | None = None,
    baseline: Saved | None = None,
    console: Console | None = None,
) -> Saved:
    """The results of a baseline file, a run, a measured checkpoint; of another checkpoint, by
    measuring it with the ``options`` of ``prefeval eval``.

    Raises ``PrefevalError`` where there are none, and, before measuring, where they would not
    compare with ``baseline``'s.
    """
    path = Path(text)
    if path.is_file():
        return gate_baseline.read(path)
    bare = path.is_dir() and any((path / n).is_file() for n in MODEL)
    hub = not path.exists() and ":" not in text
    if not (bare and not (path / "metrics.json").is_file()) and not hub:
        return _of_target(targets.find(text))
    if options is None or console is None:
        if bare:
            raise PrefevalError(f"{text} is not measured; measure it first: prefeval eval {text}")
        raise PrefevalError(
            f"{text} is no file, run or checkpoint; check its name, or save one: prefeval "
            "gate CHECKPOINT --save-baseline FILE"
        )
    return measure(text, options, baseline, console)


def _of_target(target: targets.Target) -> Saved:
    name = labels.name(target.key, seeds=True) if target.key else target.folder.name
    return gate_baseline.of_target(target, f"{name} ({target.path})")


def measure(
    checkpoint: str, options: Mapping[str, Any], baseline: Saved | None, console: Console
) -> Saved:
    """Measure a checkpoint as ``prefeval eval`` does, in a run folder where the same command goes
    on; what is known beforehand not to compare with the baseline is refused before the work.

    Raises ``JobFailed`` where a model or a judge fails.
    """
    from prefeval.harness import checkpoints, eval_run
    from prefeval.harness.executors import open_executor
    from prefeval.harness.run_folder import RunFolder

    config = eval_run.configure(options)
    folder = checkpoints.check(checkpoint, None if config.is_lab else config.model)
    run_folder = RunFolder(
        (options["out"] / (options["name"] or f"gate-{config.hash[:8]}")).absolute()
    )
    label = f"{folder.name}-{records.content_hash(str(folder))[:6]}"
    out = run_folder.path / targets.EVALUATED / label
    executor = open_executor("local", options["workers"] or 1)
    with eval_run.open_run(config, run_folder, executor, console, config.hash) as run:
        if baseline is not None:
            manifest = records.read_json(run_folder.manifest)
            terms = gate_baseline.terms_of(run.task, manifest, MEASURING)
            gate_baseline.require_alike(baseline, terms)
        run.do([run.job(label, folder, out)])
    return gate_baseline.of_target(targets.find(str(out)), f"{folder.name} ({label})")


# -- the verdict ----------------------------------------------------------------------------------


def gate(
    checkpoint: Saved,
    baseline: Saved | None,
    policy: Policy,
    *,
    mapped: Any = "",
    anytime: Path | None = None,
) -> Gated:
    """Hold a checkpoint to a policy beside a baseline (None: the reference).

    Raises ``PrefevalError`` where the two do not compare, or the policy names what is not known.
    """
    notes: tuple[str, ...] = ()
    if baseline is None:
        joined = comparison.join(policies.of_reference(checkpoint.evidence), checkpoint.evidence)
        joined, notes = _unchosen(joined, checkpoint)
        same, name = False, "the reference, by the same answers"
    else:
        notes = gate_baseline.require_alike(baseline, checkpoint.terms, checkpoint.prompts)
        joined, more = _join(baseline, checkpoint)
        notes, name = (*notes, *more), baseline.name
        same = baseline.answers == checkpoint.answers
        notes += (
            ("every answer is the baseline's: no measure of answers has changed",) if same else ()
        )
    if anytime is not None:
        return _anytime(checkpoint, name, joined, policy, anytime, notes, mapped)
    rng = np.random.default_rng(SEED)
    own = joined.b if checkpoint.chosen else checkpoint.evidence
    asked = policies.checks(policy, joined, own, rng, same_answers=same)
    verdict = gates.decide(asked, level=policy.level)
    return Gated(checkpoint.name, name, verdict, notes, mapped)


def _join(baseline: Saved, checkpoint: Saved) -> tuple[Joined, tuple[str, ...]]:
    """Both on the same rows; without the prompts by which one of them was chosen out of several."""
    both = (baseline, checkpoint)
    joined = comparison.join(*(s.evidence for s in both), pairs=_common_pairs(*both))
    lost = {str(b) for b in baseline.evidence.checks["behaviour"].unique()} - {
        str(b) for b in checkpoint.evidence.checks["behaviour"].unique()
    }
    if lost:
        raise PrefevalError(
            f"the baseline is of another suite: the checkpoint has no {', '.join(sorted(lost))} "
            f"prompts; {gate_baseline.SAVE}"
        )
    joined, notes = _unchosen(joined, *both)
    moved = joined.a.judgments["len_baseline"] != joined.b.judgments["len_baseline"]
    if moved.any():
        notes += (
            f"the reference answered {int(moved.sum())} of {len(moved)} prompts differently: win "
            "rates are against two samples of it",
        )
    return joined, notes


def _unchosen(joined: Joined, *both: Saved) -> tuple[Joined, tuple[str, ...]]:
    """Without the judgments by which one of ``both`` was chosen, and a note that says so."""
    names = {
        i
        for s in both
        if s.chosen
        for i in s.evidence.judgments["prompt_id"][
            pooling.choosing_half(s.evidence.judgments["cluster"].to_numpy())
        ]
    }
    if not names:
        return joined, ()
    joined = comparison.without_judgments(joined, names)
    told = (
        f"{'one of the two' if len(both) > 1 else 'the checkpoint'} was recommended out of "
        f"several: win rates are of the {len(joined.a.judgments)} prompts that had no part in that"
    )
    return joined, (told,)


def _common_pairs(a: Saved, b: Saved) -> list[str] | None:
    """No held-out pair where the pairs are others; all of them where they are the same."""
    return None if a.pairs == b.pairs else []


def _anytime(
    checkpoint: Saved, name: str, joined: Joined, policy: Policy, path: Path,
    notes: tuple[str, ...], mapped: Any,
) -> Gated:  # fmt: skip
    """The win rate alone, by a bound that holds however often judgments are added."""
    rated = [n for n in RATES if n in policy.rules]
    metric = rated[0] if rated else "win_rate"
    rule = policy.rules.get(metric) or policy.rules.get("lc_win_rate") or policies.usual(metric)
    if rule.margin is None:
        raise PrefevalError(f"--anytime needs a margin; give {metric}: {{margin: 3}} in the policy")
    limit = -rule.margin
    terms = {k: v for k, v in checkpoint.terms.items() if k != "measuring version"}
    mark = records.content_hash([name, terms, metric, limit, policy.level])
    scores, more = gate_looks.look(path, gate_anytime.differences(joined, metric), mark)
    why = gate_lines.undiscerning(joined, rule.margin) if metric in gate_lines.JUDGED else ""
    about: dict[str, Any] = {"reason": why} if why else {}
    verdict, after = gate_anytime.decide_anytime(
        [] if why else scores, metric, limit, level=policy.level, **about
    )
    told = (
        "--anytime decides by the raw win rate alone: gate once more without it, when you have "
        "stopped adding, for length, retention and the rest"
    )
    return Gated(checkpoint.name, name, verdict, (*notes, *more, told), mapped, True, after)
