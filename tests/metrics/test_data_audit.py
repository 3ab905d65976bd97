"""What the audit says of files that were spoiled by a known amount."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from prefeval.metrics.data import advice as data_advice
from prefeval.metrics.data import audit as data_audit
from prefeval.metrics.data import content as data_content
from prefeval.metrics.data import features as data_features
from prefeval.metrics.data import findings as data_findings
from prefeval.metrics.data.findings import THRESHOLDS, Finding, finding
from prefeval.metrics.stats import Estimate
from prefeval.minitrainers import kto

WORDS = ["river", "stone", "cloud", "lamp", "table", "green", "quick", "slow", "happy", "north"]
WORDS += ["paper", "glass"]


def pairs(n: int = 300, seed: int = 0, *, prefer: float = 0.85) -> pd.DataFrame:
    """Answers of random words; the one with "indeed" is preferred with probability ``prefer``."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for i in range(n):
        texts = [" ".join(rng.choice(WORDS, rng.integers(8, 20))) for _ in range(2)]
        good, plain = f"indeed {texts[0]} indeed", texts[1]
        chosen, rejected = (good, plain) if rng.random() < prefer else (plain, good)
        rows.append({"id": f"p{i}", "prompt": f"user: Question {i}?", "turns": 1 + i % 2})
        rows[-1] |= {"cluster": f"c{i // 2}", "chosen": chosen, "rejected": rejected}
        for side in ("chosen", "rejected"):
            rows[-1] |= {f"{side}_refuses": False, f"{side}_calls": False}
    return pd.DataFrame(rows)


def thumbs(n: int = 300, liked: float = 0.5) -> pd.DataFrame:
    """The preferred answers of ``pairs`` liked, the others not."""
    frame = pairs(n)
    up = np.arange(n) < liked * n
    frame["completion"] = np.where(up, frame["chosen"], frame["rejected"])
    frame["desirable"] = up
    frame["completion_refuses"] = frame["completion_calls"] = False
    return frame.drop(columns=[c for c in frame if c.startswith(("chosen", "rejected"))])


def found(frame: pd.DataFrame, **options: Any) -> dict[str, Finding]:
    return {f.name: f for f in data_audit.audit(frame, **options).findings}


def flipped(frame: pd.DataFrame, which: np.ndarray) -> pd.DataFrame:
    out = frame.copy()
    out["chosen"] = frame["chosen"].where(~which, frame["rejected"])
    out["rejected"] = frame["rejected"].where(~which, frame["chosen"])
    return out


def test_a_sound_file_has_no_warning_about_its_rows() -> None:
    known = found(pairs())
    for name in ("exact_duplicates", "near_duplicates", "contradicting_labels", "template_marks"):
        assert (known[name].value, known[name].level, known[name].n) == (0, "ok", 300)
    assert known["multi_turn"].value == 0.5
    assert known["prompts_shared"].value == 0


def test_copies_are_counted_apart_from_labels_that_contradict() -> None:
    frame = pairs(100)
    copy, turned = frame.iloc[:4], flipped(frame.iloc[10:12], np.ones(2, bool))
    near = frame.iloc[20:23].assign(
        chosen=lambda f: f["chosen"] + " more", prompt=lambda f: f["prompt"].str.upper()
    )
    known = found(pd.concat([frame, copy, turned, near], ignore_index=True))
    assert known["exact_duplicates"].value == pytest.approx(4 / 109)
    assert known["contradicting_labels"].value == pytest.approx(4 / 109)
    assert known["noise_at_least"].value == pytest.approx(2 / 109)
    assert known["near_duplicates"].value == pytest.approx(3 / 109)
    assert known["contradicting_labels"].level == "error"


def test_thumbs_of_one_answer_both_ways_contradict() -> None:
    frame = thumbs(100)
    turned = frame.iloc[:3].assign(desirable=lambda f: ~f["desirable"])
    known = found(pd.concat([frame, turned], ignore_index=True))
    assert known["contradicting_labels"].value == pytest.approx(6 / 103)
    assert known["noise_at_least"].value == pytest.approx(3 / 103)


