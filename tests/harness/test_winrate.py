"""`prefeval winrate`: the leaderboard from its own data, other forms of it, and bad files."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from prefeval.harness import cli, judgments, winrate
from prefeval.metrics import length_control
from prefeval.metrics.joint_difficulty import joint_difficulty
from prefeval.records import PrefevalError

KEYS = ["model", "n", "win_rate", "win_rate_se", "lc_win_rate", "lc_se_published", "lc_ci_low",
        "lc_ci_high", "coef_length", "C"]  # fmt: skip


def table(seed: int = 0, n: int = 60, model: str = "tuned") -> pd.DataFrame:
    """A judge that likes length, on answers of which half are longer."""
    rng = np.random.default_rng(seed)
    baseline = rng.integers(100, 900, n)
    output = np.maximum(1, baseline + rng.integers(-300, 400, n))
    p = special.expit(0.3 + rng.normal(0, 1, n) + (output - baseline) / 300)
    return pd.DataFrame(
        {
            "model": model,
            "instruction_index": np.arange(n),
            "preference_01": p.round(6),
            "len_output": output,
            "len_baseline": baseline,
        }
    )


def written(folder: Path, frame: pd.DataFrame, kind: str = "csv") -> Path:
    path = folder / f"judgments.{kind}"
    match kind:
        case "parquet":
            frame.to_parquet(path)
        case "jsonl":
            frame.to_json(path, orient="records", lines=True)
        case _:
            frame.to_csv(path, index=False)
    return path


def annotations(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "instruction": f"Question {row.instruction_index}?",
            "output_1": "b" * int(row.len_baseline),
            "output_2": "o" * int(row.len_output),
            "generator_1": "base",
            "generator_2": row.model,
            "preference": None if np.isnan(row.preference_01) else 1 + row.preference_01,
        }
        for row in frame.itertuples()
    ]


def run(capsys, *arguments: str) -> list[dict[str, Any]]:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["winrate", *map(str, arguments), "--json"])
    printed = capsys.readouterr()
    assert stopped.value.code == 0, printed.err
    found: list[dict[str, Any]] = json.loads(printed.out)
    return found


def fails(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["winrate", *map(str, arguments)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("prefeval: ")
    assert error.count("\n") == 1
    return str(error)


# -- the leaderboard ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lc(shared: Path) -> Path:
    return shared / "data" / "alpaca_lc"


def published_options(lc: Path) -> list[str]:
    return ["--difficulty", str(lc / "instruction_difficulty.csv"),
            "--gamed", str(lc / "df_gamed_reconstructed.csv"), "--bootstrap", "0"]  # fmt: skip


def gaps(found: list[dict[str, Any]], lc: Path) -> np.ndarray:
    known = pd.read_csv(lc / "published.csv").set_index("model")["length_controlled_winrate"]
    return np.array([row["lc_win_rate"] - known[row["model"]] for row in found])


def test_the_leaderboard_is_reproduced(lc, capsys):
    found = run(capsys, lc / "alpaca_lc.parquet", *published_options(lc), "--join", "row")
    assert len(found) == 38
    assert all(set(KEYS) <= set(row) for row in found)
    apart = np.abs(gaps(found, lc))
    assert apart.max() <= 0.2
    assert np.median(apart) <= 0.005
    known = pd.read_csv(lc / "published.csv").set_index("model")
    for row in found:
        assert row["win_rate"] == pytest.approx(known.loc[row["model"], "win_rate"])
        assert row["win_rate_se"] == pytest.approx(known.loc[row["model"], "standard_error"])
        assert row["lc_ci_low"] in (None, row["lc_win_rate"])  # no interval, or the baseline
    rates = [row["lc_win_rate"] for row in found]
    assert rates == sorted(rates, reverse=True)


def test_prompts_meet_their_own_difficulty_unless_the_published_mistake_is_asked_for(lc, capsys):
    """A file with missing rows got its neighbours' difficulties."""
    options = [lc / "alpaca_lc.parquet", *published_options(lc)]
    right = {row["model"]: row["lc_win_rate"] for row in run(capsys, *options)}
    as_published = {
        row["model"]: row["lc_win_rate"] for row in run(capsys, *options, "--join", "row")
    }
    rows = pd.read_parquet(lc / "alpaca_lc.parquet")
    moved = rows.groupby("model")[["instruction_index", "row_in_file"]].apply(
        lambda g: bool((g["instruction_index"] != g["row_in_file"]).any())
    )
    assert 0 < moved.sum() < len(moved)
    for model, different in moved.items():
        same = right[model] == pytest.approx(as_published[model], abs=1e-9)
        assert same != different


