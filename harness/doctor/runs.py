"""The doctor's checks that run the model, the judge and the backend."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from prefeval.harness import backends, inputs, judges, models
from prefeval.harness.doctor.patient import Check, Patient, error, ok, skipped, warning
from prefeval.harness.settings import LAB, SweepConfig
from prefeval.harness.task import Sizes, Task
from prefeval.records import Comparison, Prompt, Sampling

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from prefeval.minitrainers.batches import Batch, Encoded

SPARE_ROWS = 0.05  # of the embedding table that no token uses; usual is up to 2.5% of padding
NEAR_UNIFORM = 0.8  # of log(vocabulary), ours
APART = 1e-3  # nats/token between a row alone and in a batch, float32
BFLOAT16_KL = 0.05  # nats/token, ours
ASKED = 3


def load(patient: Patient) -> Check:
    """Whether transformers loads the model, an adapter on its base, with every tensor given."""
    start = time.perf_counter()
    model = patient.model
    return ok(f"{type(model).__name__} in {time.perf_counter() - start:.1f} s")


def vocabulary(patient: Patient) -> Check:
    """Whether every token has a row in the embedding table, and not many rows are spare."""
    models.check_vocabulary(patient.model, patient.tokenizer)
    rows, n = patient.model.get_input_embeddings().weight.shape[0], len(patient.tokenizer)
    if (rows - n) / rows > SPARE_ROWS:
        return warning(
            f"{rows} embedding rows for {n} tokens: the tokenizer looks like another model's",
            "use the tokenizer that the model was saved with",
        )
    return ok(f"{n} tokens, {rows} embedding rows")


def likelihood(patient: Patient) -> Check:
    """Whether the model likes its examples better than chance.

    With another vocabulary, or weights that are none of a trained model, an answer costs about
    log(vocabulary) nats/token or more.
    """
    found = _logps(patient.model, patient.encoded)
    cost = -sum(float(row.sum()) for row in found) / sum(len(row) for row in found)
    chance = math.log(patient.model.config.get_text_config().vocab_size)
    said = f"the examples' answers cost {cost:.2f} nats/token; a uniform guess costs {chance:.2f}"
    mend = "check that tokenizer and weights belong together, and that the model is trained"
    if cost >= chance:
        return error(said, mend)
    if cost > NEAR_UNIFORM * chance:
        return warning(said, mend)
    return ok(said)


def batch(patient: Patient) -> Check:
    """Whether a row has the same log-probabilities alone and in a batch, padded on either side.

    Answers are scored with padding on the right and drawn with padding on the left, so a model
    that sees its padding is measured wrongly.
    """
    found = padding_gaps(patient.model, patient.encoded)
    said = ", ".join(f"{side} {gap:.1e}" for side, gap in found.items())
    said = f"alone and in a padded batch, largest difference in nats/token: {said}"
    if not max(found.values()) <= APART:
        return error(said, "this architecture sees its padding: use one that masks it")
    return ok(said)


def padding_gaps(model: PreTrainedModel, rows: Sequence[Encoded]) -> dict[str, float]:
    """The largest difference, nats/token, between rows alone and in one batch, by padding side."""
    from prefeval.minitrainers.batches import collate

    right = collate(rows, model.device)
    alone = _logps(model, rows)
    gaps = {}
    for side, padded in (("right", right), ("left", _left(right))):
        together = _rows(model, padded)
        gaps[side] = max(float((a - b).abs().max()) for a, b in zip(alone, together, strict=True))
    return gaps


def _left(padded: Batch) -> Batch:
    """The same rows with their padding on the left."""
    import torch

    shifts = (1 - padded.attention_mask).sum(-1).tolist()
    return type(padded)(
        *(
            torch.stack([row.roll(shift) for row, shift in zip(part, shifts, strict=True)])
            for part in padded
        )
    )


def _logps(model: PreTrainedModel, rows: Sequence[Encoded]) -> list[Tensor]:
    """The log-probabilities of every row's completion, each row run alone."""
    from prefeval.minitrainers.batches import collate

    return [_rows(model, collate([row], model.device))[0] for row in rows]


def _rows(model: PreTrainedModel, padded: Batch) -> list[Tensor]:
    import torch

    from prefeval.minitrainers.logps import completion_logps

    with torch.inference_mode():
        found = completion_logps(model, *padded).tokens.double()
    return [row[mask.bool()] for row, mask in zip(found, padded.completion_mask, strict=True)]


