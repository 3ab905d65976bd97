"""What a person names on the command line, looked over before anything is computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from prefeval.harness import backends, models, rewards, suite_source
from prefeval.harness.settings import SweepConfig
from prefeval.minitrainers import METHODS
from prefeval.records import PrefevalError


def check_name(name: str) -> None:
    """Raise ``PrefevalError`` unless ``--name`` is empty or one folder's name."""
    if name and (name == ".." or Path(name).name != name):
        raise PrefevalError(f"--name {name} is no single folder name; give its parent by --out")


def check(config: SweepConfig) -> None:
    """Raise ``PrefevalError`` for a suite, judge, reward or backend that cannot be used."""
    backends.versions(config.backend)
    if reward := config.training.get("reward"):
        rewards.check(reward, is_lab=config.is_lab)
    if config.training.get("rounds"):
        for method in config.methods:
            if METHODS[method].data != "pairs":
                raise PrefevalError(
                    f"--rounds is for methods that learn from pairs, and {method} does not; use "
                    "--methods dpo, ipo or simpo"
                )
    if "grpo" in config.methods:
        grpo = config.settings("grpo")
        if grpo["group_size"] < 2 or grpo["batch_size"] % grpo["group_size"]:
            raise PrefevalError(
                f"{grpo['batch_size']} rollouts are no whole groups of {grpo['group_size']}; make "
                "--batch-size a multiple of --group-size, which is at least 2"
            )
    if config.suite:
        if config.is_lab:
            raise PrefevalError("--suite goes with --model; the lab has prompts of its own")
        suite_source.load(config.suite)
    if config.judge:
        _check_judge(config)


def _check_judge(config: SweepConfig) -> None:
    from prefeval.harness import judges

    name, _, argument = config.judge.partition(":")
    judges.get(name)
    if name == "lab":
        if not config.is_lab:
            raise PrefevalError("the judge 'lab' knows the lab alone; name another --judge")
        judges.open_judge(config.judge)
    if name == "person":
        raise PrefevalError(
            "a person judges files of answers, not runs: prefeval outputs, then prefeval judge"
        )
    if name in ("endpoint", "saved"):
        judges.open_judge(config.judge)
    if name == "chat":
        models.check_model_dir(argument.split(",")[0])
    if name == "reward_model" and argument:
        models.check_model_dir(argument)
    elif name == "reward_model":
        raise PrefevalError("the judge reward_model needs a folder: --judge reward_model:DIR")


def within_context(config: SweepConfig, *, chosen: bool) -> SweepConfig:
    """The configuration with ``max_length`` no longer than the model was made for.

    Raises ``PrefevalError`` where the person chose a longer one.
    """
    if config.is_lab:
        return config
    context = models.context_length(config.model)
    sizes = config.sizes
    if context is None or sizes.max_length <= context:
        return config
    if chosen:
        raise PrefevalError(
            f"--max-length {sizes.max_length} is longer than the {context} tokens that "
            f"{config.model} was made for; lower it"
        )
    if sizes.max_new_tokens >= context:
        raise PrefevalError(
            f"{sizes.max_new_tokens} new tokens leave no room for a prompt within the {context} "
            f"of {config.model}; lower --max-new-tokens"
        )
    return replace(config, sizes=replace(sizes, max_length=context))


def hashes(config: SweepConfig) -> dict[str, str]:
    """Contents of a person's own inputs: another file under the same name is another run."""
    if config.is_lab:
        return {}
    found = {"model": models.weights_hash(models.check_model_dir(config.model))}
    path = Path(config.data)
    if path.is_file():
        found["data"] = models.file_hash(path)
    elif "/" in config.data and not path.exists() and path.suffix:
        raise PrefevalError(f"no such data file: {path}; give a data file, a folder or a hub name")
    return found
