"""Builds the lab once and keeps it: the reference model, its preference data and the suite.

Two folders in the user's cache, named by the hash of what they are made from: the reference
(slow: it is trained) and the data (its knobs can change without training again). Each is built
beside its place under a lock and renamed, so two processes may ask at once.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefeval import records
from prefeval.harness.data import to_trl
from prefeval.harness.lab import data as lab_data
from prefeval.harness.lab import model as lab_model
from prefeval.records import PrefevalError, Prompt, Sampling
from prefeval.suites import lab_oracle, lab_prompts, lab_world

if TYPE_CHECKING:
    from prefeval.harness.backends.hugging_face import HuggingFaceBackend

MAX_LENGTH = 192  # tokens of prompt and answer
MAX_NEW_TOKENS = 120
HELD_OUT_PAIRS = 512

OnProgress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done."""


@dataclass(frozen=True)
class ReferenceConfig:
    """What the reference model is made from."""

    seed: int = 0
    people: int = 64
    hidden: int = 96
    layers: int = 3
    demonstrations: int = 24_000
    epochs: int = 2
    lr: float = 4e-3
    leakage: float = 0.12
    """share of profiles answered in JSON, trips by a tool call, harmless tasks refused"""

    def __post_init__(self) -> None:
        if not 2 <= self.people <= 96:
            raise PrefevalError(f"people must be 2 to 96, got {self.people}")
        if self.hidden < 8 or self.hidden % 8:
            raise PrefevalError(f"hidden must be a multiple of 8, got {self.hidden}")
        if min(self.layers, self.demonstrations, self.epochs) < 1:
            raise PrefevalError("layers, demonstrations and epochs must be at least 1")
        if not 0 < self.lr < math.inf:
            raise PrefevalError(f"lr must be a number > 0, got {self.lr}")
        if not 0 <= self.leakage < 1:
            raise PrefevalError(f"leakage must be in [0, 1), got {self.leakage}")
        if self.seed < 0:
            raise PrefevalError(f"seed must be >= 0, got {self.seed}")


@dataclass(frozen=True)
class DataConfig:
    """The knobs of the preference data."""

    pairs: int = 3000
    thumbs: int = 3000
    length_bias: float = 0.09
    """lambda: what the labelling judge gives for a word, in units of quality"""
    temperature: float = 3.0
    """of the labelling judge: the higher, the less its labels follow its scores"""
    noise: float = 0.0
    """epsilon: share of labels flipped at random"""
    anchors: float = 0.0
    """share of pairs that teach the behaviours which the others never show"""
    source: str = "on_policy"
    """whose answers are paired: "on_policy" (the reference's) or "teacher" (the demonstrator's)"""
    judge: str = "linear"
    """shape of the labelling judge"""

    def __post_init__(self) -> None:
        if self.source not in ("on_policy", "teacher"):
            raise PrefevalError(f"unknown source {self.source!r}; use on_policy or teacher")
        if self.judge not in lab_oracle.JUDGE_SHAPES:
            shapes = ", ".join(lab_oracle.JUDGE_SHAPES)
            raise PrefevalError(f"unknown judge shape {self.judge!r}; use one of {shapes}")
        for name in ("noise", "anchors"):
            if not 0 <= getattr(self, name) < 1:
                raise PrefevalError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.pairs < 1 or self.thumbs < 1 or not 0 < self.temperature < math.inf:
            raise PrefevalError("pairs, thumbs and temperature must be positive")
        if not math.isfinite(self.length_bias):
            raise PrefevalError(f"length_bias must be a number, got {self.length_bias}")


@dataclass(frozen=True)
class Lab:
    """A built lab: ordinary Hugging Face files and JSONL."""

    config: ReferenceConfig
    data_config: DataConfig
    reference: Path
    data: Path

    @property
    def world(self) -> lab_world.World:
        """The truth that the lab was made from."""
        return lab_world.World(self.config.seed, self.config.people)


