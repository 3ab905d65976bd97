"""A real chat model behind a real server as the judge: killed in mid-run, and nothing asked twice.

``PREFEVAL_VLLM`` is the interpreter of an environment that has vLLM (its CPU build serves).
"""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
PROMPTS, AT_ONCE = 12, 4


@pytest.fixture(scope="module")
def server(smollm2, tmp_path_factory) -> Iterator[str]:
    """The address of a served SmolLM2."""
    python = os.environ.get("PREFEVAL_VLLM")
    if not python:
        pytest.skip("set PREFEVAL_VLLM to the interpreter of an environment that has vLLM")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "log"
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(smollm2),
               "--served-model-name", "smollm2", "--port", str(port), "--dtype", "float32",
               "--max-model-len", "4096", "--enforce-eager"]  # fmt: skip
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 300
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail("vLLM did not start:\n" + log.read_text()[-3000:])
            try:
                with urllib.request.urlopen(f"{url}/v1/models", timeout=5):
                    break
            except OSError:
                time.sleep(1)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def answered(url: str) -> int:
    """Requests that the server has finished since its start."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as page:
        text = page.read().decode()
    return int(sum(map(float, re.findall(r"^vllm:request_success_total\{.*\} (\S+)$", text, re.M))))


def kept(path: Path) -> int:
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path, timeout=30)) as database:
        try:
            return int(database.execute("SELECT COUNT(*) FROM verdicts").fetchone()[0])
        except sqlite3.OperationalError:  # not made yet
            return 0


@pytest.mark.parametrize("mode", ["logprobs", "json", "text"])
def test_a_judge_that_is_killed_goes_on_without_asking_again(mode, server, shared, tmp_path):
    files = [shared / f"data/alpaca_eval/outputs/phi-2-{kind}.json" for kind in ("dpo", "sft")]
    spec = f"endpoint:model=smollm2,url={server}/v1,mode={mode},concurrency={AT_ONCE},new_tokens=48"
    out = tmp_path / "annotations.json"
    command = [sys.executable, "-m", "prefeval", "judge", *map(str, files), "--judge", spec,
               "--prompts", str(PROMPTS), "--out", str(out), "--json"]  # fmt: skip
    before = answered(server)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    cache = tmp_path / "verdicts.sqlite"
    while kept(cache) < 6:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    first = kept(cache)
    assert 6 <= first < 2 * PROMPTS
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    assert found["from_cache"] == first
    assert found["asked"] == 2 * PROMPTS - first
    # those in flight at the kill may have been finished, or not
    assert 0 <= answered(server) - before - 2 * PROMPTS <= AT_ONCE
    again = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    assert (again["asked"], again["calls"]) == (0, 0)
    rows = json.loads(out.read_text())
    read = [r["preference"] for r in rows if r["preference"] is not None]
    unread = next(m["value"] for m in found["audit"] if m["name"] == "unread_rate")
    assert unread == pytest.approx(100 * (PROMPTS - len(read)) / PROMPTS)
    assert all(1 <= p <= 2 for p in read)
    if mode == "json":  # which the server enforces; the others are up to this small model
        assert len(read) == PROMPTS
