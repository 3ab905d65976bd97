"""What a sweep advises to run next is taken by the command line itself: `--dry-run` resolves it."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefeval import records
from prefeval.harness import cli, sweep
from prefeval.harness.settings import SweepConfig
from prefeval.metrics import next_command
from prefeval.metrics.selection import Selection
from prefeval.metrics.situation import Situation
from prefeval.minitrainers import METHODS

Resolve = Callable[[str], SweepConfig]
NOTHING = Selection(None, "", (), (), (), 0, 0, 5.0, 0.95, 300, "")


@pytest.fixture
def resolve(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Resolve:
    """Runs a command with --dry-run; the configuration that it resolves to."""
    for name in [n for n in os.environ if n.startswith("PREFEVAL_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    seen: list[SweepConfig] = []
    plan = sweep.plan

    def watch(config: SweepConfig, workers: int) -> sweep.Plan:
        seen.append(config)
        return plan(config, workers)

    monkeypatch.setattr(sweep, "plan", watch)

    def run(command: str) -> SweepConfig:
        words = shlex.split(command)
        assert words[0] == "prefeval"
        with pytest.raises(SystemExit) as end:
            cli.main([*words[1:], "--dry-run", "--device", "cpu"])
        assert end.value.code == 0, f"{command}: {capsys.readouterr().err}"
        return seen[-1]

    return run


def after(command: str, config: SweepConfig) -> Situation:
    """What is known of a run of this command, as its manifest has it."""
    manifest = {"command": command, "config": records.to_jsonable(config)}
    return Situation(NOTHING, [], json.loads(json.dumps(manifest)))


COMMANDS = (
    "prefeval sweep",
    "prefeval sweep --lab noise=0.2 --name 'two words' --resume --out 'my runs'",
    "prefeval sweep --methods dpo,ppo --iterations 5 --target-kl 2 --lr=1e-4",
    "prefeval sweep --methods dpo,kto --desirable-weight 2 --epochs 3 --seeds 2",
    "prefeval sweep --methods ipo,dpo --rounds 2 --round-prompts 64 --samples 3 "
    "--refresh-reference --reward judge:lab",
    "prefeval sweep --methods dpo,grpo --group-size 4 --batch-size 16 --then ppo "
    "--then-iterations 3 --target-kl 1",
    "prefeval sweep --methods=ppo --reward kfacts --max_steps=7 --beta 0.1",
    "prefeval sweep --methods kto,simpo --beta kto=0.1/0.3,simpo=2:10:3 --lora-rank 4 "
    "--gradient-checkpointing --state-every 5 --prompts 200",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_kind_of_next_command_is_one_that_runs(resolve: Resolve, command: str) -> None:
    known = after(command, resolve(command))
    for method, about in METHODS.items():
        offline = about.data != "prompts"
        changes: list[dict[str, Any]] = [{}, {"seeds": 3}, {"lr": "3e-05"}, {"prompts": 600}]
        changes += [{"max_steps": "40"}, {"held_out": "0.4"}, {"lab": "people=70"}]
        changes += [{"then": "ppo"}] if offline else []
        changes += [{"rounds": 3}] if about.data == "pairs" else []
        for change in changes:
            got = resolve(known.run_on({method: "0.3:1:3"}, **change))
            assert got.methods == (method,)
            assert got.betas == {method: (0.3, 0.548, 1.0)}
            assert got.training.get("rounds") == change.get(
                "rounds",
                known.of_config("training").get("rounds") if about.data == "pairs" else None,
            )
            if "seeds" in change:
                assert got.seeds == (0, 1, 2)
    both = resolve(known.run_on({"simpo": [2.0, 5.0], "ipo": "0.02:0.05"}))
    assert both.betas == {"simpo": (2.0, 5.0), "ipo": (0.02, 0.0271, 0.0368, 0.05)}


def test_options_that_stay_keep_their_values(resolve: Resolve) -> None:
    command = COMMANDS[-1]
    before = resolve(command)
    got = resolve(after(command, before).run_on({"kto": [0.1]}))
    assert got.training == before.training
    assert (got.prompts, got.sizes, got.lab) == (before.prompts, before.sizes, before.lab)


def test_options_of_a_file_that_the_next_methods_do_not_read_are_undone(
    resolve: Resolve, tmp_path: Path
) -> None:
    (tmp_path / "x.yaml").write_text(
        "methods: [dpo, ppo]\niterations: 5\nreward: kfacts\nlr: 1e-4\n"
    )
    command = "prefeval sweep --config x.yaml"
    before = resolve(command)
    assert before.training == {"iterations": 5, "reward": "kfacts", "lr": 1e-4}
    got = resolve(after(command, before).run_on({"dpo": "0.3:1"}))
    assert got.training == {"lr": 1e-4}


def test_a_model_of_ones_own_keeps_its_paths(
    resolve: Resolve, tiny_copy: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_copy("my model")
    rows = [{"prompt": f"Q{i}?", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(9)]
    (tmp_path / "a b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = shlex.join(["prefeval", "sweep", "--model", str(folder), "--data", "a b.jsonl"])
    known = after(command, resolve(command))
    got = resolve(known.run_on({"dpo": [0.1, 0.2]}, held_out="0.3"))
    assert (got.model, got.data, got.held_out) == (str(folder), "a b.jsonl", 0.3)
    assert known.audit == "prefeval audit 'a b.jsonl'"
    with pytest.raises(SystemExit) as end:
        cli.main(shlex.split(known.audit)[1:])
    assert end.value.code == 0


def test_the_next_command_names_another_run(resolve: Resolve) -> None:
    command = "prefeval sweep --methods dpo --name mine"
    known = after(command, resolve(command))
    again = known.run_on({"dpo": "0.3:1"})
    assert next_command.option(again, "name") == ""
    assert resolve(again).hash != resolve(command).hash
