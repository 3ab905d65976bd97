"""`prefeval compare` on runs with planted differences: what is named, refused, joined and said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from prefeval.harness import cli
from prefeval.harness.compare import command as compare
from prefeval.harness.compare import targets as compare_targets
from prefeval.metrics.pooling import choosing_half
from prefeval.records import PrefevalError, read_json, read_jsonl, write_json
from prefeval.reports.compare import page as compare_page
from prefeval.reports.compare import text as compare_text
from prefeval.reports.compare.data import Compared

RunWriter = Callable[..., Path]
At = Callable[[Path, float, int], Path]


def compared(a: Path | str, b: Path | str) -> Compared:
    return compare.compare(compare_targets.find(str(a)), compare_targets.find(str(b)))


def verdicts(found: Compared) -> dict[str, str]:
    return {line.name: line.verdict for line in found.lines}


def say(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", *map(str, arguments)])
    out, err = capsys.readouterr()
    code = stop.value.code
    assert isinstance(code, int)
    return code, out, err


def test_planted_gains_and_losses_are_named(run: Path, at: At) -> None:
    found = compared(at(run, 0.3, 20), at(run, 0.1, 20))
    said = verdicts(found)
    assert said["win_rate"] == "better"
    assert said["json"] == "worse"
    assert said["kl"] == said["length_ratio"] == said["paired_length_ratio"] == "more"
    assert said["delta_chosen"] == said["entropy"] == "no difference shown"
    json_line = found.behaviours[0]
    assert (json_line.gained, json_line.lost, json_line.difference.n) == (0, 20, 60)
    assert found.rows["judgments"] == (60, 60, 60)


def test_a_checkpoint_beside_itself_differs_in_nothing(run: Path, at: At) -> None:
    found = compared(at(run, 0.1, 20), at(run, 0.1, 20))
    assert set(verdicts(found).values()) == {"no difference shown"}
    assert all(line.difference.value == line.null for line in found.lines)
    assert found.samples == ()
    assert "A and B are the same checkpoint" in found.notes


def test_exit_code_is_0_and_names_what_got_worse(
    run: Path, at: At, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = say(at(run, 0.3, 20), at(run, 0.1, 20), capsys=capsys)
    assert (code, err) == (0, "")
    worse = out.partition("Worse in B")[2].partition("\n\n")[0]
    assert "json −33.3 points" in worse
    assert "20 prompts lost, 0 gained" in worse
    assert "60 judged prompts" in out


def test_control_characters_of_answers_are_made_visible(
    run: Path, at: At, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = say(at(run, 0.3, 20), at(run, 0.1, 20), capsys=capsys)
    assert not any(not c.isprintable() and c != "\n" for c in out)
    whole = compare_text.markdown(compared(at(run, 0.3, 20), at(run, 0.1, 20)))
    assert "<U+202E>" in whole
    assert not any(not c.isprintable() and c != "\n" for c in whole)


def test_no_answer_leaves_its_fence_in_markdown(
    run: Path, at: At, hostile: tuple[str, ...]
) -> None:
    text = compare_text.markdown(compared(at(run, 0.3, 20), at(run, 0.1, 20)))
    fence, outside, inside = "", [], []
    for line in text.split("\n"):
        if fence and line == fence:
            fence = ""
        elif not fence and line.startswith("```"):
            fence = line.removesuffix("text")
        else:
            (inside if fence else outside).append(line)
    assert fence == ""
    assert any(hostile[0] in line for line in inside)
    assert any("``` | end" in line for line in inside)
    assert not any("<img" in line or "alert" in line for line in outside)


def test_json_is_all_of_stdout_and_holds_every_number(
    run: Path, at: At, capsys: pytest.CaptureFixture[str], hostile: tuple[str, ...]
) -> None:
    code, out, _ = say(at(run, 0.3, 20), at(run, 0.1, 20), "--json", capsys=capsys)
    found = json.loads(out)
    assert code == 0
    named = {row["name"]: row for row in found["measures"]}
    assert named["win_rate"]["verdict"] == "better"
    assert named["win_rate"]["p"] <= named["win_rate"]["p_holm"]
    assert found["behaviours"][0]["lost"] == 20
    assert hostile[0] in [sample["b"]["text"] for sample in found["samples"]]


def test_a_run_stands_for_what_it_recommends(run: Path, at: At) -> None:
    found = compared(run, at(run, 0.1, 20))
    assert found.a.name == "DPO β = 0.3, step 20"
    assert found.a.path == f"one/{at(run, 0.3, 20).relative_to(run)}"
    assert found.trials == ()


@pytest.mark.parametrize(
    ("form", "named"),
    [
        ("{run}:dpo-b0.1", "DPO β = 0.1, step 20"),
        ("{run}:dpo-b0.3:10", "DPO β = 0.3, step 10"),
        ("{run}:dpo-b0.3:000020", "DPO β = 0.3, step 20"),
        ("{run}:dpo-b0.3", "DPO β = 0.3, step 20"),
    ],
)
def test_the_short_form_names_a_checkpoint(run: Path, form: str, named: str) -> None:
    assert compared(form.format(run=run), run).a.name == named


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ("{run}/nope", "is no folder"),
        ("{run}/..", "is no run of prefeval"),
        ("{run}/reference", "is what every number of the run is measured against"),
        ("{run}:dpo:20", "2 fit it"),
        ("{run}:dpo-b0.3:99", "none fits it"),
        ("nowhere:dpo", "nowhere is no folder"),
    ],
)
def test_what_names_no_checkpoint_is_refused_in_one_line(
    run: Path, form: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = say(run, form.format(run=run), capsys=capsys)
    assert (code, out) == (2, "")
    assert why in err
    assert err.count("\n") == 1


def test_a_trial_alone_is_refused_with_its_checkpoints(run: Path, at: At) -> None:
    with pytest.raises(PrefevalError, match=r"is a trial; name one.*checkpoint-000010"):
        compare_targets.find(str(at(run, 0.3, 10).parent))


def test_a_run_that_recommends_nothing_asks_for_a_checkpoint(write_run: RunWriter) -> None:
    run = write_run("none", {(0.1, 5): {}, (0.2, 5): {}})
    with pytest.raises(PrefevalError, match=r"recommends no checkpoint; name one: .*000005"):
        compare_targets.find(str(run))


@pytest.mark.parametrize("name", ["judgments.jsonl", "samples.jsonl", "metrics.json"])
def test_a_missing_file_is_named(run: Path, at: At, name: str) -> None:
    (at(run, 0.1, 20) / name).unlink()
    with pytest.raises(PrefevalError, match=rf"was not measured \(it lacks {name}\)"):
        compared(run, at(run, 0.1, 20))


def test_a_missing_calibration_or_reference_is_named(run: Path, at: At) -> None:
    (run / "reference" / "pairs.jsonl").unlink()
    with pytest.raises(PrefevalError, match="is not whole"):
        compared(run, at(run, 0.1, 20))
    (run / "reference" / "calibration.json").unlink()
    with pytest.raises(PrefevalError, match=r"has no calibration\.json"):
        compared(run, at(run, 0.1, 20))


def test_a_broken_file_is_named(run: Path, at: At) -> None:
    path = at(run, 0.1, 20) / "judgments.jsonl"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(PrefevalError, match=r"judgments\.jsonl:60 is not valid JSON"):
        compared(run, at(run, 0.1, 20))


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"hashes": {"reference": "x"}}, "different references"),
        ({"hashes": {"template": "x"}}, "different chat templates"),
        ({"sizes": {"max_new_tokens": 8}}, r"different lengths \(--max-new-tokens 120 and 8\)"),
    ],
)
def test_runs_whose_numbers_do_not_compare_are_refused(
    run: Path, write_run: RunWriter, other: dict[str, Any], why: str
) -> None:
    second = write_run("two", {(0.1, 20): {}}, **other)
    with pytest.raises(PrefevalError, match=f"{why}.*no number compares; measure both alike"):
        compared(run, second)


def test_no_common_prompt_is_refused(run: Path, write_run: RunWriter) -> None:
    second = write_run("two", {(0.1, 20): {}}, changed_prompts=60)
    with pytest.raises(PrefevalError, match="no prompt in common"):
        compared(run, second)


def test_another_judge_leaves_win_rates_out_and_says_so(run: Path, write_run: RunWriter) -> None:
    second = write_run("two", {(0.1, 20): {"json_lost": 30}}, judge="lab:seed=1")
    found = compared(run, second)
    said = verdicts(found)
    for name in ("win_rate", "lc_win_rate", "flip_rate"):
        assert said[name] == "not compared"
    assert said["json"] == "worse"
    assert said["true_win_rate"] != "not compared"
    assert any("the judges differ (lab:seed=0; lab:seed=1)" in note for note in found.notes)
    assert not any(k in ("for", "against") for s in found.samples for k in s.kinds)
    assert found.trials == ()


def test_another_length_unit_leaves_length_control_out(run: Path, write_run: RunWriter) -> None:
    second = write_run("two", {(0.1, 20): {}}, length_unit="tokens")
    said = verdicts(compared(run, second))
    assert said["lc_win_rate"] == "not compared"
    assert said["win_rate"] != "not compared"


def test_prompts_are_joined_by_id_and_equal_text_and_counted(
    run: Path, write_run: RunWriter
) -> None:
    second = write_run("two", {(0.1, 20): {}}, prompts=50, changed_prompts=8)
    found = compared(run, second)
    assert found.rows["judgments"] == (60, 50, 42)
    assert found.rows["checks"] == (60, 50, 42)
    assert found.rows["pairs"] == (60, 50, 42)
    assert any("16 prompts have one id and different text" in note for note in found.notes)
    assert all(int(s.prompt_id[-3:]) >= 8 for s in found.samples)
    assert "42 judged prompts (of 60 in A and 50 in B)" in compare_text.markdown(found)


def test_two_runs_compare_every_trial_that_both_have(write_run: RunWriter) -> None:
    grid = {(0.1, 20): {}, (0.3, 20): {}}
    first = write_run("one", {**grid, (0.5, 20): {}}, recommended=(0.1, 20), config={"lr": 1})
    better = {key: {"win": 0.3} for key in grid}
    second = write_run("two", better, recommended=(0.3, 20), config={"lr": 2, "new": "x"})
    found = compared(first, second)
    assert (found.a.name, found.b.name) == ("DPO β = 0.1, step 20", "DPO β = 0.3, step 20")
    assert [t.name for t in found.trials] == ["DPO β = 0.1, step 20", "DPO β = 0.3, step 20"]
    assert [t.line.verdict for t in found.trials] == ["better", "better"]
    assert found.manifest == (("config.lr", "1", "2"), ("config.new", "—", "x"))


def test_an_eval_run_stands_for_its_only_checkpoint(run: Path, at: At, tmp_path: Path) -> None:
    made = Path(shutil.copytree(run, tmp_path / "evaluated"))
    (made / "checkpoints").mkdir()
    shutil.move(at(made, 0.1, 20), made / "checkpoints" / "mine-abc")
    shutil.rmtree(made / "trials")
    task = read_json(made / "task.json")
    write_json(made / "task.json", {**task, "run": str(made)})
    found = compared(at(run, 0.1, 20), made)
    assert found.b.name == "mine-abc"
    assert all(line.difference.value == line.null for line in found.lines)
    assert compared(f"{made}:mine", run).a.name == "mine-abc"


def test_without_an_oracle_there_is_no_true_win_rate(write_run: RunWriter, at: At) -> None:
    run = write_run("real", {(0.1, 5): {}, (0.2, 5): {}}, oracle=False)
    found = compared(at(run, 0.1, 5), at(run, 0.2, 5))
    assert (
        "no oracle" in next(x for x in found.lines if x.name == "true_win_rate").difference.reason
    )
    assert "nan" not in compare_text.markdown(found).lower()
    assert "nan" not in json.dumps(compare_text.as_object(found)).lower()


def test_equal_inputs_give_equal_files(run: Path, at: At, tmp_path: Path) -> None:
    found = compared(at(run, 0.3, 20), at(run, 0.1, 20))
    again = compared(at(run, 0.3, 20), at(run, 0.1, 20))
    for one, other in zip(
        compare_page.write(tmp_path / "x" / "y", found),
        compare_page.write(tmp_path / "z", again),
        strict=True,
    ):
        assert one.read_bytes() == other.read_bytes()


def test_prompts_that_chose_a_checkpoint_do_not_judge_it(run: Path, at: At) -> None:
    """`run` recommends (0.3, 20) out of three; which half chose is `metrics.usable`'s rule."""
    evaluated = pd.DataFrame(read_jsonl(at(run, 0.3, 20) / "judgments.jsonl"))
    fresh = ~choosing_half(evaluated["cluster"].to_numpy())
    other = pd.DataFrame(read_jsonl(at(run, 0.1, 20) / "judgments.jsonl"))
    gap = 100 * (other["preference"] - evaluated["preference"])[fresh].mean()
    for target in (run, at(run, 0.3, 20)):
        found = compared(target, at(run, 0.1, 20))
        line = next(x for x in found.lines if x.name == "win_rate")
        assert line.difference.n == fresh.sum() < 60
        assert line.difference.value == pytest.approx(gap)
        assert next(x for x in found.lines if x.name == "kl").difference.n == 60
        assert any(f"A was recommended out of several: win rates and flips are of the "
                   f"{fresh.sum()} prompts" in note for note in found.notes)  # fmt: skip
    found = compared(at(run, 0.3, 10), at(run, 0.1, 20))
    assert next(x for x in found.lines if x.name == "win_rate").difference.n == 60


def test_changed_samples_are_those_that_changed_most(run: Path, at: At) -> None:
    found = compared(at(run, 0.3, 20), at(run, 0.1, 20))
    lost = [s for s in found.samples if "lost" in s.kinds]
    assert {s.prompt_id for s in lost} <= {f"json/{i:03d}" for i in range(20)}
    assert len(lost) == 15
    assert (found.counts or {})["lost"] == 20
    longer = [s for s in found.samples if "longer" in s.kinds]
    ratios = [(s.b.tokens or 0) / (s.a.tokens or 1) for s in longer]
    assert min(ratios) > 1.5
    turned = [s for s in found.samples if "for" in s.kinds]
    gaps = [(s.b.preference or 0) - (s.a.preference or 0) for s in turned]
    assert min(gaps) > 0.2


def test_comparing_imports_no_model_library(run: Path, at: At) -> None:
    script = (
        "import sys; from prefeval.harness.compare import command as compare;"
        "compare.command(sys.argv[1], sys.argv[2], out=None, as_json=True);"
        "sys.exit(3 * bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    arguments = [sys.executable, "-c", script, str(run), str(at(run, 0.1, 20))]
    assert subprocess.run(arguments, capture_output=True, check=False).returncode == 0
