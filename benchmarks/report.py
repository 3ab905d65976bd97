"""A report of 200 checkpoints and 20,000 completions: time, memory, size, and the page in use.

    python benchmarks/report.py               # three rounds, some three minutes
    python benchmarks/report.py --run DIR     # of a run folder that is there

The run is made up (report_run.py): distinct answers of 60 to 200 words that compress as prose does.
``prefeval report`` is timed as a new process, imports and all; what its page holds is counted in
the page. In headless Chromium "usable" is from navigation until a click on a method has acted and
the first answers are shown. Beside it stands the plainest page of the same completions: pandas'
``to_html``. Medians; ends with 1 when a limit is broken. On a busy machine read the processor time.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import report_page
from report_run import Size, compressibility, write_run
from sweep import MEASURE, machine, measure

from prefeval.records import read_jsonl

PIECE = re.compile(r'<script type="text/plain" class="packed" data-of="([^"]*)">([^<]*)</script>')


@dataclass(frozen=True)
class Row:
    """One line of the table; without a limit it is printed alone."""

    says: str
    values: Sequence[float]
    unit: str
    limit: float | None = None

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.values)

    @property
    def broken(self) -> bool:
        """Whether the median is over its limit."""
        return self.limit is not None and self.median > self.limit

    def __str__(self) -> str:
        """A row of the Markdown table."""
        limit = "" if self.limit is None else f"{self.limit:g} {self.unit}"
        verdict = "" if self.limit is None else "**over**" if self.broken else "within"
        ends = f"{min(self.values):.2f} to {max(self.values):.2f}"
        return f"| {self.says} | {self.median:.2f} {self.unit} | {ends} | {limit} | {verdict} |"


def completions(folder: Path) -> pd.DataFrame:
    """Every completion of a run: checkpoint, prompt and text."""
    rows = [
        (f"{path.parent.parent.name}/{path.parent.name}", row["prompt_id"], row["text"])
        for path in sorted(folder.glob("trials/*/checkpoint-*/completions.jsonl"))
        for row in read_jsonl(path)
    ]
    return pd.DataFrame(rows, columns=["checkpoint", "prompt", "text"])


def held(page: Path, texts: Sequence[str]) -> int:
    """How many of these texts the page's pieces hold."""
    pieces = dict(PIECE.findall(page.read_text(encoding="utf-8")))
    rows = [
        row
        for name, piece in pieces.items()
        if name != "shared"
        for row in json.loads(gzip.decompress(base64.b64decode(piece)))
    ]
    inside = {value for row in rows for value in row if isinstance(value, str)}
    return sum(text in inside for text in texts)


def reported(folder: Path, rounds: int, work: Path, texts: Sequence[str]) -> list[Row]:
    """``prefeval report`` as a process, and what it wrote."""
    command = [sys.executable, "-m", "prefeval", "report", str(folder)]
    found, processor = [], []
    for _ in range(rounds):
        before = os.times()
        found.append(measure(command, os.environ, work / "log"))
        after = os.times()
        processor.append(sum(after[2:4]) - sum(before[2:4]))  # of the children, user and system
    page = folder / "report.html"
    count = held(page, texts)
    return [
        Row("`prefeval report`: summary, tables, page", [m.seconds for m in found], "s", 10),
        Row("its processor time", processor, "s"),
        Row(f"its memory, {MEASURE}", [m.megabytes for m in found], "MB"),
        Row("report.html", [page.stat().st_size / 1e6], "MB", 25),
        Row(f"completions that it lacks, of {len(texts):,}", [len(texts) - count], "", 0),
    ]


def used(opened: object, page: Path, phrase: str, rounds: int) -> list[Row]:
    """The page in a browser."""
    runs = [report_page.report(opened, page, phrase) for _ in range(rounds)]
    times: Mapping[str, list[float]] = {name: [r[name] for r in runs] for name in runs[0]}
    return [
        Row("page usable, samples shown", times["usable"], "s", 2),
        Row("another checkpoint's samples", times["other"], "s"),
        Row("a phrase looked for in every checkpoint", times["everywhere"], "s"),
        Row("the next search in every checkpoint", times["again"], "s"),
    ]


def peer(frame: pd.DataFrame, work: Path) -> tuple[Path, float]:
    """The same completions by pandas' ``to_html``, and the seconds that it took."""
    path, start = work / "plain.html", time.perf_counter()
    with pd.option_context("display.max_colwidth", None):
        path.write_text(frame.to_html(escape=True), encoding="utf-8")
    return path, time.perf_counter() - start


def measured(folder: Path, rounds: int, work: Path) -> list[Row]:
    """Every row of the table."""
    frame = completions(folder)
    texts = frame["text"].tolist()
    rows = reported(folder, rounds, work, texts)
    path, seconds = peer(frame, work)
    rows.append(Row("pandas' to_html: writing it, files already read", [seconds], "s"))
    rows.append(Row("pandas' to_html: its size", [path.stat().st_size / 1e6], "MB"))
    phrase = " ".join(texts[len(texts) // 2].split()[:12])
    try:
        with report_page.browser() as opened:
            rows += used(opened, folder / "report.html", phrase, rounds)
            plain = [report_page.plain(opened, path) for _ in range(rounds)]
            rows.append(Row("pandas' to_html: page shown", plain, "s"))
    except report_page.Missing as why:
        print(f"The page is not measured: {why}\n")
    return rows


def main() -> int:
    """Make the run, measure, and print the table; 1 when a limit is broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="a run folder; its reports are written anew")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{machine()}\n")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = options.run
        if folder is None:
            folder, size = work / "run", Size()
            write_run(folder, size)
            print(
                f"{size.checkpoints} checkpoints, {size.completions:,} completions; DEFLATE leaves"
                f" {compressibility(folder):.2f} of an answer\n"
            )
        rows = measured(folder, options.rounds, work)
    print("| | median | range | limit | |\n|---|---:|---:|---:|---|")
    print("\n".join(map(str, rows)))
    return int(any(row.broken for row in rows))


if __name__ == "__main__":
    sys.exit(main())
