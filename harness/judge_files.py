"""``prefeval judge``: two files of answers, any judge, every pair in both orders.

Answers are read as AlpacaEval's ``model_outputs.json`` (``instruction``, ``output``,
``generator``), and verdicts written as its ``annotations.json``, so either tool can take over from
the other. Verdicts are kept as they come: the command that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefeval import records
from prefeval.harness import judges, judgments, measured
from prefeval.harness.judges.chat_prompt import request_of
from prefeval.harness.judgments import Judgments
from prefeval.harness.task import read_prompts
from prefeval.harness.verdict_cache import CachedJudge
from prefeval.metrics import agreement
from prefeval.metrics import judge as judge_metrics
from prefeval.metrics.evidence import Evidence
from prefeval.records import MetricResult, PrefevalError, Prompt

if TYPE_CHECKING:
    import pandas as pd

Answers = Mapping[tuple[str, int], str]
"""by instruction, and which occurrence of it"""


def read_outputs(path: Path) -> tuple[str, Answers]:
    """The model's name and its answers.

    Raises ``PrefevalError`` for a file that is no JSON list of objects with texts.
    """
    rows = judgments.read_list(path)
    for number, row in enumerate(rows):
        texts = [row.get(k) for k in ("instruction", "output")] if isinstance(row, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise PrefevalError(f"{path}: answer {number} has no text as instruction and output")
    if not rows:
        raise PrefevalError(f"{path} is empty; give a file with at least one answer")
    prompts = judgments.prompts_of(row["instruction"] for row in rows)
    found = dict(zip(prompts, (row["output"] for row in rows), strict=True))
    names = {str(row.get("generator") or path.stem) for row in rows}
    if len(names) > 1:
        raise PrefevalError(f"{path} has answers of {', '.join(sorted(names))}; give one model's")
    return names.pop(), found


def write_outputs(path: Path, generator: str, answers: Sequence[tuple[str, str]]) -> None:
    """Instructions with their outputs as ``model_outputs.json``."""
    rows = [{"instruction": i, "output": o, "generator": generator} for i, o in answers]
    records.write_json(path, rows)


def export(folder: Path, out: Path) -> int:
    """The answers that a run judged, of one checkpoint or of ``reference``, as a file; how many.

    ``folder`` is one of a run's with ``completions.jsonl``. The sample at temperature 1 is taken,
    which the win rate is about; a conversation of several turns is written as one text.
    """
    if not (folder / "completions.jsonl").is_file():
        raise PrefevalError(
            f"{folder} has no completions.jsonl; give a run's reference or checkpoint folder"
        )
    folder = folder.absolute()
    run = next((p for p in folder.parents if (p / "data/prompts.jsonl").is_file()), None)
    if run is None:
        raise PrefevalError(f"{folder} lies in no run: no folder above has data/prompts.jsonl")
    texts = measured.first_samples(measured.read_completions(folder))
    prompts = [p for p in read_prompts(run / "data/prompts.jsonl") if p.use == "win_rate"]
    answers = [(request_of(p), texts[p.id].text) for p in prompts if p.id in texts]
    if not answers:
        raise PrefevalError(f"{folder} has no answers to the run's win-rate prompts")
    name = folder.name if folder.parent == run else f"{folder.parent.name}/{folder.name}"
    write_outputs(out, name, answers)
    return len(answers)


def judge_files(
    model: Path,
    baseline: Path,
    spec: str,
    *,
    out: Path,
    cache: Path,
    prompts: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
) -> tuple[list[MetricResult], CachedJudge]:
    """Judge the model's answers against the baseline's and write ``out``; the judge's audit."""
    name, answers = read_outputs(model)
    against, others = read_outputs(baseline)
    if name == against:
        name, against = model.stem, baseline.stem
    if name == against:
        raise PrefevalError(
            f"{model} and {baseline} are both answers of {name!r}; give one another 'generator'"
        )
    if lost := [key for key in answers if key not in others]:
        raise PrefevalError(
            f"{baseline} has no answer to {len(lost)} instructions of {model}, first "
            f"{lost[0][0][:60]!r}; answer the same instructions"
        )
    keys = list(answers)[: prompts or None]
    asked = [
        Prompt(f"{i:06d}", ({"role": "user", "content": text},), "", "win_rate", f"{i:06d}")
        for i, (text, _) in enumerate(keys)
    ]
    judge = CachedJudge(judges.open_judge(spec, device=device, dtype=dtype), cache)
    frame = judges.judge_both_orders(
        judge,
        asked,
        {p.id: answers[key] for p, key in zip(asked, keys, strict=True)},
        {p.id: others[key] for p, key in zip(asked, keys, strict=True)},
    )
    records.write_json(out, annotation_rows(frame, keys, answers, others, name, against, spec))
    evidence = Evidence(judgments=frame)
    return judge_metrics.judge(evidence, rng=np.random.default_rng(0)), judge