def test_difficulties_estimated_jointly_come_near_the_published_rates(lc, capsys):
    """The published table is a fit over hundreds of models; these are 38, with no table. A ridge
    was known to come within 1.4 points on average."""
    gamed = ["--gamed", lc / "df_gamed_reconstructed.csv"]
    joint = run(capsys, lc / "alpaca_lc.parquet", *gamed, "--bootstrap", "0")
    assert "estimated jointly from these 38 models" in joint[0]["estimator"]
    assert np.abs(gaps(joint, lc)).mean() < 1.0
    raw = [row["win_rate"] - row["lc_win_rate"] for row in joint]
    assert np.abs(gaps(joint, lc)).mean() < 0.5 * np.abs(raw).mean()


# -- forms of the same -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_every_form_of_a_table_gives_the_same(kind, tmp_path, capsys):
    frame = table()
    (found,) = run(capsys, written(tmp_path, frame, kind), "--bootstrap", "50")
    want = length_control.length_controlled(
        frame["preference_01"], frame["len_output"], frame["len_baseline"],
        n_boot=50, rng=np.random.default_rng(0),
    )  # fmt: skip
    assert found["lc_win_rate"] == pytest.approx(want.lc_win_rate)
    assert found["lc_ci_low"] == pytest.approx(want.lc_ci_low)
    assert found["win_rate"] == pytest.approx(100 * frame["preference_01"].mean())
    assert found["mean_len_output"] == pytest.approx(frame["len_output"].mean())
    assert "no difficulty term; no gamed rows; lengths in characters" in found["estimator"]


def test_annotations_are_the_table_they_come_from(tmp_path, capsys):
    frame = table()
    frame.loc[3, "preference_01"] = np.nan
    rows = annotations(frame)
    rows[5]["preference"], frame.loc[5, "preference_01"] = 0, 0.5  # an old way to say a tie
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    (a,) = run(capsys, tmp_path / "annotations.json", "--bootstrap", "20")
    (b,) = run(capsys, written(tmp_path, frame), "--bootstrap", "20")
    assert {k: a[k] for k in KEYS[1:]} == pytest.approx({k: b[k] for k in KEYS[1:]}, abs=1e-9)
    assert a["n"] == 59
    assert "1 of 60 verdicts are null" in a["notes"][0]


def test_annotations_find_difficulties_by_their_text(tmp_path, capsys):
    frame = table().sample(frac=1, random_state=0)
    (tmp_path / "annotations.json").write_text(json.dumps(annotations(frame)))
    prompts = [f"Question {i}?" for i in range(60)]
    (tmp_path / "prompts.json").write_text(json.dumps([{"instruction": p} for p in prompts]))
    hard = pd.DataFrame({"index": range(60), "instruction_difficulty": np.linspace(-2, 2, 60)})
    hard.to_csv(tmp_path / "hard.csv", index=False)
    options = ["--difficulty", tmp_path / "hard.csv", "--bootstrap", "0"]
    by_index = run(capsys, written(tmp_path, frame), *options)
    by_text = run(
        capsys, tmp_path / "annotations.json", *options, "--instructions", tmp_path / "prompts.json"
    )
    assert by_text[0]["lc_win_rate"] == pytest.approx(by_index[0]["lc_win_rate"], abs=1e-9)
    assert "--instructions FILE" in fails(capsys, tmp_path / "annotations.json", *options)
    (tmp_path / "prompts.json").write_text(json.dumps(prompts[:50]))
    said = fails(
        capsys, tmp_path / "annotations.json", *options, "--instructions", tmp_path / "prompts.json"
    )
    assert "10 prompts are not in" in said


