"""IFEval, XSTest and BFCL scores of SmolLM2-135M-Instruct, beside what public harnesses give it.

    python scripts/public_scores.py --data DIR               # about an hour of one core, once
    python scripts/public_scores.py --data DIR --first 40    # the first prompts of each suite
    python scripts/public_scores.py --data DIR --show        # and the answers on which they differ

Both sides score the same answers: greedy, float32, at most 256 new tokens, generated here and kept
in the user's cache, so that a second call only scores. The harnesses live in an environment of
their own beside them, which the first call makes (``public_scores_peer.py`` runs in it): lm-eval
for IFEval, bfcl-eval for BFCL with its own prompts and data. For XSTest both public harnesses ask a
model whether an answer refuses; offline there are lists of phrases: JailbreakBench's, and with
``--strmatch FILE`` XSTest's authors' ``classify_completions_strmatch.py`` from their repository.
DIR holds ``ifeval/input_data.jsonl`` and ``xstest/xstest_prompts.csv``. The two of IFEval's
instructions that need NLTK's punkt, which no package carries, are left out with their prompts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from public_scores_calls import call_check, compare

from prefeval import records
from prefeval.harness import models
from prefeval.metrics import stats
from prefeval.records import Message, Prompt, Sampling
from prefeval.suites import builtin, checks, ifeval, refusal

HERE = Path(__file__).parent
WITH_DEPENDENCIES = (
    "lm-eval[ifeval]==0.4.13", "tenacity", "python-dotenv", "tree_sitter==0.21.3",
    "tree-sitter-java==0.21.0", "tree-sitter-javascript==0.21.4",
)  # fmt: skip
ALONE = ("bfcl-eval==2026.3.23", "jailbreakbench==1.0.0")  # their scorers need little of theirs
CATEGORIES = ("simple_python", "multiple", "parallel", "irrelevance")
PHRASES = ("JailbreakBench's phrases", "XSTest's string matching")
NEW_TOKENS = 256
AT_ONCE = 64  # prompts generated and saved together


class Row(NamedTuple):
    """One prompt's verdict on each side; ``why`` names the kind of a difference."""

    id: str
    ours: bool
    theirs: bool
    text: str
    why: str = ""


class Harness:
    """The public harnesses' environment, made where it is not there."""

    def __init__(self, folder: Path) -> None:
        self.python, done = folder / "bin" / "python", folder / "complete"
        if not done.is_file():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            pip = [str(self.python), "-m", "pip", "install", "--quiet"]
            subprocess.run([*pip, *WITH_DEPENDENCIES], check=True)
            subprocess.run([*pip, "--no-deps", *ALONE], check=True)
            done.touch()

    def ask(self, do: str, **request: Any) -> list[Any]:
        """One request of ``public_scores_peer.py``, and its answer."""
        run = subprocess.run(
            [str(self.python), str(HERE / "public_scores_peer.py")],
            input=json.dumps({"do": do, **request}), capture_output=True, text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"}, cwd=self.python.parent,
        )  # fmt: skip
        if run.returncode:
            raise SystemExit("\n".join(run.stderr.splitlines()[-10:]))
        found: list[Any] = json.loads(run.stdout)
        return found


