"""Labels beside their marks that cover neither each other nor the marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from prefeval.reports.charts import svg
from prefeval.reports.charts.svg import Anchor, Frame

CHARACTER_WIDTH = 6.1  # px, of letters and digits at 11px, on average


@dataclass(frozen=True)
class Label:
    """A text that wants to stand near the mark at (x, y)."""

    x: float
    y: float
    text: str
    class_: str = "label"
    trial: str | None = None
    """What it names (see ``labels.trial_id``): it goes when that is switched off."""


Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Placed:
    """Where a label stands: ``x`` is its ``anchor``, ``y`` its base line, in pixels."""

    label: Label
    x: float
    y: float
    anchor: Anchor
    crowded: bool


def place(
    labels: Sequence[Label],
    f: Frame,
    obstacles: Sequence[Box],
    *,
    gap: float = 9,
    crowding: float = 0.2,
) -> list[Placed]:
    """Put each label beside its mark where it covers least.

    Earlier labels have precedence; one that would cover more than ``crowding`` of its own area is
    crowded, and takes no place. ``obstacles`` are boxes (left, top, right, bottom) in pixels:
    marks and intervals.
    """
    taken = list(obstacles)
    placed = []
    for label in labels:
        best = min(_candidates(label, f, gap), key=lambda c: (_cover(c[0], taken), c[2]))
        box, anchor, _ = best
        crowded = _cover(box, taken) > crowding * (box[2] - box[0]) * (box[3] - box[1])
        if not crowded:
            taken.append(box)
        x = {"start": box[0], "middle": (box[0] + box[2]) / 2, "end": box[2]}[anchor]
        placed.append(Placed(label, x, box[3] - 3, anchor, crowded))
    return placed


def place_labels(
    labels: Sequence[Label],
    f: Frame,
    obstacles: Sequence[Box],
    *,
    gap: float = 9,
    crowding: float = 0.2,
) -> list[Markup]:
    """Each label in its place; one that is crowded is hidden until its chart is zoomed into (class
    "crowded"). A hidden label is still in the mark's tooltip."""
    drawn = []
    for p in place(labels, f, obstacles, gap=gap, crowding=crowding):
        label = p.label
        drawn.append(
            svg.el(
                "text",
                escape(label.text),
                x=p.x,
                y=p.y,
                text_anchor=p.anchor,
                class_=f"{label.class_} crowded" if p.crowded else label.class_,
                data_at=f"{svg.number(label.x)} {svg.number(label.y)}",
                data_trial=label.trial,
            )
        )
    return drawn


def _candidates(label: Label, f: Frame, gap: float) -> list[tuple[Box, Anchor, int]]:
    """Eight places around the mark, kept inside the plot; the last number is the preference."""
    width, height = CHARACTER_WIDTH * len(label.text) + 2, 13.0
    places: list[tuple[float, float, Anchor]] = [
        (label.x + gap, label.y - height / 2, "start"),
        (label.x - gap - width, label.y - height / 2, "end"),
        (label.x + gap * 0.7, label.y - gap * 0.5 - height, "start"),
        (label.x + gap * 0.7, label.y + gap * 0.5, "start"),
        (label.x - gap * 0.7 - width, label.y - gap * 0.5 - height, "end"),
        (label.x - gap * 0.7 - width, label.y + gap * 0.5, "end"),
        (label.x - width / 2, label.y - gap - height, "middle"),
        (label.x - width / 2, label.y + gap, "middle"),
    ]
    found: list[tuple[Box, Anchor, int]] = []
    for rank, (x, y, anchor) in enumerate(places):
        if x >= f.left and x + width <= f.width and y >= f.top - 6 and y + height <= f.bottom:
            found.append(((x, y, x + width, y + height), anchor, rank))
    x, y, anchor = places[0]
    return found or [((x, y, x + width, y + height), anchor, 0)]


def _cover(box: Box, taken: Sequence[Box]) -> float:
    """The area of ``box`` that the taken boxes cover (counted once for each)."""
    total = 0.0
    for left, top, right, bottom in taken:
        wide = min(box[2], right) - max(box[0], left)
        high = min(box[3], bottom) - max(box[1], top)
        if wide > 0 and high > 0:
            total += wide * high
    return total