def bfloat16(patient: Patient) -> Check:
    """What bfloat16 changes on one example, and whether this machine computes it itself."""
    from prefeval.minitrainers import precision
    from prefeval.minitrainers.batches import collate
    from prefeval.minitrainers.logps import full_kl

    rounded = patient.loaded("bfloat16")
    row = collate(patient.encoded[:1], patient.model.device)
    place = Task("", "", "", dtype="bfloat16", device=patient.device)
    with precision.products(place):
        kl = full_kl(patient.model, rounded, *row).kl
    mean = float(kl.sum() / row.completion_mask.sum())
    fast = patient.device != "cpu" or precision.has_bfloat16_instructions()
    speed = "multiplied by the hardware" if fast else "no bfloat16 instructions: as slow as float32"
    said = f"KL of bfloat16 from float32 {mean:.1e} nats/token on one answer; {speed}"
    if not mean <= BFLOAT16_KL:
        return warning(said, "measure in --dtype float32: rounding would be read as training")
    return ok(said)


def answer(patient: Patient) -> Check:
    """A few greedy answers: not empty, ended, and how fast."""
    prompts = patient.prompts[:ASKED]
    start = time.perf_counter()
    found = patient.hugging_face.generate(prompts, _greedy(patient))
    seconds = time.perf_counter() - start
    n_tokens, ended = sum(len(c.token_ids) for c in found), sum(c.ended for c in found)
    said = (
        f"{ended} of {len(found)} greedy answers end within {patient.max_new_tokens} tokens, "
        f"{n_tokens / seconds:.0f} tokens/s; the first: {found[0].text[:120]!r}"
    )
    if not any(c.text.strip() for c in found):
        return error(
            f"{said}; all are empty",
            "use the tokenizer and the template that the weights were tuned with",
        )
    if not ended:
        return warning(
            said, "raise --max-new-tokens; if none ends there either, the end token was not learnt"
        )
    return ok(said)


def _greedy(patient: Patient) -> Sampling:
    return Sampling("greedy", 0.0, patient.max_new_tokens)


def judge(patient: Patient) -> Check:
    """Whether the judge answers a comparison in both orders so that it can be read."""
    if not patient.judge:
        return skipped("no --judge: a sweep trains one on its data")
    inputs.check(_config(patient, judge=patient.judge))
    if patient.judge.partition(":")[0] == LAB:
        return ok(f"{patient.judge}: a formula over the lab's facts")
    opened = judges.open_judge(patient.judge, device=patient.device, dtype=patient.dtype)
    question, better = patient.prompts[0], patient.examples[0].answer
    worse = f"{patient.examples[-1].answer} {better[: len(better) // 3]}"
    shown = [Comparison(question, better, worse), Comparison(question, worse, better)]
    first, second = opened.compare(shown)
    said = f"{opened.name} on an example's answer against another question's: "
    if first.preference is None or second.preference is None:
        replies = " and ".join(repr(v.note) for v in (first, second) if v.preference is None)
        return error(
            f"{said}it cannot be read ({replies})",
            "choose another mode of this judge, or another judge",
        )
    said += f"{first.preference:.2f} shown first, {1 - second.preference:.2f} shown second"
    if first.preference < second.preference:
        return warning(said, "a judge that prefers a wrong answer may be none: try a few by hand")
    return ok(said)


def backend(patient: Patient) -> Check:
    """Whether another backend than the default one generates what transformers would."""
    inputs.check(_config(patient, backend=patient.backend))
    if backends.identity(patient.backend) == backends.DEFAULT:
        return skipped(f"{backends.DEFAULT} is what the checks above ran")
    task = Task(
        "", str(patient.base), "", dtype=patient.dtype, device=patient.device,
        backend=patient.backend,
        sizes=Sizes(max_length=patient.max_length, generation_batch=ASKED),
    )  # fmt: skip
    engine = backends.open_backend(task, str(patient.folder))
    asked: list[Prompt] = patient.prompts[:ASKED]
    start = time.perf_counter()
    found = engine.generate(asked, _greedy(patient))
    seconds = time.perf_counter() - start
    items = [(p.messages, c.token_ids) for p, c in zip(asked, found, strict=True)]
    engine.compare(patient.hugging_face, items)  # raises where the two are not one model
    return ok(
        f"{patient.backend.partition(':')[0]} answers as transformers does, "
        f"{sum(len(c.token_ids) for c in found)} tokens in {seconds:.0f} s with its start"
    )


def _config(patient: Patient, **named: str) -> SweepConfig:
    """A sweep that names a judge or a backend, for what looks over a sweep's inputs."""
    model = LAB if patient.is_lab else str(patient.folder)
    return SweepConfig(("dpo",), {"dpo": (0.1,)}, model=model, data=patient.data, **named)  # type: ignore[arg-type]
