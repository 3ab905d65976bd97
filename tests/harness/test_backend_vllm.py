"""The vLLM backend: what it makes of its process's answers and faults, with scripts that play the
process, and with its own worker on a stand-in for vLLM (`test_vllm_itself` has the real one)."""

import math
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from prefeval.harness import backends, models, settings
from prefeval.harness.backends import vllm_process
from prefeval.harness.backends.agreement import Difference, differences
from prefeval.harness.backends.hugging_face import HuggingFaceBackend
from prefeval.harness.backends.vllm import VllmBackend, row_seed
from prefeval.harness.backends.vllm_process import Options, VllmProcess
from prefeval.harness.settings import SweepConfig
from prefeval.minitrainers import lora
from prefeval.minitrainers.loop import TrainConfig
from prefeval.records import Completion, PrefevalError, Prompt, Sampling

STAND_IN = Path(__file__).with_name("stand_in_vllm.py")
GREEDY = Sampling("greedy", 0.0, 12)
PROMPTS = [
    Prompt(f"p{i}", ({"role": "user", "content": text},), "", "win_rate")
    for i, text in enumerate(("hi", "what is up", "x", "a longer one, to have some to pad"))
]
SCRIPT = """
import json, os, sys, time
def say(**line): print(json.dumps(line), flush=True)
def row(i): say(row=i, tokens=[i], logps=[-1.0], gaps=[0.5])
settings = json.loads(sys.stdin.readline())
say(ready="0")
for line in sys.stdin:
    rows = json.loads(line)["rows"]
"""


# -- the process, played by scripts ------------------------------------------------------------


