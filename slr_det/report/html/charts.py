"""Curves as SVG: drawn here, so that they are there on paper and without a script; the script adds the hovering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from slr_det.report.html.markup import data, look, text

# One unit is about one CSS pixel: a chart is as wide as a phone, and two or three of them fill a desk's screen.
WIDTH, HEIGHT = 400, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 36
_DECADES = 1.0  # from here on an axis of positive numbers is logarithmic
_LOOSE = 0.06  # of the span, left free above and below

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """The points of one series.

    Attributes:
        key: The number of the series.
        label: Its name, as hovering shows it.
        points: (x, y) in the order of x; neighbours are joined.
        names: What hovering says for each point's x; default: the number.
        level: A horizontal line at the y of the one point instead, such as the dense model's score.
    """

    key: int
    label: str
    points: Sequence[Point]
    names: Sequence[str] = ()
    level: bool = False


def chart(
    title: str, note: str, lines: Sequence[Line], x_title: str, *, joined: bool = True, log_x: bool = False
) -> str:
    """A figure with a title, axes, the lines, and the data for hovering; empty where no line has a point.

    The y axis is logarithmic where all values are positive and span more than a decade. Points without a finite number
    are left out, and a line is not drawn across them.

    Args:
        title: What y is.
        note: How to read it, in a sentence.
        lines: The series.
        x_title: What x is.
        joined: Draw lines through the points; otherwise marks alone.
        log_x: Make the x axis logarithmic, where its values are positive.
    """
    drawn = [line for line in lines if any(_finite(point) for point in line.points)]
    if not any(not line.level for line in drawn):
        return ""
    points = [point for line in drawn for point in line.points if _finite(point)]
    ys = [y for _, y in points]
    xs = [x for line in drawn if not line.level for x, y in line.points if _finite((x, y))]
    log_y = min(ys) > 0 and math.log10(max(ys) / min(ys)) > _DECADES
    x_axis = _Axis(xs, _LEFT, WIDTH - _RIGHT, log_x and min(xs) > 0, loose=0.0 if joined else 0.08)
    y_axis = _Axis(ys, HEIGHT - _BOTTOM, _TOP, log_y, loose=_LOOSE)
    whole = all(x == int(x) for x in xs) and max(xs) > min(xs)
    parts = [_grid(x_axis, y_axis, x_title, whole)]
    hover = []
    for line in drawn:
        parts.append(_draw(line, x_axis, y_axis, joined))
        if line.level:
            (level,) = [y for x, y in line.points]
            hover.append({"k": line.key, "l": line.label, "y": round(y_axis(level), 1), "v": short(level)})
        else:
            hover.append({"k": line.key, "l": line.label, "p": _hover(line, x_axis, y_axis)})
    scale = ", logarithmic" if log_y else ""
    return (
        f'<figure class="chart"><figcaption><strong>{text(title)}</strong> <span>{text(note)}{scale}</span>'
        f'</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="application" tabindex="0" '
        f'aria-label="{text(title)}: arrow keys move through the points">{"".join(parts)}'
        f'<line class="cursor" x1="0" x2="0" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"></line></svg>'
        f"{data(hover)}</figure>"
    )


def short(value: float) -> str:
    """A number with four digits that count, without an exponent where it is readable without."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        digits = f"{value:.4g}"
        return f"{value:,.0f}" if "e" in digits else digits
    return f"{value:.2e}"


class _Axis:
    """Numbers to positions, and the numbers that stand at the axis."""

    def __init__(self, values: Sequence[float], start: float, end: float, log: bool, loose: float) -> None:
        self.log = log
        low, high = (math.log10(v) if log else v for v in (min(values), max(values)))
        if high - low < 1e-12 * max(abs(high), 1.0):
            low, high = (
                low - (0.5 if log or not low else abs(low) / 2),
                high + (0.5 if log or not high else abs(high) / 2),
            )
        span = high - low
        self.low, self.high = low - loose * span, high + loose * span
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        share = ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, wanted: int, *, whole: bool = False) -> list[float]:
        """Numbers for the axis; ``whole`` ones where nothing lies between, such as iterations."""
        if self.log and self.high - self.low >= 0.5:
            first, last = math.floor(self.low), math.ceil(self.high)
            for factors in ((1, 2, 5), (1, 3), (1,)):
                fine = [m * 10.0**k for k in range(first, last + 1) for m in factors]
                seen = [v for v in fine if self.low - 1e-9 <= math.log10(v) <= self.high + 1e-9]
                if len(seen) <= wanted + 1:
                    return seen
            return seen[:: math.ceil(len(seen) / wanted)]
        low, high = (10**self.low, 10**self.high) if self.log else (self.low, self.high)
        raw = (high - low) / wanted
        power = 10.0 ** math.floor(math.log10(raw))
        step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
        if whole:
            step = math.ceil(step)
        first = math.ceil(low / step - 1e-9)
        return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _grid(x_axis: _Axis, y_axis: _Axis, x_title: str, whole: bool) -> str:
    parts = []
    for value in y_axis.ticks(5):
        y = y_axis(value)
        parts.append(
            f'<line class="rule" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"></line>'
        )
        parts.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>'
        )
    for value in x_axis.ticks(7, whole=whole):
        x = x_axis(value)
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">{short(value)}</text>'
        )
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="name" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{text(x_title)}</text>'
    )
    return f'<g aria-hidden="true">{"".join(parts)}</g>'


def _draw(line: Line, x_axis: _Axis, y_axis: _Axis, joined: bool) -> str:
    opening = f'<g class="line {look(line.key)}" data-key="{line.key}">'
    if line.level:
        y = y_axis(line.points[0][1])
        path = f'<line class="level" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"></line>'
        return f"{opening}{path}</g>"
    steps: list[str] = []
    pen = "M"
    alone = len(line.points) == 1 or not joined
    dots = []
    for point in line.points:
        if not _finite(point):
            pen = "M"
            continue
        x, y = x_axis(point[0]), y_axis(point[1])
        steps.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
        if alone:
            dots.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="5"></circle>')
    path = "" if alone else f'<path d="{"".join(steps)}"></path>'
    return f'{opening}{path}{"".join(dots)}<circle class="here" r="4" cx="-9" cy="-9"></circle></g>'


def _hover(line: Line, x_axis: _Axis, y_axis: _Axis) -> list[list[float | str]]:
    """[x and y on the drawing, what is said of x, what is said of y] for every point."""
    names = line.names or [short(x) for x, _ in line.points]
    return [
        [round(x_axis(x), 1), round(y_axis(y), 1), name, short(y)]
        for (x, y), name in zip(line.points, names, strict=True)
        if _finite((x, y))
    ]


def _finite(point: Point) -> bool:
    return all(math.isfinite(value) for value in point)
