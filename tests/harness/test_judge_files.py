"""`prefeval judge`, the cache of verdicts, a person's sheet, saved annotations, a local model."""

import csv
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from prefeval import records
from prefeval.harness import cli, judge_files, judges, judgments, models
from prefeval.harness.judges import chat_prompt
from prefeval.harness.judges.chat import ChatJudge
from prefeval.harness.verdict_cache import CachedJudge, cached
from prefeval.records import Comparison, Completion, PrefevalError, Prompt, Verdict


class Counting:
    """Prefers the longer answer, and notes what it is asked."""

    name = "counting"
    expensive = True

    def __init__(self, log: Path, model: str = "m", wait: float = 0.0) -> None:
        self.log, self.model, self.wait = log, model, wait

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"model": self.model}

    def stream(self, items: Sequence[Comparison]):
        for place, item in enumerate(items):
            time.sleep(self.wait)
            with self.log.open("a") as log:
                log.write(f"{item.prompt.id} {item.first} {item.second}\n")
            longer = (len(item.first) > len(item.second)) - (len(item.first) < len(item.second))
            yield place, Verdict(0.5 + longer / 2, "by length")

    def compare(self, items: Sequence[Comparison]) -> list[Verdict]:
        return [verdict for _, verdict in self.stream(items)]

    @property
    def asked(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


def comparisons(n: int, same: int = 1) -> list[Comparison]:
    return [
        Comparison(
            Prompt(f"p{i}", ({"role": "user", "content": f"q{i}"},), "", "win_rate"), "aa" * i, "bb"
        )
        for i in range(n)
        for _ in range(same)
    ]


# -- the cache ---------------------------------------------------------------------------------


def test_what_was_judged_is_not_asked_again(tmp_path):
    judge = Counting(tmp_path / "log")
    first = CachedJudge(judge, tmp_path / "v.sqlite").compare(comparisons(5))
    again = CachedJudge(judge, tmp_path / "v.sqlite")
    assert again.compare(comparisons(7))[:5] == first
    assert (again.hits, again.asked) == (5, 2)
    assert len(judge.asked) == 7
    assert first == judge.compare(comparisons(5))


@pytest.mark.parametrize("change", ["model", "prompt", "first", "order"])
def test_whatever_a_verdict_depends_on_makes_it_another(change, tmp_path):
    judge = Counting(tmp_path / "log")
    item = comparisons(3)[2]
    CachedJudge(judge, tmp_path / "v.sqlite").compare([item])
    match change:
        case "model":
            judge = Counting(tmp_path / "log", model="n")
        case "prompt":
            prompt = Prompt("p2", ({"role": "user", "content": "q2 "},), "", "win_rate")
            item = Comparison(prompt, item.first, item.second)
        case "first":
            item = Comparison(item.prompt, item.first + ".", item.second)
        case "order":
            item = Comparison(item.prompt, item.second, item.first)
    CachedJudge(judge, tmp_path / "v.sqlite").compare([item])
    assert len(judge.asked) == 2


def test_a_prompts_name_does_not_count_and_equal_comparisons_are_replicates(tmp_path):
    judge = Counting(tmp_path / "log")
    cache = CachedJudge(judge, tmp_path / "v.sqlite")
    cache.compare(comparisons(2, same=3))
    assert len(judge.asked) == 6
    renamed = [
        Comparison(
            Prompt(f"x{i.prompt.id}", i.prompt.messages, "json", "retention"), i.first, i.second
        )
        for i in comparisons(2, same=3)
    ]
    cache.compare(renamed)
    assert len(judge.asked) == 6


def test_an_unread_verdict_is_kept_as_unread(tmp_path):
    class Mute(Counting):
        def stream(self, items):
            yield from ((i, Verdict(None, "refused")) for i in range(len(items)))

    CachedJudge(Mute(tmp_path / "log"), tmp_path / "v.sqlite").compare(comparisons(2))
    found = CachedJudge(Counting(tmp_path / "log"), tmp_path / "v.sqlite").compare(comparisons(2))
    assert found == [Verdict(None, "refused")] * 2


def test_only_judges_that_cost_something_are_cached(tmp_path):
    lab = judges.open_judge("lab:seed=0,people=16")
    assert cached(lab, tmp_path / "v.sqlite") is lab
    assert isinstance(cached(Counting(tmp_path / "log"), tmp_path / "v.sqlite"), CachedJudge)


def test_a_judge_that_leaves_some_out_is_named(tmp_path):
    class Lazy(Counting):
        def stream(self, items):
            yield 0, Verdict(1.0)

    with pytest.raises(PrefevalError, match="counting gave no verdict on 2 comparisons"):
        CachedJudge(Lazy(tmp_path / "log"), tmp_path / "v.sqlite").compare(comparisons(3))


def test_a_database_of_another_form_is_named(tmp_path):
    with closing(sqlite3.connect(tmp_path / "v.sqlite")) as database:
        database.execute("CREATE TABLE verdicts (a, b)")
    with pytest.raises(PrefevalError, match="no such column: key; it is no file of verdicts"):
        CachedJudge(Counting(tmp_path / "log"), tmp_path / "v.sqlite")


def test_a_place_that_cannot_be_written_is_no_reason_to_give_verdicts_up(tmp_path):
    (tmp_path / "v.sqlite").mkdir()
    with pytest.raises(PrefevalError, match="unable to open database file; free the disk") as error:
        CachedJudge(Counting(tmp_path / "log"), tmp_path / "v.sqlite")
    assert "move it away" not in str(error.value)


def test_a_file_that_is_no_cache_is_named(tmp_path):
    (tmp_path / "v.sqlite").write_bytes(b"not a database, but long enough to be looked at" * 30)
    with pytest.raises(PrefevalError, match="no file of verdicts"):
        CachedJudge(Counting(tmp_path / "log"), tmp_path / "v.sqlite")


ASKING = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_judge_files import CachedJudge, Counting, comparisons
folder = Path({folder!r})
judge = Counting(folder / f"log-{{os.getpid()}}", wait=0.001)
print(len(CachedJudge(judge, folder / "v.sqlite").compare(comparisons(60))))
"""


def test_several_processes_may_write_at_once(tmp_path):
    code = ASKING.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate()[0] for process in running] == ["60\n"] * 4
    with closing(sqlite3.connect(tmp_path / "v.sqlite")) as database:
        assert database.execute("SELECT COUNT(*) FROM verdicts").fetchone() == (60,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_judge_files import CachedJudge, Counting, comparisons
folder = Path({folder!r})
CachedJudge(Counting(folder / "log", wait=0.02), folder / "v.sqlite").compare(comparisons(200))
"""


def test_a_killed_process_has_lost_at_most_the_verdict_in_hand(tmp_path):
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code])
    log = tmp_path / "log"
    while not log.exists() or len(log.read_text().splitlines()) < 20:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    asked = len(log.read_text().splitlines())
    assert asked < 200
    judge = Counting(log)
    cache = CachedJudge(judge, tmp_path / "v.sqlite")
    assert len(cache.compare(comparisons(200))) == 200
    assert cache.hits >= asked - 1
    assert len(judge.asked) <= 201


