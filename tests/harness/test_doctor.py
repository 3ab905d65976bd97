"""Every fault is planted in a healthy model, and the check of its name must find it alone."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from prefeval.harness import cli, models
from prefeval.harness.doctor import command as doctor
from prefeval.harness.doctor import runs as doctor_runs
from prefeval.harness.doctor.files import memory
from prefeval.harness.doctor.patient import Check, Patient
from prefeval.harness.lab import lab
from prefeval.minitrainers import lora
from prefeval.records import Comparison, PrefevalError, Verdict

WEIGHTS = "model.safetensors"
Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> lab.Lab:
    """A lab small enough to build in seconds, and trained enough to be well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFEVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        return lab.build(
            lab.ReferenceConfig(people=16, hidden=48, demonstrations=4000, epochs=2),
            lab.DataConfig(pairs=64, thumbs=16),
        )


@pytest.fixture
def copy(healthy: lab.Lab, tmp_path: Path) -> Path:
    """A copy of the model to damage."""
    ignore = shutil.ignore_patterns("sft.jsonl")
    return Path(shutil.copytree(healthy.reference, tmp_path / "model", ignore=ignore))


def pairs_of(built: lab.Lab) -> str:
    return str(built.data / "pairs.jsonl")


def examined(source: Path | str, **named: Any) -> dict[str, Check]:
    return {check.id: check for check in doctor.examine(Patient(str(source), **named))}


def faults(found: dict[str, Check]) -> dict[str, str]:
    return {i: c.level for i, c in found.items() if c.level in ("warning", "error")}


def test_a_healthy_model_has_no_warning_and_all_is_looked_at(healthy: lab.Lab) -> None:
    found = examined(healthy.reference, data=pairs_of(healthy))
    assert faults(found) == {}
    assert [c.id for c in doctor.CHECKS] == list(found)
    skipped = {i: c.said for i, c in found.items() if c.level == "skipped"}
    assert skipped == {
        "judge": "no --judge: a sweep trains one on its data",
        "backend": "hugging_face is what the checks above ran",
    }
    assert "<|user|>" in found["example"].said
    assert found["example"].said.endswith('<|end|>"')


def test_without_data_a_model_is_asked_prefevals_own_questions(tiny_folder: Path) -> None:
    found = examined(tiny_folder)
    assert [i for i, c in found.items() if c.said == "no --data"] == ["data", "context", "unknown"]
    assert "What is the capital of France?" in found["example"].said


# -- damage ---------------------------------------------------------------------------------------