def parse_knobs(text: str) -> tuple[ReferenceConfig, DataConfig]:
    """``"length_bias=0.2,noise=0.1,seed=1"`` as the two configurations."""
    known: dict[str, tuple[type, type]] = {}
    known |= {f.name: (ReferenceConfig, type(f.default)) for f in fields(ReferenceConfig)}
    known |= {f.name: (DataConfig, type(f.default)) for f in fields(DataConfig)}
    values: dict[type, dict[str, Any]] = {ReferenceConfig: {}, DataConfig: {}}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = part.partition("=")
        if name not in known:
            raise PrefevalError(f"unknown lab knob {name!r}; knobs are {', '.join(sorted(known))}")
        owner, kind = known[name]
        try:
            values[owner][name] = kind(value)
        except ValueError:
            raise PrefevalError(f"{name} takes a number ({kind.__name__}), got {value!r}") from None
    return ReferenceConfig(**values[ReferenceConfig]), DataConfig(**values[DataConfig])


def cache_dir() -> Path:
    """Where labs are kept: ``PREFEVAL_CACHE``, or the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("PREFEVAL_CACHE") or platformdirs.user_cache_dir("prefeval")) / "lab"


@cache
def _sources() -> str:
    """Hash of the code that a lab is made by: change it, and labs are built anew."""
    modules = (lab_world, lab_prompts, lab_oracle, lab_model, lab_data)
    texts = [Path(str(m.__file__)).read_text(encoding="utf-8") for m in modules]
    return records.content_hash(texts)


def locate(config: ReferenceConfig, data_config: DataConfig) -> Lab:
    """Where this lab is, or will be."""
    reference = records.content_hash([config, _sources()])[:16]
    data = records.content_hash([config, data_config, _sources()])[:16]
    root = cache_dir()
    return Lab(config, data_config, root / f"reference-{reference}", root / f"data-{data}")


def build(
    config: ReferenceConfig | None = None,
    data_config: DataConfig | None = None,
    on_progress: OnProgress = lambda stage, share: None,
) -> Lab:
    """The lab of these knobs: found in the cache, or built (about a minute on one core)."""
    lab = locate(config or ReferenceConfig(), data_config or DataConfig())
    for path, make in ((lab.reference, _train_reference), (lab.data, _make_data)):
        if not path.exists():
            _build_folder(path, lambda out, make=make: make(lab, out, on_progress))  # type: ignore[misc]
    return lab


def _build_folder(path: Path, make: Callable[[Path], None]) -> None:
    """Build a folder beside its place, once, however many processes ask."""
    import filelock

    from prefeval.harness.steps import disk_errors

    with disk_errors(path, "set PREFEVAL_CACHE to another folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{path}.lock"):
            if path.exists():
                return
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            try:
                make(temporary)
                temporary.rename(path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)


def _train_reference(lab: Lab, out: Path, on_progress: OnProgress) -> None:
    """Supervised fine-tuning of a new model on the demonstrator's examples."""
    from prefeval.harness.threads import no_bars, one_thread
    from prefeval.minitrainers import batches, loop, sft

    no_bars()

    c = lab.config
    habits = lab_prompts.Habits(leakage=c.leakage)
    examples = lab_model.demonstrations(lab.world, habits, c.demonstrations)
    tokenizer = lab_model.build_tokenizer(examples)
    with one_thread():
        model = lab_model.new_model(tokenizer, hidden=c.hidden, layers=c.layers, seed=c.seed)
        encoded = batches.encode_all(tokenizer, examples, max_length=MAX_LENGTH)
        config = loop.TrainConfig(
            "sft", lr=c.lr, epochs=c.epochs, batch_size=32, seed=c.seed, max_length=MAX_LENGTH,
            warmup=0.05, schedule="cosine", save_at=(1.0,),
        )  # fmt: skip
        steps = c.epochs * -(-len(encoded) // 32)

        def on_step(row: dict[str, Any]) -> None:
            on_progress("teaching the lab's reference model", row["step"] / steps)

        saved = sft.train(model, tokenizer, encoded, config, out_dir=out / "sft", on_step=on_step)
    for file in saved[-1].path.iterdir():
        file.rename(out / file.name)
    shutil.rmtree(out / "sft")
    records.write_jsonl(
        out / "sft.jsonl",
        [{"messages": [*m, {"role": "assistant", "content": a}]} for m, a in examples],
    )


def _make_data(lab: Lab, out: Path, on_progress: OnProgress) -> None:
    """Preference data over one half of the people, a suite over the other."""
    from prefeval.harness.threads import one_thread

    c, world = lab.data_config, lab.world
    labeller = lab_data.Labeller(
        world, shape=c.judge, length_bias=c.length_bias, temperature=c.temperature, noise=c.noise
    )
    train = lab_prompts.prose_prompts(world, held_out=False)
    held = lab_prompts.prose_prompts(world, held_out=True)
    seed = lab.config.seed
    with one_thread():
        draw = _sampler(lab, on_progress)
        own = round(c.pairs * (1 - c.anchors))
        pairs = lab_data.pairs(train, draw("pairs", 1), labeller, count=own, seed=seed)
        pairs += lab_data.anchors(world, count=c.pairs - own, seed=seed)
        held_out = lab_data.pairs(
            held, draw("held-out pairs", 2), labeller, count=HELD_OUT_PAIRS, seed=seed + 1
        )
        thumbs = lab_data.thumbs(train, draw("thumbs", 3), labeller, count=c.thumbs, seed=seed)
    records.write_jsonl(out / "pairs.jsonl", [to_trl(p) for p in pairs])
    records.write_jsonl(out / "pairs_held_out.jsonl", [to_trl(p) for p in held_out])
    records.write_jsonl(out / "thumbs.jsonl", [to_trl(t) for t in thumbs])
    records.write_jsonl(out / "prompts.jsonl", suite(world))
    records.write_json(out / "lab.json", {"reference": lab.config, "data": c})


def suite(world: lab_world.World) -> list[Prompt]:
    """Every prompt that evaluates: held-out people and topics only."""
    return [
        *lab_prompts.prose_prompts(world, held_out=True),
        *lab_prompts.retention_prompts(world),
        *lab_prompts.verifiable_prompts(world, held_out=True),
    ]


def _sampler(lab: Lab, on_progress: OnProgress) -> Callable[[str, int], lab_data.Sampler]:
    """Samplers of the data's source, one a seed."""
    seed = 1000 * lab.config.seed
    if lab.data_config.source == "teacher":
        habits = lab_prompts.Habits(leakage=0.0, wrong=0.05, hedged=0.2)
        return lambda what, k: lab_data.teacher(lab.world, seed=seed + k, habits=habits)
    backend = load_backend(lab.reference)

    def make(what: str, k: int) -> lab_data.Sampler:
        def sample(prompts: Sequence[Prompt], n: int) -> list[list[str]]:
            on_progress(f"sampling {what}", k / 4)
            sampling = Sampling("sample", 1.0, MAX_NEW_TOKENS, n=n, seed=seed + k)
            texts = [c.text for c in backend.generate(prompts, sampling)]
            return [texts[i * n : (i + 1) * n] for i in range(len(prompts))]

        return sample

    return make


def load_backend(path: Path) -> HuggingFaceBackend:
    """The lab's model of a folder, ready to generate."""
    from prefeval.harness import models
    from prefeval.harness.backends.hugging_face import HuggingFaceBackend

    model = models.load_model(str(path), dtype="float32", device="cpu")
    return HuggingFaceBackend(model, models.load_tokenizer(str(path)), max_length=MAX_LENGTH)


def require_new(out: Path) -> None:
    """Raise ``PrefevalError`` unless ``out`` is an empty folder, or nothing yet."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise PrefevalError(f"{out} is not empty; choose a new folder with --out")


def export(lab: Lab, out: Path) -> list[Path]:
    """Copy a lab where other trainers can read it; an existing folder is never overwritten."""
    require_new(out)
    from prefeval.harness.steps import disk_errors

    with disk_errors(out):
        shutil.copytree(lab.reference, out / "reference", dirs_exist_ok=True)
        (out / "reference" / "sft.jsonl").rename(out / "sft.jsonl")
        for file in sorted(lab.data.iterdir()):
            shutil.copy(file, out / file.name)
        facts = {"facts": lab.world.facts, "held_out_people": lab.world.names[1::2]}
        (out / "world.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return sorted(out.iterdir())
