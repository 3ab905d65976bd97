"""Holds on checkpoints: links to a model's files, so that nothing is lost when a trainer deletes.

A trainer with ``save_total_limit`` deletes while the checkpoint is measured. Hard links cost no
space until then, and outlast a watch that is killed, which can so finish what it had begun.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from prefeval import records
from prefeval.harness import models
from prefeval.harness.steps import disk_errors
from prefeval.harness.watch.files import WEIGHTS, Found

SOURCE = ".source.json"
"""In a held checkpoint: where it came from; written last, so that half a hold is none."""
TOKENIZER = (
    *models.TOKENIZER_FILES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
SMALL = (".json", ".jinja", ".model", ".txt")
CONFIG = ("config.json", "generation_config.json")
BORROWED = "it has no {}: measured with the reference's"
NOT_HELD = "its weights are on another file system than the run: not safe from deletion"


class Holds:
    """The checkpoints that are held in one folder. ``keep`` copies what cannot be linked, and
    gives nothing back."""

    def __init__(self, folder: Path, reference: Path, *, keep: bool) -> None:
        self.folder, self.reference, self.keep = folder, reference, keep

    def take(self, found: Found) -> tuple[Path, tuple[str, ...]]:
        """The held model's folder, and what is to be said of it.

        It gets the reference's tokenizer where the checkpoint has none. Raises
        ``FileNotFoundError`` where the checkpoint is gone.
        """
        place = self._place(found)
        if found.model == place:
            return place, ()
        saved = records.read_json(place / SOURCE) if (place / SOURCE).is_file() else {}
        if saved.get("files") == records.to_jsonable(found.files):
            return place, tuple(saved["notes"])
        with disk_errors(place):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            notes = self._fill(found, place)
            about = {"path": found.path, "step": found.step, "files": found.files, "notes": notes}
            records.write_json(place / SOURCE, about)
        return place, notes

    def give_back(self, found: Found) -> None:
        """Let go of a checkpoint, unless they are kept."""
        if not self.keep:
            shutil.rmtree(self._place(found), ignore_errors=True)

    def left_behind(self) -> Iterator[Found]:
        """Checkpoints held by a watch that was killed, whose trainer has deleted them since."""
        for file in sorted(self.folder.glob(f"*/{SOURCE}")):
            saved = records.read_json(file)
            files = tuple((str(n), int(s), int(t)) for n, s, t in saved["files"])
            if not Path(saved["path"]).is_dir():
                yield Found(Path(saved["path"]), file.parent, int(saved["step"]), files)

    def _place(self, found: Found) -> Path:
        return self.folder / f"checkpoint-{found.step:06d}"

    def _fill(self, found: Found, place: Path) -> tuple[str, ...]:
        notes: dict[str, None] = {}
        files = [f for f in sorted(found.model.iterdir()) if f.suffix in SMALL or f.match(WEIGHTS)]
        if not models.is_adapter(found.model):
            lacks: dict[str, tuple[str, ...]] = {}
            if not (found.model / CONFIG[0]).is_file():
                lacks["config"] = CONFIG
            if not _has_tokenizer(found.model):
                lacks["tokenizer with a template"] = TOKENIZER
            for what, names in lacks.items():
                own = [f for f in files if f.name not in names]
                files = own + [f for n in names if (f := self.reference / n).is_file()]
                notes[BORROWED.format(what)] = None
        for file in files:
            if not file.match(WEIGHTS):
                shutil.copy2(file, place / file.name)
            elif not _link(file, place / file.name):
                if self.keep:
                    shutil.copy2(file, place / file.name)
                else:
                    (place / file.name).symlink_to(file.absolute())
                    notes[NOT_HELD] = None
        return tuple(notes)


def _has_tokenizer(folder: Path) -> bool:
    known = any((folder / name).is_file() for name in models.TOKENIZER_FILES)
    return known and models.has_template(folder)


def _link(file: Path, place: Path) -> bool:
    """Whether there is a hard link now; a link to a link would point nowhere once it is deleted."""
    try:
        os.link(file.resolve(), place)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        return False
    return True
