"""A gate's verdict as JUnit XML, the dialect that Jenkins, GitLab and GitHub's reporters read.

A check is a test case: ``failure`` where it is shown worse than its limit, ``skipped`` where it is
inconclusive (``failure`` of type inconclusive where those count as failed), and a case of its own
with ``error`` where the gate could not be asked. Time is left out: equal results, equal bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree import ElementTree as ET

from prefeval.metrics.gate.decision import Check
from prefeval.reports.compare.samples import visible
from prefeval.reports.gate import words
from prefeval.reports.gate.data import Gated

SUITE = "prefeval.gate"
NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 may not hold, even escaped: the control characters, halves of pairs, U+FFFE."""


def junit(gated: Gated) -> str:
    """The verdict as a document."""
    return _document([_case(check, gated) for check in gated.verdict.checks], gated)


def junit_error(message: str, kind: str) -> str:
    """A document that says why there is no verdict."""
    case = ET.Element("testcase", classname=SUITE, name="gate", time="0")
    found = ET.SubElement(case, "error", type=kind, message=clean(message))
    found.text = clean(message)
    return _document([case], None)


def clean(text: str) -> str:
    """Text without what XML cannot hold, the rest of it visible."""
    return NOT_XML.sub("\ufffd", visible(text))


def _case(check: Check, gated: Gated) -> ET.Element:
    case = ET.Element("testcase", classname=SUITE, name=clean(words.title(check)), time="0")
    told = clean(f"{words.title(check)}: {words.measured(check)}; {words.why(check)}")
    if check.outcome == "fail":
        ET.SubElement(case, "failure", type="regression", message=told).text = told
    elif check.outcome == "inconclusive" and gated.mapped == "fail":
        ET.SubElement(case, "failure", type="inconclusive", message=told).text = told
    elif check.outcome == "inconclusive" and (gated.mapped != "pass" or check.undefined):
        ET.SubElement(case, "skipped", type="inconclusive", message=told)
    else:
        ET.SubElement(case, "system-out").text = told
    return case


def _document(cases: Iterable[ET.Element], gated: Gated | None) -> str:
    found = list(cases)
    counts = {
        name: str(sum(case.find(tag) is not None for case in found))
        for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"))
    }
    suite = ET.Element(
        "testsuite", {"name": SUITE, "tests": str(len(found)), **counts, "time": "0"}
    )
    if gated is not None:
        kept = ET.SubElement(suite, "properties")
        facts = {"verdict": gated.verdict.outcome, "checkpoint": gated.checkpoint,
                 "baseline": gated.baseline, "level": f"{gated.verdict.level:g}"}  # fmt: skip
        for name, value in facts.items():
            ET.SubElement(kept, "property", name=name, value=clean(value))
    suite.extend(found)
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
