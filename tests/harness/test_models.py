import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from prefeval.harness.models import (
    check_model_dir,
    check_vocabulary,
    load_model,
    load_tokenizer,
    model_dir,
    tokenizer_hash,
    weights_hash,
)
from prefeval.records import PrefevalError

WEIGHTS = "model.safetensors"


def edit_json(path, **changes):
    """Change keys; None takes one out."""
    content = {**json.loads(path.read_text()), **changes}
    removed = {key for key, value in changes.items() if value is None}
    path.write_text(json.dumps({k: v for k, v in content.items() if k not in removed}))


def change_weights(folder, change):
    weights = load_file(folder / WEIGHTS)
    save_file(change(weights), folder / WEIGHTS, metadata={"format": "pt"})


def test_a_whole_folder_loads_and_answers(tiny_folder):
    tokenizer, model = load_tokenizer(tiny_folder), load_model(tiny_folder)
    check_vocabulary(model, tokenizer)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0]) == "<user>Hi<end>"
    assert model(ids).logits.shape == (1, 4, len(tokenizer))
    assert not model.training


@pytest.mark.parametrize(
    ("asked", "got"),
    [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("auto", torch.float32)],
)
def test_the_model_has_the_dtype_that_was_asked_for(tiny_folder, asked, got):
    assert load_model(tiny_folder, dtype=asked).dtype == got


def remove(name):
    return lambda folder: (folder / name).unlink()


def replace_weights_by(name):
    return lambda folder: (folder / WEIGHTS).rename(folder / name)