# -- the command -------------------------------------------------------------------------------


def outputs(folder: Path, name: str, texts: Mapping[str, str]) -> Path:
    path = folder / f"{name}.json"
    judge_files.write_outputs(path, name, list(texts.items()))
    return path


@pytest.fixture
def answers(tmp_path) -> tuple[Path, Path]:
    asked = [f"Question {i}?" for i in range(12)]
    tuned = outputs(
        tmp_path, "tuned", {q: f"A long answer, number {i}" for i, q in enumerate(asked)}
    )
    base = outputs(tmp_path, "base", {q: f"Answer {i}" for i, q in enumerate(reversed(asked))})
    return tuned, base


def run(capsys, *arguments: Any) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        cli.main([*map(str, arguments)])
    printed = capsys.readouterr()
    return int(stopped.value.code or 0), printed.out, printed.err


def test_a_person_judges_blind_and_the_win_rate_follows(answers, tmp_path, capsys):
    sheet, out = tmp_path / "sheet.csv", tmp_path / "annotations.json"
    command = ("judge", *answers, "--judge", f"person:{sheet}", "--out", out)
    code, _, error = run(capsys, *command)
    assert code == 2
    assert "12 pairs of answers without their names" in error
    with sheet.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 12
    assert "tuned" not in sheet.read_text()
    sides = [row["left"].startswith("A long") for row in rows]
    assert 0 < sum(sides) < 12  # either side
    for number, row in enumerate(
        rows
    ):  # nine for the tuned answer, one tie, one against, one blank
        wins = "left" if row["left"].startswith("A long") else "right"
        loses = "right" if wins == "left" else "left"
        row["verdict"] = {9: "tie", 10: loses, 11: ""}.get(number, wins)
    with sheet.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    code, printed, _ = run(capsys, *command)
    assert code == 0
    assert f"prefeval winrate {out}" in printed
    assert "unread_rate: 8.3" in printed
    read = judgments.read(out)
    assert sorted(read.rows["preference"].dropna()) == [0, 0.5, *[1.0] * 9]
    assert read.models == ["tuned"]
    code, printed, _ = run(capsys, "winrate", out, "--bootstrap", "0", "--json")
    (rates,) = json.loads(printed)
    assert rates["win_rate"] == pytest.approx(100 * 9.5 / 11)
    assert rates["mean_len_output"] > rates["mean_len_baseline"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("pair,verdict\nx,leftish\n", "2 says 'leftish'; use left, right, tie or nothing"),
        ("pair,verdict\nx,left\nx,right\n", "has pair x again"),
        ("pair,verdict\nx,\n", "is not filled in"),
        ("a,b\n1,2\n", "must have the columns pair"),
        ("pair,verdict\nx,left\n", "lacks the pair on"),
    ],
)
def test_a_sheet_at_fault_is_named(content, says, answers, tmp_path, capsys):
    (tmp_path / "sheet.csv").write_text(content)
    code, _, error = run(capsys, "judge", *answers, "--judge", f"person:{tmp_path / 'sheet.csv'}")
    assert code == 2
    assert says in error


