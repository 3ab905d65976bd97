"""Two processes of one training (gloo): one evaluates, both stop at the same step."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from prefeval.harness.lab import lab

SCRIPT = """
import json, sys
from importlib import util
from pathlib import Path
spec = util.spec_from_file_location("training", sys.argv[1])
training = util.module_from_spec(spec)
spec.loader.exec_module(training)
from prefeval import PrefevalCallback

out, wait = Path(sys.argv[2]), sys.argv[3] == "wait"
own = PrefevalCallback(
    reference="lab", smoke=True, metric="eos_rate", patience=1, confidence=0.99, wait=wait
)
trained = training.trainer(
    training.smallest_lab(), out, "plain", [own], max_steps=8 if wait else 500, learning_rate=0.0,
    ddp_backend="gloo", ddp_find_unused_parameters=False, logging_steps=100,
)
trained.train()
state = trained.state
print("END " + json.dumps({
    "rank": trained.args.process_index, "world": trained.args.world_size, "step": state.global_step,
    "best": state.best_global_step, "stopped": own.stopped,
    "rows": [r["step"] for r in state.log_history if "eval_prefeval/kl" in r],
}), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("wait", ["wait", "go on"])
def test_one_rank_evaluates_and_all_stop_at_the_same_step(
    wait: str, built: lab.Lab, tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment |= {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    given = [str(Path(__file__).with_name("training.py")), str(tmp_path / "out"), wait]
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), *given],
            env={**environment, "RANK": str(r), "LOCAL_RANK": str(r)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for r in range(2)
    ]  # fmt: skip
    texts = [rank.communicate(timeout=400)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], texts
    ends = [json.loads(text.rpartition("END ")[2].splitlines()[0]) for text in texts]
    assert [e["world"] for e in ends] == [2, 2]
    assert ends[0]["step"] == ends[1]["step"] < (8 if wait == "wait" else 500)
    assert ends[0]["stopped"] == ends[1]["stopped"] == "not shown better in 1 evaluation"
    assert ends[0]["best"] == ends[1]["best"] == 2
    assert ends[0]["rows"][:2] == [2, 4]
    assert ends[1]["rows"] == []
