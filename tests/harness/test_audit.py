"""`prefeval audit`: what it prints of good files, and that bad ones are never read as healthy."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from prefeval.harness import cli, grid, models
from prefeval.harness.audit import command as audit
from prefeval.harness.audit import tokens as audit_tokens
from prefeval.harness.data import thumbs_from_pairs
from prefeval.records import PreferencePair, PrefevalError, Thumb

GOOD, BAD = "It is a river, and it flows north to the sea.", "I cannot help with that."


def rows(n: int = 60) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"What is thing number {i}?",
            "chosen": f"{GOOD} Number {i}. " + "More of it. " * (i % 4),
            "rejected": f"{BAD} Sorry. {i}",
        }
        for i in range(n)
    ]


def write(path: Path, found: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main(["audit", *arguments])
    assert isinstance(end.value.code, int)
    said = capsys.readouterr()
    return end.value.code, said.out, said.err


def test_pairs_are_described_measured_and_advised_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "pairs.jsonl", [*rows(), {**rows()[0], "rejected": ""}])
    code, out, _ = run(capsys, data)
    assert code == 1  # the longer answer always wins
    first = out.splitlines()[0]
    assert first == f"{data}: pairs, plain text; 60 of 61 rows (dropped: 1 empty answer)"
    for name in ("rows_refused", "longer_chosen", "length_predicts", "noise_at_most", "n 61"):
        assert name in out
    assert "the file unteaches refusing" in out
    assert "method  simpo" in out
    assert f"prefeval sweep --model MODEL --data {data} --methods simpo,dpo" in out


def test_json_holds_every_finding_and_nothing_else_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "pairs.jsonl", rows())
    code, out, _ = run(capsys, data, "--json")
    found = json.loads(out)
    assert (code, found["kind"], found["rows"], found["level"]) == (1, "pairs", 60, "error")
    known = {f["name"]: f for f in found["findings"]}
    assert known["longer_chosen"]["value"] == 1
    assert known["noise_retest"]["value"] is None
    assert known["noise_retest"]["reason"]
    assert all({"n", "level", "threshold", "unit"} <= set(f) for f in found["findings"])
    assert found["advice"]["method"] == "simpo"


def test_a_file_without_errors_exits_with_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows()
    for row in found[::2]:
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    code, out, _ = run(capsys, write(tmp_path / "pairs.jsonl", found), "--json")
    assert (code, json.loads(out)["level"]) == (0, "ok")


def test_the_command_to_run_next_has_a_grid_that_sweep_reads(tmp_path: Path) -> None:
    data = write(tmp_path / "pairs.jsonl", rows())
    words = audit.compute(options(data)).next.split()
    methods = grid.parse_methods(words[words.index("--methods") + 1])
    betas = grid.parse_betas(words[words.index("--beta") + 1], methods)
    assert set(betas) == {"simpo", "dpo"}
    assert min(betas["dpo"]) == pytest.approx(0.1)


def options(data: str, **given: Any) -> dict[str, Any]:
    found = {"data": data, "held_out": "", "trusted": "", "reference": "", "pairs": 8}
    found |= {"max_length": 200, "seed": 0, "device": "cpu", "json_output": False}
    return {**found, **given}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "no such file"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b'{"prompt": "a"', "is not valid JSON"),
        ("a.jsonl", b'{"prompt": "\xff", "chosen": "a", "rejected": "b"}', "is not UTF-8"),
        ("a.jsonl.gz", gzip.compress(json.dumps(rows()).encode())[:60], "truncated gzip"),
        ("a.jsonl", b'{"question": "a", "answer": "b"}', "holds no preferences: found question"),
        ("a.jsonl", b'{"messages": [{"role": "user", "content": "a"}]}', "holds no preferences"),
        ("a.jsonl", b'{"prompt": "a", "chosen": NaN, "rejected": "b"}', ""),
        ("a.jsonl", b'{"prompt": "a", "completion": "b", "label": NaN}', ""),
        ("a.jsonl", b'{"prompt": "a", "completion": "b", "label": 0.5}', "label must be true or"),
        ("a.jsonl", b'{"prompt": null, "chosen": "a", "rejected": "b"}', "nothing is left to use"),
        ("a.jsonl", b'{"chosen": "a", "rejected": "b"}', "nothing is left to use"),
        ("a.jsonl", b'{"prompt": "a", "chosen": "b", "rejected": "b"}', "1 identical"),
        ("a.parquet", b"PAR1 and no more", "a.parquet"),
    ],
)
def test_a_file_at_fault_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, out, error = run(capsys, str(tmp_path / name))
    assert (code, out) == (2, "")
    assert message in error
    assert error.startswith("prefeval: ")
    assert error.count("\n") == 1


def test_thumbs_of_one_kind_are_an_error_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [{"prompt": f"Q{i}", "completion": GOOD, "label": True} for i in range(40)]
    code, out, _ = run(capsys, write(tmp_path / "thumbs.jsonl", found))
    assert code == 1
    assert "all thumbs are up: nothing to learn from" in out
    assert "once the errors above are mended" in out


def test_thumbs_get_the_weights_that_even_them_out(tmp_path: Path) -> None:
    found = [{"prompt": f"Q{i}", "completion": f"{GOOD} {i}", "label": i < 15} for i in range(60)]
    report = audit.compute(options(write(tmp_path / "thumbs.jsonl", found)))
    assert report.advice.method == "kto"
    assert "--desirable-weight 3" in report.next


def test_prompts_guessed_from_texts_are_a_warning(tmp_path: Path) -> None:
    found = [
        {"chosen": f"{r['prompt']} {r['chosen']}", "rejected": f"{r['prompt']} {r['rejected']}"}
        for r in rows()
    ]
    report = audit.compute(options(write(tmp_path / "pairs.jsonl", found)))
    known = {f.name: f for f in report.findings}
    assert known["prompts_guessed"].level == "warning"


def test_held_out_prompts_in_the_file_are_found_and_other_kinds_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "pairs.jsonl", rows())
    held = write(tmp_path / "held.jsonl", rows(70)[50:])
    report = audit.compute(options(data, held_out=held))
    leak = next(f for f in report.findings if f.name == "prompts_held_out_too")
    assert (leak.value, leak.n, leak.level) == (0.5, 20, "error")
    thumbs = write(tmp_path / "thumbs.jsonl", [{"prompt": "Q", "completion": GOOD, "label": True}])
    for name in ("held_out", "trusted"):
        with pytest.raises(PrefevalError, match=r"holds thumbs and the audited file pairs"):
            audit.compute(options(data, **{name: thumbs}))


def test_messages_transcripts_and_sharegpt_are_named(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": "yes"}
    forms = {
        "messages": {"prompt": "Q", "chosen": [answer], "rejected": [{**answer, "content": "no"}]},
        "Human/Assistant transcripts, the prompt is the answers' shared beginning": {
            side: f"\n\nHuman: Q\n\nAssistant: {side}" for side in ("chosen", "rejected")
        },
        "ShareGPT messages": {
            "conversations": [{"from": "human", "value": "Q"}],
            "chosen": {"from": "gpt", "value": "yes"},
            "rejected": {"from": "gpt", "value": "no"},
        },
    }
    for form, row in forms.items():
        source = audit.read(write(tmp_path / "a.jsonl", [row]))
        assert (source.kind, source.form, source.guessed) == ("pairs", form, False)


# -- with a reference --------------------------------------------------------------------------


def pair(number: int, prompt: str = "What?", chosen: str = "yes", rejected: str = "no") -> Any:
    asked = ({"role": "user", "content": prompt},)
    return PreferencePair(f"p{number}", asked, chosen, rejected, "", f"c{number}")


def test_tokens_are_those_of_the_template_and_limits_count_the_end_token(
    tiny_folder: Path,
) -> None:
    tokenizer = models.load_tokenizer(str(tiny_folder))
    # one token a byte: <user>What?<end><assistant> is 8 tokens, an answer its bytes and <end>
    items = [pair(0), pair(1, chosen="y" * 11), pair(2, chosen="y" * 12), pair(3, "W" * 20)]
    found = {f.name: f for f in audit_tokens.findings(items, tokenizer, max_length=20)}
    assert found["chat_template"].level == "ok"
    assert found["prompt_tokens"].value == 8
    assert "the longest 23" in found["prompt_tokens"].says
    assert found["chosen_tokens"].value == (4 + 12) / 2
    assert found["truncated"].value == 2 / 4
    assert found["end_token_cut"].value == 1 / 4
    assert found["prompt_too_long"].value == 1 / 4
    assert found["prefix_broken"].value == 0


def test_special_tokens_within_an_answer_are_found(tiny_folder: Path) -> None:
    tokenizer = models.load_tokenizer(str(tiny_folder))
    items = [pair(0), pair(1, rejected="no<end>"), pair(2), pair(3)]
    found = {f.name: f for f in audit_tokens.findings(items, tokenizer, max_length=200)}
    assert found["special_tokens"].value == 1 / 4


def test_a_template_that_refuses_a_row_is_counted_with_its_reason(tiny_copy: Any) -> None:
    folder = tiny_copy()
    refusing = (
        "{% if 'bad' in messages[0]['content'] %}{{ raise_exception('no such turn') }}{% endif %}"
    )
    file = folder / "chat_template.jinja"
    file.write_text(refusing + file.read_text())
    tokenizer = models.load_tokenizer(str(folder))
    items = [pair(0), pair(1, "bad"), pair(2), pair(3)]
    found = {f.name: f for f in audit_tokens.findings(items, tokenizer, max_length=200)}
    assert found["not_rendered"].value == 1 / 4
    assert "no such turn" in found["not_rendered"].says
    assert found["prompt_tokens"].n == 3


@pytest.mark.parametrize("kind", ["pairs", "thumbs"])
def test_a_reference_reads_some_rows_beside_its_own_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_folder: Path, kind: str
) -> None:
    data = write(tmp_path / "data.jsonl", rows(24))
    if kind == "thumbs":
        found = thumbs_from_pairs(audit.read(data).loaded.items)
        data = write(tmp_path / "thumbs.jsonl", [thumb_row(t) for t in found])
    given = ("--reference", str(tiny_folder), "--pairs", "12", "--max-length", "256")
    code, out, error = run(capsys, data, *given, "--device", "cpu", "--json")
    known = {f["name"]: f for f in json.loads(out)["findings"]}
    side = "chosen" if kind == "pairs" else "completion"
    assert known[f"{side}_logps"]["n"] == known["own_logps"]["n"] == 12
    # an untrained model finds all tokens about equally likely, its own as well
    assert known[f"{side}_logps"]["value"] == pytest.approx(known["own_logps"]["value"], abs=0.3)
    assert f"--model {tiny_folder}" in json.loads(out)["next"]
    assert ("reference_accuracy" in known) == (kind == "pairs")
    assert "reference: 12 of 12 rows, about 0 s left" in error
    assert code in (0, 1)


def thumb_row(thumb: Thumb) -> dict[str, Any]:
    prompt = thumb.prompt[0]["content"]
    return {"prompt": prompt, "completion": thumb.completion, "label": thumb.desirable}


def test_reference_logps_are_those_of_the_whole_answer(tiny_folder: Path) -> None:
    import torch

    from prefeval.harness.audit import reference as audit_reference

    item = pair(0, chosen="yes it is", rejected="no")
    settings: dict[str, Any] = {"rows": 4, "seed": 0, "max_length": 128, "device": "cpu"}
    frame = audit_reference.measure(
        [item], str(tiny_folder), **settings, on_progress=lambda *_: None
    )
    tokenizer, model = models.load_tokenizer(str(tiny_folder)), models.load_model(str(tiny_folder))
    ids = tokenizer("<user>What?<end><assistant>yes it is<end>", return_tensors="pt").input_ids
    with torch.no_grad():
        logps = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    assert frame["chosen_tokens"].tolist() == [10]
    assert frame["chosen_logps"].tolist() == pytest.approx([float(logps[-10:].sum())], abs=1e-4)


def test_no_room_for_any_answer_is_one_line(tiny_folder: Path) -> None:
    from prefeval.harness.audit import reference as audit_reference

    settings: dict[str, Any] = {"rows": 4, "seed": 0, "max_length": 8, "device": "cpu"}
    with pytest.raises(PrefevalError, match="raise --max-length"):
        audit_reference.measure(
            [pair(0)], str(tiny_folder), **settings, on_progress=lambda *_: None
        )


# -- real files --------------------------------------------------------------------------------


def test_harmless_base_is_read_whole_in_a_few_seconds(shared: Path) -> None:
    import time

    file = shared / "data" / "hh_harmless" / "harmless-base.test.jsonl.gz"
    start = time.process_time()
    report = audit.compute(options(str(file)))
    assert time.process_time() - start < 30  # about 4 s alone
    known = {f.name: f for f in report.findings}
    assert report.source.loaded.rows == 2312
    assert 0.42 < known["longer_chosen"].value < 0.47  # people preferred the shorter one
    assert known["labels_predicted"].ci_low > 0.6
    assert 0.1 < known["noise_at_most"].value < 0.35
    assert "the file teaches refusing" in known["teaches_refuses"].says


def test_demo_sets_are_read_in_their_own_formats(shared: Path) -> None:
    folder = shared / "data" / "preference_pairs"
    dpo, kto = (audit.compute(options(str(folder / f"{n}_en_demo.json"))) for n in ("dpo", "kto"))
    assert (dpo.source.kind, dpo.source.form) == ("pairs", "ShareGPT messages")
    assert (kto.source.kind, kto.advice.method) == ("thumbs", "kto")
    copies = next(f for f in dpo.findings if f.name == "exact_duplicates")
    assert copies.value == 5 / 299
    with pytest.raises(PrefevalError, match="holds no preferences"):
        audit.read(str(folder / "glaive_toolcall_en_demo.json"))
