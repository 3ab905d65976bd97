"""What to do after a sweep: each rule on a verdict made for it, and on those that it must leave."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from typing import Any

import pytest

from prefeval.metrics import verdict
from prefeval.metrics.advice import RULES, Advice, advise
from prefeval.metrics.next_command import next_command
from prefeval.metrics.selection import BetaVerdict, Rate, Recommendation, Rival, Selection
from prefeval.metrics.situation import Situation

COMMAND = "prefeval sweep --model 'my model' --data pairs.jsonl --beta 0.05:0.3 --name first"


def beta(
    value: float,
    lc: tuple[float, float, float],
    *,
    method: str = "dpo",
    damaged: tuple[str, ...] = (),
    kl: float = 4.0,
    seeds: tuple[int, ...] = (0,),
    sound: int | None = None,
) -> BetaVerdict:
    """A β with its rate and interval, its state as the rule has it."""
    rate = Rate(*lc, 200)
    usable = lc[1] > 50 and not damaged
    state: Any = "usable" if usable else "undecided"
    if damaged or lc[2] <= 50:
        state = "not usable"
    reason = f"damage: {', '.join(damaged)}" if damaged else "as measured"
    reason += f"; not at step {sound}" if sound else ""
    return BetaVerdict(
        method, value, 120, seeds, state, (reason,), rate, rate, kl, damaged, ()
    )  # fmt: skip


GOOD, BEST, NOTHING, NEAR = (62, 57, 67), (64, 59, 69), (46, 42, 49.5), (54, 48, 60)


def situation(
    betas: Sequence[BetaVerdict],
    *,
    command: str = COMMAND,
    rivals: Sequence[Rival] = (),
    config: dict[str, Any] | None = None,
    failed: int = 0,
    row: dict[str, float] | None = None,
    lr: float = 1e-5,
) -> Situation:
    ranked = sorted(betas, key=lambda b: (bool(b.damaged), -b.choosing.ci_low))
    usable = [b for b in ranked if b.state == "usable"]
    best = None
    if usable:
        b = usable[0]
        best = Recommendation(
            b.method, b.beta, 0, b.step, {"kl": b.kl}, b.reported, (), (), tuple(rivals), ()
        )
    methods = sorted({b.method for b in betas})
    settings = {"methods": methods, "model": "my model", "data": "pairs.jsonl", "held_out": 0.2}
    return Situation(
        Selection(
            best, "", tuple(betas), verdict.windows(ranked), (), 200, 200, 5.0, 0.95, 300, "x"
        ),
        [{"method": b.method, "beta": b.beta, "step": b.step, **(row or {})} for b in betas],
        {"command": command, "config": {**settings, **(config or {})}},
        {m: {"lr": lr} for m in methods},
        failed,
    )


def by_kind(s: Situation) -> dict[str, Advice]:
    return {a.kind: a for a in advise(s)}


def options(advice: Advice) -> dict[str, str]:
    """What the command has beyond the run's own."""
    words = shlex.split(advice.command)
    assert words[:6] == ["prefeval", "sweep", "--model", "my model", "--data", "pairs.jsonl"]
    return dict(zip(words[6::2], words[7::2], strict=True))


MIDDLE = (beta(0.05, GOOD), beta(0.1, BEST), beta(0.3, GOOD))


def test_a_window_inside_the_grid_is_refined_over_seeds_and_followed_by_ppo() -> None:
    found = by_kind(situation(MIDDLE))
    assert list(found) == ["ship", "window", "refine", "then"]
    assert found["ship"].said == "Ship dpo β=0.1 step 120 seed 0, 64.0% (59.0 to 69.0)"
    assert found["window"].said == "Usable β: dpo 0.05 to 0.3"
    assert options(found["refine"]) == {"--beta": "dpo=0.05:0.3:5", "--seeds": "3"}
    assert options(found["then"]) == {"--beta": "dpo=0.1", "--then": "ppo"}


def test_a_single_usable_beta_is_refined_as_far_as_its_neighbours() -> None:
    betas = (beta(0.01, NOTHING), beta(0.05, NEAR), beta(0.1, BEST), beta(0.3, NEAR))
    assert options(by_kind(situation(betas))["refine"])["--beta"] == "dpo=0.05:0.3:5"


def test_a_fine_grid_over_three_seeds_is_not_refined() -> None:
    grid = (0.05, 0.07, 0.1, 0.2, 0.3)
    fine = [beta(b, BEST if b == 0.1 else GOOD, seeds=(0, 1, 2)) for b in grid]
    assert "refine" not in by_kind(situation(fine))
    assert "refine" in by_kind(situation(fine[:3] + fine[4:]))


@pytest.mark.parametrize(("place", "grid"), [(0, "dpo=0.02:0.05"), (2, "dpo=0.3:1")])
def test_a_window_that_is_open_at_an_end_is_extended_there(place: int, grid: str) -> None:
    betas = [beta(b, BEST if i == place else GOOD) for i, b in enumerate((0.05, 0.1, 0.3))]
    found = by_kind(situation(betas))
    assert options(found["extend"]) == {"--beta": grid}
    assert not {"refine", "then"} & set(found)


