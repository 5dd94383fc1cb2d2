"""The curves of a model card: some charts of the report in one SVG, which needs no style sheet.

python -m cluster.publish.curves_image RUN Reward Accuracy > curves.svg
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as Xml

from cluster.report.charts import charts_titled
from cluster.report.drawing import HEIGHT, WIDTH, Chart
from cluster.report.record import RunRecord, read_run

TITLES = ("Reward", "Accuracy", "Parts of the reward", "Entropy, nats", "KL to the reference, nats", "Length, tokens")
"""Titles of the charts. The first four that the run has are drawn."""

COUNT, COLUMNS, TITLE_HEIGHT, KEYS_HEIGHT = 4, 2, 22, 18
COLOURS = ("#0072b2", "#c85200", "#00795c", "#a8458c", "#8a6200", "#2a87b8", "#6e6e6e", "#1b1f24")
DASHES = ("none", "7 3", "2 2.5", "9 3 2 3", "4 2", "12 3", "6 2 2 2 2 2", "1 3")
"""As in the report's style sheet: an image cannot use its variables."""

STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#57606a} text.title{font-weight:600;font-size:13px;fill:#1b1f24} path{fill:none} "
    ".grid{stroke:#d5dae0} .line{stroke-width:1.8;stroke-linejoin:round} .raw{stroke-width:2.6;stroke-linecap:round;opacity:.38} "
    ".range{opacity:.18} .mark{fill:#fff;stroke-width:2} .interval{stroke-width:1.6} .resumed{stroke:#57606a;stroke-dasharray:2 3} "
    ".cursor{visibility:hidden} .lost{fill:#b00020} "
) + " ".join(
    f".s{style} .line,.s{style} .raw,.s{style} .mark,.s{style} .interval,.s{style}.key{{stroke:{colour}}} "
    f".s{style} .line,.s{style}.key{{stroke-dasharray:{dash}}} .s{style} .range{{fill:{colour}}}"
    for style, (colour, dash) in enumerate(zip(COLOURS, DASHES, strict=True))
)


def curves_svg(run: RunRecord, titles: Sequence[str] = TITLES) -> str | None:
    """Draw the first charts with these titles that the run has; returns None if it has none of them."""
    charts = charts_titled(run, titles)[:COUNT]
    if not charts:
        return None
    cell_height = TITLE_HEIGHT + HEIGHT + KEYS_HEIGHT
    columns = min(COLUMNS, len(charts))
    width, height = columns * WIDTH, -(-len(charts) // columns) * cell_height
    svg = Xml.Element(
        "svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {height}", "width": str(width), "height": str(height)}
    )
    Xml.SubElement(svg, "style").text = STYLE
    Xml.SubElement(svg, "rect", {"width": str(width), "height": str(height), "fill": "#fff"})
    for index, chart in enumerate(charts):
        place = {"transform": f"translate({index % columns * WIDTH} {index // columns * cell_height})"}
        _draw(Xml.SubElement(svg, "g", place), chart)
    return Xml.tostring(svg, encoding="unicode")


def _draw(cell: Xml.Element, chart: Chart) -> None:
    Xml.SubElement(cell, "text", {"x": "12", "y": "16", "class": "title"}).text = chart.title
    drawing = Xml.fromstring(chart.svg)
    drawing.attrib.update({"y": str(TITLE_HEIGHT), "width": str(WIDTH), "height": str(HEIGHT)})
    cell.append(drawing)
    x, y = 12.0, TITLE_HEIGHT + HEIGHT + 9
    for label, value, style in chart.keys:
        Xml.SubElement(cell, "path", {"d": f"M{x} {y}h18", "class": f"s{style % len(COLOURS)} key", "stroke-width": "2"})
        key = Xml.SubElement(cell, "text", {"x": str(x + 22), "y": str(y + 4)})
        key.text = f"{label} {value}"
        x += 30 + 6.2 * len(key.text)


if __name__ == "__main__":
    sys.stdout.write(curves_svg(read_run(Path(sys.argv[1])), sys.argv[2:] or TITLES) or "")