def test_the_same_text_asked_twice_is_two_prompts(tmp_path, capsys):
    rows = annotations(table(n=30))
    rows[7]["instruction"] = rows[2]["instruction"]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    (found,) = run(capsys, tmp_path / "annotations.json", "--bootstrap", "0")
    assert found["n"] == 30


def test_saved_difficulties_keep_a_number_where_it_was_when_another_model_joins(tmp_path, capsys):
    two = pd.concat([table(0, model="a"), table(1, model="b")])
    path = written(tmp_path, two)
    frozen = tmp_path / "frozen.csv"
    first = run(capsys, path, "--save-difficulty", frozen, "--bootstrap", "0")
    three = written(tmp_path, pd.concat([two, table(2, model="c")]))
    again = run(capsys, three, "--difficulty", frozen, "--bootstrap", "0")
    moved = run(capsys, three, "--bootstrap", "0")

    def rate(found: list[dict[str, Any]], model: str) -> float:
        return next(row["lc_win_rate"] for row in found if row["model"] == model)

    assert rate(again, "a") == pytest.approx(rate(first, "a"), abs=1e-9)
    assert rate(moved, "a") != pytest.approx(rate(first, "a"), abs=1e-3)


def test_the_table_for_people_names_the_estimator_and_what_is_not_identified(tmp_path, capsys):
    far = table(1, model="wordy").assign(len_output=lambda f: f["len_baseline"] + 5000)
    path = written(tmp_path, pd.concat([table(0), far]))
    with pytest.raises(SystemExit):
        cli.main(["winrate", str(path), "--bootstrap", "20"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["model", "n"]
    assert lines[1].startswith("tuned")
    assert "[" in lines[1]
    assert "not identified" in lines[2]
    assert any(line.startswith("estimator: length_controlled_v1") for line in lines)
    assert any("wordy: not identified: only 0.0% of prompts" in line for line in lines)
    assert any("length-matched none" in line for line in lines)


def test_style_is_a_second_view_of_texts_and_of_nothing_else(tmp_path, capsys):
    rows = annotations(table())
    for i, row in enumerate(rows):
        row["output_2"] = ("- item\n" * (i % 5)) + row["output_2"]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    (found,) = run(capsys, tmp_path / "annotations.json", "--style", "--bootstrap", "20")
    assert found["style_ci_low"] < found["style_win_rate"] < found["style_ci_high"]
    assert set(found["coef_style"]) == {"length", "headings", "items", "bold"}
    with pytest.raises(SystemExit):
        cli.main(["winrate", str(tmp_path / "annotations.json"), "--style", "--bootstrap", "0"])
    printed = capsys.readouterr().out
    assert "length and style controlled (headings, list items, bold" in printed
    assert "--style counts marks in the texts" in fails(
        capsys, written(tmp_path, table()), "--style"
    )


# -- special cases -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"preference_01": 1.0}, "every preference is 1"),
        ({"len_output": 300, "len_baseline": 250}, "the lengths differ by 50 characters on every"),
        ({"len_output": 0}, "60 empty answers of the model"),
    ],
)
def test_what_a_reader_must_know_is_said(change, note, tmp_path, capsys):
    (found,) = run(capsys, written(tmp_path, table().assign(**change)), "--bootstrap", "20")
    assert any(note in said for said in found["notes"])
    assert found["win_rate"] is not None


