"""`prefeval diagnose`: what a run, a trial, a checkpoint or a foreign log holds, against the rules.

`diagnose_log` and `diagnose_run` gather signals from files and hand them to ``metrics.diagnosis``;
no model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prefeval.harness.diagnose import of_log as diagnose_log
from prefeval.harness.diagnose import of_run as diagnose_run
from prefeval.harness.diagnose.of_log import Subject as Subject
from prefeval.metrics import diagnosis
from prefeval.metrics.diagnosis.terms import Diagnosis, Finding
from prefeval.records import PrefevalError

if TYPE_CHECKING:
    from prefeval.metrics.evidence import Evidence


def read(target: Path, known: Mapping[str, Evidence] | None = None) -> list[Subject]:
    """Diagnose what lies at ``target``: a run, a trial or a checkpoint of one, or any log.

    ``known``: the evidence of checkpoints that is at hand already, by their folders.

    Raises
    ------
    PrefevalError
        Where there is nothing to diagnose, or nothing in it is recognised.
    """
    target = Path(target)
    if not target.exists():
        raise PrefevalError(f"{target} does not exist; name a run, a trial, a checkpoint or a log")
    run = diagnose_run.run_of(target)
    if run is None:
        return [diagnose_log.foreign(target)]
    found = diagnose_run.Reader(run, known or {}).subjects(target.absolute())
    if not any(s.diagnosis.findings or s.diagnosis.checks for s in found):
        raise PrefevalError(
            f"{target} holds nothing yet that a rule reads; let it train and be measured"
        )
    return found


def combine(subjects: Sequence[Subject]) -> Diagnosis:
    """One diagnosis of many: a finding once for all places where it was made, with the numbers of
    the first place named; checks that passed everywhere, and what was skipped anywhere."""
    if len(subjects) == 1:
        return subjects[0].diagnosis
    found: dict[str, list[tuple[str, Finding]]] = {}
    for subject in subjects:
        for finding in subject.diagnosis.findings:
            found.setdefault(finding.cause, []).append((subject.name, finding))
    merged, partly = [], {}
    for places in found.values():
        where, worst = max(places, key=lambda p: (_severity(p[1]), p[1].confidence))
        explained = all(f.explained_by for _, f in places)
        merged.append(
            replace(
                worst,
                where=(where, *(name for name, _ in places if name != where)),
                explained_by=worst.explained_by if explained else "",
            )
        )
        partly[worst.cause] = any(f.explained_by for _, f in places)
    order = {c.id: i for i, c in enumerate(diagnosis.CAUSES)}
    merged.sort(
        key=lambda f: (
            bool(f.explained_by), -_severity(f), partly[f.cause], -len(f.where), -f.confidence,
            order.get(f.cause, -1),
        )
    )  # fmt: skip
    checks = {c.cause: c for s in subjects for c in s.diagnosis.checks if c.cause not in found}
    skipped = {k.cause: k for s in subjects for k in s.diagnosis.skipped}
    skipped = {k: v for k, v in skipped.items() if k not in found and k not in checks}
    notes = dict.fromkeys(n for s in subjects for n in s.diagnosis.notes)
    return Diagnosis(tuple(merged), tuple(checks.values()), tuple(skipped.values()), tuple(notes))


def _severity(finding: Finding) -> int:
    return diagnosis.SEVERITIES.index(finding.severity)
