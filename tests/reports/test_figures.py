"""Figures for a paper: what is drawn is what was saved, in the page's colours, with equal bytes."""

import re
import shutil
import struct
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from prefeval import reports
from prefeval.records import PrefevalError
from prefeval.reports import document
from prefeval.reports import run as runs
from prefeval.reports.charts import placement
from prefeval.reports.figures import draw as figures
from prefeval.reports.figures import paper

matplotlib = pytest.importorskip("matplotlib")
GRID = {"dpo": (0.05, 0.1, 0.3), "simpo": (2.0, 10.0)}


@pytest.fixture(scope="module")
def small(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write_run(tmp_path_factory.mktemp("figures") / "run", grid=GRID)


@pytest.fixture(scope="module")
def drawn(small: Path) -> dict[str, paper.Drawn]:
    with paper.style():
        return {d.name: d for d in figures.drawings(runs.load(small))}


def texts(drawing: paper.Drawn) -> list[str]:
    return [t.get_text() for t in drawing.figure.texts]


def marks(axes: Any) -> list[tuple[float, float]]:
    """Every single mark of a plot, as (x, y)."""
    lines = (line for line in axes.lines if line.get_linestyle() == "None")
    return [(float(x), float(y)) for line in lines for x, y in zip(*line.get_data(), strict=True)]


def uprights(axes: Any) -> dict[float, tuple[float, float]]:
    """The intervals that stand upright: from x to their ends."""
    found = {}
    for line in axes.lines:
        x, y = (np.asarray(v, float) for v in line.get_data())
        if line.get_linestyle() == "-" and len(x) == 2 and x[0] == x[1]:
            found[float(x[0])] = (float(y[0]), float(y[1]))
    return found


def test_every_figure_has_a_file_a_format_and_a_caption(small: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small, tmp_path / "run"))
    written = reports.write_figures(folder, "SVG")
    names = ["verdict", "frontier", "frontier-column", "window-dpo", "window-simpo"]
    names += ["dynamics-dpo", "dynamics-simpo", "length", "retention"]
    found = sorted(p.name for p in (folder / "figures").iterdir())
    assert found == sorted([f"{n}.svg" for n in names] + ["captions.md"])
    assert {p.name for p in written} == set(found)
    captions = (folder / "figures" / "captions.md").read_text(encoding="utf-8")
    assert re.findall(r"^\*\*(.+)\.\*\*", captions, re.MULTILINE) == names


def test_sizes_are_one_and_two_columns(drawn: dict[str, paper.Drawn]) -> None:
    widths = {name: round(d.figure.get_figwidth(), 3) for name, d in drawn.items()}
    assert set(widths.values()) == {3.3, 6.8}
    assert (widths["verdict"], widths["frontier-column"], widths["frontier"]) == (3.3, 3.3, 6.8)
    assert max(d.figure.get_figheight() for d in drawn.values()) < 9


def test_every_checkpoint_is_on_the_frontier_with_its_interval(
    small: Path, drawn: dict[str, paper.Drawn]
) -> None:
    saved = pd.read_parquet(small / "results.parquet")
    axes = drawn["frontier"].figure.axes[-1]  # the whole range
    found = marks(axes)
    ends = uprights(axes)
    for row in saved.itertuples():
        assert (row.sqrt_kl, row.lc_win_rate) in found
        assert ends[row.sqrt_kl] == (row.lc_ci_low, row.lc_ci_high)
    assert "n = 400 prompts" in texts(drawn["frontier"])


def test_every_method_is_named_on_every_frontier(drawn: dict[str, paper.Drawn]) -> None:
    for name in ("frontier", "frontier-column"):
        said = " ".join(texts(drawn[name]))
        assert "DPO" in said
        assert "SimPO" in said


def test_a_method_whose_label_has_no_room_is_in_the_key(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "_cover", lambda box, taken: 1e9 if taken else 0.0)
    with paper.style():
        found = {d.name: d for d in figures.drawings(runs.load(small))}
    assert [t for t in texts(found["frontier"]) if t in ("DPO", "SimPO")] == ["DPO", "SimPO"]


def test_beta_axes_are_logarithmic_with_the_usable_band(
    small: Path, drawn: dict[str, paper.Drawn]
) -> None:
    from prefeval.reports import verdict

    rate, kl, worst = drawn["window-dpo"].figure.axes
    assert {a.get_xscale() for a in (rate, kl, worst)} == {"log"}
    assert (rate.get_yscale(), kl.get_yscale()) == ("linear", "log")
    read = verdict.read(runs.load(small))
    bands = read.bands("dpo")
    assert len(rate.patches) == len(bands)
    for patch, (low, high) in zip(rate.patches, bands, strict=True):
        left, right = patch.get_x(), patch.get_x() + patch.get_width()
        inside = [b for b in GRID["dpo"] if left < b < right]
        assert inside == [b for b in GRID["dpo"] if low <= b <= high]
    chosen = {c.key.beta: c.get("lc_win_rate") for c in runs.load(small).checkpoints
              if c.key in read.chosen_keys and c.key.method == "dpo"}  # fmt: skip
    assert uprights(rate) == {b: (n.low, n.high) for b, n in chosen.items()}


def test_the_collapse_zone_begins_at_a_fifth_of_a_nat_a_token(
    drawn: dict[str, paper.Drawn],
) -> None:
    axes = drawn["dynamics-dpo"].figure.axes[0]
    (zone,) = axes.patches  # pairs of 30 tokens: below -6 nats/sequence
    assert zone.get_y() + zone.get_height() == pytest.approx(-6)
    assert zone.get_y() == pytest.approx(axes.get_ylim()[0])
    assert {"chosen", "rejected"} <= set(texts(drawn["dynamics-dpo"]))