def test_cells_that_a_spreadsheet_would_run_are_quoted(tmp_path):
    judge = judges.open_judge(f"person:{tmp_path / 'sheet.csv'}")
    prompt = Prompt("p", ({"role": "user", "content": "q"},), "", "win_rate")
    with pytest.raises(PrefevalError, match="is written, 1 pairs"):
        judge.compare([Comparison(prompt, '=HYPERLINK("http://x")', "@cmd")])
    with (tmp_path / "sheet.csv").open(newline="") as handle:
        (row,) = csv.DictReader(handle)
    assert {row["left"][0], row["right"][0]} == {"'"}


def test_saved_annotations_judge_the_same_answers_again(answers, tmp_path, capsys):
    rows = []
    tuned, base = (json.loads(path.read_text()) for path in answers)
    other = {row["instruction"]: row["output"] for row in base}
    for i, row in enumerate(tuned):
        rows.append(
            {
                "instruction": row["instruction"], "output_1": other[row["instruction"]],
                "output_2": row["output"], "generator_1": "base", "generator_2": "tuned",
                "preference": [1.25, None, 2][i % 3],
            }
        )  # fmt: skip
    (tmp_path / "theirs.json").write_text(json.dumps(rows))
    out = tmp_path / "ours.json"
    spec = f"saved:{tmp_path / 'theirs.json'}"
    jsonl = tmp_path / "theirs.jsonl"
    jsonl.write_text("\n".join(json.dumps(row) for row in rows))
    judges.open_judge(f"saved:{jsonl}")
    assert run(capsys, "judge", *answers, "--judge", spec, "--out", out)[0] == 0
    again = json.loads(out.read_text())
    assert [r["preference"] for r in again] == [r["preference"] for r in rows]
    command = ("judge", *answers, "--judge", spec, "--out", out, "--json")
    _, printed, _ = run(capsys, *command, "--against", tmp_path / "theirs.json")
    audit = {m["name"]: m for m in json.loads(printed)["audit"]}
    assert (audit["agreement"]["value"], audit["agreement"]["n"]) == (100, 8)
    assert audit["kappa"]["value"] == pytest.approx(1)
    code, _, error = run(capsys, "judge", *reversed(answers), "--judge", spec, "--out", out)
    assert code == 0  # the other way round is the same pair
    assert json.loads(out.read_text())[0]["preference"] in (1, 1.75)
    changed = outputs(tmp_path, "changed", {r["instruction"]: "Another" for r in tuned})
    code, _, error = run(capsys, "judge", changed, answers[1], "--judge", spec, "--out", out)
    assert code == 2
    assert "the saved verdicts hold none on these two answers" in error


