"""The report's p values of retention are those of the metrics, without a frame."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefeval.metrics import stats
from prefeval.metrics.evidence import Evidence
from prefeval.metrics.retention import changes
from prefeval.records import write_jsonl
from prefeval.reports.retention import p_values
from prefeval.reports.run import CheckpointRow, Key

OUTCOME = st.sampled_from([0, 1, 1, 1, None])
ROWS = st.lists(
    st.tuples(st.sampled_from(["json", "tool", "fact"]), OUTCOME, OUTCOME, st.integers(0, 6)),
    min_size=1,
    max_size=60,
)


def of(rows: list[Any]) -> dict[str, tuple[float, float]]:
    with TemporaryDirectory() as folder:
        write_jsonl(Path(folder) / "checks.jsonl", rows)
        return p_values(CheckpointRow(Key("dpo", 0.1, 0, 1), "t", Path(folder), {}))


def record(index: int, behaviour: str, now: int | None, before: int | None, cluster: int) -> Any:
    name = f"c{cluster}" if cluster else ""  # without a cluster a prompt is its own
    asked = {"prompt_id": f"{behaviour}/{index}", "behaviour": behaviour, "cluster": name}
    return asked | {"passed": now, "ref_passed": before}


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_p_values_are_those_of_the_metrics(drawn: list[Any]) -> None:
    rows = [record(i, *one) for i, one in enumerate(drawn)]
    expected = changes(Evidence(checks=pd.DataFrame(rows)).checks)
    different = stats.holm([c.p_different for c in expected])
    found = of(rows)
    assert list(found) == [c.behaviour for c in expected]
    for change, p in zip(expected, different, strict=True):
        assert found[change.behaviour] == pytest.approx((p, change.p_worse_holm), nan_ok=True)


@pytest.mark.parametrize("wrong", [2, 0.5, "yes", [1], {"a": 1}])
def test_a_value_that_is_neither_pass_nor_fail_claims_nothing(wrong: Any) -> None:
    rows = [record(i, "json", 0, 1, 0) for i in range(9)]
    assert of(rows)["json"][0] < 0.05
    assert of([*rows, record(9, "json", wrong, 1, 0)]) == {}


def test_a_prompt_that_occurs_twice_claims_nothing() -> None:
    assert of([record(0, "json", 0, 1, 0)] * 2) == {}