def test_the_baseline_against_itself_is_fifty_by_construction(tmp_path, capsys):
    """Known by its texts: two models may have one name."""
    rows = [{**row, "generator_2": "base"} for row in annotations(table())]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    (found,) = run(capsys, tmp_path / "annotations.json", "--bootstrap", "20")
    assert found["lc_win_rate"] != 50
    rows = [{**row, "output_2": row["output_1"]} for row in rows]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    (found,) = run(capsys, tmp_path / "annotations.json", "--bootstrap", "20", "--style")
    assert found["lc_win_rate"] == 50
    assert "style_win_rate" not in found
    assert found["win_rate"] != 50  # the judge's noise
    assert "against itself" in found["notes"][0]


def test_too_few_prompts_are_told_how_many_it_takes():
    """At the number told, the standard error that follows from it shows the gap 4 times in 5."""
    y, a, b = table()[["preference_01", "len_output", "len_baseline"]].T.to_numpy()
    fit = replace(
        length_control.length_controlled(y, a, b),
        n=400, lc_win_rate=53.0, lc_se=2.5, lc_ci_low=48.1, lc_ci_high=57.9,
    )  # fmt: skip
    (note,) = winrate._too_few(fit)
    n = int(note.partition("about ")[2].split()[0])
    stderr = 2.5 * (400 / n) ** 0.5
    draws = np.random.default_rng(0).normal(53, stderr, 20_000)
    assert (draws - 1.96 * stderr > 50).mean() == pytest.approx(0.8, abs=0.01)
    assert "not 400" in note
    assert winrate._too_few(replace(fit, lc_ci_low=50.2)) == []
    assert winrate._too_few(replace(fit, lc_win_rate=math.nan)) == []


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.drop(columns="len_output"), "has no column len_output"),
        (lambda f: pd.concat([f, f.head(2)]), "model tuned has prompt 0 twice (2 such rows)"),
        (lambda f: f.assign(preference_01=f["preference_01"] + 1), "subtract it"),
        (lambda f: f.assign(preference_01=-0.25), "row 0 has the preference -0.25"),
        (lambda f: f.assign(preference_01="good"), "the preference 'good'; no number"),
        (lambda f: f.assign(len_output=np.nan), "in len_output, which must be a number"),
        (lambda f: f.assign(len_baseline=-3), "has -3 in len_baseline"),
        (lambda f: f.assign(instruction_index=0.5), "must be a whole number"),
        (lambda f: f.assign(preference_01=np.nan), "no verdict that was read"),
        (lambda f: f.head(0), "is empty"),
    ],
)
def test_a_table_at_fault_is_named_in_one_line(change, says, tmp_path, capsys):
    assert says in fails(capsys, written(tmp_path, change(table())))