def test_several_open_windows_are_one_command_and_the_best_method_comes_first() -> None:
    betas = [
        *(beta(b, GOOD if b == 0.3 else (58, 53, 63), method="ipo") for b in (0.1, 0.3)),
        *(beta(b, BEST if b == 2 else GOOD, method="simpo") for b in (2.0, 5.0)),
        *(beta(b, BEST, method="kto", damaged=("json",)) for b in (0.1, 0.3)),
    ]
    found = by_kind(situation(betas))
    want = {"--methods": "simpo,ipo", "--beta": "simpo=0.5:2,ipo=0.3:1"}
    assert options(found["extend"]) == want


# -- nothing usable -------------------------------------------------------------------------------


def test_a_damaged_gain_goes_back_to_the_step_that_was_sound() -> None:
    betas = (
        beta(0.05, BEST, damaged=("json",)),
        beta(0.3, GOOD, damaged=("json", "tool"), sound=60),
    )
    found = by_kind(situation(betas))
    assert list(found) == ["damage"]
    assert options(found["damage"]) == {"--beta": "dpo=0.3", "--max-steps": "60"}
    assert "damage to json, tool" in found["damage"].said


def test_a_damaged_gain_without_a_sound_step_is_held_closer() -> None:
    betas = [beta(b, BEST, damaged=("json",)) for b in (0.05, 0.3)]
    assert options(by_kind(situation(betas))["damage"]) == {"--beta": "dpo=0.3:1"}


def test_simpo_that_damages_has_no_pull_to_raise_and_learns_slower() -> None:
    betas = [beta(b, BEST, method="simpo", damaged=("json",)) for b in (2.0, 5.0)]
    want = {"--beta": "simpo=2/5", "--lr": "3.2e-06"}  # a third of a decade off: 1e-5 / sqrt(10)
    assert options(by_kind(situation(betas))["damage"]) == want


def test_policies_that_hardly_moved_train_more() -> None:
    betas = [beta(b, NOTHING, kl=0.2) for b in (0.05, 0.3)]
    found = by_kind(situation(betas))
    assert list(found) == ["no_gain"]
    assert options(found["no_gain"]) == {"--beta": "dpo=0.05/0.3", "--lr": "3.2e-05"}


def test_policies_that_moved_without_gain_are_a_question_to_the_data() -> None:
    found = by_kind(situation([beta(b, NOTHING) for b in (0.05, 0.3)]))
    assert found["no_gain"].command == "prefeval audit pairs.jsonl"


def test_a_gain_that_is_all_length_tries_simpo_and_then_the_data() -> None:
    betas = [beta(b, (50.5, 46, 55)) for b in (0.05, 0.1, 0.3)]
    raw = {"win_rate": 60.0, "win_rate_ci_low": 55.0}
    found = by_kind(situation(betas, row=raw))
    assert "no_gain" not in found
    assert options(found["length"]) == {"--methods": "simpo", "--beta": "simpo=2:10"}
    assert "wins 60.0% raw and 50.5% (46.0 to 55.0)" in found["length"].said
    both = situation(betas, row=raw, config={"methods": ["dpo", "simpo"]})
    assert by_kind(both)["length"].command == "prefeval audit pairs.jsonl"
    level = situation(betas, row={"win_rate": 52.0, "win_rate_ci_low": 48.0})
    assert "length" not in by_kind(level)


# -- prompts --------------------------------------------------------------------------------------


def test_an_undecided_beta_gets_the_prompts_that_would_put_its_bound_at_50() -> None:
    """54 with a half width of 6: 4 points take (6 / 4)^2 = 2.25 times as many, of 400."""
    betas = [beta(0.05, NOTHING), beta(0.1, NEAR), beta(0.3, NOTHING)]
    found = by_kind(situation(betas))["undecided"]
    assert found.said.startswith("900 prompts instead of 400 would decide dpo β=0.1")
    assert options(found) == {"--beta": "dpo=0.1", "--held-out": "0.45"}
    capped = situation(betas, command=f"{COMMAND} --prompts 400", config={"prompts": 400})
    assert options(by_kind(capped)["undecided"]) == {"--beta": "dpo=0.1", "--prompts": "900"}
    large = by_kind(situation(betas, config={"held_out": 0.4}))["undecided"]
    assert (large.command, large.said.endswith("; they take more data")) == ("", True)


def test_the_lab_has_more_prompts_where_it_has_more_people() -> None:
    betas = [beta(0.05, NOTHING), beta(0.1, (56, 49.5, 62.5)), beta(0.3, NOTHING)]
    config = {"model": "lab", "lab": {"people": 64}}
    command = "prefeval sweep --lab noise=0.1,people=64"
    found = by_kind(situation(betas, command=command, config=config))["undecided"]
    people = math.ceil(64 * (6.5 / 6) ** 2)
    assert found.command == f"prefeval sweep --beta dpo=0.1 --lab noise=0.1,people={people}"


