"""Log-probabilities by lm-evaluation-harness; ``eval.py`` runs this in its environment.

Reads the requests that the other side wrote: contexts and continuations as texts.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

from trainers_worker import read_options, use_threads

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

logging.disable(logging.WARNING)
options = read_options()
use_threads(options)
model = HFLM(
    pretrained=options["folder"], device="cpu", dtype="float32", batch_size=options["batch"]
)
requests = [
    Instance("loglikelihood", {}, tuple(pair), i)
    for i, pair in enumerate(json.loads(Path(options["requests"]).read_text()))
]
model.loglikelihood(requests[:1])  # first use
start = time.perf_counter()
found = model.loglikelihood(requests)
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "logps": [total for total, _ in found]}))