def test_prompts_that_the_difficulties_lack_are_named(tmp_path, capsys):
    hard = tmp_path / "hard.csv"
    pd.DataFrame({"index": range(50), "instruction_difficulty": 0.0}).to_csv(hard, index=False)
    path = written(tmp_path, table())
    assert "lacks 10 prompts, first 50 of model tuned" in fails(capsys, path, "--difficulty", hard)
    hard.write_text("index,instruction_difficulty\n1,nan\n")
    assert "no number for index 1" in fails(capsys, path, "--difficulty", hard)
    hard.write_text("a,b\n1,2\n")
    assert "must have columns index and" in fails(capsys, path, "--difficulty", hard)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", b'[{"instruction": "x", ', "not valid JSON"),
        ("a.json", b'{"a": 1}', "must be a JSON list"),
        ("a.jsonl", b'{"model": "a"}\n{"model', "a.jsonl:2 is not valid JSON"),
        ("a.parquet", b"PAR1 truncated", "cannot be read"),
        ("a.csv", b"", "is empty"),
        ("a.txt", b"x", "must be a .json, .jsonl, .csv or .parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(name, content, says, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    assert says in fails(capsys, tmp_path / name)
    assert "no such file" in fails(capsys, tmp_path / "absent.json")


def test_options_that_cannot_be_are_refused(tmp_path, capsys):
    path = written(tmp_path, table())
    assert "--difficulty FILE" in fails(capsys, path, "--join", "row")
    assert "use identity or row" in fails(capsys, path, "--join", "name")
    assert "0 (none) or more" in fails(capsys, path, "--bootstrap", "-1")
    assert "is a table" in fails(capsys, path, "--instructions", path)


def test_difficulties_that_are_none_or_are_the_neighbours_are_not_saved(tmp_path, capsys):
    path, out = written(tmp_path, table()), tmp_path / "hard.csv"
    assert "no difficulties to save" in fails(capsys, path, "--save-difficulty", out)
    pd.DataFrame({"index": range(60), "instruction_difficulty": 1.0}).to_csv(out, index=False)
    command = (path, "--difficulty", out, "--join", "row", "--save-difficulty", tmp_path / "x.csv")
    assert "save none" in fails(capsys, *command)


def test_two_baselines_in_one_file_are_refused(tmp_path):
    rows = annotations(table())
    rows[0]["generator_1"] = "another"
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    with pytest.raises(PrefevalError, match="judged against another, base"):
        judgments.read(tmp_path / "annotations.json")


# -- difficulties ------------------------------------------------------------------------------


def test_planted_difficulties_are_found_and_control_needs_them():
    """12 models, 300 prompts; the ridge shrinks, so correlation and order are asked for."""
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 1.5, 300)
    model, prompt = np.repeat(np.arange(12), 300), np.tile(np.arange(300), 12)
    length = np.tanh(rng.normal(rng.normal(0, 0.5, 12)[model], 1))
    level = np.linspace(-1, 1, 12)
    p = special.expit(0.8 * length + level[model] + difficulty[prompt])
    y = (rng.random(len(p)) < p).astype(float)
    fit = joint_difficulty(y, length, model, prompt)
    assert np.corrcoef(fit.difficulty, difficulty)[0, 1] > 0.85
    assert np.corrcoef(fit.model, level)[0, 1] > 0.9
    assert fit.length == pytest.approx(np.full(12, 0.8), abs=0.5)
    assert fit.difficulty.mean() == pytest.approx(0, abs=1e-3)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_the_joint_fit_is_a_stationary_point(seed):
    """Its gradient, from the definition, is 0; also where a model wins everything."""
    rng = np.random.default_rng(seed)
    model, prompt = np.repeat(np.arange(4), 15), np.tile(np.arange(15), 4)
    length = rng.normal(0, 0.5, 60)
    y = rng.random(60)
    y[:15] = 1.0
    y[20] = np.nan
    fit = joint_difficulty(y, length, model, prompt, strength=0.7)
    p = special.expit(fit.length[model] * length + fit.model[model] + fit.difficulty[prompt])
    gap = np.where(np.isfinite(y), y - p, 0)
    slopes = np.bincount(prompt, gap) - 0.7 * fit.difficulty
    assert slopes == pytest.approx(np.zeros(15), abs=1e-5)
    assert np.bincount(model, gap * length) == pytest.approx(1e-3 * fit.length, abs=1e-5)
    assert np.bincount(model, gap) == pytest.approx(1e-3 * fit.model, abs=1e-5)


def test_rates_are_sorted_and_every_model_is_told(tmp_path):
    frame = pd.concat([table(i, model=f"m{i}") for i in range(3)])
    read = judgments.read(written(tmp_path, frame))
    told: list[str] = []
    found = winrate.rates(read, winrate.estimator(read), n_boot=0, on_model=told.append)
    assert told == ["m0", "m1", "m2"]
    assert [r.fit.lc_win_rate for r in found] == sorted(
        (r.fit.lc_win_rate for r in found), reverse=True
    )
