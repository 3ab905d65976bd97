"""``prefeval audit``: what is in a preference file, is it sound, and which method fits."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from prefeval import records
from prefeval.harness import data, tables, transcripts
from prefeval.metrics.data import advice as data_advice
from prefeval.metrics.data import audit as data_audit
from prefeval.metrics.data import findings as data_findings
from prefeval.metrics.data import rows as data_rows
from prefeval.metrics.data.advice import Advice
from prefeval.metrics.data.findings import Finding, finding
from prefeval.records import PreferencePair, PrefevalError, Thumb
from prefeval.suites import parsing, refusal

EXIT_ERRORS = 1
Item = PreferencePair | Thumb


@dataclass(frozen=True)
class Source:
    """One file as it was read."""

    kind: str
    form: str
    loaded: data.Loaded[Any]
    guessed: bool
    """the prompt is the beginning that two texts share"""


@dataclass(frozen=True)
class Report:
    """What was found, and what follows."""

    source: Source
    findings: tuple[Finding, ...]
    suspects: tuple[str, ...]
    advice: Advice
    next: str

    def to_json(self) -> dict[str, Any]:
        """Shares are between 0 and 1."""
        loaded = self.source.loaded
        return {
            "source": loaded.source,
            "kind": self.source.kind,
            "format": self.source.form,
            "rows": loaded.rows,
            "used": len(loaded.items),
            "dropped": dict(loaded.dropped),
            "level": data_findings.worst(self.findings),
            "findings": [records.to_jsonable(f) for f in self.findings],
            "suspects": list(self.suspects),
            "advice": records.to_jsonable(self.advice),
            "next": self.next,
        }


def command(options: Mapping[str, Any]) -> int:
    """Read, measure, print; 1 where something is an error, else 0."""
    report = compute(options)
    if options["json_output"]:
        print(json.dumps(records.to_jsonable(report.to_json()), ensure_ascii=False))
    else:
        print("\n".join(lines(report)))
    return EXIT_ERRORS if data_findings.worst(report.findings) == "error" else 0


def read(source: str) -> Source:
    """Pairs or thumbs, whichever the columns say.

    Raises ``PrefevalError`` as ``data.load_pairs`` does, and for a file that holds neither.
    """
    rows, columns = tables.read(source, "train")
    if {"chosen", "rejected"} <= set(columns):
        kind, answer = "pairs", "chosen"
    elif "label" in columns:
        kind, answer = "thumbs", "completion" if "completion" in columns else "messages"
    else:
        raise PrefevalError(
            f"{source} holds no preferences: found {', '.join(columns)}; give chosen and rejected "
            "(pairs), or completion and label (thumbs)"
        )
    prompt = next((name for name in data.PROMPT_COLUMNS if name in columns), None)
    first = next((row[answer] for row in rows if row.get(answer) is not None), None)
    form, plain = _form(first)
    guessed = kind == "pairs" and prompt is None and plain
    if prompt is None:
        form += ", the prompt is the answers' shared beginning"
    loaded: data.Loaded[Any] = (data.load_pairs if kind == "pairs" else data.load_thumbs)(source)
    return Source(kind, form, loaded, guessed)


def _form(cell: Any) -> tuple[str, bool]:
    """How an answer is written, and whether it is a text without turns."""
    if isinstance(cell, str):
        turns = transcripts.parse_transcript(cell)
        return ("plain text", True) if turns is None else ("Human/Assistant transcripts", False)
    first = cell[0] if isinstance(cell, list) and cell else cell
    if isinstance(first, Mapping) and "from" in first:
        return "ShareGPT messages", False
    return "messages", False


def frame_of(items: Sequence[Item]) -> pd.DataFrame:
    """The frame that ``data_audit`` takes, without refusals and calls."""
    rows = []
    for item in items:
        turns = [f"{turn['role']}: {turn['content']}" for turn in item.prompt]
        row: dict[str, Any] = {"id": item.id, "prompt": "\n\n".join(turns)}
        users = [turn["content"] for turn in item.prompt if turn["role"] == "user"]
        row |= {"turns": len(users), "asked": users[-1], "cluster": item.cluster}
        if isinstance(item, Thumb):
            row |= {"completion": item.completion, "desirable": item.desirable}
        else:
            row |= {"chosen": item.chosen, "rejected": item.rejected}
        rows.append(row)
    return pd.DataFrame(rows)


def marked(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with which answers refuse and which call tools."""
    found = frame.copy()
    for side in [name for name in ("chosen", "rejected", "completion") if name in frame]:
        both = zip(frame["asked"], frame[side], strict=True)
        found[f"{side}_refuses"] = [refusal.classify(a, t) != "compliance" for a, t in both]
        found[f"{side}_calls"] = [
            parsing.parse_tool_calls(text) is not None for text in frame[side]
        ]
    return found


def compute(options: Mapping[str, Any]) -> Report:
    """All that the options ask for, of one file."""
    source = read(options["data"])
    seed = options["seed"]
    frame = frame_of(source.loaded.items)
    some = marked(data_rows.sample(frame, data_rows.MOST_ROWS, seed))
    trusted = None
    if options["trusted"]:
        trusted = marked(frame_of(_same_kind(options["trusted"], source).loaded.items))
    found = data_audit.audit(frame, some, trusted=trusted, seed=seed)
    findings = [*_reading(source), *found.findings]
    if options["held_out"]:
        other = frame_of(_same_kind(options["held_out"], source).loaded.items)
        findings.append(data_audit.overlap(frame, other))
    if options["reference"]:
        findings += _with_reference(source, options)
    findings.sort(key=lambda f: SUBJECTS.index(f.subject))
    advice = data_advice.advise(findings)
    return Report(source, tuple(findings), found.suspects, advice, _next(options, advice, findings))


