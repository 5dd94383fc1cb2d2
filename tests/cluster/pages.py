"""Parse an HTML page strictly: every element, its attributes and its text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from xml.etree import ElementTree as Xml

VOID = {"meta", "link", "br"}
APART = {"br", "caption", "dd", "details", "div", "dt", "h1", "h2", "h3", "li", "p", "pre", "td", "th"}
"""Elements whose text is separate from the text before and after them."""


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""
    """Its text, and the text of the elements inside."""


@dataclass(repr=False)
class Page(HTMLParser):
    """A parsed page. An element that is not closed, or is closed twice, is an error."""

    source: str
    elements: list[Element] = field(default_factory=list)
    _open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.source)
        self.close()
        assert not self._open, f"never closed: {[element.tag for element in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        self._stand_apart(tag)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1].tag == tag, f"</{tag}> closes {[element.tag for element in self._open[-2:]]}"
        self._open.pop()
        self._stand_apart(tag)

    def handle_data(self, data: str) -> None:
        for element in self._open if self._open and self._open[-1].tag not in ("script", "style") else self._open[-1:]:
            element.text += data

    def _stand_apart(self, tag: str) -> None:
        for element in self._open if tag in APART else []:
            element.text += " "

    def all(self, tag: str, class_name: str = "") -> list[Element]:
        """Find the elements of a tag, and of a class if one is given."""
        return [
            each for each in self.elements if each.tag == tag and (not class_name or class_name in each.attributes.get("class", "").split())
        ]

    @property
    def text(self) -> str:
        """Return the page's visible text, with single spaces."""
        (body,) = self.all("body")
        return " ".join(body.text.split())

    @property
    def charts(self) -> dict[str, Xml.Element]:
        """Return every chart by its title, parsed as XML."""
        titles = [caption.text for caption in self.all("figcaption")]
        drawn = re.findall(r'<svg class="chart".*?</svg>', self.source, re.DOTALL)
        assert len(set(titles)) == len(titles) == len(drawn)
        return {title: Xml.fromstring(svg) for title, svg in zip(titles, drawn, strict=True)}

    def lines(self, chart: str) -> dict[str, dict[int, float]]:
        """Return the lines of a chart by name: the value at every step that is drawn."""
        found = {}
        for path in self.charts[chart].iter("path"):
            if (name := path.get("data-name")) is not None:
                values = [float(text) if text else float("nan") for text in path.get("data-y", "").split(" ")]
                found[name] = dict(zip(map(int, path.get("data-x", "").split(" ")), values, strict=True))
        return found
