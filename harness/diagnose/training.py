"""What a run was trained on, as signals: its answers in tokens, its pairs as text, its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefeval import records
from prefeval.harness.task import Task
from prefeval.metrics.diagnosis import from_run
from prefeval.metrics.diagnosis.terms import Signal
from prefeval.records import PrefevalError

if TYPE_CHECKING:
    import pandas as pd

MAX_ANSWERS = 4000
RENDERED = 32


def signals(task: Task, kind: str, held_out: pd.DataFrame) -> dict[str, Signal]:
    """What the training answers of this kind ("pairs" or "thumbs") show, beside held-out pairs."""
    path = task.reference_dir / f"train_{kind}.jsonl"
    if not path.is_file():
        return {}
    rows = records.read_jsonl(path)
    answers = [a for row in rows[:MAX_ANSWERS] for a in _answers(row)]
    end_ids, bos_id = _special_ids(Path(task.reference))
    found = from_run.training_signals(answers, held_out, end_ids=end_ids, bos_id=bos_id)
    if kind == "thumbs":
        up = sum(bool(row["desirable"]) for row in rows)
        found |= {"thumbs_up": Signal(up), "thumbs_down": Signal(len(rows) - up)}
    if kind == "pairs" and (texts := task.data / "pairs.jsonl").is_file():
        pairs = [(_text(r["chosen"]), _text(r["rejected"])) for r in records.read_jsonl(texts)]
        found |= from_run.pair_signals(pairs)
        found |= _labels(texts, task.data / "pairs_held_out.jsonl")
        found |= _rendered(task, texts, rows)
    return found


def _rendered(task: Task, texts: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Signal]:
    """Whether the first training prompts are the tokens that the reference's own template and
    tokenizer make of them now."""
    from prefeval.harness import data, models
    from prefeval.minitrainers.batches import encode_all

    pairs = {p.id: p for p in data.load_pairs(texts).items}
    some = [(pairs[r["id"]], r) for r in rows[:RENDERED] if r["id"] in pairs]
    try:
        tokenizer = models.load_tokenizer(task.reference)
    except PrefevalError:  # the reference is no longer there: what it would say is not known
        return {}
    again = encode_all(
        tokenizer,
        [(p.prompt, p.chosen) for p, _ in some],
        max_length=task.sizes.max_length,
    )
    same = [list(e.prompt_ids) == r["chosen"][0] for e, (_, r) in zip(again, some, strict=True)]
    return {"template_agreement": Signal(sum(same) / len(same), n=len(same))} if same else {}


def _labels(trained_on: Path, held_out: Path) -> dict[str, Signal]:
    """What length, style and words predict of the training labels, and the share of them that is
    flipped if the held-out labels, of the same source, are right."""
    from prefeval.harness import data
    from prefeval.harness.audit import command as audit
    from prefeval.metrics.data.predicted import predicted

    if not (held_out.is_file() and held_out.stat().st_size):
        return {}
    frames = [
        audit.marked(audit.frame_of(data.load_pairs(f).items)) for f in (trained_on, held_out)
    ]
    known = {"noise_beside_trusted": "text_label_noise", "length_predicts": "length_predicts"}
    return {
        known[f.name]: Signal(f.value, f.ci_low, f.ci_high, f.n)
        for f in predicted(frames[0], frames[1], seed=0)[0]
        if f.name in known
    }


def _answers(row: Mapping[str, Any]) -> list[from_run.Answer]:
    """The answers of a row of ``train_pairs.jsonl`` or ``train_thumbs.jsonl``."""
    sides = ("example",) if "example" in row else ("chosen", "rejected")
    found = []
    for side, ref in zip(sides, row["ref"], strict=False):  # a thumb's second is its mismatched one
        prompt_ids, completion_ids, truncated = row[side]
        found.append(from_run.Answer(prompt_ids, completion_ids, truncated, ref))
    return found


def _text(turns: Any) -> str:
    return turns if isinstance(turns, str) else "\n".join(str(t["content"]) for t in turns)


def _special_ids(reference: Path) -> tuple[list[int], int | None]:
    """End tokens and BOS of a model's folder, from its JSON files."""
    ends: list[int] = []
    bos = None
    for name in ("generation_config.json", "config.json"):
        if (reference / name).is_file():
            config = records.read_json(reference / name)
            found = config.get("eos_token_id")
            ends += found if isinstance(found, list) else [found] if found is not None else []
            bos = config.get("bos_token_id") if bos is None else bos
    return list(dict.fromkeys(ends)), bos