def edit(name: str, **changes: Any) -> Damage:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def template(old: str, new: str) -> Damage:
    def change(folder: Path) -> None:
        path = folder / "chat_template.jinja"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def rewrite(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Damage:
    def apply(folder: Path) -> None:
        changed = {k: v.contiguous() for k, v in change(load_file(folder / WEIGHTS)).items()}
        save_file(changed, folder / WEIGHTS, metadata={"format": "pt"})

    return apply


def cut(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({}, folder / "pytorch_model.bin")


def pickle_under_another_name(folder: Path) -> None:
    torch.save({"a": torch.ones(3)}, folder / WEIGHTS)


def one_shard_of_two(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / models.INDEX).write_text(json.dumps({"weight_map": names}))


def index_of_another_model(folder: Path) -> None:
    (folder / models.INDEX).write_text(json.dumps({"weight_map": {"no.such.weight": WEIGHTS}}))


def poison(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    weights["model.layers.1.mlp.up_proj.weight"][:2, 5] = math.nan
    weights["model.norm.weight"][0] = math.inf
    return weights


def fewer_rows(folder: Path) -> None:
    rows = json.loads((folder / "config.json").read_text())["vocab_size"] - 40
    tables = ("model.embed_tokens.weight", "lm_head.weight")
    rewrite(lambda w: {k: v[:rows] if k in tables else v for k, v in w.items()})(folder)
    edit("config.json", vocab_size=rows)(folder)


def shuffled_vocabulary(folder: Path) -> None:
    """The same number of tokens under other numbers, special ones apart."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    plain = [w for w in words if not w.startswith("<|")]
    ids = [words[w] for w in plain]
    words.update(zip(plain, ids[len(ids) // 2 :] + ids[: len(ids) // 2], strict=True))
    path.write_text(json.dumps(content))


def smaller_vocabulary(folder: Path) -> None:
    more = 200
    rewrite(
        lambda w: {
            k: torch.cat([v, v[:more]]) if k.endswith(("tokens.weight", "head.weight")) else v
            for k, v in w.items()
        }
    )(folder)
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    edit("config.json", vocab_size=rows + more)(folder)


def tied_and_differing(folder: Path) -> None:
    edit("config.json", tie_word_embeddings=True)(folder)


def tokenizer_adds_bos(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    special = {"<|begin|>": {"id": "<|begin|>", "ids": [1], "tokens": ["<|begin|>"]}}
    piece = {"SpecialToken": {"id": "<|begin|>", "type_id": 0}}
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [piece, sequence],
        "pair": [piece, sequence, sequence],
        "special_tokens": special,
    }
    path.write_text(json.dumps(content))


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def never_ends(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The head gives the end token what it gives the padding, which is never said."""
    weights["lm_head.weight"][2] = weights["lm_head.weight"][0]
    return weights


def says_nothing(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All tokens are as likely, and the first of them is the padding, which has no text."""
    return {**weights, "lm_head.weight": weights["lm_head.weight"] * 0}


BOS = "{{ bos_token }}"


@pytest.mark.parametrize(
    ("damage", "id_", "level", "said"),
    [
        (cut, "weights", "error", "truncated or damaged"),
        (pickled, "weights", "error", "pickle"),
        (pickle_under_another_name, "weights", "error", "damaged"),
        (one_shard_of_two, "weights", "error", "lacks model-00002-of-00002"),
        (index_of_another_model, "weights", "error", "no.such.weight is not in"),
        (edit("config.json", model_type="llamma"), "architecture", "error", "'llamma'"),
        (rewrite(poison), "finite", "error", "up_proj.weight (2 of 6144)"),
        (tied_and_differing, "tied", "error", "lm_head.weight differs from"),
        (fewer_rows, "vocabulary", "error", "tokens and the model"),
        (smaller_vocabulary, "vocabulary", "warning", "another model's"),
        (shuffled_vocabulary, "likelihood", "error", "uniform guess"),
        (no_template, "template", "error", "no chat template"),
        (template("{% for", "{{ nothing.at.all }}{% for"), "tokenizer", "error", "template"),
        (template(BOS, BOS * 2), "bos", "error", "two bos tokens"),
        (tokenizer_adds_bos, "bos", "warning", "prefeval has 1, a program that"),
        (template("<|end|>", ""), "end", "warning", "does not close the assistant's turn"),
        (template("<|end|>", "<|end|>{{ '' if m.role == 'user' or m.role == 'assistant' else "
                  "raise_exception('no system role') }}"), "system", "error", "no system role"),
        (template("<|assistant|>", "<|assistant|>Well, "), "turn", "error", "generation prompt"),
        (edit("generation_config.json", eos_token_id=3), "stops", "error", "3 (<|system|>)"),
        (edit("generation_config.json", repetition_penalty=1.2), "settings", "warning", "greedy"),
        (rewrite(never_ends), "answer", "warning", "0 of 3 greedy answers end"),
        (rewrite(says_nothing), "answer", "error", "all are empty"),
    ],
)  # fmt: skip
def test_each_fault_is_found_by_the_check_of_its_name(
    healthy: lab.Lab, copy: Path, damage: Damage, id_: str, level: str, said: str
) -> None:
    damage(copy)
    found = examined(copy, data=pairs_of(healthy))
    check = found[id_]
    assert (check.level, faults(found).get(id_)) == (level, level)
    assert said in check.said
    assert check.mend
    assert "\n" not in check.said + check.mend
    beside = {*faults(found)} - {id_}
    # what cannot say the end token, or anything, finds the data unlikely too
    assert beside <= ({"likelihood"} if id_ == "answer" else set()), found
    assert doctor.exit_code(list(found.values())) == (1 if level == "error" else 0)


def test_a_fault_is_one_error_and_what_needs_it_is_skipped(healthy: lab.Lab, copy: Path) -> None:
    cut(copy)
    found = examined(copy, data=pairs_of(healthy))
    assert faults(found) == {"weights": "error"}
    skipped = {i: c.said for i, c in found.items() if c.level == "skipped"}
    assert skipped["finite"] == "needs weights to be well"
    assert skipped["answer"] == "needs vocabulary to be well"
    assert found["end"].level == "ok"


@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_what_is_no_model_folder_is_one_error(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "model"
    if kind == "empty":
        place.mkdir()
    elif kind == "file":
        place.write_text("x")
    found = examined(place)
    assert faults(found) == {"folder": "error"}
    assert found["folder"].mend


def test_sampler_settings_that_narrow_are_named_and_no_fault(copy: Path) -> None:
    edit("generation_config.json", temperature=0.6, top_p=0.9, do_sample=True)(copy)
    check = examined(copy)["settings"]
    assert check.level == "ok"
    assert "temperature 0.6, top_p 0.9; prefeval ignores it" in check.said


def test_several_end_tokens_may_stop_generation(copy: Path) -> None:
    edit("generation_config.json", eos_token_id=[3, 2])(copy)
    assert examined(copy)["stops"].level == "ok"


# -- adapters -------------------------------------------------------------------------------------


def adapter_on(base: Path, out: Path) -> Path:
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    with lora.quiet_peft():
        get_peft_model(models.load_model(base), settings).save_pretrained(out)
    edit("adapter_config.json", base_model_name_or_path=str(base))(out)
    return out


def test_an_adapter_is_examined_on_its_base(healthy: lab.Lab, copy: Path, tmp_path: Path) -> None:
    folder = adapter_on(copy, tmp_path / "adapter")
    found = examined(folder, data=pairs_of(healthy))
    assert faults(found) == {}
    assert found["adapter"].said == f"an adapter on {copy}"
    shutil.rmtree(copy)
    found = examined(folder, data=pairs_of(healthy))
    assert faults(found) == {"adapter": "error"}


def test_an_adapter_that_does_not_fit_its_base_is_found(
    healthy: lab.Lab, tiny_folder: Path, copy: Path, tmp_path: Path
) -> None:
    folder = adapter_on(tiny_folder, tmp_path / "adapter")
    edit("adapter_config.json", base_model_name_or_path=str(copy))(folder)
    found = examined(folder, data=pairs_of(healthy))
    assert faults(found) == {"load": "error"}
    assert "does not fit" in found["load"].said


# -- numbers --------------------------------------------------------------------------------------


def test_memory_is_four_times_the_weights_where_one_model_is_trained(copy: Path) -> None:
    n = sum(w.numel() for w in load_file(copy / WEIGHTS).values())
    said = memory(Patient(str(copy))).said
    assert f"dpo/ipo/kto/simpo {16 * n / 1e6:.0f} MB" in said
    assert f"grpo {24 * n / 1e6:.0f} MB" in said  # a reference and a reward model beside
    assert f"ppo {40 * n / 1e6:.0f} MB" in said  # two are trained, two are not


@pytest.mark.parametrize(("room", "level"), [(3, "error"), (15, "warning"), (30, "warning")])
def test_a_machine_that_is_too_small_is_said(
    copy: Path, monkeypatch: pytest.MonkeyPatch, room: float, level: str
) -> None:
    n = sum(w.numel() for w in load_file(copy / WEIGHTS).values())
    monkeypatch.setattr(
        "prefeval.harness.doctor.files._total_memory", lambda device: (int(room * n), "a machine")
    )
    check = memory(Patient(str(copy)))
    assert check.level == level
    assert ("leave out ppo" in check.mend) == (room == 30)


def test_a_model_that_sees_its_padding_is_found(
    healthy: lab.Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = Patient(str(healthy.reference), data=pairs_of(healthy))
    assert max(doctor_runs.padding_gaps(patient.model, patient.encoded).values()) < 1e-4
    forward = type(patient.model.base_model).forward

    def blind(self: Any, input_ids: Any, use_cache: bool, **_: Any) -> Any:
        return forward(self, input_ids=input_ids, use_cache=use_cache)

    monkeypatch.setattr(type(patient.model.base_model), "forward", blind)
    check = doctor_runs.batch(patient)
    assert check.level == "error"
    gaps = doctor_runs.padding_gaps(patient.model, patient.encoded)
    assert gaps["left"] > 0.01
    assert gaps["right"] < 1e-4


def test_likelihood_of_no_model_at_all_is_the_uniform_one(copy: Path, healthy: lab.Lab) -> None:
    rewrite(lambda w: {**w, "lm_head.weight": w["lm_head.weight"] * 0})(copy)
    check = examined(copy, data=pairs_of(healthy))["likelihood"]
    assert check.level == "error"
    cost, chance = (float(word) for word in check.said.split() if word[0].isdecimal())
    assert cost == chance


def test_bfloat16_that_changes_the_model_is_a_warning(copy: Path, healthy: lab.Lab) -> None:
    """100 more in every row of the head moves all logits alike, which changes nothing, and leaves
    no room in 8 bits for what tells the rows apart."""
    before = examined(copy, data=pairs_of(healthy))
    rewrite(lambda w: {**w, "lm_head.weight": w["lm_head.weight"] + 100})(copy)
    after = examined(copy, data=pairs_of(healthy))
    assert before["likelihood"].said == after["likelihood"].said
    assert (before["bfloat16"].level, after["bfloat16"].level) == ("ok", "warning")


# -- data -----------------------------------------------------------------------------------------


def written(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(built: lab.Lab) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(pairs_of(built)).read_text().splitlines()]


def test_answers_that_are_cut_are_counted(healthy: lab.Lab, tmp_path: Path) -> None:
    rows = rows_of(healthy)
    for row in rows[:16]:  # of 64: a quarter of the chosen, an eighth of all answers
        row["chosen"][0]["content"] = " ".join([row["chosen"][0]["content"]] * 80)
    data = written(tmp_path / "pairs.jsonl", rows)
    check = examined(healthy.reference, data=data)["context"]
    assert check.level == "warning"
    assert "12.5% are cut at 256" in check.said
    assert "leave out the longest rows" in check.mend


def test_data_that_the_tokenizer_cannot_spell_are_found(healthy: lab.Lab, tmp_path: Path) -> None:
    rows = [{"prompt": f"Zyx wvu {i}?", "chosen": "Tsr qpo.", "rejected": "Nml."} for i in range(8)]
    found = examined(healthy.reference, data=written(tmp_path / "pairs.jsonl", rows))
    assert found["unknown"].level == "error"


def test_thumbs_and_broken_data(healthy: lab.Lab, tmp_path: Path) -> None:
    found = examined(healthy.reference, data=str(healthy.data / "thumbs.jsonl"))
    assert faults(found) == {}
    assert found["data"].said.startswith("thumbs, for KTO alone: 16 of 16 rows")
    found = examined(healthy.reference, data=written(tmp_path / "x.jsonl", [{"a": 1}]))
    assert faults(found) == {"data": "error"}
    assert "has no column" in found["data"].said


# -- judge, backend, command ----------------------------------------------------------------------


class Judge:
    """Answers as it is told, by the answer shown first."""

    name, settings = "stand-in", {}

    def __init__(self, better: str, said: float | None = 0.9) -> None:
        self.better, self.said = better, said

    def compare(self, items: Sequence[Comparison]) -> list[Verdict]:
        if self.said is None:
            return [Verdict(None, "what?") for _ in items]
        return [Verdict(self.said if i.first == self.better else 1 - self.said) for i in items]


@pytest.mark.parametrize(("said", "level"), [(0.9, "ok"), (0.2, "warning"), (None, "error")])
def test_a_judge_is_asked_in_both_orders(
    healthy: lab.Lab, monkeypatch: pytest.MonkeyPatch, said: float | None, level: str
) -> None:
    patient = Patient(str(healthy.reference), data=pairs_of(healthy), judge="saved:x")
    stand_in = Judge(patient.examples[0].answer, said)
    monkeypatch.setattr("prefeval.harness.judges.open_judge", lambda spec, **_: stand_in)
    check = doctor_runs.judge(patient)
    assert check.level == level
    assert (f"{said:.2f} shown first, {said:.2f} shown second" if said else "'what?'") in check.said


def test_a_judge_or_a_backend_that_is_not_there_is_infrastructure(healthy: lab.Lab) -> None:
    named = {"judge": "chat:nowhere/at/all", "backend": "vllm:python=/no/such/python"}
    found = examined(healthy.reference, data=pairs_of(healthy), **named)
    assert faults(found) == {"judge": "error", "backend": "error"}
    assert doctor.exit_code(list(found.values())) == 5
    unknown = examined(healthy.reference, judge="nobody", data=pairs_of(healthy))["judge"]
    assert "unknown judge 'nobody'" in unknown.said


@pytest.mark.parametrize("shift", ["0", "0.05"])
def test_another_engine_must_answer_as_transformers_does(
    healthy: lab.Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: str
) -> None:
    """The stand-in computes the same model, or one that is 0.05 nats a token off."""
    (tmp_path / "path" / "vllm").mkdir(parents=True)
    stand_in = Path(__file__).with_name("stand_in_vllm.py")
    shutil.copy(stand_in, tmp_path / "path" / "vllm" / "__init__.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    monkeypatch.setenv("STAND_IN_SHIFT", shift)
    monkeypatch.setattr("prefeval.harness.backends.versions", lambda spec: {})
    spec = f"vllm:python={sys.executable}"
    patient = Patient(
        str(healthy.reference), data=pairs_of(healthy), backend=spec, max_new_tokens=16
    )
    if shift == "0":
        assert doctor_runs.backend(patient).said.startswith("vllm answers as transformers does")
    else:
        with pytest.raises(PrefevalError, match=r"lies 0\.05 nats/token apart"):
            doctor_runs.backend(patient)


def test_the_command_exits_by_what_it_found_and_its_json_is_alone_on_stdout(
    healthy: lab.Lab, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main(["doctor", *arguments, "--device", "cpu"])
        assert isinstance(end.value.code, int)
        return end.value.code, *capsys.readouterr()

    data = ("--data", pairs_of(healthy))
    code, out, error = run(str(copy), *data, "--json")
    found = json.loads(out)
    assert (code, found["exit_code"], found["counts"]["error"]) == (0, 0, 0)
    assert [c["id"] for c in found["checks"]] == [c.id for c in doctor.CHECKS]
    assert "ok       folder: " in error
    cut(copy)
    code, out, error = run(str(copy), *data)
    assert (code, error) == (1, "")
    assert f"error    weights: {copy / WEIGHTS} is truncated or damaged" in out
    assert "\n         mend: copy or download it again\n" in out
    assert run(str(copy), "--nothing")[0] == 2


@pytest.mark.real
def test_smollm2_is_well(smollm2: Path, shared: Path) -> None:
    pairs = shared / "data" / "hh_harmless" / "harmless-base.test.jsonl.gz"
    found = examined(smollm2, data=str(pairs), max_new_tokens=64)
    assert set(faults(found)) <= {"answer"}  # that none ends within 64 is possible
    assert "<|im_start|>user" in found["example"].said
    n = float(found["likelihood"].said.split()[4])
    assert 2 < n < 4  # a chat model on people's conversations; a guess costs log 49152 = 10.8
