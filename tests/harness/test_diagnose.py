"""`prefeval diagnose` on logs of other trainers; on prefeval's own runs see test_sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefeval.harness.diagnose import diagnose
from prefeval.harness.diagnose import view as diagnose_view
from prefeval.metrics import diagnosis
from prefeval.metrics.diagnosis.terms import Signal
from prefeval.records import PrefevalError


def history(chosen: float, rejected: float, *, n: int = 40, seed: int = 0) -> list[dict[str, Any]]:
    """TRL's rows of a DPO run whose log-ratios end at these levels, in nats a sequence."""
    rng = np.random.default_rng(seed)
    share = np.linspace(0, 1, n)
    up, down = chosen * share, rejected * share
    return [
        {
            "loss": float(np.log1p(np.exp(-0.1 * (u - d)))),
            "grad_norm": 3.0,
            "learning_rate": 5e-7,
            "rewards/chosen": 0.1 * u,
            "rewards/rejected": 0.1 * d,
            "rewards/margins": 0.1 * (u - d),
            "rewards/accuracies": 0.5 + 0.2 * float(s),
            "logps/chosen": float(-250 + u + rng.normal(0, 8)),
            "logps/rejected": float(-240 + d + rng.normal(0, 8)),
            "epoch": float(s),
            "step": 10 * i + 1,
        }
        for i, (u, d, s) in enumerate(zip(up, down, share, strict=True))
    ]


def trainer_state(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "trainer_state.json"
    path.write_text(json.dumps({"log_history": rows, "global_step": rows[-1]["step"]}))
    return path


def test_a_collapse_in_trainer_state_is_found_in_every_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = history(-320.0, -420.0)
    flat = tmp_path / "log.jsonl"
    flat.write_text("".join(json.dumps(r) + "\n" for r in rows))
    nested = tmp_path / "nested.jsonl"
    split = [{k.split("/")[-1]: v for k, v in r.items() if k.startswith("logps/")} for r in rows]
    nested.write_text(
        "".join(
            json.dumps({"step": r["step"], "loss": r["loss"], "logps": s}) + "\n"
            for r, s in zip(rows, split, strict=True)
        )
    )
    table = tmp_path / "log.csv"
    lines = [",".join(rows[0]), *(",".join(str(v) for v in r.values()) for r in rows)]
    table.write_text("\n".join(lines) + "\n")
    for path in (trainer_state(tmp_path, rows), flat, nested, table):
        assert diagnose_view.command(path, as_json=True, fail_on="") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["findings"][0]["cause"] == "logprob_collapse", path
        assert set(found) == {"findings", "checks", "skipped", "notes"}
        first = found["findings"][0]
        assert {"cause", "severity", "confidence", "evidence", "actions"} <= set(first)
        assert first["severity"] in ("info", "warning", "error")
        assert 0 < first["confidence"] < 1
        assert first["evidence"][0]["value"] > 1


def test_the_exit_code_follows_fail_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sick = trainer_state(tmp_path, history(-320.0, -420.0))
    assert diagnose_view.command(sick, as_json=False, fail_on="warning") == 1
    assert "1. Log-probabilities of chosen and rejected" in capsys.readouterr().out
    sound = trainer_state(tmp_path, history(-10.0, -30.0))
    assert diagnose_view.command(sound, as_json=False, fail_on="info") == 0
    said = capsys.readouterr().out
    assert "Nothing found" in said
    assert "Checked, and not found" in said
    assert "Not checked" in said
    with pytest.raises(PrefevalError, match="fail-on"):
        diagnose_view.command(sound, as_json=False, fail_on="grave")


def test_what_is_not_recognised_is_an_error_and_not_health(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"foo": 1, "bar": 2}\n{"foo": 2, "bar": 3}\n')
    with pytest.raises(PrefevalError, match="foo"):
        diagnose.read(path)
    with pytest.raises(PrefevalError, match="does not exist"):
        diagnose.read(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PrefevalError):
        diagnose.read(tmp_path / "empty")


def test_a_log_with_nothing_that_a_rule_reads_is_not_called_sound(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(f'{{"step": {i}, "learning_rate": 0.1}}\n' for i in range(1, 30)))
    with pytest.raises(PrefevalError, match="no rule"):
        diagnose.read(path)


def test_markup_in_names_stays_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**r, "[bold]<b>x</b>\u202e": 1.0} for r in history(-10.0, -30.0)]
    diagnose_view.command(trainer_state(tmp_path, rows), as_json=False, fail_on="")
    said = capsys.readouterr().out
    assert "[bold]<b>x</b>" in said
    assert "\u202e" not in said


def test_every_cause_is_listed_with_signals_and_sources(
    capsys: pytest.CaptureFixture[str],
) -> None:
    diagnose_view.print_causes(as_json=True)
    causes = json.loads(capsys.readouterr().out)["causes"]
    assert len(causes) > 30
    assert all(c["source"] for k in causes for r in k["routes"] for c in r["conditions"])
    diagnose_view.print_causes(as_json=False)
    said = capsys.readouterr().out
    assert all(f"{k['id']}" in said for k in causes)


def test_one_cause_is_told_whole(capsys: pytest.CaptureFixture[str]) -> None:
    diagnose_view.print_causes(as_json=False, name="low_beta_drift")
    said = capsys.readouterr().out
    assert "At beta <beta>" in said
    assert "1) raise beta" in said
    assert "equation 7" in said
    assert "overfit:" not in said
    with pytest.raises(PrefevalError, match="no cause is called"):
        diagnose_view.print_causes(as_json=False, name="bad_luck")


def subject(name: str, **values: float) -> diagnose.Subject:
    signals = {k: Signal(v) for k, v in values.items()}
    return diagnose.Subject(name, "dpo", signals, diagnosis.diagnose(signals, method="dpo"))


def test_findings_of_many_trials_are_told_once_with_their_places() -> None:
    low = {"beta": 0.01, "damaged": 2.0, "fall_both": 0.8, "nonfinite_rows": 0.0}
    found = diagnose.combine(
        [
            subject("a", **low),
            subject("b", **{**low, "beta": 0.1}),
            subject("c", beta=0.1, damaged=0.0, fall_both=0.1, nonfinite_rows=0.0),
        ]
    )
    named = {f.cause: f for f in found.findings}
    assert named["low_beta_drift"].where == ("a",)
    assert named["logprob_collapse"].where == ("a", "b")
    assert named["logprob_collapse"].explained_by == ""  # in b it stands alone
    assert found.findings[0].cause == "low_beta_drift"
    assert "nan" in {c.cause for c in found.checks}
    assert "logprob_collapse" not in {c.cause for c in found.checks}