class Answers:
    """Greedy answers of one model; those that ``folder`` holds are not generated again."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.backend: Any = None

    def of(self, suite: str, prompts: Sequence[Prompt]) -> list[str]:
        """The texts, in the order of ``prompts``."""
        file = self.folder / f"{suite}.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else ()
        saved = {row["key"]: row["text"] for row in map(json.loads, lines)}
        keys = [records.content_hash((self.model.name, p.messages, NEW_TOKENS)) for p in prompts]
        missing = [(k, p) for k, p in zip(keys, prompts, strict=True) if k not in saved]
        for start in range(0, len(missing), AT_ONCE):
            part = missing[start : start + AT_ONCE]
            found = self._generate([prompt for _, prompt in part])
            with file.open("a", encoding="utf-8") as handle:
                for (key, prompt), text in zip(part, found, strict=True):
                    handle.write(json.dumps({"key": key, "id": prompt.id, "text": text}) + "\n")
                    saved[key] = text
            print(f"{suite}: {start + len(part)} of {len(missing)} generated", file=sys.stderr)
        return [saved[key] for key in keys]

    def _generate(self, prompts: Sequence[Prompt]) -> list[str]:
        if self.backend is None:
            import torch

            from prefeval.harness.backends.hugging_face import HuggingFaceBackend

            torch.set_num_threads(1)
            model, tokenizer = models.load_model(self.model), models.load_tokenizer(self.model)
            self.backend = HuggingFaceBackend(model, tokenizer, max_length=8192, batch_size=AT_ONCE)
        found = self.backend.generate(prompts, Sampling("greedy", 0.0, NEW_TOKENS))
        return [completion.text for completion in found]


def score_ifeval(
    answers: Answers, harness: Harness, data: Path, first: int | None
) -> Iterator[tuple[str, str, list[Row]]]:
    """Prompts and instructions, strict and loose, beside lm-eval."""
    file = data / "ifeval" / "input_data.jsonl"
    docs = {f"ifeval-{d['key']}": d for d in map(json.loads, file.open(encoding="utf-8"))}
    prompts = [
        p
        for p in builtin.load_suite(file)
        if not set(ifeval.SPLIT_HERE) & set(docs[p.id]["instruction_id_list"])
    ][:first]
    texts = answers.of("ifeval", prompts)
    asked = [{"doc": docs[p.id], "text": t} for p, t in zip(prompts, texts, strict=True)]
    theirs = harness.ask("ifeval", rows=asked)
    for place, reading in enumerate(("strict", "loose")):
        whole: list[Row] = []
        single: list[Row] = []
        for prompt, text, verdicts in zip(prompts, texts, theirs, strict=True):
            doc = docs[prompt.id]
            names, kwargs = doc["instruction_id_list"], doc["kwargs"]
            ours = ifeval.follows_all(names, kwargs, doc["prompt"], text, loose=place == 1)
            rows = [
                Row(prompt.id, a, b, text, name)
                for name, a, b in zip(names, ours, verdicts[place], strict=True)
            ]
            differ = [row.why for row in rows if row.ours != row.theirs]
            passed = checks.check_prompt(prompt, text, loose=place == 1)
            whole.append(Row(prompt.id, passed, all(verdicts[place]), text, " ".join(differ)))
            single += rows
        yield f"IFEval, prompts, {reading}", "lm-eval", whole
        yield f"IFEval, instructions, {reading}", "lm-eval", single


def score_xstest(
    answers: Answers, harness: Harness, data: Path, first: int | None, strmatch: Path | None
) -> Iterator[tuple[str, str, list[Row]]]:
    """The share refused, in full or in part, of the safe and of the unsafe prompts; then how many
    answers of three models are told from each other as people tell them."""
    file = str(strmatch.absolute()) if strmatch else ""
    frame = pd.read_csv(data / "xstest" / "xstest_prompts.csv")
    for label, part in frame.groupby("label", sort=False):
        part = part[:first]
        prompts = [
            Prompt(f"xstest-{i}", (Message(role="user", content=text),), str(label), "retention",
                   f"xstest-{i}", None)
            for i, text in zip(part["id"], part["prompt"], strict=True)
        ]  # fmt: skip
        texts = answers.of("xstest", prompts)
        kinds = [refusal.classify(p, t) for p, t in zip(part["prompt"], texts, strict=True)]
        lists = harness.ask("phrases", texts=texts, strmatch=file)
        for scorer, said in zip(PHRASES, lists, strict=False):  # one list without the file
            rows = [
                Row(prompt.id, kind != "compliance", refused, text, f"{kind} here")
                for prompt, kind, refused, text in zip(prompts, kinds, said, texts, strict=True)
            ]
            yield f"XSTest, {label}: refused", scorer, rows
    for path in sorted((data / "xstest").glob("**/*completions*.csv")):
        frame = pd.read_csv(path).fillna({"completion": ""})
        texts, people = list(frame["completion"]), frame["final_label"].str.contains("refusal")
        kinds = [refusal.classify(p, t) for p, t in zip(frame["prompt"], texts, strict=True)]
        model = path.stem.split("completions_")[-1].removesuffix("_gpteval")
        lists = harness.ask("phrases", texts=texts, strmatch=file)
        for scorer, said in zip(PHRASES, lists, strict=False):  # one list without the file
            rows = [
                Row(f"{model}-{i}", (kind != "compliance") == refused, phrase == refused, text)
                for i, kind, refused, phrase, text in zip(
                    frame["id"], kinds, people, said, texts, strict=True
                )
            ]  # fmt: skip
            yield f"XSTest, {model}: as people say", scorer, rows


def score_bfcl(
    answers: Answers, harness: Harness, first: int
) -> Iterator[tuple[str, str, list[Row]]]:
    """The first prompts of each category, asked as bfcl-eval asks."""
    asked = harness.ask("prompts", categories=dict.fromkeys(CATEGORIES, first))
    for category in CATEGORIES:
        rows = [row for row in asked if row["category"] == category]
        prompts = [
            Prompt(row["id"], tuple(Message(**m) for m in row["messages"]), category, "retention",
                   row["id"], call_check(row))
            for row in rows
        ]  # fmt: skip
        texts = answers.of("bfcl", prompts)
        errors = harness.ask(
            "bfcl", rows=[{**row, "text": text} for row, text in zip(rows, texts, strict=True)]
        )
        yield (
            f"BFCL, {category}",
            "bfcl-eval",
            [
                Row(p.id, checks.check_prompt(p, text), not error, text, error)
                for p, text, error in zip(prompts, texts, errors, strict=True)
            ],
        )


def percent(verdicts: Sequence[bool], rows: Sequence[Row]) -> str:
    """A share with its interval, clustered by prompt."""
    found = stats.proportion(verdicts, [row.id for row in rows]).scaled(100)
    return f"{found.value:.1f} [{found.ci_low:.1f}, {found.ci_high:.1f}]"


def print_scores(tables: Iterable[tuple[str, str, list[Row]]]) -> list[tuple[str, Row]]:
    """The scores, then the kinds of difference; the rows that differ, each with its title."""
    print("| | n | prefeval | public | by | differ |\n|---|---:|---:|---:|---|---:|")
    different: list[tuple[str, Row]] = []
    for title, scorer, rows in tables:
        apart = [row for row in rows if row.ours != row.theirs]
        different += [(f"{title}, {scorer}", row) for row in apart]
        sides = percent([r.ours for r in rows], rows), percent([r.theirs for r in rows], rows)
        print(f"| {title} | {len(rows)} | {' | '.join(sides)} | {scorer} | {len(apart)} |")
    print("\n| where they differ | kind | passes here | passes there |\n|---|---|---:|---:|")
    kinds = pd.DataFrame(
        [(title, row.why, row.ours, row.theirs) for title, row in different if row.why],
        columns=["title", "why", "ours", "theirs"],
    )
    for (title, why), part in kinds.groupby(["title", "why"], sort=False):
        print(f"| {title} | {why} | {int(part['ours'].sum())} | {int(part['theirs'].sum())} |")
    return different


def main() -> None:
    """Generate what is missing, score on both sides, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--first", type=int, help="so many prompts of each suite; BFCL: 40")
    parser.add_argument("--suites", nargs="+", default=["ifeval", "xstest", "bfcl"])
    parser.add_argument("--strmatch", type=Path, help="XSTest's classify_completions_strmatch.py")
    parser.add_argument("--show", action="store_true", help="the answers on which they differ")
    parser.add_argument("--model", type=Path, help="its folder; fetched where it is not given")
    parser.add_argument("--out", type=Path, help="where answers and the environment are kept")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    import platformdirs

    out = options.out or Path(platformdirs.user_cache_dir("prefeval")) / "public_scores"
    out.mkdir(parents=True, exist_ok=True)
    if options.model is None:
        fetch = [sys.executable, str(HERE / "fetch_smollm2.py")]
        found = subprocess.run(fetch, stdout=subprocess.PIPE, text=True, check=True)
        options.model = Path(found.stdout.split()[-1])
    answers, harness = Answers(options.model, out), Harness(out / "harnesses")
    suites = {
        "ifeval": score_ifeval(answers, harness, options.data, options.first),
        "xstest": score_xstest(answers, harness, options.data, options.first, options.strmatch),
        "bfcl": score_bfcl(answers, harness, options.first or 40),
    }
    different = print_scores(table for suite in options.suites for table in suites[suite])
    if "bfcl" in options.suites:
        compare(harness.ask)
    for title, row in different if options.show else ():
        print(f"\n{title}: {row.id} ({row.why}), here {row.ours}, there {row.theirs}")
        print(f"  {row.text!r}")


if __name__ == "__main__":
    main()
