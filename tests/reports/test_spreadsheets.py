"""results.csv, retention.csv and betas.csv: the numbers of the run, for other programs."""

import csv
import json
import math
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefeval import reports
from prefeval.metrics.retention import changes
from prefeval.records import PrefevalError, read_jsonl
from prefeval.reports.spreadsheets import FORMULA, csv_text, text_cell


@pytest.fixture(scope="module")
def written(full_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(full_run, tmp_path_factory.mktemp("csv") / "run"))
    reports.write_tables(folder)
    return folder


def test_results_csv_is_results_parquet(written: Path) -> None:
    saved = pd.read_parquet(written / "results.parquet")
    read = pd.read_csv(written / "results.csv")
    pd.testing.assert_frame_equal(read, saved, check_exact=True, check_dtype=False)


def test_an_undefined_number_is_an_empty_cell_and_counts_stay_whole(
    real_run: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(real_run, tmp_path / "run"))
    frame = pd.read_parquet(folder / "results.parquet")
    frame.loc[0, ["kl", "kl_n"]] = math.nan
    frame.to_parquet(folder / "results.parquet")
    reports.write_tables(folder)
    with (folder / "results.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert (rows[0]["kl"], rows[0]["kl_n"], rows[0]["true_win_rate"]) == ("", "", "")
    assert rows[1]["kl_n"] == "400"
    assert float(rows[1]["kl"]) == frame.loc[1, "kl"]


def test_an_unfinished_run_gives_the_checkpoints_measured_so_far(
    half_run: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(half_run, tmp_path / "run"))
    reports.write_tables(folder)
    read = pd.read_csv(folder / "results.csv")
    assert read["checkpoint"].tolist() == [f"checkpoint-{s:06d}" for s in (47, 94, 140)]
    metrics = json.loads(next(folder.glob("trials/*/checkpoint-000047/metrics.json")).read_text())
    (lc,) = (m for m in metrics["metrics"] if m["name"] == "lc_win_rate")
    assert read.loc[0, ["lc_win_rate", "lc_ci_low", "lc_win_rate_n"]].tolist() == [
        *(lc["value"], lc["ci_low"], 400)
    ]
    assert pd.read_csv(folder / "betas.csv")["verdict"].tolist() == ["no verdict"]


def test_retention_csv_has_a_row_a_checkpoint_and_behaviour_with_its_tests(written: Path) -> None:
    read = pd.read_csv(written / "retention.csv")
    saved = pd.read_parquet(written / "results.parquet")
    keys = ["method", "beta", "seed", "step"]
    assert len(read) == 60 * 6
    order = sorted(saved[keys].to_numpy().tolist())
    assert read[keys].drop_duplicates().to_numpy().tolist() == order
    wide = read.pivot(index=keys, columns="behaviour", values="change")
    for behaviour in wide:
        np.testing.assert_array_equal(
            wide[behaviour], saved.set_index(keys).sort_index()[f"change_{behaviour}"]
        )
    row = saved.iloc[-1]
    checks = read_jsonl(written / "trials" / row["trial"] / row["checkpoint"] / "checks.jsonl")
    again = {c.behaviour: c.p_worse_holm for c in changes(pd.DataFrame(checks))}
    mine = read[(read[keys] == list(row[keys])).all(axis=1)].set_index("behaviour")["p_worse"]
    assert mine.to_dict() == pytest.approx(again)


def test_betas_csv_is_the_verdict_in_numbers(written: Path) -> None:
    read = pd.read_csv(written / "betas.csv").set_index(["method", "beta"])
    selection = json.loads((written / "summary.json").read_text())["selection"]
    assert len(read) == len(selection["betas"]) == 20
    for beta in selection["betas"]:
        row = read.loc[(beta["method"], beta["beta"])]
        assert (row["verdict"], row["step"]) == (beta["state"], beta["step"])
        assert row["lc_win_rate"] == beta["reported"]["lc_win_rate"]
        worst = min(beta["behaviours"], key=lambda b: b["change"])
        assert row["worst_behaviour"] == worst["behaviour"]
        assert row["worst_ci_low"] == worst["ci_low"]
    best = selection["recommended"]
    assert read.index[read["recommended"] == 1].tolist() == [(best["method"], best["beta"])]


def test_a_behaviour_named_like_a_formula_is_text_to_a_spreadsheet(
    real_run: Path, tmp_path: Path
) -> None:
    name = '=HYPERLINK("http://x","y")'
    folder = Path(shutil.copytree(real_run, tmp_path / "run"))
    frame = pd.read_parquet(folder / "results.parquet")
    renamed = {c: c.replace("_json", f"_{name}") for c in frame if "_json" in c}
    frame.rename(columns=renamed).to_parquet(folder / "results.parquet")
    reports.write_tables(folder)
    found = pd.read_csv(folder / "retention.csv")["behaviour"]
    assert f"'{name}" in set(found)
    assert not any(cell.startswith("=") for cell in found)


@given(st.text())
def test_any_text_is_one_line_that_begins_no_formula_and_survives(text: str) -> None:
    cell = text_cell(text)
    assert not cell.lstrip().startswith(FORMULA)
    (head, (read,)) = csv.reader(csv_text(["a"], [[f"{text}x"]]).splitlines())
    assert head == ["a"]
    encodable = text_cell(f"{text}x").encode("utf-8", "replace").decode("utf-8")
    assert read == encodable


def test_equal_runs_give_equal_bytes(written: Path) -> None:
    names = ("results.csv", "retention.csv", "betas.csv")
    before = [(written / n).read_bytes() for n in names]
    assert [p.name for p in reports.write_tables(written)] == list(names)
    assert [(written / n).read_bytes() for n in names] == before


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PrefevalError, match="no run folder"):
        reports.write_tables(tmp_path)


def test_report_command_and_sweep_share_one_list_of_files(
    synthetic: ModuleType, tmp_path: Path
) -> None:
    run = synthetic.write_run(tmp_path / "run", grid={"dpo": (0.1,)}, steps=(47,))
    names = ["summary.md", "results.csv", "retention.csv", "betas.csv", "report.html"]
    assert [p.name for p in reports.write_all(run)] == names
    assert all((run / n).stat().st_size > 100 for n in names)
