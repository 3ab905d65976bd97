"""A comparison for a terminal, a pipe, compare.md and JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from prefeval import records
from prefeval.reports.compare import words
from prefeval.reports.compare.data import Answer, Changed, Compared
from prefeval.reports.compare.samples import KINDS, cut, few, visible
from prefeval.reports.quantities import fixed, significant

if TYPE_CHECKING:
    from rich.console import Console

HEADS = ("measure", "A", "B", "B − A [95%]", "p", "n", "verdict")
TRIAL_HEADS = ("trial", "A", "B", "B − A [95%]", "p", "n", "verdict")
STYLES = {"ok": "green", "bad": "red", "moved": "cyan", "none": "dim"}
SHORT = {"no difference shown": "no diff.", "not compared": "—"}
WIDE = 110  # columns of a terminal from which a verdict is written in full
MOST_SETTINGS = 12


def cells(compared: Compared) -> list[tuple[str, ...]]:
    """The table's rows as text."""
    return [_cells(words.title(line), line) for line in compared.lines]


def trial_cells(compared: Compared) -> list[tuple[str, ...]]:
    """The trials that both runs have, as text."""
    return [_cells(trial.name, trial.line) for trial in compared.trials]


def _cells(name: str, line: Any) -> tuple[str, ...]:
    amount = f"{words.change(line)} {words.span(line)}".rstrip()
    said = words.verdict(line)
    if line.name not in words.TITLES and (changed := words.counts(line)):
        amount = f"{amount} {changed}"
    ends = words.value(line, line.a), words.value(line, line.b)
    return (name, *ends, amount, words.p_value(line), str(line.difference.n), said)


def show(compared: Compared, console: Console) -> None:
    """Print all of it: what got better and worse, the table, the samples that changed most."""
    from rich.text import Text

    head, tone = words.headline(compared)
    style = {"ok": "bold green", "bad": "bold red"}.get(tone, "bold")
    console.print(Text(head, style=style), soft_wrap=True)
    for line in _about(compared):
        console.print(Text(line), soft_wrap=True)
    for group_tone, heading, found in words.groups(compared):
        console.print()
        console.print(Text(heading, style=f"bold {STYLES[group_tone]}"))
        for sentence in found or ["nothing shown"]:
            _print(console, sentence, indent=2)
    console.print()
    _print_table(console, HEADS, cells(compared), [line.verdict for line in compared.lines])
    _print(console, f"{words.UNITS} {words.METHOD}", style="dim")
    if compared.trials:
        console.print()
        console.print(Text("Every trial that both runs have", style="bold"))
        verdicts = [trial.line.verdict for trial in compared.trials]
        _print_table(console, TRIAL_HEADS, trial_cells(compared), verdicts)
        _print(console, words.TRIALS, style="dim")
    for line in (*_settings(compared), *_samples(compared, max(60, console.width))):
        console.print(Text(line), soft_wrap=True)


def _print(console: Console, text: str, *, indent: int = 0, style: str = "") -> None:
    """A paragraph: wrapped under its own indent on a terminal, one line elsewhere."""
    from rich.padding import Padding
    from rich.text import Text

    if console.is_terminal:
        console.print(Padding(Text(text, style=style), (0, 0, 0, indent)))
    else:
        console.print(Text(" " * indent + text), soft_wrap=True)


def _about(compared: Compared) -> Iterator[str]:
    yield f"A  {compared.a.name}  {compared.a.path}"
    yield f"B  {compared.b.name}  {compared.b.path}"
    yield words.joined(compared)
    yield from (f"! {visible(note)}" for note in compared.notes)


def _print_table(
    console: Console,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    verdicts: Sequence[str],
) -> None:
    """A table in colour on a terminal, in plain columns elsewhere."""
    if not console.is_terminal:
        for line in columns([heads, *rows]):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    narrow = console.width < WIDE
    kept = [i for i, head in enumerate(heads) if not (narrow and head == "n")]
    grid = Table(
        box=box.SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False,
        padding=(0, 1, 0, 0),
    )  # fmt: skip
    for i in kept:
        first, last = i == kept[0], i == kept[-1]
        justify: Any = "left" if first or last else "right"
        wraps = first or (last and not narrow)
        grid.add_column(heads[i], justify=justify, no_wrap=not wraps, overflow="fold")
    for row, said in zip(rows, verdicts, strict=True):
        style = STYLES.get(words.TONES.get(said, "none"), "")
        short = [*row[:-1], SHORT.get(said, said) if narrow else row[-1]]
        cells = [Text(short[i], style=style if i == kept[-1] else "") for i in kept]
        grid.add_row(*cells)
    console.print(grid)


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as lines of aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()