@pytest.mark.parametrize("mark", ["<|im_end|>", "</s>", "[INST]", "<end_of_turn>", "\n\nHuman:"])
def test_marks_of_chat_templates_in_answers_are_found(mark: str) -> None:
    frame = pairs(50)
    frame.loc[7, "rejected"] += f"{mark} and on"
    assert found(frame)["template_marks"].value == 1 / 50


def test_longer_chosen_is_the_plain_count_and_follows_padding() -> None:
    frame = pairs()
    padded = frame.assign(chosen=frame["chosen"] + " and this is all that there is to say of it")
    before, after = found(frame), found(padded)
    for known, data in ((before, frame), (after, padded)):
        both = zip(data["chosen"], data["rejected"], strict=True)
        count = sum((len(a) > len(b)) + (len(a) == len(b)) / 2 for a, b in both)
        assert known["longer_chosen"].value == pytest.approx(count / 300)
    assert after["length_predicts"].ci_low > before["length_predicts"].ci_high
    assert after["longer_chosen"].level in ("warning", "error")


def test_length_that_says_nothing_is_at_chance_and_words_that_say_all_are_not() -> None:
    rng = np.random.default_rng(6)
    same = [w for w in WORDS if len(w) == 5]
    texts = [[" ".join(rng.choice(same, 12)) for _ in range(300)] for _ in range(2)]
    right = rng.random(300) < 0.85
    good, plain = pd.Series(texts[0]) + " truly", pd.Series(texts[1]) + " hence"
    frame = pairs().assign(chosen=good.where(right, plain), rejected=plain.where(right, good))
    known = found(frame)
    assert known["length_predicts"].value == 0.5
    assert known["labels_predicted"].ci_low > 0.75
    assert 0.15 <= known["noise_at_most"].value < 0.3  # 0.15 of the labels were drawn wrong


def test_coin_toss_labels_are_warned_about() -> None:
    frame = flipped(pairs(1000), np.random.default_rng(1).random(1000) < 0.5)
    known = found(frame)
    assert known["labels_predicted"].level == "warning"
    assert known["noise_at_most"].value > 0.45
    assert found(pairs(1000))["labels_predicted"].level == "ok"


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_noise_beside_trusted_labels_covers_the_flips_that_were_added(share: float) -> None:
    frame, trusted = pairs(600, seed=1), pairs(600, seed=2)
    which = np.random.default_rng(2).random(600) < share
    rate = found(flipped(frame, which), trusted=trusted)["noise_beside_trusted"]
    assert rate.ci_low <= which.mean() <= rate.ci_high
    assert abs(rate.value - which.mean()) < 0.1
    assert (rate.level == "ok") == (share == 0)


def test_flipped_labels_are_named_first() -> None:
    which = np.random.default_rng(3).random(400) < 0.1
    audit = data_audit.audit(flipped(pairs(400, prefer=1.0), which))
    wrong = {f"p{i}" for i in np.flatnonzero(which)}
    assert len(audit.suspects) == 20
    assert len(wrong & set(audit.suspects)) >= 18


def test_held_out_prompts_that_are_trained_on_are_counted_once_each() -> None:
    frame, other = pairs(50), pairs(20)
    other["prompt"] = [f"user:  QUESTION {i + 45}?" for i in range(20)]
    leak = data_audit.overlap(frame, pd.concat([other, other]))
    assert (leak.value, leak.n, leak.level) == (5 / 20, 20, "error")


def test_contrast_counts_pairs_by_similarity_in_words() -> None:
    base = " ".join(WORDS[:10])
    frame = pairs(60)
    frame["chosen"], frame["rejected"] = base, "quite another answer"
    frame.loc[:5, "rejected"] = base.replace("river", "sea")  # 1 of 10 words
    frame.loc[6:14, "rejected"] = "a b " + " ".join(WORDS[2:10])  # 2 of 10 words
    known = {f.name: f.value for f in data_content.contrast(frame)}
    assert known == {"near_identical_pairs": 6 / 60, "low_contrast_pairs": 15 / 60}