def test_nothing_that_is_read_or_anothers_is_replaced(answers, tmp_path, capsys):
    tuned, base = answers
    rows = [{"instruction": r["instruction"], "output_1": "x", "output_2": r["output"],
             "preference": 1, "human": "me"} for r in json.loads(tuned.read_text())]  # fmt: skip
    other = tmp_path / "annotations.json"  # where the command would write
    other.write_text(json.dumps(rows))
    before = {path: path.read_bytes() for path in (tuned, base, other)}
    for options in (
        ("--against", other),
        ("--out", tuned),
        ("--out", base),
        (),
    ):
        code, _, error = run(capsys, "judge", *answers, "--judge", f"saved:{other}", *options)
        assert code == 2
        assert "give another --out" in error
    command = ("judge", *answers, "--judge", f"person:{tmp_path / 's.csv'}", "--out")
    code, _, error = run(capsys, *command, tmp_path / "new.json", "--against", tmp_path / "no.json")
    assert code == 2
    assert "no such file" in error
    assert not (tmp_path / "s.csv").exists()
    assert before == {path: path.read_bytes() for path in before}


def test_agreement_is_over_the_same_texts_and_needs_some(answers, tmp_path, capsys):
    tuned, base = answers
    others = {r["instruction"]: r["output"] for r in json.loads(base.read_text())}
    rows = [
        {
            "instruction": r["instruction"], "output_1": others[r["instruction"]],
            "output_2": r["output"], "preference": 2,
        }
        for r in json.loads(tuned.read_text())
    ]  # fmt: skip
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps(rows))
    older = tmp_path / "older.json"
    older.write_text(json.dumps([{**r, "output_2": "an older answer"} for r in rows]))
    command = ("judge", *answers, "--judge", f"saved:{mine}", "--out", tmp_path / "o.json")
    code, _, error = run(capsys, *command, "--against", older)
    assert code == 2
    assert "judges none of these answers" in error
    older.write_text(json.dumps([*rows[:5], *({**r, "output_2": "older"} for r in rows[5:])]))
    code, printed, _ = run(capsys, *command, "--against", older)
    assert code == 0
    assert "agreement: 100.0" in printed
    assert "n 5" in printed


def test_two_models_of_one_name_are_told_apart_by_their_files(tmp_path, capsys):
    for name, text in (("a", "long answer"), ("b", "short")):
        judge_files.write_outputs(tmp_path / f"{name}.json", "same", [("q", text)])
    (tmp_path / "c").mkdir()
    judge_files.write_outputs(tmp_path / "c/a.json", "same", [("q", "third")])
    sheet = tmp_path / "s.csv"
    command = ("judge", tmp_path / "a.json", "--judge", f"person:{sheet}")
    assert "is written" in run(capsys, *command[:2], tmp_path / "b.json", *command[2:])[2]
    assert "answers of 'a'" in run(capsys, *command[:2], tmp_path / "c/a.json", *command[2:])[2]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[", "not valid JSON"),
        ("{}", "must be a JSON list"),
        ("[]", "is empty"),
        ('[{"instruction": "q"}]', "answer 0 has no text"),
        ('[{"instruction": "q", "output": "a", "generator": "x"},'
         ' {"instruction": "r", "output": "a", "generator": "y"}]', "answers of x, y"),
        ('[{"instruction": "unasked", "output": "a"}]', "has no answer to 1 instructions"),
    ],
)  # fmt: skip
def test_answers_at_fault_are_named(content, says, answers, tmp_path, capsys):
    (tmp_path / "bad.json").write_text(content)
    command = ("judge", tmp_path / "bad.json", answers[1], "--judge", "lab:seed=0,people=16")
    code, _, error = run(capsys, *command)
    assert code == 2
    assert says in error
    assert error.count("\n") == 1


def test_answers_of_a_run_go_out_and_come_back(tmp_path, capsys):
    """The judge of the run gives the exported answers the win rate that the run has."""
    prompts = [
        Prompt("a", ({"role": "user", "content": "One?"},), "", "win_rate", "a"),
        Prompt("b", ({"role": "user", "content": "Two?"}, {"role": "assistant", "content": "2"},
                     {"role": "user", "content": "Three?"}), "", "win_rate", "b"),
        Prompt("c", ({"role": "user", "content": "JSON"},), "json", "retention", "c"),
    ]  # fmt: skip
    run_folder, checkpoint = tmp_path / "run", tmp_path / "run/trials/dpo-b0.1/checkpoint-000002"
    for folder in (run_folder / "data", run_folder / "reference", checkpoint):
        folder.mkdir(parents=True)
    records.write_jsonl(run_folder / "data/prompts.jsonl", prompts)
    for folder, text in ((run_folder / "reference", "short"), (checkpoint, "much longer")):
        rows = [Completion(i, m, k, f"{text} {i}", (1,), True)
                for i in "abc" for m, k in (("sample", 0), ("greedy", 0))]  # fmt: skip
        records.write_jsonl(folder / "completions.jsonl", rows)
    files = []
    for folder in (checkpoint, run_folder / "reference"):
        files.append(tmp_path / f"{folder.name}.json")
        code, printed, _ = run(capsys, "outputs", folder, "--out", files[-1])
        assert (code, printed) == (0, f"2 answers: {files[-1]}\n")
    name, found = judge_files.read_outputs(files[0])
    assert name == "dpo-b0.1/checkpoint-000002"
    assert found == {
        ("One?", 0): "much longer a",
        ("user: Two?\n\nassistant: 2\n\nuser: Three?", 0): "much longer b",
    }
    code, _, error = run(capsys, "outputs", tmp_path)
    assert code == 2
    assert "has no completions.jsonl" in error


