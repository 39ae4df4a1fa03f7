"""Figures of stored runs: written small, and shown inline in the colours of the page.

Matplotlib writes coordinates to a millionth of a point, an id on every group and a list of fonts on
every label. None of it can be seen; without it a figure is about a third of its size.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from rankone.reproduce._figures import PALETTE, inlined

RESULTS = Path(__file__).parents[2] / "bench" / "results"

_DECIMALS = 2  # hundredths of a point, far below a pixel
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_COORDINATES = re.compile(r'(?<=\s)(d|x|y|x1|y1|x2|y2|cx|cy|width|height|points)="([^"]*)"')
_TRANSLATION = re.compile(r"(?:translate|rotate)\([^)]*\)")
_FONTS = re.compile(r"(?:'[^']*',\s*){3,}sans-serif")
_STYLE = re.compile(r"<defs>\s*<style[^>]*>\*\{[^}]*\}</style>\s*</defs>")
_INVISIBLE = re.compile(r'<path d="[^"]*" style="fill: none"/>')
_EMPTY = re.compile(r"<(g|defs)(?: [^>]*)?>\s*</\1>|<(?:g|defs)/>")


def small(svg: str) -> str:
    """The same picture in fewer characters; what is small already stays as it is."""
    svg = _STYLE.sub("", svg)
    svg = _COORDINATES.sub(lambda match: f'{match[1]}="{_compact(match[2])}"', svg)
    svg = _TRANSLATION.sub(lambda match: _NUMBER.sub(_rounded, match[0]), svg)
    svg = re.sub(r' transform="rotate\(-?0(?:\.0)? [^)]*\)"', "", svg)
    svg = _FONTS.sub("sans-serif", svg)
    svg = svg.replace("font-family: sans-serif; ", "")
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    svg = re.sub(r">\s*\n\s*<", "><", svg)
    svg = _INVISIBLE.sub("", svg)
    used = set(re.findall(r"#([\w.:-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    while _EMPTY.search(svg):
        svg = _EMPTY.sub("", svg)
    return svg if "stroke-linejoin" in svg[: svg.index(">")] else _joined(svg)


def _joined(svg: str) -> str:
    return svg.replace("<svg", '<svg stroke-linejoin="round"', 1)


def _compact(value: str) -> str:
    value = _NUMBER.sub(_rounded, value)
    return re.sub(r"\s+", " ", value).replace(" L ", "L").replace("M ", "M").strip()


def _rounded(match: re.Match[str]) -> str:
    text = f"{float(match[0]):.{_DECIMALS}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def inline(svg: str, prefix: str, title: str) -> str:
    """An <svg> element for an HTML page, with ids of its own and a name for screen readers."""
    return inlined(svg, prefix).replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


def measured() -> list[Path]:
    """The figures of the stored benchmarks; a page shows one as the image ``assets/NAME.svg``."""
    return sorted(RESULTS.glob("*.svg"))


def palette() -> str:
    """The style sheet of the figures' colours, for the light and the dark scheme."""
    light = "".join(f"--{name}:{colours[0]};" for name, colours in PALETTE.items())
    dark = "".join(f"--{name}:{colours[1]};" for name, colours in PALETTE.items())
    return f':root{{{light}}}\n[data-md-color-scheme="slate"]{{{dark}}}\n'
