"""Charts as inline SVG, drawn here: lines over steps with their raw points, and stacked shares.

A chart is drawn for a width of 360 px and scales with the page, so that its text is readable on a phone. Colours and dashes are classes
(`s0`, `s1`, ...) that the page's style sheet defines for light and dark. The values that `page.js` shows under the pointer are in `data-`
attributes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal
from xml.etree import ElementTree as Xml

import numpy as np

from cluster.report.axes import Axis, Scale, decades, robust_range, short, tick_texts, wants_log
from cluster.report.samples import shown

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 350, 10, 176
"""The frame of the curves, in units of the drawing."""

COLOURS = 8
REST_STYLE = 6
"""Style of the rest of a stacked chart: grey."""

BINS = 48
"""Greatest number of bars in a stacked chart."""

LARGEST = 1e30
"""Larger values are treated as not finite: no axis could be drawn for them."""


@dataclass(frozen=True)
class Series:
    """A line: one value at each step. A value that is not finite leaves a gap, which is marked."""

    label: str
    steps: np.ndarray
    values: np.ndarray
    style: int = 0
    """Number of its colour and dash."""

    @property
    def drawable(self) -> np.ndarray:
        return np.isfinite(self.values) & (np.abs(self.values) < LARGEST)


@dataclass(frozen=True)
class Mark:
    """A single measurement with its interval, such as a held-out accuracy."""

    label: str
    step: int
    value: float
    low: float
    high: float
    style: int = 1


@dataclass(frozen=True)
class Chart:
    """One figure of the page."""

    title: str
    svg: str
    keys: Sequence[tuple[str, str, int]]
    """Label, last value of the smoothed line, and style of every line."""
    note: str = ""
    key_shape: Literal["line", "bar"] = "line"


@dataclass
class LineChart:
    """Smoothed lines over steps, with the raw points behind them."""

    title: str
    series: Sequence[Series]
    scale: Scale = "plain"
    smooth: bool = True
    note: str = ""
    marks: Sequence[Mark] = ()
    resumed_at: Sequence[int] = ()
    points: int = 240
    """Greatest number of points in a line. With more steps, a shaded range stands for the raw points."""
    with_raw: bool = True
    _notes: list[str] = field(default_factory=list)

    def draw(self) -> Chart | None:
        """Draw the chart; returns None if no value can be drawn."""
        self.series = [each for each in self.series if each.drawable.any()]
        if not self.series:
            return None
        steps, values = self._axes()
        svg = _canvas(self._said(), steps, values)
        for step in self.resumed_at:
            _line(svg, x := float(steps.at(step)), TOP, x, BOTTOM, "resumed")
        for each in self.series:
            self._draw_series(svg, each, steps, values)
        for mark in self.marks:
            _draw_mark(svg, mark, steps, values)
        _line(svg, 0, TOP, 0, BOTTOM, "cursor")
        return Chart(self.title, Xml.tostring(svg, encoding="unicode"), self._keys(), self._full_note())

    def _keys(self) -> list[tuple[str, str, int]]:
        keys = []
        for each in self.series:
            line = smoothed(np.where(each.drawable, each.values, np.nan), self._window(each))
            keys.append((shown(each.label), short(float(line[each.drawable][-1]), self.scale), each.style))
        for label, style in dict.fromkeys((mark.label, mark.style) for mark in self.marks):
            keys.append((label, " → ".join(short(mark.value, self.scale) for mark in self.marks if mark.label == label), style))
        return keys

    def _window(self, each: Series) -> int:
        return smoothing_window(len(each.values)) if self.smooth else 1

    def _axes(self) -> tuple[Axis, Axis]:
        finite = np.concatenate([each.values[each.drawable] for each in self.series] + [[mark.low, mark.high] for mark in self.marks])
        bounds = np.concatenate([each.steps for each in self.series] + [[mark.step] for mark in self.marks])
        steps = Axis.spanning(float(bounds.min()), float(bounds.max()), LEFT, RIGHT)
        if self.scale == "share" and finite.min() >= 0 and finite.max() <= 1:
            return steps, Axis(0.0, 1.0, BOTTOM, TOP, scale="share")
        if self.scale == "log" and wants_log(finite):
            positive = finite[finite > 0]
            if len(positive) < len(finite):
                self._notes.append("values of 0 and below are missing: the axis is logarithmic")
            return steps, Axis(*decades(positive), BOTTOM, TOP, scale="log")
        low, high = robust_range(finite) if self.scale == "spiky" else (float(finite.min()), float(finite.max()))
        beyond = int(((finite < low) | (finite > high)).sum())
        if beyond:
            self._notes.append(f"{beyond} {_plural('value', beyond)} cut off at the frame, the farthest {short(_farthest(finite))}")
        return steps, Axis.spanning(low, high, BOTTOM, TOP)

    def _draw_series(self, svg: Xml.Element, each: Series, steps: Axis, values: Axis) -> None:
        group = Xml.SubElement(svg, "g", {"class": f"s{each.style % COLOURS}"})
        clean = np.where(each.drawable, each.values, np.nan)
        if values.scale == "log":
            clean = np.where(clean > 0, clean, np.nan)
        window = self._window(each)
        if window > 1 and self.with_raw:
            _draw_raw(group, each.steps, clean, steps, values, self.points)
        chosen = np.unique(np.linspace(0, len(clean) - 1, min(self.points, len(clean))).round().astype(int))
        line, at = smoothed(clean, window)[chosen], each.steps[chosen]
        path = Xml.SubElement(group, "path", {"class": "line", "d": path_through(steps.at(at), values.at(line), _breaks(at, line))})
        path.set("data-name", shown(each.label))
        path.set("data-x", " ".join(str(int(step)) for step in at))
        path.set("data-y", " ".join(_digits(value) for value in line))
        self._mark_gaps(svg, each, steps)

    def _mark_gaps(self, svg: Xml.Element, each: Series, steps: Axis) -> None:
        lost = each.steps[~each.drawable]
        if len(lost):
            self._notes.append(f"{each.label}: no finite number at {len(lost)} {_plural('step', len(lost))}, first at step {lost[0]}")
        for x in np.unique(steps.at(lost).round()):
            Xml.SubElement(svg, "path", {"class": "lost", "d": f"M{x - 3:g} {TOP - 7}l3 6l3-6z"})

    def _said(self) -> str:
        """Describe the chart in words, for screen readers."""
        parts = []
        for each in self.series:
            finite = each.values[each.drawable]
            first, last, low, high = (short(float(value), self.scale) for value in (finite[0], finite[-1], finite.min(), finite.max()))
            parts.append(f"{each.label} {first} at first, {last} at last, between {low} and {high}")
        return shown(f"{self.title}, steps {self.series[0].steps[0]} to {self.series[0].steps[-1]}: {'; '.join(parts)}")

    def _full_note(self) -> str:
        return "; ".join(part for part in (self.note, *self._notes) if part)


@dataclass
class StackedChart:
    """Bars of shares that add up to 1, each averaged over some steps, such as the parts of a step's time."""

    title: str
    steps: np.ndarray
    parts: Sequence[tuple[str, np.ndarray]]
    """Label of each part, and its seconds at each step. The remaining seconds are labelled `rest`."""
    whole: np.ndarray
    """Seconds of each step."""
    rest: str
    note: str = ""

    def draw(self) -> Chart | None:
        usable = np.isfinite(self.whole) & (self.whole > 0) & np.all([np.isfinite(part) for _, part in self.parts], axis=0)
        if not usable.any():
            return None
        rows, whole = np.stack([np.maximum(part[usable], 0.0) for _, part in self.parts]), self.whole[usable]
        labels = [*(label for label, _ in self.parts), self.rest]
        totals = _shares(rows.sum(axis=1, keepdims=True), whole.sum(keepdims=True))[:, 0]
        said = ", ".join(f"{label} {share:.0%}" for label, share in zip(labels, totals, strict=True))
        at = self.steps[usable]
        steps = Axis.spanning(float(at[0]), float(at[-1]), LEFT, RIGHT)
        svg = _canvas(f"{self.title}: {said} of the time", steps, Axis(0.0, 1.0, BOTTOM, TOP, scale="share"))
        self._draw_bars(svg, labels, at, rows, whole)
        _line(svg, 0, TOP, 0, BOTTOM, "cursor")
        keys = [(label, f"{share:.0%}", self._style(row)) for row, (label, share) in enumerate(zip(labels, totals, strict=True))]
        return Chart(self.title, Xml.tostring(svg, encoding="unicode"), keys, self.note, "bar")

    def _draw_bars(self, svg: Xml.Element, labels: Sequence[str], at: np.ndarray, rows: np.ndarray, whole: np.ndarray) -> None:
        edges = np.unique(np.linspace(0, len(at), min(BINS, len(at)) + 1).round().astype(int))
        shares = _shares(np.add.reduceat(rows, edges[:-1], axis=1), np.add.reduceat(whole, edges[:-1]))
        borders = LEFT + (RIGHT - LEFT) * edges / edges[-1]
        heights = np.vstack([np.zeros(shares.shape[1]), shares.cumsum(axis=0)])
        middles = at[(edges[:-1] + edges[1:] - 1) // 2]
        for row, label in enumerate(labels):
            outline = [
                f"M{left:.1f} {_vertical(low):.1f}H{right:.1f}V{_vertical(high):.1f}H{left:.1f}z"
                for left, right, low, high in zip(borders[:-1], borders[1:], heights[row], heights[row + 1], strict=True)
                if high - low > 1e-4
            ]
            group = Xml.SubElement(svg, "g", {"class": f"s{self._style(row)}"})
            path = Xml.SubElement(group, "path", {"class": "bar", "d": "".join(outline), "data-name": label})
            path.set("data-x", " ".join(str(int(step)) for step in middles))
            path.set("data-y", " ".join(_digits(value) for value in shares[row]))

    def _style(self, row: int) -> int:
        return row if row < len(self.parts) else REST_STYLE


def _shares(parts_s: np.ndarray, whole_s: np.ndarray) -> np.ndarray:
    """Divide the parts by the whole, and add the rest as the last row. Clocks of several processes may add up to more than the step."""
    shares = parts_s / np.maximum(whole_s, parts_s.sum(axis=0))
    return np.vstack([shares, 1.0 - shares.sum(axis=0)])


def _vertical(share: float) -> float:
    return BOTTOM + (TOP - BOTTOM) * share


def smoothing_window(count: int) -> int:
    """Return how many steps a smoothed line averages over: a twenty-fifth of all, made odd; 1 in a run of fewer than 50 steps."""
    return min(401, count // 25 | 1) if count >= 50 else 1


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Average each value with its neighbours, `window` steps in all. NaN stays NaN, and does not enter the averages."""
    if window == 1:
        return values
    there, kernel = np.isfinite(values), np.ones(window)
    sums = np.convolve(np.where(there, values, 0.0), kernel, mode="same")
    counts = np.convolve(there.astype(float), kernel, mode="same")
    return np.where(there, sums / np.maximum(counts, 1.0), np.nan)


def _draw_raw(group: Xml.Element, at: np.ndarray, values: np.ndarray, steps: Axis, axis: Axis, points: int) -> None:
    """Draw the raw values: a dot for each, or, if there are too many, the range of every stretch of steps."""
    if len(values) <= points:
        dots = zip(steps.at(at), axis.at(values), strict=True)
        Xml.SubElement(group, "path", {"class": "raw", "d": "".join(f"M{x:.1f} {y:.1f}h0" for x, y in dots if y == y)})
        return
    stretches = [part for part in np.array_split(np.arange(len(values)), points // 2) if np.isfinite(values[part]).any()]
    x = steps.at(np.array([at[part].mean() for part in stretches]))
    low = axis.at(np.array([np.nanmin(values[part]) for part in stretches]))
    high = axis.at(np.array([np.nanmax(values[part]) for part in stretches]))
    around = [f"{across:.1f} {up:.1f}" for across, up in (*zip(x, low, strict=True), *zip(x[::-1], high[::-1], strict=True))]
    Xml.SubElement(group, "path", {"class": "range", "d": f"M{'L'.join(around)}z"})


def path_through(x: np.ndarray, y: np.ndarray, breaks: np.ndarray) -> str:
    """Make an SVG path through the points, with a gap at each value that is not finite, and before each index where `breaks` is true."""
    drawn: list[str] = []
    pen_down = False
    for across, up, broken in zip(x, y, breaks, strict=True):
        if not math.isfinite(up):
            pen_down = False
            continue
        if pen_down and not broken:
            drawn.append(f"L{across:.1f} {up:.1f}")
        else:
            drawn.append(f"M{across:.1f} {up:.1f}h0")  # draws a dot if no line follows
        pen_down = True
    return "".join(drawn)


def _breaks(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Find the gaps of a line: steps that are over ten times as far apart as usual. A metric logged at every tenth step has none."""
    gaps = np.diff(steps, prepend=steps[0])
    usual = float(np.median(gaps[1:])) if len(values) > 1 else 1.0
    return gaps > 10 * usual


def _farthest(finite: np.ndarray) -> float:
    return float(finite[np.argmax(np.abs(finite - np.median(finite)))])


def _canvas(said: str, steps: Axis, values: Axis) -> Xml.Element:
    """Make an empty chart with its axes. `said` describes it for screen readers."""
    svg = Xml.Element("svg", {"class": "chart", "viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "tabindex": "0", "aria-label": said})
    svg.set("data-steps", f"{steps.low:.10g} {steps.high:.10g} {LEFT} {RIGHT}")
    svg.set("data-scale", "share" if values.scale == "share" else "")
    for tick, text in zip(heights := values.ticks(5), tick_texts(heights, values.scale), strict=True):
        y = float(values.at(tick))
        _line(svg, LEFT, y, RIGHT, y, "grid")
        _label(svg, LEFT - 5, y + 4, text, "end")
    whole = [tick for tick in steps.ticks(5) if tick == int(tick)]
    for tick, text in zip(whole, tick_texts(whole, "plain"), strict=True):
        _label(svg, float(steps.at(tick)), BOTTOM + 16, text, "middle" if steps.at(tick) < RIGHT - 8 else "end")
    return svg


def _line(svg: Xml.Element, x1: float, y1: float, x2: float, y2: float, name: str) -> None:
    Xml.SubElement(svg, "path", {"class": name, "d": f"M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"})


def _label(svg: Xml.Element, x: float, y: float, text: str, anchor: str) -> None:
    Xml.SubElement(svg, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}).text = text


def _draw_mark(svg: Xml.Element, mark: Mark, steps: Axis, values: Axis) -> None:
    group = Xml.SubElement(svg, "g", {"class": f"s{mark.style % COLOURS}"})
    x, y, low, high = float(steps.at(mark.step)), *(float(values.at(value)) for value in (mark.value, mark.low, mark.high))
    outline = f"M{x:.1f} {low:.1f}V{high:.1f}M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} {high:.1f}h8"
    Xml.SubElement(group, "path", {"class": "interval", "d": outline})
    Xml.SubElement(group, "circle", {"class": "mark", "cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": "4"})


def _digits(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else ""


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"
