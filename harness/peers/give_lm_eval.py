"""Results as lm-evaluation-harness writes them: a ``results_*.json`` a checkpoint, and samples.

Tasks are ``prefeval_win_rate``, ``prefeval_<behaviour>`` for every behaviour of the suite, and
``prefeval_measures`` for the rest. Percent and points become shares, as is usual there; other units
stay, and are named in the task's metadata. An undefined metric is left out, with its reason there.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import prefeval
from prefeval import records
from prefeval.harness.measured import read_completions, read_metrics
from prefeval.harness.peers.give import Place
from prefeval.metrics import EXTRAS
from prefeval.records import MetricResult

WIN_RATE, MEASURES = "prefeval_win_rate", "prefeval_measures"
RATES = ("win_rate", "true_win_rate", "lc_win_rate", "style_win_rate")
SHARES = {"percent": 0.01, "points": 0.01}
VERSION = 1
JUDGED = {"win_rate": "preference", "true_win_rate": "true_preference"}
CHECKED = {"pass_rate,none": "passed", "pass_rate,loose": "passed_loose"}
Named = Mapping[str, MetricResult]


def write(run: Path, places: Sequence[Place], out: Path) -> Iterator[Path]:
    """Write every checkpoint's files into a folder of its own; yields the results files."""
    manifest = records.read_json(run / "manifest.json")
    prompts = {p["id"]: p for p in records.read_jsonl(run / "data" / "prompts.jsonl")}
    for place in places:
        folder = out / place.label.removeprefix("trials/").replace("/", "__")
        folder.mkdir(parents=True, exist_ok=True)
        tasks = _tasks(read_metrics(place.folder / "metrics.json"))
        stamp = records.content_hash([manifest.get("config_hash"), place.label])[:12]
        for task, rows in _samples(place.folder, prompts).items():
            records.write_jsonl(folder / f"samples_{task}_{stamp}.jsonl", rows)
        path = folder / f"results_{stamp}.json"
        records.write_text(path, _text(_document(run, manifest, place, tasks)))
        yield path