@pytest.mark.parametrize("liked", [30, 50, 56, 60, 90])
def test_weights_of_thumbs_are_those_that_the_trainer_suggests(liked: int) -> None:
    known = {f.name: f.value for f in data_content.classes(thumbs(100, liked / 100))}
    expected = kto.suggest_weights(liked, 100 - liked)
    assert known["desirable_weight"] == pytest.approx(expected.desirable)
    assert known["undesirable_weight"] == pytest.approx(expected.undesirable)
    assert (known["class_ratio_off"] == 0) == (expected == (1, 1))


@pytest.mark.parametrize("liked", [0.0, 1.0])
def test_thumbs_of_one_kind_are_an_error_and_nothing_is_predicted(liked: float) -> None:
    known = found(thumbs(100, liked))
    assert known["one_class"].level == "error"
    assert math.isnan(known["labels_predicted"].value)
    assert "length_predicts" not in known


def test_few_prompts_are_not_predicted_from() -> None:
    known = found(pairs(30))
    assert "fewer than 20 prompts" in known["labels_predicted"].reason


@pytest.mark.parametrize(
    ("chosen", "rejected", "lesson"),
    [(30, 2, "the file teaches"), (2, 30, "the file unteaches"), (9, 11, "does not tell")],
)
def test_refusals_are_taught_where_shown(chosen: int, rejected: int, lesson: str) -> None:
    frame = pairs(120)
    frame.loc[: chosen - 1, "chosen_refuses"] = True
    frame.loc[60 : 60 + rejected - 1, "rejected_refuses"] = True
    frame["cluster"] = frame["id"]
    known = {f.name: f for f in data_content.behaviour(frame)}
    teaches = known["teaches_refuses"]
    assert (teaches.value, teaches.n) == (chosen / (chosen + rejected), chosen + rejected)
    assert lesson in teaches.says
    assert known["chosen_refuses"].value == chosen / 120
    assert "teaches_calls" not in known


def test_marks_of_style_are_counted_where_answers_differ_in_them() -> None:
    frame = pairs(60)
    frame["cluster"] = frame["id"]
    frame.loc[:24, "chosen"] += " **bold** words"
    frame.loc[20:34, "rejected"] += " **bold** words"  # 20 to 24 have it on both sides
    frame.loc[:9, "chosen"] += "\n# heading"
    known = {f.name: f for f in data_content.style(frame)}
    assert set(known) == {"more_bold"}  # 10 headings are too few
    assert (known["more_bold"].value, known["more_bold"].n) == (20 / 30, 30)
    single = thumbs(60)
    single.loc[10:39, "completion"] += " **bold** words"  # 0 to 29 are liked
    known = {f.name: f for f in data_content.style(single)}
    assert (known["more_bold"].value, known["more_bold"].n) == (20 / 30, 30)


def test_a_large_files_estimates_may_rest_on_some_of_its_rows() -> None:
    frame = pairs(200)
    known = found(pd.concat([frame, frame.iloc[:50]]), some=frame.iloc[:100])
    assert known["exact_duplicates"].n == 250
    assert known["longer_chosen"].n == 100


def test_a_pair_and_its_reverse_have_opposite_features() -> None:
    frame = pairs(20)
    one, other = (data_features.of_pairs(f) for f in (frame, flipped(frame, np.ones(20, bool))))
    for block in ("length", "style"):
        assert getattr(one, block) == pytest.approx(-getattr(other, block))
    assert abs(one.words + other.words).max() < 1e-12


def test_features_count_what_they_say() -> None:
    text = "# Head\n- **one** item\n\n```\ncode\n```\nPerhaps it might."
    found = data_features.features_of([text, ""], [True, False])
    counts = np.expm1(found.style).round(9)
    assert counts.tolist() == [[1, 1, 1, 1, 2, 1], [0, 0, 0, 0, 0, 0]]
    assert np.expm1(found.length[0]).round(9).tolist() == [len(text), len(text.split())]
    assert found.words[0].multiply(found.words[0]).sum() == pytest.approx(1)
    assert found.words[1].nnz == 0


