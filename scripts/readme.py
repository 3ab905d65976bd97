"""Regenerates every figure that README.md and docs/ show: runs the commands, fills the blocks
between ``<!-- output: NAME -->`` and ``<!-- end -->``.

    python scripts/readme.py                                  # the lab's blocks, about 10 minutes
    python scripts/readme.py --studies                        # docs/studies.md too, 45 more
    python scripts/readme.py --data harmless-base.test.jsonl.gz  # the real run's too, 30 more

Runs are kept under --out and continued, so a second call only writes the blocks again.
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from prefeval.reports import run as runs
from prefeval.reports import summary, verdict

ROOT = Path(__file__).parents[1]
FILES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
CURVE = ["sweep", "--beta", "0.005:3:6", "--methods", "dpo", "--name", "curve"]
HARMLESS = Path("hh_harmless", "harmless-base.test.jsonl.gz")
DEMO = Path("preference_pairs")
DEFAULT = ["sweep", "--beta", "0.05:0.3", "--name", "default"]
Blocks = dict[str, Callable[[], str]]
"""What makes each block, by its name; nothing runs before it is asked for its text."""
COLUMNS = {
    "beta": ("β", "{:g}"),
    "step": ("step", "{:g}"),
    "kl": ("KL", "{:.2f}"),
    "delta_chosen": ("Δchosen", "{:.2f}"),
    "delta_rejected": ("Δrejected", "{:.2f}"),
    "retention_json": ("JSON", "{:.0f}"),
    "retention_bullets": ("bullets", "{:.0f}"),
    "retention_tool": ("tool", "{:.0f}"),
    "retention_refusal": ("refusal", "{:.0f}"),
    "retention_fact": ("fact", "{:.0f}"),
    "length_ratio": ("length ×", "{:.2f}"),
    "win_rate": ("raw WR", "{:.1f}"),
    "lc_win_rate": ("LC WR", "{:.1f}"),
    "true_win_rate": ("true WR", "{:.1f}"),
}


def prefeval(arguments: list[str], out: Path) -> Path:
    """Run one command to its end; the folder of its run."""
    name = arguments[arguments.index("--name") + 1]
    command = [sys.executable, "-m", "prefeval", *arguments, "--out", str(out)]
    subprocess.run(command, check=True)
    return out / name


def first_and_last(run: Path) -> str:
    """The first and last checkpoint of every β as a Markdown table; rates in percent."""
    frame = pd.read_parquet(run / "results.parquet").sort_values(["method", "beta", "step"])
    trials = frame.groupby(["method", "beta", "seed"])["step"]
    ends = (frame["step"] == trials.transform("min")) | (frame["step"] == trials.transform("max"))
    frame = frame[ends]
    lines = [
        "| " + " | ".join(title for title, _ in COLUMNS.values()) + " |",
        "|" + "---:|" * len(COLUMNS),
    ]
    for row in frame.to_dict(orient="records"):
        cells = [
            form.format(row[name]) if math.isfinite(row[name]) else "–"
            for name, (_, form) in COLUMNS.items()
        ]
        lines.append("| " + " | ".join(cells) + " |")
    n = int(frame["win_rate_n"].iloc[0])
    widest = max((frame["lc_ci_high"] - frame["lc_ci_low"]).max() / 2, 0)
    lines += [
        "",
        f"First and last checkpoint of every β, one seed, {n} prompts; "
        f"LC WR ± {widest:.1f} or less.",
    ]
    return "\n".join(lines)


def terminal(run: Path) -> str:
    """What the command printed at its end; folders by name, and without this machine's options."""
    saved = runs.load(run)
    text = re.sub(r" --(?:out|workers) \S+", "", summary.plain(saved, verdict.read(saved)).strip())
    return "```\n" + re.sub(r"(?<=\s)/\S*/([^/\s]+)", r"\1", text) + "\n```"


def fill(name: str, content: str) -> None:
    """Put ``content`` into every block of this name."""
    pattern = re.compile(rf"(<!-- output: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        path.write_text(pattern.sub(lambda m: f"{m[1]}{content}\n{m[2]}", text), encoding="utf-8")


def printed(*command: str) -> str:
    """What a script of this repository prints."""
    script, *arguments = command
    run = [sys.executable, str(ROOT / script), *arguments]
    return subprocess.run(run, check=True, text=True, stdout=subprocess.PIPE).stdout.strip()


def audit(file: Path) -> str:
    """What ``prefeval audit`` prints of a file."""
    command = [sys.executable, "-m", "prefeval", "audit", file.name]
    run = subprocess.run(command, cwd=file.parent, text=True, stdout=subprocess.PIPE)
    return f"```\n{run.stdout.strip()}\n```"


def beside_trl(trl_ppo: str) -> str:
    """The main columns of benchmarks/trainers.py; this environment has the other TRL."""
    table = printed("benchmarks/trainers.py", "--repeats", "2", "--trl-ppo", trl_ppo)
    lines = []
    for line in table.splitlines():
        if line.startswith("| "):
            c = [cell.strip() for cell in line.strip("|").split("|")]
            lines.append([*c[:3], c[5], c[8], f"{c[3]} / {c[4]}", f"{c[6]} / {c[7]}"])
    lines[0][5:] = ["s/step, prefeval / TRL", "MB (before the first step), prefeval / TRL"]
    rule = ["---"] * 3 + ["---:"] * 4
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (lines[0], rule, *lines[1:]))