# -- a local chat model ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chat_model(tiny_folder):
    return models.load_model(str(tiny_folder)), models.load_tokenizer(str(tiny_folder))


@pytest.mark.parametrize("tilt", [0.0, 9.0])
def test_a_local_model_weighs_its_letters_as_its_own_logits_do(tilt, chat_model, tiny_folder):
    """Against the model's plain forward pass, a comparison at a time."""
    import torch

    model, tokenizer = models.load_model(str(tiny_folder)), chat_model[1]
    judge = ChatJudge(model, tokenizer, {"weights": "w"})
    items = comparisons(3)
    letters = judge._letters()
    head = torch.nn.Linear(32, model.config.vocab_size)  # A and B likely enough to be read, or not
    with torch.no_grad():
        head.weight.copy_(model.get_output_embeddings().weight)
        head.bias.zero_()
        head.bias[[*letters["A"], *letters["B"]]] = tilt
    model.set_output_embeddings(head)
    read = 0
    for item, verdict in zip(items, judge.compare(items), strict=True):
        ids = tokenizer.apply_chat_template(
            chat_prompt.messages(item, "logprobs"), add_generation_prompt=True,
            return_tensors="pt", return_dict=False,
        )  # fmt: skip
        with torch.no_grad():
            p = model(ids).logits[0, -1].float().softmax(-1)
        a, b = (float(p[list(letters[x])].sum()) for x in "AB")
        read += a + b >= 0.5
        if a + b >= 0.5:
            assert verdict.preference == pytest.approx(a / (a + b), abs=1e-4)
        else:
            assert verdict.preference is None
        assert verdict.note == f"P(A) {a:.3f}, P(B) {b:.3f}"
    assert read == (3 if tilt else 0)


def test_a_local_model_that_writes_is_read_by_its_last_verdict(chat_model, monkeypatch):
    model, tokenizer = chat_model
    said = ["I say VERDICT: A", "VERDICT: A or VERDICT: B", "neither"]
    replies = [tokenizer.encode(text) for text in said]
    monkeypatch.setattr("prefeval.minitrainers.sampling.generate", lambda *a, **k: replies)
    found = ChatJudge(model, tokenizer, {}, mode="text").compare(comparisons(3))
    assert [v.preference for v in found] == [1.0, 0.0, None]


def test_a_template_without_system_turns_gets_the_words_in_the_users(chat_model, monkeypatch):
    model, tokenizer = chat_model
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
    monkeypatch.setattr(tokenizer, "chat_template", refuses + tokenizer.chat_template)
    ids = ChatJudge(model, tokenizer, {})._ids(comparisons(1)[0])
    text = tokenizer.decode(ids)
    assert text.startswith(f"<user>{chat_prompt.SYSTEM}\n\n[THE REQUEST]")


def test_a_folder_is_opened_with_what_its_verdicts_depend_on(tiny_folder):
    judge = judges.open_judge(f"chat:{tiny_folder},mode=json,new_tokens=9")
    assert {"weights", "tokenizer", "mode", "new_tokens"} <= set(judge.settings)
    assert judge.settings["weights"] == models.weights_hash(tiny_folder)
    for argument, says in (("", "needs a model"), (f"{tiny_folder},mood=x", "'mood'"),
                           (f"{tiny_folder},mode=x", "unknown verdict mode")):  # fmt: skip
        with pytest.raises(PrefevalError, match=says):
            judges.open_judge(f"chat:{argument}")


def test_a_comparison_longer_than_the_context_is_not_cut(chat_model):
    judge = ChatJudge(*chat_model, {"weights": "w"}, context=20)
    (found,) = judge.compare(comparisons(1))
    assert found == Verdict(None, "longer than the judge's context")