@pytest.mark.parametrize(
    ("measured", "level"),
    [
        (Estimate(0.9, 0, 0.85, 0.95, 9), "error"),
        (Estimate(0.9, 0, 0.7, 0.95, 9), "warning"),  # an error is not shown
        (Estimate(0.9, 0, 0.5, 0.95, 9), "ok"),
        (0.9, "error"),
        (0.6, "warning"),
        (0.59, "ok"),
        (Estimate(math.nan, 0, 0, 0, 9, "why"), "info"),
    ],
)
def test_a_level_needs_the_interval_to_lie_beyond_the_threshold(measured: Any, level: str) -> None:
    assert (THRESHOLDS["longer_chosen"].warning, THRESHOLDS["longer_chosen"].error) == (0.6, 0.8)
    assert finding("length", "longer_chosen", measured, "").level == level


def test_low_values_are_the_bad_ones_where_a_threshold_says_so() -> None:
    for high, level in ((0.54, "warning"), (0.6, "ok")):
        measured = Estimate(0.52, 0.01, 0.5, high, 9)
        assert finding("noise", "labels_predicted", measured, "").level == level


def test_every_threshold_names_its_source_and_the_worst_level_counts() -> None:
    assert all(limit.source for limit in THRESHOLDS.values())
    ok = Finding("a", "b", 0.0, 1, "", level="ok")
    assert data_findings.worst([ok, replace(ok, level="info")]) == "ok"
    assert data_findings.worst([ok, replace(ok, level="error"), replace(ok, level="warning")]) == (
        "error"
    )


def given(**values: float) -> list[Finding]:
    """Findings known exactly."""
    return [Finding("x", n, v, 9, "", ci_low=v, ci_high=v) for n, v in values.items()]


@pytest.mark.parametrize(
    ("findings", "method"),
    [
        (given(), "dpo"),
        (given(liked=0.5), "kto"),
        (given(liked=0.0), "kto"),
        (given(noise_beside_trusted=0.2), "ipo"),
        (given(noise_beside_trusted=0.05), "dpo"),
        (given(noise_retest=0.2), "ipo"),
        (given(noise_at_least=0.06), "ipo"),
        (given(length_predicts=0.7, longer_chosen=0.7), "simpo"),
        (given(length_predicts=0.7, longer_chosen=0.3), "dpo"),  # the shorter ones win
        (given(noise_beside_trusted=0.2, length_predicts=0.7, longer_chosen=0.7), "ipo"),
        (given(noise_beside_trusted=math.nan), "dpo"),
    ],
)
def test_the_first_rule_that_holds_names_the_method(findings: list[Finding], method: str) -> None:
    advice = data_advice.advise(findings)
    assert advice.method == method
    assert advice.beta.startswith(f"{method}=")
    assert advice.source


def test_what_to_watch_follows_from_the_findings() -> None:
    plain, risky = (
        " ".join(data_advice.advise(given(**found)).watch)
        for found in ({}, {"near_identical_pairs": 0.2, "teaches_calls": 0.2})
    )
    assert "Δchosen" in risky
    assert "retention_tool" in risky
    assert "retention_tool" not in plain


def test_rules_speak_of_findings_that_exist() -> None:
    known = {f.name for f in data_audit.audit(pairs(), trusted=pairs(seed=1)).findings}
    known |= {f.name for f in data_audit.audit(thumbs()).findings}
    measured_with_a_model = {"chosen_in_range", "truncated"}
    only_where_there_are_any = {"teaches_refuses", "teaches_calls"}
    used = {c.name for r in (*data_advice.RULES, *data_advice.WATCHES) for c in r.when}
    assert used <= known | measured_with_a_model | only_where_there_are_any