def cut(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def make_adapter(folder):
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text("{}")


def lose_a_shard(folder):
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": names}))


def no_template(folder):
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    edit_json(folder / "tokenizer_config.json", chat_template=None)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("config.json"), "has no config.json"),
        (write("config.json", b"{"), "config.json is not valid JSON"),
        (write("config.json", b"{}"), "names no model_type"),
        (remove(WEIGHTS), r"has no weights \(found .*config.json.*; give a folder with model.safe"),
        (replace_weights_by("pytorch_model.bin"), r"pickle \(pytorch_model.bin\).*save_pretrained"),
        (replace_weights_by("model.pt"), r"pickle \(model.pt\).*save_pretrained"),
        (replace_weights_by("weights.pkl"), r"pickle \(weights.pkl\).*save_pretrained"),
        (replace_weights_by("training_args.bin"), "has no weights"),
        (replace_weights_by("model.gguf"), r"GGUF weights \(model.gguf\)"),
        (cut, r"truncated or damaged \(\d+ of \d+ bytes\)"),
        (write(WEIGHTS, b""), "shorter than its header"),
        (write(WEIGHTS, b"\xff" * 100), "shorter than its header"),
        (write(WEIGHTS, struct.pack("<Q", 4) + b"oops"), "header is unreadable"),
        (write(WEIGHTS, struct.pack("<Q", 2) + b"{}"), "holds no tensor"),
        (write(WEIGHTS, struct.pack("<Q", 8) + b'{"a": 1}'), "header is unreadable"),
        (lose_a_shard, r"lacks model-00002-of-00002.safetensors \(1 of 2 weight files\)"),
        (write(f"{WEIGHTS}.index.json", b"[]"), "index.json is broken"),
        (make_adapter, "is an adapter; merge it first"),
        (remove("tokenizer.json"), "has no tokenizer; save it there"),
        (no_template, "has no chat template; set tokenizer.chat_template"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line_with_the_mend(tiny_copy, damage, message):
    folder = tiny_copy()
    damage(folder)
    for look in (check_model_dir, load_model):
        with pytest.raises(PrefevalError, match=message) as caught:
            look(folder)
        assert "\n" not in str(caught.value)
        assert str(folder) in str(caught.value)


def test_a_pickle_is_never_opened(tiny_copy, tmp_path):
    folder, witness = tiny_copy(), tmp_path / "ran"
    (folder / WEIGHTS).unlink()
    # a pickle whose opening would create the witness
    code = f"cposix\nsystem\n(S'touch {witness}'\ntR.".encode()
    (folder / "pytorch_model.bin").write_bytes(code)
    with pytest.raises(PrefevalError, match="pickle"):
        load_model(folder)
    assert not witness.exists()


def test_pickles_of_a_trainer_beside_safetensors_are_no_fault(tiny_copy):
    folder = tiny_copy()
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (folder / name).write_bytes(b"junk")
    assert check_model_dir(folder) == folder


def test_nan_weights_are_named(tiny_copy):
    folder = tiny_copy()
    name = "model.layers.1.mlp.up_proj.weight"

    def poison(weights):
        weights[name][3, 5] = float("nan")
        return weights

    change_weights(folder, poison)
    assert check_model_dir(folder) == folder
    with pytest.raises(PrefevalError, match=f"{name} holds NaN or infinity.*earlier checkpoint"):
        load_model(folder)


def test_missing_and_misshapen_tensors_are_no_random_weights(tiny_copy):
    lacking, wrong = tiny_copy("lacking"), tiny_copy("wrong")
    name = "model.layers.0.mlp.up_proj.weight"
    change_weights(lacking, lambda w: {k: v for k, v in w.items() if k != name})
    with pytest.raises(PrefevalError, match=rf"lacks the weights of 1 tensors, first {name}"):
        load_model(lacking)
    change_weights(wrong, lambda w: {**w, name: torch.zeros(3, 3)})
    with pytest.raises(PrefevalError, match="cannot be loaded"):
        load_model(wrong)


def test_a_tokenizer_without_end_token_is_refused(tiny_copy):
    folder = tiny_copy()
    edit_json(folder / "tokenizer_config.json", eos_token=None)
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(PrefevalError, match=r'has no end token.*set "eos_token"'):
        load_tokenizer(folder)


def test_a_tokenizer_that_cannot_be_read_or_has_no_template_is_refused(tiny_copy):
    broken, bare = tiny_copy("broken"), tiny_copy("bare")
    (broken / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(PrefevalError, match="no tokenizer that can be read") as caught:
        load_tokenizer(broken)
    assert "\n" not in str(caught.value)
    no_template(bare)
    with pytest.raises(PrefevalError, match="has no chat template"):
        load_tokenizer(bare)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tiny_folder):
    tokenizer, model = load_tokenizer(tiny_folder), load_model(tiny_folder)
    tokenizer.add_tokens(["<more>"])
    with pytest.raises(PrefevalError, match=r"the tokenizer has \d+ tokens and the model \d+"):
        check_vocabulary(model, tokenizer)


@pytest.mark.parametrize("dtype", ["int8", "float33", "cat", torch.int64])
def test_a_dtype_that_is_none_is_refused(tiny_folder, dtype):
    with pytest.raises(PrefevalError, match="unknown dtype"):
        load_model(tiny_folder, dtype=dtype)


def test_a_device_that_is_not_there_is_refused(tiny_folder):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(PrefevalError, match="cannot put the model on cuda"):
        load_model(tiny_folder, device="cuda")
    with pytest.raises(PrefevalError, match="cannot put the model on toaster"):
        load_model(tiny_folder, device="toaster")


def test_a_source_that_is_no_folder_is_one_line(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "file").write_text("x")
    for source, message in (
        (tmp_path / "none" / "such", "no such model folder"),
        (tmp_path / "file", "is a file; give the folder"),
        ("nobody/no-such-model", r"could not be had from the hub.*check the name"),
    ):
        with pytest.raises(PrefevalError, match=message) as caught:
            model_dir(source)
        assert "\n" not in str(caught.value)


def test_a_hub_name_that_is_cached_is_its_folder(tiny_folder, tmp_path, monkeypatch):
    from huggingface_hub import constants, snapshot_download

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--somebody--tiny"
    snapshot = repository / "snapshots" / ("0" * 40)
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot.parent.mkdir()
    snapshot.symlink_to(tiny_folder)
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda name, **options: snapshot_download(name, cache_dir=tmp_path, **options),
    )
    assert weights_hash("somebody/tiny") == weights_hash(tiny_folder)
    assert load_model("somebody/tiny").config.hidden_size == 32


def test_equal_content_has_equal_hashes_wherever_it_lies(tiny_folder, tiny_copy):
    folder = tiny_copy()
    edit_json(folder / "config.json", transformers_version="0.0", _name_or_path="elsewhere")
    assert weights_hash(folder) == weights_hash(tiny_folder)
    assert tokenizer_hash(folder) == tokenizer_hash(tiny_folder)


def test_one_changed_weight_or_setting_or_template_changes_its_hash(tiny_folder, tiny_copy):
    weight, setting, template = tiny_copy("a"), tiny_copy("b"), tiny_copy("c")

    def nudge(weights):
        weights["model.norm.weight"][0] += 1e-6
        return weights

    change_weights(weight, nudge)
    edit_json(setting / "config.json", rms_norm_eps=1e-3)
    (template / "chat_template.jinja").write_text("{{ messages }}")
    hashes = [weights_hash(folder) for folder in (tiny_folder, weight, setting)]
    assert len(set(hashes)) == 3
    assert weights_hash(template) == hashes[0]
    assert tokenizer_hash(template) != tokenizer_hash(tiny_folder)
    assert tokenizer_hash(weight) == tokenizer_hash(tiny_folder)
