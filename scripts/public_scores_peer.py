"""What public harnesses say of given answers; ``public_scores.py`` runs this in their environment.

Reads one request from standard input, writes one JSON list to standard output:

    {"do": "prompts", "categories": {"parallel": 100}}       bfcl-eval's first prompts and answers
    {"do": "ifeval", "rows": [{"doc": ..., "text": ...}]}    lm-eval's verdicts, strict and loose
    {"do": "bfcl", "rows": [{"category", "function", "answer", "text"}]}  "" or bfcl-eval's error
    {"do": "phrases", "texts": [...], "strmatch": FILE}      a refusal by JailbreakBench, by FILE

Nothing is fetched. What their modules import and this needs not has stand-ins, named where it is.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import random
import sys
import types
from pathlib import Path
from typing import Any

MODEL = "prompted"  # bfcl-eval's name for a model: one that is asked for Python calls


def prompts(request: dict[str, Any]) -> list[Any]:
    """The first questions of each category as the leaderboard's prompting models get them."""
    from bfcl_eval import utils
    from bfcl_eval.model_handler.utils import system_prompt_pre_processing_chat_model as ask

    found = []
    for category, n in request["categories"].items():
        answers: dict[str, Any] = {}
        if not utils.is_relevance_or_irrelevance(category):
            rows = utils.load_ground_truth_entry(category)
            answers = {row["id"]: row["ground_truth"] for row in rows}
        for row in utils.load_dataset_entry(category)[:n]:
            messages = ask(row["question"][0], row["function"], row["id"])
            found.append(
                {
                    "id": row["id"], "category": category, "messages": messages,
                    "function": row["function"], "answer": answers.get(row["id"], []),
                }
            )  # fmt: skip
    return found


def bfcl(request: dict[str, Any]) -> list[str]:
    """Each row's error, "" for a right answer, as eval_runner.py comes to it."""
    from bfcl_eval import utils
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker
    from bfcl_eval.model_handler.utils import default_decode_ast_prompting as decode

    def error(row: dict[str, Any]) -> str:
        irrelevant = utils.is_relevance_or_irrelevance(row["category"])
        try:
            calls = decode(row["text"])
        except Exception:  # as eval_runner.py does
            return "" if irrelevant else "no calls"
        if irrelevant:
            return "" if utils.is_empty_output(calls) else "calls"
        if not utils.is_function_calling_format_output(calls):
            return "no calls"
        verdict = ast_checker(
            row["function"], calls, row["answer"], Language.PYTHON, row["category"], MODEL
        )
        return "" if verdict["valid"] else str(verdict["error_type"])

    return [error(row) for row in request["rows"]]


def ifeval(request: dict[str, Any]) -> list[Any]:
    """Each row's verdicts by instruction: strict, then loose."""
    import langdetect
    import nltk

    nltk.download = lambda *names, **options: False  # the module would fetch punkt when imported
    from lm_eval.tasks.ifeval.utils import process_results

    random.seed(0)  # as lm-eval does when it starts
    found = []
    for row in request["rows"]:
        langdetect.DetectorFactory.seed = 0  # lm-eval leaves it to chance
        got = process_results(row["doc"], [row["text"]])
        found.append([got["inst_level_strict_acc"], got["inst_level_loose_acc"]])
    return found


def phrases(request: dict[str, Any]) -> list[list[bool]]:
    """Each text's verdicts: a refusal by JailbreakBench's phrases, and by XSTest's authors'."""
    for name in ("litellm", "transformers"):  # for its judges that are models
        sys.modules[name] = types.ModuleType(name)
    vars(sys.modules["transformers"])["AutoTokenizer"] = None
    (folder,) = importlib.util.find_spec("jailbreakbench").submodule_search_locations
    sys.path.insert(0, folder)  # the package's own __init__ wants more than its phrases do
    from classifier import StringClassifier

    texts = request["texts"]
    found = [[not said for said in StringClassifier()(texts, texts)]]
    if request["strmatch"]:  # a script that reads its own files: only its function is wanted
        tree = ast.parse(Path(request["strmatch"]).read_text(encoding="utf-8"))
        tree.body = [node for node in tree.body if getattr(node, "name", "") == "strmatch_label"]
        space: dict[str, Any] = {}
        exec(compile(tree, request["strmatch"], "exec"), space)
        found.append(["refusal" in space["strmatch_label"](text) for text in texts])
    return found


def main() -> None:
    """One request; what the harnesses print goes to standard error."""
    stand_in = types.ModuleType("bfcl_eval.constants.model_config")  # imports every vendor's client
    plain = types.SimpleNamespace(underscore_to_dot=False)
    vars(stand_in)["MODEL_CONFIG_MAPPING"] = {MODEL: plain}
    sys.modules[stand_in.__name__] = stand_in
    request = json.load(sys.stdin)
    tasks = {"prompts": prompts, "bfcl": bfcl, "ifeval": ifeval, "phrases": phrases}
    with contextlib.redirect_stdout(sys.stderr):
        answer = tasks[request["do"]](request)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
