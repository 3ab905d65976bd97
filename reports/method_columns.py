"""The columns of the table of methods: what heads each, how it is computed, how it is written."""

from __future__ import annotations

from dataclasses import dataclass

OTHERS = "the prompts that had no part in choosing"


@dataclass(frozen=True)
class Column:
    """One column: its group, what heads it, how it is computed, and how it is written."""

    key: str
    group: str
    name: str
    title: str
    digits: int = 1
    sign: bool = False


COLUMNS = (
    Column(
        "lc",
        "best β",
        "LC WR %",
        f"length-controlled win rate of the checkpoint that the verdict chose, on {OTHERS}; the"
        " interval is of bootstrap refits over clusters of prompts, and covers the seeds too where"
        " there are several",
    ),
    Column(
        "kl",
        "best β",
        "KL",
        "reverse KL from the reference of the same checkpoint, nats/sequence, all prompts; mean"
        " and clustered t interval",
        digits=2,
    ),
    Column(
        "models",
        "cost",
        "models held",
        "models of the policy's size in memory while the method trains; median over trials, in"
        " brackets the lowest and the highest",
        digits=0,
    ),
    Column(
        "ratio",
        "cost",
        "× SFT",
        "estimated operations of all trials, over those of supervised fine-tuning on as many"
        " answers: the chosen one of each pair seen, each thumb, each rollout; a count without"
        " sampling error",
        digits=2,
    ),
    Column(
        "lever",
        "lever",
        "points a doubling",
        "how far LC WR moves when β doubles: root of (sum of squared changes between neighbouring"
        " β, less what sampling noise adds to it) over the sum of squared doublings, each β by its"
        f" chosen checkpoint, paired on {OTHERS}; noise-corrected, since a range or an SD of noisy"
        " rates is too large, and unsigned, since a best β in the middle has a slope of 0; the"
        " interval inverts the sum's distribution",
    ),
    Column(
        "usable",
        "lever",
        "usable β",
        "β that the verdict found usable, of those tried; in brackets without and with the"
        " undecided",
    ),
    Column(
        "seed",
        "seed",
        "SD, points",
        "SD of LC WR between training seeds at equal β and step, all prompts, the sampling noise of"
        " the prompts removed (Paule and Mandel); the interval is the Q-profile one, with the β"
        " taken as independent",
    ),
    Column(
        "distinct",
        "mode collapse",
        "distinct answers",
        "change against the reference, points, of the share of different answers among the K"
        " samples of a prompt at temperature 1; paired by prompt, clustered t interval",
        sign=True,
    ),
    Column(
        "pairs",
        "mode collapse",
        "word pairs",
        "change against the reference, points, of the share of different word pairs among a"
        " prompt's samples, all cut to one length, as many of each side; paired by prompt, t"
        " interval",
        sign=True,
    ),
    Column(
        "opener",
        "mode collapse",
        "top opener",
        "change against the reference, points, of the share of samples that begin with their side's"
        " commonest three words; paired by prompt, t interval",
        sign=True,
    ),
    Column(
        "length_bias",
        "length bias",
        "raw − LC",
        f"raw less length-controlled win rate, points, same checkpoint, paired on {OTHERS}: what it"
        " wins by length",
        sign=True,
    ),
    Column(
        "length_ratio",
        "length bias",
        "length ×",
        "mean tokens over the reference's, same checkpoint, all prompts; interval in the logarithm",
        digits=2,
    ),
    Column(
        "per_thousand",
        "data efficiency",
        "per 1,000",
        "points of LC WR above 50 for each 1,000 examples (pairs, thumbs or rollouts, repeats"
        f" counted) that the chosen checkpoint was trained on; {OTHERS}",
        digits=2,
    ),
    Column(
        "half_gain",
        "data efficiency",
        "half by",
        "examples until half of the chosen checkpoint's gain over 50, linear between the"
        " checkpoints of the same β; ≤: the first checkpoint had it already (--save-every saves"
        f" earlier ones). Interval: percentiles of 1,000 reweightings of {OTHERS}; it does not"
        " cover seeds",
        digits=0,
    ),
)
NOISE = Column(
    "noise",
    "label noise",
    "points",
    "LC WR trained on the noisier labels, less that of this run, at equal β, step and seed: mean"
    f" over the β that both have, at the steps chosen here; paired by prompt, on {OTHERS}; a t"
    " interval by the jackknife",
    sign=True,
)