def _text(document: Any) -> str:
    plain = records.to_jsonable(document)
    return json.dumps(plain, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def _tasks(results: Sequence[MetricResult]) -> dict[str, dict[str, MetricResult]]:
    """Metrics by task and "metric,filter"."""
    behaviours = {r.name.removeprefix("retention_") for r in results
                  if r.name.startswith("retention_")}  # fmt: skip
    tasks: dict[str, dict[str, MetricResult]] = {}
    for r in results:
        if r.name.startswith(EXTRAS):
            continue
        task, key = (WIN_RATE if r.name in RATES else MEASURES), f"{r.name},none"
        loose = r.name.startswith("loose_")
        kind, _, behaviour = r.name.removeprefix("loose_").partition("_")
        if behaviour in behaviours and kind in ("retention", "change"):
            metric = "pass_rate" if kind == "retention" else "change"
            task, key = f"prefeval_{behaviour}", f"{metric},{'loose' if loose else 'none'}"
        tasks.setdefault(task, {})[key] = r
    return tasks


def _document(
    run: Path, manifest: Mapping[str, Any], place: Place, tasks: Mapping[str, Named]
) -> dict[str, Any]:
    """One results file."""
    known = {t: {k: r for k, r in named.items() if math.isfinite(r.value)}
             for t, named in tasks.items()}  # fmt: skip
    sizes = {t: max((r.n for r in named.values()), default=0) for t, named in known.items()}
    hashes = manifest.get("hashes") or {}
    label = f"{run.name}/{place.label}"
    return {
        "results": {t: {"alias": t, **_values(named)} for t, named in known.items()},
        "group_subtasks": {},
        "configs": {t: _config(t, named) for t, named in tasks.items()},
        "versions": dict.fromkeys(tasks, VERSION),
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {t: _better(named) for t, named in known.items()},
        "n-samples": {t: {"original": n, "effective": n} for t, n in sizes.items()},
        "config": {
            "model": "prefeval",
            "model_args": {"pretrained": label},
            "model_sha": hashes.get("reference", ""),
            "limit": None,
            "trial": {"method": place.method, "beta": place.beta, "seed": place.seed,
                      "step": place.step},
        },
        "git_hash": None,
        "prefeval_version": manifest.get("prefeval_version", prefeval.__version__),
        "versions_of_packages": manifest.get("versions") or {},
        "task_hashes": {t: records.content_hash([t, hashes]) for t in tasks},
        "chat_template_sha": hashes.get("template"),
        "model_source": "prefeval",
        "model_name": label,
        "model_name_sanitized": label.replace("/", "__"),
    }  # fmt: skip


def _values(named: Named) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, r in named.items():
        metric, _, chosen = key.partition(",")
        scale = SHARES.get(r.unit, 1.0)
        found[key] = r.value * scale
        stderr = r.stderr * scale
        found[f"{metric}_stderr,{chosen}"] = stderr if math.isfinite(stderr) else "N/A"
    return found


def _better(named: Named) -> dict[str, bool]:
    return {k.partition(",")[0]: r.higher_is_better for k, r in named.items()
            if r.higher_is_better is not None}  # fmt: skip


def _config(task: str, named: Named) -> dict[str, Any]:
    units = {k: "share" if r.unit in SHARES else r.unit for k, r in named.items()}
    intervals = {
        k: [r.ci_low * SHARES.get(r.unit, 1.0), r.ci_high * SHARES.get(r.unit, 1.0)]
        for k, r in named.items()
        if math.isfinite(r.value)
    }
    undefined = {k: r.reason for k, r in named.items() if not math.isfinite(r.value)}
    return {
        "task": task,
        "output_type": "generate_until",
        "num_fewshot": 0,
        "metadata": {
            "version": VERSION, "units": units, "intervals_95": intervals, "undefined": undefined,
        },
    }  # fmt: skip


def _samples(
    folder: Path, prompts: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Rows by task: what was asked, what was answered, and the values that the metrics are means
    of."""
    said = {(c.mode, c.prompt_id, c.index): c.text for c in read_completions(folder)}
    tasks: dict[str, list[dict[str, Any]]] = {WIN_RATE: []}
    for row in records.read_jsonl(folder / "judgments.jsonl"):
        values = {m: row.get(k) for m, k in JUDGED.items()}
        answer = said.get(("sample", row["prompt_id"], 0), "")
        own = tasks[WIN_RATE]
        own.append(_row(len(own), prompts[row["prompt_id"]], answer, "none", values))
    for row in records.read_jsonl(folder / "checks.jsonl"):
        own = tasks.setdefault(f"prefeval_{row['behaviour']}", [])
        answer = said.get(("greedy", row["prompt_id"], row.get("index", 0)), "")
        number = len(own) // len(CHECKED)
        for key, column in CHECKED.items():
            metric, _, chosen = key.partition(",")
            values = {metric: row.get(column)}
            own.append(_row(number, prompts[row["prompt_id"]], answer, chosen, values))
    return tasks


def _row(
    number: int, prompt: Mapping[str, Any], answer: str, chosen: str, values: Mapping[str, Any]
) -> dict[str, Any]:
    known = {k: float(v) for k, v in values.items() if v is not None}
    asked = json.dumps(prompt["messages"], ensure_ascii=False)
    doc = {"id": prompt["id"], "messages": prompt["messages"], "behaviour": prompt["behaviour"]}
    return {
        "doc_id": number,
        "doc": doc,
        "target": "",
        "arguments": {"gen_args_0": {"arg_0": asked, "arg_1": {}}},
        "resps": [[answer]],
        "filtered_resps": [answer],
        "filter": chosen,
        "metrics": list(known),
        "doc_hash": _hash(json.dumps(doc, ensure_ascii=False, sort_keys=True)),
        "prompt_hash": _hash(asked),
        "target_hash": _hash(""),
        **known,
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
