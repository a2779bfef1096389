"""Charts as plain data: positions in pixels, from the top left; ``templates/drawing.html`` writes them as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ROW = 14  # pixels between two lines of text


@dataclass(frozen=True)
class Label:
    """A text; ``y`` is its baseline."""

    x: float
    y: float
    text: str
    anchor: str = "start"  # or "middle", "end"
    axis: bool = False  # belongs to an axis, so it is grey


@dataclass(frozen=True)
class Mark:
    """A point of a chart."""

    x: float
    y: float
    radius: float
    colour: str
    hollow: bool = False


@dataclass(frozen=True)
class Line:
    """A dashed line between two points."""

    x1: float
    y1: float
    x2: float
    y2: float
    colour: str


@dataclass(frozen=True)
class Bar:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    colour: str


@dataclass(frozen=True)
class Drawing:
    """A chart."""

    width: int
    height: int
    labels: Sequence[Label]
    marks: Sequence[Mark] = ()
    lines: Sequence[Line] = ()
    bars: Sequence[Bar] = ()
    axes: str = ""  # an SVG path


def label_marks(named: Sequence[tuple[Mark, str]], width: float) -> list[Label]:
    """Return a label on the right of each mark, moved down where it would cover another one.

    Args:
        named: the marks with their names.
        width: reserved for a name, in pixels.
    """
    labels: list[Label] = []
    for mark, name in sorted(named, key=lambda pair: pair[0].y):
        y = mark.y + 4
        while any(abs(y - other.y) < ROW and abs(mark.x - other.x) < width for other in labels):
            y += 1
        labels.append(Label(round(mark.x + mark.radius + 6, 1), round(y, 1), name))
    return labels
