"""Evidence refuses what no metric should see, by name."""

import numpy as np
import pandas as pd
import pytest

from prefeval.metrics.evidence import SCHEMAS, Evidence, require_aligned
from prefeval.records import PrefevalError


def judgments(**changed):
    frame = pd.DataFrame(
        {
            "prompt_id": ["b", "a", "c"],
            "cluster": ["x", "", "x"],
            "behaviour": "about",
            "preference": [1.0, 0.5, 0.0],
            "preference_first": [1.0, 1.0, 0.0],
            "preference_second": [1.0, 0.0, 0.0],
            "true_preference": [None, 1.0, 0.0],
            "len_output": [10, 20, 30],
            "len_baseline": [11, 21, 31],
            "difficulty": 0.0,
        }
    )
    return frame.assign(**changed)


def test_rows_are_sorted_by_id_and_an_empty_cluster_is_the_rows_own():
    got = Evidence(judgments=judgments()).judgments
    assert got["prompt_id"].tolist() == ["a", "b", "c"]
    assert got["cluster"].tolist() == ["a", "x", "x"]
    assert np.isnan(got["true_preference"][1])


def test_frames_left_out_are_empty_with_their_columns():
    evidence = Evidence()
    for name, schema in SCHEMAS.items():
        assert list(getattr(evidence, name).columns) == list(schema.columns)
        assert len(getattr(evidence, name)) == 0


def test_the_callers_frame_is_left_as_it_was():
    frame = judgments()
    before = frame.copy()
    Evidence(judgments=frame)
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"prompt_id": ["a", "a", "c"]}, "prompt_id a more than once"),
        ({"preference": [1.0, 0.5, 1.5]}, "between 0 and 1, got 1.5 at c"),
        ({"preference": [1.0, 0.5, "yes"]}, "judgments.preference is not a finite number at c"),
        ({"len_output": [10, float("nan"), 30]}, "len_output is not a finite number at a"),
        ({"difficulty": [0.0, 0.0, float("inf")]}, "difficulty is not a finite number at c"),
        ({"len_baseline": [-1, 2, 3]}, "0 or more, got -1 at b"),
        ({"preference": [0.4, 0.5, 0.0]}, "not the mean of both orders at b"),
    ],
)
def test_a_faulty_value_is_named_by_column_and_id(changed, said):
    with pytest.raises(PrefevalError) as error:
        Evidence(judgments=judgments(**changed))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_column_is_named():
    with pytest.raises(PrefevalError, match=r"judgments lack the column.*difficulty"):
        Evidence(judgments=judgments().drop(columns="difficulty"))


def test_an_unread_verdict_is_allowed():
    nothing = [None, 0.5, 0.0]
    frame = judgments(preference=nothing, preference_first=nothing, preference_second=nothing)
    assert Evidence(judgments=frame).judgments["preference"].isna().sum() == 1


def test_a_check_that_raised_is_neither():
    row = {"prompt_id": "a", "cluster": "", "behaviour": "b", "passed": None, "ref_passed": 1}
    (passed,) = Evidence(checks=pd.DataFrame([row, {**row, "prompt_id": "b"}])[:1]).checks["passed"]
    assert np.isnan(passed)


def test_passing_is_zero_or_one():
    checks = pd.DataFrame(
        {"prompt_id": ["a"], "cluster": "", "behaviour": "json", "passed": 0.5, "ref_passed": 1}
    )
    with pytest.raises(PrefevalError, match=r"checks.passed must be 0 or 1, got 0.5 at a"):
        Evidence(checks=checks)


def test_repeated_samples_are_told_apart_by_their_index():
    rows = pd.DataFrame({"prompt_id": ["a", "a"], "index": [1, 0], "text": "t", "ref_text": "r"})
    assert Evidence(diverse=rows).diverse["index"].tolist() == [0, 1]
    with pytest.raises(PrefevalError, match="more than once"):
        Evidence(diverse=rows.assign(index=0))


def test_many_faulty_ids_are_cut_short():
    frame = pd.concat([judgments(prompt_id=[f"{i}a", f"{i}b", f"{i}c"]) for i in range(3)])
    with pytest.raises(PrefevalError, match="and 6 more"):
        Evidence(judgments=frame.assign(difficulty=float("nan")))


def test_restricting_keeps_whole_clusters():
    got = Evidence(judgments=judgments()).restrict({"x"})
    assert got.judgments["prompt_id"].tolist() == ["b", "c"]


def test_checkpoints_judged_on_other_prompts_are_named_with_the_odd_ids():
    one = Evidence(judgments=judgments())
    two = Evidence(judgments=judgments(prompt_id=["b", "a", "d"]))
    with pytest.raises(PrefevalError, match=r"judgments of one and two .*c, d"):
        require_aligned({"one": one, "two": two})
    require_aligned({"one": one, "again": Evidence(judgments=judgments())})


def test_checkpoints_clustered_otherwise_are_refused():
    one, two = (Evidence(judgments=judgments(cluster=c)) for c in ("x", "y"))
    with pytest.raises(PrefevalError, match="clusters: a, b, c"):
        require_aligned({"one": one, "two": two})
