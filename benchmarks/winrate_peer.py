"""Length-controlled rates by the alpaca_eval package; ``winrate.py`` runs this in its environment.

Reads judgments (model, preference_01, lengths, row_in_file) and the gamed rows; the texts are made
up at the right lengths, since lengths are all that the estimator sees of them. The package would
fetch its gamed rows from the hub: it is handed the file instead.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings

import pandas as pd
from alpaca_eval.metrics import glm_winrate

BASELINE = "gpt4_1106_preview"  # which is among the models, and 50 by construction

table, gamed = sys.argv[1:]
logging.disable(logging.WARNING)
warnings.filterwarnings("ignore")
glm_winrate.hf_hub_download = lambda **ignored: gamed
rows = pd.read_csv(table)
found = {}
for model, own in rows.groupby("model", sort=False):
    annotations = pd.DataFrame(
        {
            "output_1": ["x" * n for n in own["len_baseline"]],
            "output_2": ["x" * n for n in own["len_output"]],
            "generator_1": BASELINE,
            "generator_2": model,
            "annotator": "judge",
            "preference": own["preference_01"] + 1,
        }
    )
    annotations.index = pd.Index(own["row_in_file"], name="index")
    start = time.perf_counter()
    metrics = glm_winrate.get_length_controlled_winrate(annotations, save_weights_dir=None)
    found[model] = [metrics["length_controlled_winrate"], time.perf_counter() - start]
print(json.dumps(found))