def test_retention_shows_each_behaviours_change_on_one_scale(
    small: Path, drawn: dict[str, paper.Drawn]
) -> None:
    axes = drawn["retention"].figure.axes
    assert len(axes) == 6
    assert len({a.get_xlim() for a in axes}) == 1
    saved = pd.read_parquet(small / "results.parquet")
    for behaviour, plot in zip(("json", "bullets"), axes, strict=False):
        found = [x for x, _ in marks(plot)]
        assert len(found) == 5
        assert set(found) <= set(saved[f"change_{behaviour}"])


def test_several_seeds_share_a_row_and_are_apart(synthetic: ModuleType, tmp_path: Path) -> None:
    folder = synthetic.write_run(tmp_path / "run", grid={"dpo": (0.1,)}, steps=(47,), select=False)
    frame = pd.read_parquet(folder / "results.parquet")
    pd.concat([frame, frame.assign(seed=1)]).to_parquet(folder / "results.parquet")
    with paper.style():
        found = {d.name: d for d in figures.drawings(runs.load(folder))}
    heights = [y for _, y in marks(found["retention"].figure.axes[0])]
    assert len(set(heights)) == 2
    assert max(map(abs, heights)) < 0.5


def test_colours_are_the_pages_and_marks_its_shapes(drawn: dict[str, paper.Drawn]) -> None:
    css = (document.TEMPLATES / "report.css").read_text(encoding="utf-8")
    light = re.findall(r"--(m\d|chosen|rejected): light-dark\((#\w+)", css)
    colours = dict(zip((f"m{i}" for i in range(7)), paper.COLOURS, strict=True))
    assert dict(light) == colours | paper.KINDS
    axes = drawn["verdict"].figure.axes[0]
    shapes = [line.get_marker() for line in axes.lines if line.get_linestyle() == "None"]
    assert shapes[:3] == ["o"] * 3
    assert [len(corners) for corners in shapes[3:]] == [5, 5]  # SimPO's diamond, closed


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_equal_runs_give_equal_bytes_whatever_the_user_has_set(
    small: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(small, tmp_path / "run"))
    monkeypatch.setattr(figures, "SOURCES", (figures.figure_verdict, figures.figure_window))
    first = [p.read_bytes() for p in reports.write_figures(folder, kind)]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "text.color": "blue"}):
        again = [p.read_bytes() for p in reports.write_figures(folder, kind)]
        assert matplotlib.rcParams["font.size"] == 30
    assert again == first


def test_a_pdf_embeds_its_fonts_as_truetype(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(small, tmp_path / "run"))
    monkeypatch.setattr(figures, "SOURCES", (figures.figure_frontier, figures.figure_length))
    reports.write_figures(folder, "pdf")
    for path in (folder / "figures").glob("*.pdf"):
        data = path.read_bytes()
        assert b"/FontFile2" in data, path.name
        assert b"/Type3" not in data, path.name


def test_png_has_three_hundred_dots_an_inch(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(small, tmp_path / "run"))
    monkeypatch.setattr(figures, "SOURCES", (figures.figure_verdict,))
    reports.write_figures(folder, "png")
    data = (folder / "figures" / "verdict.png").read_bytes()
    assert struct.unpack(">I", data[16:20])[0] == 990


def test_names_are_neither_tex_nor_boxes_nor_files(small: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small, tmp_path / "run"))
    name = "$\\frac{1}{0}$ 日本\x07"
    frame = pd.read_parquet(folder / "results.parquet")
    renamed = {c: c.replace("_json", f"_{name}") for c in frame if c.endswith("_json")
               or "_json_" in c}  # fmt: skip
    frame = frame.rename(columns=renamed)
    frame["method"] = frame["method"].replace("simpo", "../../$x^$")
    frame.to_parquet(folder / "results.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = reports.write_figures(folder, "svg")
    assert {p.parent for p in written} == {folder / "figures"}
    with paper.style():
        found = {d.name: d for d in figures.drawings(runs.load(folder))}
    assert any(t.startswith("$\\frac{") for t in texts(found["retention"]))


def test_an_unfinished_run_is_drawn_and_an_unmeasured_one_refused(
    half_run: Path, synthetic: ModuleType, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(half_run, tmp_path / "half"))
    assert "frontier.svg" in {p.name for p in reports.write_figures(folder, "svg")}
    bare = synthetic.write_run(tmp_path / "bare", grid={"dpo": (0.1,)}, finished=False)
    with pytest.raises(PrefevalError, match="no measured checkpoint"):
        reports.write_figures(bare, "svg")


def test_an_unknown_format_is_refused_by_name(small: Path) -> None:
    with pytest.raises(PrefevalError, match="'jpg'; choose of png, pdf, svg"):
        reports.write_figures(small, "png,jpg")
    assert not (small / "figures").exists()


def test_the_report_command_draws_figures_and_refuses_before_it_writes(
    small: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(small, tmp_path / "run"))
    with pytest.raises(PrefevalError, match="'eps'"):
        reports.write_all(folder, "eps")
    assert not (folder / "summary.md").exists()
    names = [p.relative_to(folder).as_posix() for p in reports.write_all(folder, "svg")]
    assert names[:5] == ["summary.md", "results.csv", "retention.csv", "betas.csv", "report.html"]
    assert {"figures/frontier.svg", "figures/captions.md"} <= set(names)
