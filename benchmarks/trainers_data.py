"""What both sides of ``trainers.py`` read: the pairs of one case, and the tiny models.

``pairs.jsonl`` has a pair a line: its texts as the chat template renders them (TRL tokenises
these), its tokens (prefeval trains on these; the counts are compared), its messages, a label that
says which answer KTO sees, and ``step``, the batch into which prefeval's trainer puts the pair, so
that TRL can read the same batches in the same order.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from trainers_own import batches_of, config_of
from trainers_worker import Options, read_options
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from prefeval.harness.data import load_pairs
from prefeval.minitrainers import reward
from prefeval.minitrainers.batches import encode_all, end_of_turn, prompt_text
from prefeval.records import PreferencePair

SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCABULARY = 2048
WORDS = """
    a about after all and any as at be because before but by can come day do each even find first
    for from get give go good have here how if in into is it just know like look make many more
    most new no not now of on one only or other our out over people say see so some take than that
    the their them then there these they thing think this time to two up us use want way we well
    what when which who will with work would year you your
"""


def made_up_pairs(seed: int = 0) -> Iterator[PreferencePair]:
    """Pairs of random words without end, about half of each being the prompt."""
    draw = random.Random(seed)

    def text() -> str:
        return " ".join(draw.choices(WORDS.split(), k=draw.randint(16, 44)))

    number = 0
    while True:
        messages = ({"role": "user", "content": text()},)
        yield PreferencePair(f"made-up-{number}", messages, text(), text())
        number += 1


def candidates(options: Options) -> list[PreferencePair]:
    """More pairs than are needed, in an order that does not change."""
    if options["source"] is None:
        return list(islice(made_up_pairs(), 4 * options["pairs"] + 64))
    pairs = load_pairs(options["source"]).items
    random.Random(0).shuffle(pairs)
    return pairs


def new_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A small byte-pair tokenizer with a chat template, learnt from ``texts``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=list(SPECIAL[2:]),
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def save_tiny_models(options: Options, pairs: Sequence[PreferencePair]) -> None:
    """A random Llama of 1.5 million parameters, and a reward model with the same body."""
    texts = [text for p in pairs for text in (p.prompt[-1]["content"], p.chosen, p.rejected)]
    tokenizer = new_tokenizer(texts)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    policy = LlamaForCausalLM(config)
    scorer = reward.from_causal_lm(policy, tokenizer)
    torch.nn.init.normal_(scorer.score.weight, std=config.hidden_size**-0.5)
    for model, folder in ((policy, options["folder"]), (scorer, options["reward_folder"])):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def rows_of(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[PreferencePair], options: Options
) -> list[dict[str, Any]]:
    """The first pairs that fit into ``max_length`` whole; again from the start where too few do."""
    end, longest = end_of_turn(tokenizer).text, options["max_length"]
    chosen = encode_all(tokenizer, [(p.prompt, p.chosen) for p in pairs], max_length=longest)
    rejected = encode_all(tokenizer, [(p.prompt, p.rejected) for p in pairs], max_length=longest)
    fitting = [
        {
            "prompt": prompt_text(tokenizer, pair.prompt),
            "chosen": pair.chosen + end,
            "rejected": pair.rejected + end,
            "messages": list(pair.prompt),
            "prompt_ids": won.prompt_ids,
            "chosen_ids": won.completion_ids,
            "rejected_ids": lost.completion_ids,
        }
        for pair, won, lost in zip(pairs, chosen, rejected, strict=True)
        if not (won.truncated or lost.truncated)
    ]
    if not fitting:
        raise SystemExit(f"no pair has at most {longest} tokens; give other data")
    rows = islice(cycle(fitting), options["pairs"])
    return [{**row, "label": i % 2 == 0} for i, row in enumerate(rows)]


def main() -> None:
    """Write the pairs of one case and, for the tiny model, the models."""
    options = read_options()
    pairs = candidates(options)
    if options["model"] == "tiny":
        save_tiny_models(options, pairs)
    tokenizer = AutoTokenizer.from_pretrained(options["folder"])
    rows = rows_of(tokenizer, pairs, options)
    if options["method"] != "ppo":
        for step, batch in enumerate(batches_of(rows, config_of(options))):
            for place, i in enumerate(batch):
                rows[i] |= {"step": step, "place": place}
    lines = [json.dumps(row) + "\n" for row in rows]
    Path(options["data"]).write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
