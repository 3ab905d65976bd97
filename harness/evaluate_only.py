"""``prefeval eval``: checkpoints from anywhere, measured by the same chain as a sweep's."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefeval import metrics, records
from prefeval.harness import checkpoints as saved
from prefeval.harness import eval_run, results, sweep
from prefeval.harness.check_notes import check_notes
from prefeval.harness.executors import open_executor
from prefeval.harness.measured import read_calibration, read_evidence, read_metrics
from prefeval.harness.run_folder import RunFolder
from prefeval.harness.settings import SweepConfig
from prefeval.harness.task import Task
from prefeval.metrics.fall import Fall, chosen_fall
from prefeval.metrics.kl import by_position
from prefeval.records import MetricResult, PrefevalError

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = {
    "kl": ("KL", "nats/seq"),
    "forward_kl": ("forward KL", "nats/seq"),
    "win_rate": ("raw WR", "%"),
    "lc_win_rate": ("LC WR", "%"),
    "style_win_rate": ("style WR", "%"),
    "length_ratio": ("length", "×"),
    "delta_chosen": ("Δchosen", "nats/seq"),
    "off_policy_gap": ("off-policy", "nats/token"),
    "ches_correlation": ("CHES, Δchosen", "rank correlation"),
    "truncation_rate": ("truncated", "%"),
    "repetition": ("repetition", "%"),
    "distinct_within": ("distinct-2", "%"),
}


def evaluate(
    config: SweepConfig,
    checkpoints: Sequence[str],
    *,
    out: Path,
    name: str | None,
    workers: int,
    console: Console,
) -> list[dict[str, Any]]:
    """Measure ``checkpoints`` against the configuration's reference; one row of metrics each."""
    base = None if config.is_lab else config.model  # the lab's is built when it is first needed
    folders = [saved.check(c, base) for c in checkpoints]
    if len(set(folders)) < len(folders):
        raise PrefevalError("a checkpoint is given twice; give each once")
    labels = _labels(folders)
    folder = RunFolder((out / (name or default_name(config))).absolute())
    workers = min(workers or sweep.default_workers(config), len(folders))
    executor = open_executor("local", workers)
    with eval_run.open_run(config, folder, executor, console, config.hash) as run:
        outs = {label: folder.path / "checkpoints" / label for label in labels}
        run.do([run.job(k, f, outs[k]) for k, f in zip(labels, folders, strict=True)])
        rows, found = [], {}
        for label, checkpoint in zip(labels, folders, strict=True):
            found[label] = read_metrics(outs[label] / "metrics.json")
            rows.append({"checkpoint": str(checkpoint), **metrics.row(found[label])})
        results.write_table(folder.results, rows)
        falls = _falls(outs, run.task)
        where = {label: _where(out / "samples.jsonl") for label, out in outs.items()}
    _show(found, falls, where, console)
    console.print(f"LC WR: {read_calibration(run.task)[0].name}", highlight=False, soft_wrap=True)
    for note in [*run.warnings, *check_notes(folder.path)]:
        console.print(f"! {note}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"All metrics: {folder.results}", highlight=False, soft_wrap=True)
    return rows


def default_name(config: SweepConfig) -> str:
    """The run's folder where no name is given."""
    return f"eval-{config.hash[:8]}"


def _labels(folders: Sequence[Path]) -> list[str]:
    """Short names that tell the folders apart and are safe as folder names."""
    labels = []
    for folder in folders:
        parts = [p for p in folder.parts[-2:] if p not in ("/", "")]
        labels.append(f"{'_'.join(parts)}-{records.content_hash(str(folder))[:6]}")
    return labels


def _where(samples: Path) -> str:
    """Where in an answer the KL lies: "1: 0.31, 2-3: 0.22, ..." nats/token."""
    rows = records.read_jsonl(samples)
    found = by_position(
        [row["kl_by_position"] for row in rows],
        [row["cluster"] or row["prompt_id"] for row in rows],
    )
    ends = (f"{s.first}-{s.last}" if s.last > s.first else str(s.first) for s in found)
    return ", ".join(f"{e}: {s.kl.value:.3g}" for e, s in zip(ends, found, strict=True))


def _falls(outs: Mapping[str, Path], task: Task) -> dict[str, Fall]:
    """What the fall of chosen answers is, if they fall."""
    calibration = read_calibration(task)
    return {
        label: chosen_fall(read_evidence(out, task, calibration)) for label, out in outs.items()
    }


def _show(
    found: dict[str, list[MetricResult]],
    falls: Mapping[str, Fall],
    where: Mapping[str, str],
    console: Console,
) -> None:
    """Each checkpoint's main numbers with 95% intervals, then its behaviours."""
    for label, numbers in found.items():
        named = {r.name: r for r in numbers}
        console.print(label, markup=False, highlight=False)
        for name, (title, unit) in SHOWN.items():
            console.print(f"  {title:13s} {number_text(named[name])} {unit}", highlight=False)
        for r in numbers:
            if title := _behaviour(r.name):
                console.print(
                    f"  {title:13s} {number_text(r, sign=r.unit == 'points')} {r.unit}",
                    highlight=False, soft_wrap=True,
                )  # fmt: skip
        console.print(f"  KL by token {where[label]} nats/token", highlight=False, soft_wrap=True)
        if (fall := falls[label]).kind not in ("none", "unknown"):
            said = f"  chosen answers became less likely: {fall.kind} ({'; '.join(fall.evidence)})"
            console.print(said, markup=False, highlight=False, soft_wrap=True)


def _behaviour(name: str) -> str:
    """What a behaviour's number is called, where it is shown: changes, and pass@k."""
    found = re.fullmatch(r"(sampled_)?change_(.+)|pass_at_(\d+)_((?!change_).+)", name)
    if found is None:
        return ""
    sampled, changed, k, passed = found.groups()
    return f"{passed} pass@{k}" if k else f"{changed} sampled" if sampled else str(changed)


def number_text(result: MetricResult, *, sign: bool = False) -> str:
    """``3.1 [2.8, 3.4] (n = 448)``, or why there is none."""
    if not math.isfinite(result.value):
        return f"- ({result.reason or 'undefined'})"
    form = "+.2f" if sign else ".2f"
    ends = f"[{result.ci_low:{form}}, {result.ci_high:{form}}]"
    return f"{result.value:{form}} {ends} (n = {result.n})".replace("[nan, nan] ", "")