def rival(needed: int | None, difference: float, *, apart: bool = False) -> Rival:
    return Rival("dpo", 0.05, 120, "usable", difference, -1.0, 5.0, apart, needed)


def test_rivals_that_are_not_told_apart_get_the_prompts_that_would() -> None:
    rivals = (rival(300, 3.0), rival(9000, 0.1), rival(None, 0.0))
    found = by_kind(situation(MIDDLE, rivals=rivals))["rivals"]
    assert options(found) == {"--beta": "dpo=0.1/0.05", "--held-out": "0.3"}  # 300 of 200
    assert found.said.startswith("600 prompts instead of 400")
    far = by_kind(situation(MIDDLE, rivals=(rival(9000, 0.1),)))["rivals"]
    assert (far.command, "take them as equal" in far.said) == ("", True)
    assert "rivals" not in by_kind(situation(MIDDLE, rivals=(rival(300, 9.0, apart=True),)))


# -- what else -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gap", "before", "applies"), [(-0.6, -0.1, True), (-0.5, -0.4, True), (-0.3, -0.1, False)]
)
def test_stale_pairs_are_made_anew_in_rounds(gap: float, before: float, applies: bool) -> None:
    row = {"off_policy_gap": gap, "ref_off_policy_gap": before}
    found = by_kind(situation(MIDDLE, row=row))
    assert ("stale" in found) == applies
    if applies:
        assert options(found["stale"]) == {"--beta": "dpo=0.1", "--rounds": "3"}
        again = situation(MIDDLE, row=row, config={"training": {"rounds": 3}})
        assert "stale" not in by_kind(again)


def test_noisy_labels_of_the_lab_try_ipo() -> None:
    config = {"model": "lab", "lab_data": {"noise": 0.2}}
    command = "prefeval sweep --lab noise=0.2 --methods dpo"
    found = by_kind(situation(MIDDLE, command=command, config=config))["noise"]
    want = "prefeval sweep --lab noise=0.2 --methods ipo --beta ipo=0.05/0.1/0.3"
    assert found.command == want
    clean = situation(MIDDLE, config={**config, "lab_data": {"noise": 0.0}})
    assert "noise" not in by_kind(clean)


def test_failed_trials_come_first_and_keep_the_runs_name() -> None:
    found = advise(situation(MIDDLE, failed=2))
    assert (found[0].kind, found[0].command) == ("failed", COMMAND)


def test_a_smoke_run_is_advised_to_be_a_run_and_nothing_else() -> None:
    config = {"training": {"max_steps": 2, "iterations": 2}}  # as --smoke sets them
    found = advise(situation(MIDDLE, command=f"{COMMAND} --smoke", config=config))
    assert [a.kind for a in found] == ["smoke"]
    assert found[0].command == COMMAND.removesuffix(" --name first")


def test_without_the_command_of_a_sweep_there_is_advice_and_no_command() -> None:
    for command in ("", "prefeval train dpo", "prefeval sweep 'unclosed"):
        found = advise(situation(MIDDLE, command=command))
        assert [a.kind for a in found] == ["ship", "window", "refine", "then"]
        assert {a.command for a in found} == {""}


def test_every_rule_has_its_kind_and_its_reason() -> None:
    kinds = [rule.kind for rule in RULES]
    assert len(set(kinds)) == len(kinds)
    assert all(rule.why for rule in RULES)


# -- the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "changes", "want"),
    [
        ("prefeval sweep --beta=0.1 --lr 1e-5", {"beta": "0.2"}, "--lr 1e-5 --beta 0.2"),
        ("prefeval sweep --max_steps 3 --resume", {"max-steps": 4}, "--max-steps 4"),
        ("prefeval sweep --name='a b' --out 'c d'", {}, "--out 'c d'"),
        ("prefeval sweep --json --lora-rank 4", {"lora-rank": None}, "--json"),
        ("prefeval sweep --lab 'noise=0.1;x'", {}, "--lab 'noise=0.1;x'"),
    ],
)
def test_a_command_keeps_what_is_not_changed(
    command: str, changes: dict[str, Any], want: str
) -> None:
    assert next_command(command, changes, methods=["dpo"]) == f"prefeval sweep {want}"


def test_what_came_from_a_file_and_no_method_reads_is_set_to_its_default() -> None:
    command = "prefeval sweep --config x.yaml --methods dpo,ppo"
    training = {"iterations": 5, "reward": "kfacts", "lr": 1e-5}
    changed = next_command(command, {"methods": "dpo"}, methods=["dpo"], training=training)
    want = "prefeval sweep --config x.yaml --methods dpo --iterations 0 --reward ''"
    assert changed == want
    switch = {"rounds": 2, "refresh_reference": True}
    assert next_command(command, {"methods": "ppo"}, methods=["ppo"], training=switch) == ""
