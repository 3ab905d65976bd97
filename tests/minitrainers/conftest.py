"""A tiny random Llama, a word-level tokenizer for it, and random data in its tokens."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from prefeval.minitrainers.batches import Encoded
from prefeval.minitrainers.pairs import EncodedPair

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SPECIAL = ["<pad>", "<begin>", "<end>", "<user>", "<assistant>", "<unknown>"]
WORDS = [*SPECIAL, *(f"{space}{word}" for word in "abcdefghij" for space in ("", " "))]


@pytest.fixture(autouse=True, scope="session")
def one_quiet_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word (the space before it included), <end> closing every turn."""
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unknown>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\S"), "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<begin>",
        eos_token="<end>",
        pad_token="<pad>",
        unk_token="<unknown>",
        additional_special_tokens=["<user>", "<assistant>"],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


MakeModel = Callable[..., LlamaForCausalLM]


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """``make_model(seed)``: a Llama with random weights, large enough to have opinions."""

    def make(seed: int = 0, **changes: int) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        settings = {
            "vocab_size": len(WORDS),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 128,
            "initializer_range": 0.3,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval()

    return make


@pytest.fixture(scope="session")
def pairs() -> list[EncodedPair]:
    """24 random pairs of unequal lengths, each completion closed by the end token."""
    rng = np.random.default_rng(0)

    def tokens(low: int, high: int) -> list[int]:
        return rng.integers(6, len(WORDS), size=rng.integers(low, high)).tolist()

    return [
        EncodedPair(
            f"pair-{i}",
            Encoded(prompt := [1, 3, *tokens(2, 9), 2, 4], [*tokens(1, 12), 2]),
            Encoded(prompt, [*tokens(1, 12), 2]),
        )
        for i in range(24)
    ]
