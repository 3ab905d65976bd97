"""What is said of checks that raised: which, how many, and that they count neither way."""

from __future__ import annotations

from pathlib import Path

from prefeval import records

NEITHER = "could not be checked: they neither passed nor failed"
FILES = ("checks.jsonl", "sampled.jsonl")


def check_notes(run: Path) -> list[str]:
    """One line where checks raised on answers anywhere in a run's folder, else none."""
    files = sorted(file for name in FILES for file in run.rglob(name))
    raised = [(file, row) for file in files for row in records.read_jsonl(file) if "error" in row]
    if not raised:
        return []
    prompts = {row["prompt_id"] for _, row in raised}
    file, row = raised[0]
    return [
        f"{len(raised)} answers to {len(prompts)} prompts {NEITHER}, and the prompts count for "
        f"neither model; first, in {file.parent.relative_to(run)}, the {row['error']}"
    ]
