"""``prefeval doctor``: before a sweep, whether model, data, judge and engine work together.

Every check is a small function of a `Patient`. A check is skipped, and says why, where one that it
needs did not go well, so that one fault is one error and not ten.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from prefeval import records
from prefeval.harness import hub, live
from prefeval.harness.doctor import files, runs, tokens
from prefeval.harness.doctor.patient import Check, Patient, error, skipped
from prefeval.records import PrefevalError

EXIT_FAULT, EXIT_INFRASTRUCTURE = 1, 5
OUTSIDE = ("judge", "backend")
"""checks of what is not the model's or the data's fault"""
COLOURS = {"ok": "", "warning": "yellow", "error": "red", "skipped": "dim"}


@dataclass(frozen=True)
class Examination:
    """One check: what it is called, what it does, and the checks that must have gone well."""

    id: str
    look: Callable[[Patient], Check]
    needs: tuple[str, ...] = ()


CHECKS = (
    Examination("folder", files.folder),
    Examination("adapter", files.adapter, ("folder",)),
    Examination("config", files.config, ("adapter",)),
    Examination("architecture", files.architecture, ("config",)),
    Examination("weights", files.weights, ("config",)),
    Examination("finite", files.finite, ("weights",)),
    Examination("tied", files.tied, ("weights",)),
    Examination("memory", files.memory, ("weights",)),
    Examination("settings", files.settings, ("config",)),
    Examination("template", files.template, ("adapter",)),
    Examination("tokenizer", tokens.tokenizer, ("template",)),
    Examination("conversation", tokens.conversation, ("tokenizer",)),
    Examination("system", tokens.system, ("tokenizer",)),
    Examination("turn", tokens.turn, ("tokenizer",)),
    Examination("bos", tokens.bos, ("tokenizer",)),
    Examination("end", tokens.end, ("turn",)),
    Examination("stops", tokens.stops, ("turn", "config")),
    Examination("pad", tokens.pad, ("tokenizer",)),
    Examination("data", tokens.data),
    Examination("context", tokens.context, ("data", "turn", "bos", "weights")),
    Examination("example", tokens.example, ("data", "turn", "bos", "weights")),
    Examination("unknown", tokens.unknown, ("example",)),
    Examination("load", runs.load, ("architecture", "finite", "memory", "tokenizer")),
    Examination("vocabulary", runs.vocabulary, ("load",)),
    Examination("likelihood", runs.likelihood, ("vocabulary", "example")),
    Examination("batch", runs.batch, ("vocabulary", "example")),
    Examination("bfloat16", runs.bfloat16, ("vocabulary", "example")),
    Examination("answer", runs.answer, ("vocabulary", "example")),
    Examination("judge", runs.judge, ("data",)),
    Examination("backend", runs.backend, ("answer",)),
)


def examine(patient: Patient) -> Iterator[Check]:
    """Every check's finding, as it is made."""
    unwell: set[str] = set()
    for examination in CHECKS:
        bad = [need for need in examination.needs if need in unwell]
        check = skipped(f"needs {bad[0]} to be well") if bad else _looked(examination, patient)
        if bad or check.level == "error":  # data that were not given stand in no check's way
            unwell.add(examination.id)
        yield replace(check, id=examination.id)


def _looked(examination: Examination, patient: Patient) -> Check:
    """What a check found; what it raised is a finding too."""
    try:
        return examination.look(patient)
    except PrefevalError as fault:
        said, _, mend = str(fault).rpartition("; ")
        return error(said or mend, mend if said else "see docs/doctor.md")
    except Exception as fault:  # a damaged model may raise anything
        return error(
            f"it could not be looked at ({hub.first_line(fault)})",
            "if the other checks are well, this is a fault of prefeval: please report it",
        )


def exit_code(checks: list[Check]) -> int:
    """0 without an error, 1 with one, 5 where only the judge or the backend fail."""
    wrong = [check.id for check in checks if check.level == "error"]
    if not wrong:
        return 0
    return EXIT_INFRASTRUCTURE if set(wrong) <= set(OUTSIDE) else EXIT_FAULT


def command(options: Mapping[str, Any]) -> int:
    """Examine what the options name and say what was found, a line a check."""
    from prefeval.harness.threads import no_bars, one_thread

    json_output = options["json_output"]
    console = live.make_console(json_output=json_output)
    checks = []
    no_bars()
    patient = admit(options)
    with one_thread():
        for check in examine(patient):
            checks.append(check)
            style = COLOURS[check.level]
            mend = f"\n{'':9}mend: {check.mend}" if check.mend else ""
            text = f"{check.level:8} {check.id}: {check.said}{mend}"
            console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
    counts = {level: sum(c.level == level for c in checks) for level in COLOURS}
    told = f"{counts['error']} errors, {counts['warning']} warnings, {counts['ok']} ok"
    told += f", {counts['skipped']} skipped"
    console.print(told, markup=False, highlight=False)
    code = exit_code(checks)
    if json_output:
        found = {"model": patient.source, "data": patient.data, "exit_code": code}
        found |= {"counts": counts, "checks": checks}
        print(json.dumps(records.to_jsonable(found), ensure_ascii=False))
    return code


def admit(options: Mapping[str, Any]) -> Patient:
    """The patient that the options name; the lab has data, sizes and a judge of its own."""
    from prefeval.harness import commands
    from prefeval.harness.lab import lab
    from prefeval.harness.settings import LAB, resolve_device

    sizes = commands.OWN_SIZES
    given = {name: options[name] for name in ("data", "judge", "backend", "dtype")}
    is_lab = options["model"] == LAB
    source = options["model"]
    if is_lab:
        from prefeval.harness.task import Sizes

        built, sizes = lab.build(), Sizes()
        source = str(built.reference)
        given |= {"data": str(built.data / "pairs.jsonl"), "judge": given["judge"] or "lab"}
    return Patient(
        source,
        **given,
        device=resolve_device(options["device"]),
        max_length=options["max_length"] or sizes.max_length,
        max_new_tokens=options["max_new_tokens"] or sizes.max_new_tokens,
        is_lab=is_lab,
    )