def picture(run: Path) -> None:
    """docs/report.png: the first screen of a report, where Chromium is installed."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("docs/report.png is left as it is: no Chromium here")
        return
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--disable-background-networking", f"--user-data-dir={profile}",
                "--window-size=1280,860", f"--screenshot={ROOT / 'docs' / 'report.png'}",
                (run / "report.html").absolute().as_uri(),
            ],
            check=True,
            capture_output=True,
        )  # fmt: skip


def asked() -> argparse.Namespace:
    """What is to be run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--data", type=Path, help="harmless-base pairs: also do the real run")
    parser.add_argument("--trl-ppo", help="interpreter with TRL 1.12: also the trainers' table")
    parser.add_argument("--alpaca-eval", help="interpreter with alpaca_eval: also docs/winrates.md")
    parser.add_argument("--alpaca-data", type=Path, help="folder of AlpacaEval's data, for it")
    parser.add_argument("--xstest", help="folder of XSTest's CSV files: also docs/suites.md")
    parser.add_argument("--suites", help="folder with ifeval/ and xstest/: also public harnesses'")
    parser.add_argument("--strmatch", help="XSTest's classify_completions_strmatch.py, for it")
    parser.add_argument("--vllm", help="interpreter with vLLM: also docs/backends.md")
    parser.add_argument(
        "--preferences",
        type=Path,
        help="folder with hh_harmless/ and preference_pairs/: also docs/audit.md",
    )
    parser.add_argument(
        "--planted",
        help="runs that benchmarks/diagnosis.py made: also how often diagnoses are right",
    )
    parser.add_argument("--studies", action="store_true", help="also do the lab's studies")
    parser.add_argument("--steps", type=int, default=32, help="of the real run")
    return parser.parse_args()


def of_runs(options: argparse.Namespace) -> Blocks:
    """The blocks of sweeps: the lab's, and the real run's with its data."""
    blocks: Blocks = {}
    curve = prefeval(CURVE, options.out)
    blocks["curve"] = lambda: first_and_last(curve)
    blocks["curve-verdict"] = lambda: terminal(curve)
    default = prefeval(DEFAULT, options.out)
    blocks["default"] = lambda: terminal(default)
    picture(default)
    if options.data:
        subprocess.run(
            [
                sys.executable, str(ROOT / "scripts" / "real_run.py"),
                "--data", str(options.data), "--steps", str(options.steps),
                "--out", str(options.out),
            ],
            check=True,
        )  # fmt: skip
        real = options.out / f"smollm2-harmless-{options.steps}"
        blocks["real"] = lambda: terminal(real)
    return blocks


def of_scripts(options: argparse.Namespace) -> Blocks:
    """The blocks that other scripts print, each where its option is given."""
    blocks: Blocks = {}
    if options.studies:
        blocks["study-rounds"] = partial(printed, "scripts/study.py", "rounds")
        blocks["study-controller"] = partial(printed, "scripts/study.py", "controller")
        blocks["study-exploration"] = partial(printed, "scripts/study.py", "exploration")
        blocks["study-length"] = partial(printed, "scripts/study_length.py", "--seeds", "4")
    if options.preferences:
        blocks["audit"] = lambda: audit(options.preferences / HARMLESS)
        files = {"harmless-base": HARMLESS, "dpo-demo": DEMO / "dpo_en_demo.json"}
        files["kto-demo"] = DEMO / "kto_en_demo.json"
        given = [f"{name}={options.preferences / file}" for name, file in files.items()]
        study = ("scripts/study_audit.py", "--seeds", "10", "--lab", "--data", *given)
        blocks["study-audit"] = partial(printed, *study)
    if options.planted:
        made = ("benchmarks/diagnosis.py", "score", "--world", "judge", "--out", options.planted)
        blocks["diagnosis"] = partial(printed, *made)
    if options.xstest:
        blocks["xstest"] = partial(printed, "scripts/xstest.py", "--data", options.xstest)
    if options.suites:
        strmatch = ("--strmatch", options.strmatch) if options.strmatch else ()
        blocks["public-scores"] = partial(
            printed, "scripts/public_scores.py", "--data", options.suites, *strmatch
        )
    if options.vllm:
        blocks["backends"] = partial(printed, "scripts/compare_backends.py", "--vllm", options.vllm)
    if options.alpaca_eval:
        blocks["winrate"] = partial(
            printed, "benchmarks/winrate.py", "--data", str(options.alpaca_data / "alpaca_lc"),
            "--alpaca-eval", options.alpaca_eval,
        )  # fmt: skip
        blocks["tuned-pairs"] = partial(
            printed, "scripts/tuned_pairs.py", "--data", str(options.alpaca_data)
        )
    if options.trl_ppo:
        blocks["trainers"] = lambda: beside_trl(options.trl_ppo)
    return blocks


def main() -> None:
    """Run what was asked for and fill the blocks."""
    options = asked()
    for name, make in (of_runs(options) | of_scripts(options)).items():
        fill(name, make())


if __name__ == "__main__":
    main()
