"""The lab's reference model: a word-level tokenizer and a small Llama, taught by demonstrations."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from prefeval.records import Messages
from prefeval.suites import lab_prompts, lab_world

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

# Role markers are single tokens; the end token closes every turn and is the model's EOS.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")

# How often each family is demonstrated. Facts enter through all that speak of people.
SHARES = {
    "about": 22, "profile": 9, "trip": 9, "advice": 7, "refusal": 8, "json": 10,
    "bullets": 9, "tool": 9, "fact": 11, "kfacts": 4, "guess": 2,
}  # fmt: skip


def demonstrations(
    world: lab_world.World, habits: lab_prompts.Habits, count: int
) -> list[tuple[Messages, str]]:
    """``count`` supervised examples of all families, drawn by the world's seed."""
    draw = random.Random(f"demonstrations-{world.seed}")
    families, weights = list(SHARES), list(SHARES.values())
    return [
        lab_prompts.demonstration(world, draw, family, habits)
        for family in draw.choices(families, weights, k=count)
    ]


def build_tokenizer(examples: Sequence[tuple[Messages, str]]) -> PreTrainedTokenizerFast:
    """A lossless word-level tokenizer over the pieces of ``examples``, with a chat template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = set[str]()
    for messages, answer in examples:
        for text in (*(m["content"] for m in messages), answer):
            pieces.update(re.findall(lab_world.PIECE, text))
    words = [*SPECIAL, "<|unknown|>", *sorted(pieces)]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<|unknown|>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(lab_world.PIECE), "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        unk_token="<|unknown|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        chat_template=TEMPLATE,
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


def new_model(
    tokenizer: PreTrainedTokenizerFast, *, hidden: int, layers: int, seed: int
) -> LlamaForCausalLM:
    """An untrained Llama of the lab's size."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.05,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)