def _settings(compared: Compared) -> Iterator[str]:
    """What differs between two runs' manifests."""
    if not compared.manifest:
        return
    yield ""
    yield "What differs between the runs"
    for name, a, b in compared.manifest[:MOST_SETTINGS]:
        yield f"  {name}: {cut(visible(a), 50)} → {cut(visible(b), 50)}"
    if len(compared.manifest) > MOST_SETTINGS:
        yield f"  and {len(compared.manifest) - MOST_SETTINGS} more (--out, --json)"


def _samples(compared: Compared, width: int) -> Iterator[str]:
    """One of each kind, cut to the terminal."""
    chosen = few(compared.samples)
    if not chosen:
        return
    yield ""
    yield f"Changed most, one of each kind ({len(compared.samples)} in full: --out FOLDER)"
    for kind, sample in chosen:
        total = (compared.counts or {}).get(kind, 0)
        name = cut(visible(sample.prompt_id), 40)
        yield f"  {KINDS[kind]} (of {total})  {name}  {what_changed(sample, kind)}"
        asked = sample.turns[-1][1] if sample.turns else ""
        texts = (("asked", asked), ("A", sample.a.text), ("B", sample.b.text))
        for label, text in texts:
            yield f"    {label:5} {cut(visible(text), width - 10) or '(empty)'}"


def what_changed(sample: Changed, kind: str) -> str:
    """The number for which a sample is shown: "P(beats reference) 0.93 → 0.12"."""
    a, b = sample.a, sample.b
    if kind in ("for", "against"):
        return f"P(beats reference) {_two(a.preference)} → {_two(b.preference)}"
    if kind in ("gained", "lost"):
        return f"{_passes(a)} → {_passes(b)}"
    if kind in ("longer", "shorter"):
        return f"{a.tokens} → {b.tokens} tokens"
    return f"KL {significant(a.kl)} → {significant(b.kl)} nats"


def _two(number: float | None) -> str:
    return fixed(number, 2)


def _passes(answer: Answer) -> str:
    return {True: "passes", False: "fails", None: "unchecked"}[answer.passed]


# -- files ---------------------------------------------------------------------------------------


def markdown(compared: Compared) -> str:
    """compare.md: all of it, with the texts fenced so that none can leave its fence."""
    parts = [f"# {escaped(words.headline(compared)[0])}", ""]
    parts += [f"- {escaped(line)}" for line in _about(compared)]
    for _, heading, found in words.groups(compared):
        parts += ["", f"## {heading}", "", *(f"- {escaped(s)}" for s in found or ["nothing shown"])]
    parts += ["", "## Every measure", "", *_grid(HEADS, cells(compared)), ""]
    parts += [words.UNITS, words.METHOD]
    if compared.trials:
        parts += ["", "## Every trial that both runs have", ""]
        parts += [*_grid(TRIAL_HEADS, trial_cells(compared)), "", words.TRIALS]
    if compared.manifest:
        parts += ["", "## What differs between the runs", ""]
        parts += _grid(("setting", "A", "B"), compared.manifest)
    if compared.samples:
        parts += ["", "## Changed most"]
    for sample in compared.samples:
        parts += ["", *_written(sample)]
    text = "\n".join(parts) + "\n"
    return text.encode("utf-8", "replace").decode("utf-8")


def _written(sample: Changed) -> Iterator[str]:
    yield f"### {escaped(visible(sample.prompt_id))}"
    yield ""
    yield from (f"- {KINDS[kind]}: {what_changed(sample, kind)}" for kind in sample.kinds)
    texts = [*sample.turns, ("A", sample.a.text), ("B", sample.b.text)]
    for label, text in (*texts, ("reference", sample.reference.text)):
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        yield from ("", f"{escaped(visible(label))}:", "", f"{fence}text", _shown(text), fence)


def _shown(text: str) -> str:
    """A text as it is, but for characters that are not printable and are no line's end."""
    return "".join(c if c.isprintable() or c == "\n" else f"<U+{ord(c):04X}>" for c in text)


def _grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(escaped(visible(c)) for c in row) + " |" for row in (heads, *rows)]
    return [lines[0], "|" + "---|" * len(heads), *lines[1:]]


def escaped(text: str) -> str:
    """Text that Markdown does not read as markup or as a table's border."""
    for character in "\\`*_<|[":
        text = text.replace(character, "\\" + character)
    return text


def as_object(compared: Compared) -> dict[str, Any]:
    """For JSON: every number, with verdicts in words."""
    found: dict[str, Any] = records.to_jsonable(compared)
    for name in ("measures", "behaviours"):
        for row, line in zip(found[name], getattr(compared, name), strict=True):
            row["verdict"] = line.verdict
    for row, trial in zip(found["trials"], compared.trials, strict=True):
        row["line"]["verdict"] = trial.line.verdict
    head, tone = words.headline(compared)
    return {"schema": records.SCHEMA_VERSION, "headline": head, "tone": tone, **found}
