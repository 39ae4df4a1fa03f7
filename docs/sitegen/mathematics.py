"""LaTeX in a page becomes MathML while the site is built: native, selectable, no script.

Arithmatex marks the formulas of a rendered page; each is converted once. A formula that cannot be
converted ends the build with its page and its text.
"""

from __future__ import annotations

import html
import re
from functools import cache
from xml.etree import ElementTree

from latex2mathml.converter import convert

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', flags=re.DOTALL)
_DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', flags=re.DOTALL)

# What the converter does not know, in words that it does.
_REWRITTEN = (
    (re.compile(r"\\arg\s*(?:\\,)?\s*\\(min|max)(?![A-Za-z])"), r"\\arg\1"),
    (re.compile(r"\\begin\{(?:aligned|align\*?|split)\}"), r"\\begin{array}{rlrlrlrl}"),
    (re.compile(r"\\end\{(?:aligned|align\*?|split)\}"), r"\\end{array}"),
)
# A command that it does not know is left in its output as it was written, and so is an ampersand
# outside of a table.
_UNKNOWN = re.compile(r"\\[A-Za-z]+|&")

# Operators that have what they range over below them in a displayed formula.
_RANGING = {"min", "max", "sup", "inf", "lim", "arg\u2009min", "arg\u2009max"}
# Functions and operators that are words stand off by a thin space, but not from a bracket.
_WORD = re.compile(r"[A-Za-z][A-Za-z\u2009]+")
_THIN = "0.167em"
_BARS = {"|", "\u2016", "\u2225"}
_BRACKETS = {"(", "[", "{"}
# Characters that few fonts have, and the same sign in a common place.
_COMMON = {"\u29f5": "\u2216"}
_NAMESPACE = "http://www.w3.org/1998/Math/MathML"


class FormulaError(ValueError):
    """A formula that has no MathML."""


@cache
def mathml(latex: str, *, display: bool = False) -> str:
    """``latex`` as a <math> element.

    Raises:
        FormulaError: naming the formula, where it cannot be converted.
    """
    bare = re.sub(r"\\[{}]", "", latex)
    if bare.count("{") != bare.count("}"):
        raise FormulaError(f"{latex!r} cannot be converted: its braces do not match")
    source = latex
    for pattern, known in _REWRITTEN:
        source = pattern.sub(known, source)
    try:
        markup = convert(source, display="block" if display else "inline")
        root = ElementTree.fromstring(re.sub(r"&(?!#?\w+;)", "&amp;", markup))
    except Exception as error:  # the converter raises many kinds
        raise FormulaError(f"{latex!r} cannot be converted: {error!r}") from error
    unknown = _UNKNOWN.search("".join(root.itertext()))
    if unknown:
        raise FormulaError(f"{latex!r} cannot be converted: {unknown[0]} is not known here")
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_NAMESPACE}}}")
    for element in root.iter():
        _finish(element, display)
    return ElementTree.tostring(root, encoding="unicode")


def _finish(element: ElementTree.Element, display: bool) -> None:
    """Set what the converter leaves to a renderer, and browsers do not do."""
    children = list(element)
    for place, child in enumerate(children):
        text = child.text or ""
        if child.tag in ("mi", "mo") and _WORD.fullmatch(text) and child.get("mathvariant") is None:
            following = children[place + 1].text if place + 1 < len(children) else ""
            child.tag = "mo"
            child.set("lspace", _THIN if place and children[place - 1].tag != "mo" else "0")
            child.set("rspace", "0" if following in _BRACKETS else _THIN)
        elif child.tag == "mo" and (text in _BARS or (element.tag == "msup" and place == 1)):
            child.attrib.update(lspace="0", rspace="0")
        if text in _COMMON:
            child.text = _COMMON[text]
    if display and element.tag == "msub" and (children[0].text or "") in _RANGING:
        element.tag = "munder"


def with_mathml(page: str) -> str:
    """The HTML of a page with every formula converted.

    Raises:
        FormulaError: for the first formula that cannot be.
    """

    def inline(match: re.Match[str]) -> str:
        return mathml(html.unescape(match[1]).strip())

    def displayed(match: re.Match[str]) -> str:
        formula = mathml(html.unescape(match[1]).strip(), display=True)
        return f'<div class="formula" tabindex="0">{formula}</div>'

    return _INLINE.sub(inline, _DISPLAY.sub(displayed, page))
