"""What a run is about: the reference, the preference data, the prompts and the judge, as files.

The lab and a person's own data are laid out alike in the run's ``data`` folder, so that all that
follows knows only one kind of run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from prefeval.harness.backends import DEFAULT
from prefeval.records import Prompt, Sampling


@dataclass(frozen=True)
class Sizes:
    """How much is asked of every checkpoint."""

    max_length: int = 192
    max_new_tokens: int = 120
    greedy_new_tokens: int = 120
    diverse_prompts: int = 32
    diverse_samples: int = 8
    suite_samples: int = 0
    """samples of every checked prompt beside its greedy answer: for pass@k"""
    self_play: int = 4
    """fresh reference samples a win-rate prompt, from which length control is calibrated"""
    generation_batch: int = 256
    held_out_pairs: int = 512
    """own pairs on which chosen and rejected log-probabilities are followed, at most"""

    def sampling(self, mode: str, *, reference: bool) -> Sampling:
        """The three passes of generation; the reference's samples are independent ones."""
        seed = 1 if reference else 2
        match mode:
            case "sample":
                n = 1 + self.self_play if reference else 1
                return Sampling("sample", 1.0, self.max_new_tokens, n=n, seed=seed)
            case "greedy":
                return Sampling("greedy", 0.0, self.greedy_new_tokens)
            case "sampled":
                n = self.suite_samples
                return Sampling("sampled", 1.0, self.greedy_new_tokens, n=n, seed=20 + seed)
            case _:
                return Sampling(
                    "diverse", 1.0, self.max_new_tokens, n=self.diverse_samples, seed=10 + seed
                )


@dataclass(frozen=True)
class Task:
    """Everything that trials share, as plain data for any worker; paths are absolute."""

    run: str
    reference: str
    judge: str
    """as `judges.open_judge` takes it"""
    sizes: Sizes = field(default_factory=Sizes)
    length_unit: str = "characters"
    """in which length control measures answers: characters or tokens"""
    dtype: str = "float32"
    device: str = "cpu"
    backend: str = DEFAULT
    """what generates, as `backends.open_backend` takes it"""

    @classmethod
    def read(cls, path: Path) -> Task:
        """A task as ``records.write_json`` wrote it, in whatever folder its run now is."""
        from prefeval import records

        saved = records.read_json(path)
        old, new = saved["run"], str(path.parent)
        moved = {k: str(saved[k]).replace(old, new) for k in ("run", "reference", "judge")}
        return cls(**{**saved, **moved, "sizes": Sizes(**saved["sizes"])})

    @property
    def data(self) -> Path:
        """The folder with pairs, thumbs, held-out pairs and prompts."""
        return Path(self.run) / "data"

    @property
    def reference_dir(self) -> Path:
        """The folder with what the reference answered."""
        return Path(self.run) / "reference"


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts as ``records.write_jsonl`` wrote them."""
    from prefeval import records

    return [
        Prompt(**{**row, "messages": tuple(row["messages"])}) for row in records.read_jsonl(path)
    ]