def played(tmp_path, body, **seconds):
    """A process that does ``body`` with each request."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + "".join(f"    {line}\n" for line in body.splitlines()))
    return VllmProcess(lambda scratch: tmp_path, Options(), {}, worker=script, **seconds)


def ask(process, n=3):
    return process.generate([([7], i) for i in range(n)], temperature=0, max_new_tokens=1, end=2)


def test_answers_come_in_the_order_of_their_prompts(tmp_path):
    process = played(tmp_path, "for i in (2, 0, 1): say(alive=1); row(i)\nsay(done=3)")
    for _ in range(2):
        assert [a.tokens for a in ask(process)] == [(0,), (1,), (2,)]


def test_who_tells_of_progress_may_take_longer_than_the_limit(tmp_path):
    body = "for i in range(8): time.sleep(0.4); say(alive=1)\nfor i in range(3): row(i)\n"
    process = played(tmp_path, body + "say(done=3)", answer_seconds=2)
    start = time.monotonic()
    assert len(ask(process)) == 3
    assert time.monotonic() - start > 3


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("print('a\\n\\nno space left\\n', file=sys.stderr); sys.exit(3)",
         r"ended with exit code 3: no space left\); use --backend hugging_face"),
        ("os.kill(os.getpid(), 9)", r"was killed: out of memory\?\); try fewer --workers"),
        ("print('hello', flush=True)", "it said 'hello"),
        ("print('[1]', flush=True)", "it said '\\[1\\]'"),
        ("row(0); say(done=1)", "it answered 1 of 3 prompts"),
        ("time.sleep(60)", "nothing came from it for 1 s"),
        ("say(error='architectures [X] are not supported')", "not supported.*hugging_face"),
        ("say(error='8 GiB cache memory is needed; decrease max_model_len')",
         "vllm:memory=0.3 .GPU.*kv_cache=4"),
        ("say(error='max_model_len (9) is greater')", "lower --max-new-tokens"),
        ("say(error='Unsupported: head_dim=24 kv_cache_idx=0')", "--lab hidden=128"),
    ],
)  # fmt: skip
def test_a_fault_is_one_line_with_its_mend_and_ends_the_process(tmp_path, body, words, monkeypatch):
    monkeypatch.setattr(vllm_process, "END_SECONDS", 1)
    process = played(tmp_path, body, answer_seconds=1)
    pid, scratch = process._process.pid, process._log.parent
    with pytest.raises(PrefevalError, match=words) as caught:
        ask(process)
    assert "\n" not in str(caught.value)
    assert not psutil.pid_exists(pid)
    assert not scratch.exists()


def test_a_process_that_never_starts_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_process, "END_SECONDS", 1)
    script = tmp_path / "script.py"
    script.write_text("import time; time.sleep(60)")
    with pytest.raises(PrefevalError, match="nothing came from it for 1 s"):
        VllmProcess(lambda s: tmp_path, Options(), {}, worker=script, start_seconds=1)


def test_a_process_ends_with_its_object_and_its_children_with_it(tmp_path):
    body = "import subprocess\np = subprocess.Popen(['sleep', '600'])\nrow(0)\nsay(done=1)"
    process = played(tmp_path, body)
    ask(process, n=1)
    family = [psutil.Process(process._process.pid)]
    family += family[0].children()
    assert len(family) == 2
    del process
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def test_a_model_that_cannot_be_placed_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def place(scratch):
        (scratch / "half").write_text("a model")
        raise PrefevalError("no such adapter")

    with pytest.raises(PrefevalError, match="no such adapter"):
        VllmProcess(place, Options(), {})
    assert not list(tmp_path.iterdir())


# -- options -----------------------------------------------------------------------------------


def test_options_are_read():
    assert Options.parse("") == Options()
    assert Options.parse("memory=0.3,kv_cache=4") == Options(memory=0.3, kv_cache=4)


def test_the_interpreter_is_the_named_one_or_the_environments(monkeypatch):
    monkeypatch.delenv("PREFEVAL_VLLM", raising=False)
    assert Options().interpreter == sys.executable
    monkeypatch.setenv("PREFEVAL_VLLM", "/there/python")
    assert Options().interpreter == "/there/python"
    assert Options.parse("python=/here/python").interpreter == "/here/python"
    assert Options.parse("python=~/python").interpreter == str(Path.home() / "python")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("sglang", "unknown backend 'sglang'; use hugging_face or vllm"),
        ("hugging_face:fast", "takes no argument"),
        ("vllm:gpu=1", "knows no 'gpu=1'"),
        ("vllm:memory=much", "knows no 'memory=much'"),
        ("vllm:memory=1.5", r"memory is in \(0, 1\]"),
        ("vllm:python=/no/such/python", "is no Python that runs"),
        ("vllm:python=/bin/false", "is no Python that runs"),
        (f"vllm:python={sys.executable}", "has no vLLM; install it in an environment of its own"),
    ],
)
def test_a_backend_that_cannot_be_used_is_refused(spec, words, monkeypatch):
    if "has no vLLM" in words and shutil.which("vllm", path=str(Path(sys.executable).parent)):
        pytest.skip("this environment has vLLM")
    with pytest.raises(PrefevalError, match=words) as caught:
        backends.versions(spec)
    assert "\n" not in str(caught.value)


def test_the_default_backend_has_nothing_to_install():
    assert backends.versions("hugging_face") == {}


def test_a_run_is_named_by_its_backend_and_not_by_where_that_runs(monkeypatch):
    config = SweepConfig(("dpo",), {"dpo": (0.1,)})
    named = {
        b: replace(config, backend=b).hash for b in ("vllm", "vllm:memory=0.3", "hugging_face")
    }
    assert named["vllm"] == named["vllm:memory=0.3"] != named["hugging_face"]
    monkeypatch.setattr(settings.records, "content_hash", lambda content: content)
    assert "backend" not in config.hash  # as before there was another


# -- its worker, on a stand-in for vLLM --------------------------------------------------------


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """``import vllm`` finds the stand-in in processes that are started."""
    (tmp_path / "path" / "vllm").mkdir(parents=True)
    shutil.copy(STAND_IN, tmp_path / "path" / "vllm" / "__init__.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    monkeypatch.setenv("PREFEVAL_VLLM", sys.executable)


def opened(folder, base=None, **options):
    options = {"max_length": 128, "batch_size": 64, **options}
    return VllmBackend(folder, base or folder, options=Options(), **options)


def hugging_face(folder, max_length=128):
    tokenizer = models.load_tokenizer(folder)
    return HuggingFaceBackend(models.load_model(folder), tokenizer, max_length=max_length)


def test_both_backends_answer_alike_and_score_alike(tiny_folder, stand_in):
    """The stand-in is a naive loop of its own: prompts, end tokens and texts are what is tested."""
    ours, theirs = opened(tiny_folder), hugging_face(tiny_folder)
    assert ours.generate(PROMPTS, GREEDY) == theirs.generate(PROMPTS, GREEDY)
    assert all(min(g) > 1e-4 for g in ours.gaps.values())
    sampling = Sampling("sample", 1.0, 40, n=8, seed=3)
    drawn = ours.generate(PROMPTS, sampling)
    assert [(c.prompt_id, c.index) for c in drawn] == [(p.id, i) for p in PROMPTS for i in range(8)]
    assert len({c.token_ids for c in drawn}) > 30
    assert {c.ended for c in drawn} == {True, False}
    end = theirs.tokenizer.eos_token_id
    assert all(c.ended == (c.token_ids[-1] == end) for c in drawn)
    assert ours.generate(PROMPTS[:1], sampling) == drawn[:8]
    items = [(p.messages, c.token_ids) for p, c in zip(PROMPTS, drawn[::8], strict=True)]
    long = Prompt("long", ({"role": "user", "content": "a" * 140},), "", "win_rate")
    assert ours.generate([long], GREEDY) == theirs.generate([long], GREEDY)
    assert ours._room > 152  # an engine with more room than max_length
    running = ours._engine._process
    assert ours.compare(theirs, items) == theirs.compare(theirs, items)
    assert running.poll() is not None  # its memory is the scoring model's now


def test_two_implementations_of_different_models_are_found_out(tiny_folder, stand_in, monkeypatch):
    monkeypatch.setenv("STAND_IN_SHIFT", "0.05")
    backend, ref = opened(tiny_folder), hugging_face(tiny_folder)
    drawn = backend.generate(PROMPTS, Sampling("sample", 1.0, 12, seed=1))
    items = [(p.messages, c.token_ids) for p, c in zip(PROMPTS, drawn, strict=True)]
    with pytest.raises(PrefevalError, match=r"lies 0\.05 nats/token apart"):
        backend.compare(ref, items)


def test_an_adapter_is_merged_for_the_engine(tiny_folder, stand_in, tmp_path):
    torch.manual_seed(0)
    config = TrainConfig("dpo", lora_rank=4, base_hash=models.weights_hash(tiny_folder))
    model = lora.attach(models.load_model(tiny_folder), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight += torch.randn_like(weight)
    folder = tmp_path / "adapter"
    model.save_pretrained(folder)
    backend, base = opened(folder, tiny_folder), hugging_face(tiny_folder)
    found = backend.generate(PROMPTS, GREEDY)
    assert found != base.generate(PROMPTS, GREEDY)
    merged = HuggingFaceBackend(
        model.merge_and_unload(), models.load_tokenizer(tiny_folder), max_length=128
    )
    assert found == merged.generate(PROMPTS, GREEDY)


def test_no_engine_outlives_who_started_it(tiny_folder, stand_in, tmp_path):
    script = (
        "import sys, time\n"
        "from prefeval.harness.backends.vllm import Options, VllmBackend\n"
        "b = VllmBackend(sys.argv[1], sys.argv[1], options=Options(), max_length=64)\n"
        "engine = b._started(64)\n"
        "print(engine._process.pid, engine._log.parent, flush=True)\n"
        "time.sleep(600)\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", script, str(tiny_folder)], stdout=subprocess.PIPE, text=True
    )
    with starter:
        pid, scratch = starter.stdout.readline().split()
        engine = psutil.Process(int(pid))
        starter.kill()
    engine.wait(20)
    assert not Path(scratch).exists()


# -- agreement ---------------------------------------------------------------------------------


def test_differences_are_the_first_of_each_answer():
    def answer(name, *tokens):
        return Completion(name, "greedy", 0, "", tokens, False)

    ours = [answer("same", 1, 2), answer("tie", 1, 2, 3), answer("far", 5), answer("cut", 1)]
    theirs = [answer("same", 1, 2), answer("tie", 1, 4, 9), answer("far", 6), answer("cut", 1, 2)]
    gaps = {"same": (1, 1), "tie": (1.0, 5e-5, 2.0), "far": (0.3,), "cut": (1.0,)}
    found = differences(ours, theirs, gaps)
    assert found == [
        Difference("tie", 1, (2, 4), 5e-5),
        Difference("far", 0, (5, 6), 0.3),
        Difference("cut", 1, (None, 2), math.inf),
    ]
    assert [d.near_tie for d in found] == [True, False, False]


def test_every_row_has_a_seed_of_its_own():
    seeds = {row_seed(s, p, i) for s in range(3) for p in range(40) for i in range(5)}
    assert len(seeds) == 600
    assert max(seeds) < 2**63