SUBJECTS = (
    "reading", "prompts", "copies", "template", "tokens", "contrast", "classes", "length", "style",
    "behaviour", "noise", "reference",
)  # fmt: skip


def _same_kind(name: str, source: Source) -> Source:
    other = read(name)
    if other.kind != source.kind:
        raise PrefevalError(f"{name} holds {other.kind} and the audited file {source.kind}")
    return other


def _reading(source: Source) -> list[Finding]:
    """Rows that were refused, and why."""
    loaded = source.loaded
    dropped = sum(loaded.dropped.values())
    reasons = ", ".join(f"{n} {why}" for why, n in sorted(loaded.dropped.items())) or "none"
    identical, empty = (loaded.dropped.get(why, 0) for why in ("identical", "empty answer"))
    shares = (
        ("rows_refused", dropped, f"of rows cannot be used: {reasons}"),
        ("identical_answers", identical, "of rows prefer an answer to itself"),
        ("empty_answers", empty, "of rows have an empty answer"),
    )
    found = [
        finding("reading", name, count / loaded.rows, says, n=loaded.rows)
        for name, count, says in shares
    ]
    if source.guessed:
        says = "there is no prompt column: prompts are guessed from the answers' shared beginning"
        found.append(Finding("reading", "prompts_guessed", 1.0, loaded.rows, says, level="warning"))
    return found


def _with_reference(source: Source, options: Mapping[str, Any]) -> list[Finding]:
    """What the reference's tokenizer says of all rows, and the reference itself of some."""
    from prefeval.harness import models
    from prefeval.harness.audit import reference as audit_reference
    from prefeval.harness.audit import tokens as audit_tokens
    from prefeval.harness.settings import resolve_device
    from prefeval.metrics.data import reference as data_reference

    items = source.loaded.items
    tokenizer = models.load_tokenizer(options["reference"])
    places = data_rows.sample(
        pd.DataFrame(index=range(len(items))), data_rows.MOST_ROWS, options["seed"]
    ).index
    limit = options["max_length"]
    found = audit_tokens.findings([items[i] for i in places], tokenizer, max_length=limit)
    if not options["pairs"]:
        return found
    frame = audit_reference.measure(
        items,
        options["reference"],
        rows=options["pairs"],
        seed=options["seed"],
        max_length=limit,
        device=resolve_device(options["device"]),
        on_progress=_progress,
    )
    return [*found, *data_reference.reference_findings(frame)]


def _progress(done: int, total: int, left: float) -> None:
    from prefeval.harness.live import duration

    print(f"reference: {done} of {total} rows, about {duration(left)} left", file=sys.stderr)


def _next(options: Mapping[str, Any], advice: Advice, findings: Sequence[Finding]) -> str:
    """The command line to run next."""
    known = {f.name: f for f in findings}
    methods, beta = advice.method, advice.beta
    if advice.method in ("ipo", "simpo"):  # beside the common choice
        methods, beta = f"{methods},dpo", f"{beta},dpo={data_advice.BETAS['dpo']}"
    words = ["prefeval", "sweep", "--model", options["reference"] or "MODEL"]
    words += ["--data", str(options["data"]), "--methods", methods, "--beta", beta]
    words += ["--epochs", str(advice.epochs)]
    for name in ("desirable_weight", "undesirable_weight"):
        if name in known and known[name].value != 1:
            words += [f"--{name.replace('_', '-')}", f"{known[name].value:.3g}"]
    in_range = known.get("pairs_in_range")
    if advice.method != "kto" and in_range is not None and in_range.ci_high < 0.5:
        words += ["--rounds", "3"]
    return shlex.join(words)


def lines(report: Report) -> list[str]:
    """The report as plain text."""
    loaded = report.source.loaded
    out = [f"{loaded.source}: {report.source.kind}, {report.source.form}; {loaded.describe()}"]
    subject = ""
    for f in report.findings:
        if f.subject != subject:
            subject = f.subject
            out += ["", subject]
        out.append(f"  {f.level:8}{f.name:29}{_shown(f):27}n {f.n:<7}{f.says}")
        note = f.reason if f.reason != f.says else ""
        if f.level in ("warning", "error"):
            note = f.threshold
        out += [f"{'':39}({note})"] if note else []
    if report.suspects:
        out += ["", f"read these labels first: {' '.join(report.suspects)}"]
    advice = report.advice
    grave = data_findings.worst(report.findings)
    first = "" if grave != "error" else " once the errors above are mended"
    out += ["", f"method  {advice.method}{first}: {advice.why} ({advice.source})"]
    out += [f"        {condition}" for condition in advice.because]
    out += [f"unless  {other}" for other in advice.unless]
    out += [f"watch   {what}" for what in advice.watch]
    out += [f"grid    {advice.beta}; {advice.epochs} epoch, 2 at most", f"next    {report.next}"]
    return out


def _shown(f: Finding) -> str:
    """A value with its interval."""

    def number(value: float) -> str:
        if f.unit == "%":
            return f"{100 * value:.2g}" if 0 < value < 0.001 else f"{100 * value:.1f}"
        digits = {"tokens": ".0f", "AUC": ".3f"}.get(f.unit, ".3g")
        return f"{value:{digits}}"

    if f.value != f.value:
        return "unknown"
    unit = f.unit if f.unit == "%" else f" {f.unit}"
    interval = "" if f.ci_low != f.ci_low else f" [{number(f.ci_low)}, {number(f.ci_high)}]"
    return f"{number(f.value)}{unit.rstrip()}{interval}"