def annotation_rows(
    frame: pd.DataFrame,
    keys: Sequence[tuple[str, int]],
    answers: Answers,
    others: Answers,
    name: str,
    against: str,
    spec: str,
) -> list[dict[str, Any]]:
    """Rows of AlpacaEval's form, both orders averaged; the single ones beside them."""
    rows = []
    for key, row in zip(keys, frame.itertuples(), strict=True):
        preference = float(row.preference)  # type: ignore[arg-type]
        rows.append(
            {
                "instruction": key[0],
                "output_1": others[key],
                "generator_1": against,
                "output_2": answers[key],
                "generator_2": name,
                "annotator": f"prefeval/{spec.partition(':')[0]}",
                "preference": None if preference != preference else 1 + preference,
                "preference_first": row.preference_first,
                "preference_second": row.preference_second,
            }
        )
    return rows


def compared(ours: Judgments, theirs: Judgments, source: Path) -> list[MetricResult]:
    """How far two sets of judgments agree, over the comparisons of the same texts."""
    key = ["prompt", "output", "baseline"]
    both = ours.rows.merge(theirs.rows, on=key, suffixes=("", "_other"))
    if both.empty:
        raise PrefevalError(
            f"{source} judges none of these answers against this baseline; give annotations of "
            "the same texts"
        )
    rng = np.random.default_rng(0)
    return agreement.agreement(both["preference"], both["preference_other"], rng=rng)


def _require_new(out: Path, options: Mapping[str, Any]) -> None:
    """Raise ``PrefevalError`` where ``out`` would replace what is read, or another tool's work."""
    argument = options["judge"].partition(":")[2]
    read = [options["model"], options["baseline"], options["against"], Path(argument or ".")]
    if out.resolve() in {path.expanduser().resolve() for path in read if path is not None}:
        raise PrefevalError(f"{out} is read here and would be replaced; give another --out")
    if out.exists():
        try:
            rows = json.loads(out.read_text(encoding="utf-8"))
            ours = all(str(row["annotator"]).startswith("prefeval/") for row in rows)
        except (ValueError, TypeError, KeyError, OSError):
            ours = False
        if not ours:
            raise PrefevalError(f"{out} is there and not of this command; give another --out")


def command(options: Mapping[str, Any]) -> None:
    """``prefeval judge``: judge, write, and say what the judge is worth."""
    out = options["out"] or options["model"].with_name("annotations.json")
    _require_new(out, options)
    other = None
    if options["against"] is not None:
        other = judgments.read(options["against"])
        if not other.has_texts:
            raise PrefevalError(f"{options['against']} must be annotations, which have the texts")
    cache = options["cache"] or out.with_name("verdicts.sqlite")
    audit, judge = judge_files(
        options["model"],
        options["baseline"],
        options["judge"],
        out=out,
        cache=cache,
        prompts=options["prompts"],
        device=options["device"],
        dtype=options["dtype"],
    )
    if other is not None:
        audit += compared(judgments.read(out), other, options["against"])
    calls = {
        "asked": judge.asked,
        "from_cache": judge.hits,
        **{k: getattr(judge.judge, k) for k in ("calls", "tokens") if hasattr(judge.judge, k)},
    }
    if cost := getattr(judge.judge, "cost", 0.0):
        calls["cost"] = round(cost, 6)
    if options["json_output"]:
        found = {"annotations": str(out), "audit": audit, **calls}
        print(json.dumps(records.to_jsonable(found), ensure_ascii=False))
        return
    counts = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in calls.items())
    print("\n".join([f"verdicts: {counts}", *map(_line, audit)]))
    print(f"written: {out}\nnext: prefeval winrate {out}")


def _line(metric: MetricResult) -> str:
    """One number of the audit."""
    if math.isnan(metric.value):
        return f"{metric.name}: - ({metric.reason})"
    digits = 1 if metric.unit else 2
    ends = ""
    if not math.isnan(metric.ci_low):
        ends = f" [{metric.ci_low:.{digits}f}, {metric.ci_high:.{digits}f}]"
    note = f"; {metric.reason}" if metric.reason else ""
    return f"{metric.name}: {metric.value:.{digits}f}{ends} {metric.unit}, n {metric.n}{note}"
