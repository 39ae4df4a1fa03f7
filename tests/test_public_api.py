"""The public API as a user meets it: what tab completion shows, what ``help()`` says.

Public modules are those that ``dir()`` reaches from ``rankone``; public objects the classes and
functions in their ``__all__``.
"""

import dataclasses
import enum
import functools
import importlib
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import rankone
from rankone import catalog


@functools.cache
def public_modules() -> dict[str, ModuleType]:
    found = {}

    def visit(module):
        found[module.__name__] = module
        for name in dir(module):
            value = None if name.startswith("_") else getattr(module, name)
            if isinstance(value, ModuleType) and value.__name__ not in found:
                visit(value)

    visit(rankone)
    return found


@functools.cache
def public_objects() -> dict[str, object]:
    """Every public class and function of this package, once, under its shortest name."""
    names = {}
    for module in public_modules().values():
        for name in module.__all__:
            value = getattr(module, name)
            ours = getattr(value, "__module__", "").startswith("rankone")
            if ours and (inspect.isclass(value) or inspect.isfunction(value)):
                names.setdefault(value, []).append(f"{module.__name__}.{name}")
    return {min(dotted, key=lambda name: (name.count("."), name)): o for o, dotted in names.items()}


def members(cls: type) -> dict[str, object]:
    """Public methods and properties that this package's classes define."""
    found = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("rankone"):
            found.update({k: v for k, v in vars(base).items() if not k.startswith("_")})
    kinds = (property, functools.cached_property, classmethod, staticmethod)
    return {k: v for k, v in found.items() if inspect.isfunction(v) or isinstance(v, kinds)}


modules = pytest.mark.parametrize("module", public_modules().values(), ids=public_modules())
objects = pytest.mark.parametrize("name", public_objects())


# Names


def natural(name: str) -> tuple[int, str]:
    """CONSTANTS, then Classes, then functions, as ruff orders them."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2), name


@modules
def test_all_is_sorted_importable_and_without_repeats(module):
    assert list(module.__all__) == sorted(module.__all__, key=natural)
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None, name


@modules
def test_tab_completion_shows_the_public_names_and_nothing_else(module):
    shown = {name for name in dir(module) if not re.fullmatch(r"__\w+__", name)}
    submodules = set(getattr(module, "_SUBMODULES", ()))
    assert shown | {"__version__"} == set(module.__all__) | submodules | {"__version__"}
    for name in submodules:
        child = getattr(module, name)
        assert child is importlib.import_module(f"{module.__name__}.{name}"), name


def test_every_public_package_is_reached():
    """A package below a public one is shown by it, unless its name says that it is private."""
    missing = []
    for name, module in public_modules().items():
        for path in getattr(module, "__path__", ()):
            for child in sorted(Path(path).glob("*/__init__.py")):
                dotted = f"{name}.{child.parent.name}"
                if dotted != "rankone.demo" and not child.parent.name.startswith("_"):
                    missing += [dotted] if dotted not in public_modules() else []
    assert not missing


# Two fields' own words: what a fit records; and parameters grouped for an optimiser (nn) or by the
# module that holds them (interpret).
SEVERAL_THINGS = {"TrainingHistory", "parameter_groups"}
# Its functions are those of rankone.ops over several processes, and called the same on purpose.
MIRRORS = {"rankone.distributed"}


def test_a_name_means_one_thing_in_all_packages():
    owners = defaultdict(set)
    for module in public_modules().values():
        if hasattr(module, "__path__") and module.__name__ not in MIRRORS:
            for name in module.__all__:
                if not isinstance(getattr(module, name), ModuleType) and name != "__version__":
                    owners[name].add(id(getattr(module, name)))
    assert {name for name, values in owners.items() if len(values) > 1} <= SEVERAL_THINGS


@pytest.mark.parametrize("entry", catalog.methods(), ids=lambda entry: entry.slug)
def test_entry_points_of_the_catalogue_are_public(entry):
    public = list(public_objects().values())
    for dotted in entry.entry_points:
        assert any(catalog.resolve(dotted) is value for value in public), dotted
        parent, _, name = dotted.rpartition(".")
        assert name in public_modules()[parent].__all__, dotted


# help()


def sections(doc: str) -> dict[str, list[str]]:
    found, lines = {}, None
    for line in inspect.cleandoc(doc).splitlines():
        if heading := re.fullmatch(r"(\w[\w ]*):", line):
            lines = found.setdefault(heading[1], [])
        elif line and not line.startswith(" "):
            lines = None
        elif lines is not None:
            lines.append(line)
    return found


def entries(lines: list[str]) -> list[str]:
    """Names that a section describes: ``a, b: text`` stands for both."""
    text = re.sub(r",\n\s+", ", ", "\n".join(lines))
    found = re.findall(r"^    (\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?:(?=\s|$)", text, re.M)
    return [name.lstrip("*") for group in found for name in group.split(", ")]


def is_record(value: object) -> bool:
    """A dataclass or named tuple: its attributes are its parameters."""
    return inspect.isclass(value) and (dataclasses.is_dataclass(value) or issubclass(value, tuple))


def named_in(value: object) -> list[str]:
    """The parameters that a docstring describes."""
    found = sections(value.__doc__ or "")
    for heading in ("Args", "Parameters", *(["Attributes"] if is_record(value) else [])):
        if heading in found:
            return entries(found[heading])
    return []


def described_elsewhere(value: object) -> list[str]:
    """Those of the functions whose arguments it says that it takes."""
    doc = " ".join((value.__doc__ or "").split())
    phrase = r"(?i:arguments|parameters)[^:.;]* of :(?:func|class|meth):`~?([\w.]+)`"
    found = []
    for target in re.findall(phrase, doc):
        for other in public_objects():
            if other == target or other.rpartition(".")[2] == target:
                found += named_in(public_objects()[other])
                found += described_elsewhere(public_objects()[other])
    return found


def parameters(value: object) -> list[str]:
    return [name for name in inspect.signature(value).parameters if name not in ("self", "cls")]


def called_by_users(value: object) -> bool:
    """Whether a class is made by calling it; others say who makes them, or are protocols."""
    if not inspect.isclass(value):
        return True
    if issubclass(value, enum.Enum | BaseException) or getattr(value, "_is_protocol", False):
        return False
    return not re.search(r"\b[Mm]ade by :|^Base of ", " ".join(value.__doc__.split()))


def problems_of_help(value: object) -> Iterator[str]:
    doc = value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__
    if not doc or doc.startswith(f"{value.__name__}("):  # what a dataclass writes by itself
        yield "no docstring"
        return
    summary = inspect.cleandoc(doc).split("\n\n")[0]
    if len(summary) < 12 or summary[-1] not in ".:":
        yield f"no sentence of purpose: {summary!r}"
    if inspect.isfunction(value):
        returned = inspect.signature(value).return_annotation
        elsewhere = "returns" in doc and described_elsewhere(value)
        said = {"Returns", "Yields"} & set(sections(doc)) or elsewhere
        if returned not in (None, "None") and not said:
            yield f"does not say what it returns, {returned}"
    if not called_by_users(value):
        return
    own, taken = named_in(value), parameters(value)
    if repeated := {name for name in own if own.count(name) > 1}:
        yield f"describes twice: {repeated}"
    if missing := set(taken) - {*own, *described_elsewhere(value)}:
        yield f"takes and does not describe: {missing}"
    if (unknown := set(own) - set(taken)) and not is_record(value):
        yield f"describes and does not take: {unknown}"
    if ">>>" not in doc and not is_record(value):
        yield "no example"


def problems_of_members(cls: type) -> Iterator[str]:
    for name, value in members(cls).items():
        if isinstance(value, property | functools.cached_property):
            if not value.__doc__:
                yield f"{name}: no docstring"
            continue
        if not inspect.getdoc(getattr(cls, name)):
            yield f"{name}: no docstring"
        function = getattr(value, "__func__", value)
        if own := named_in(function):
            taken = parameters(function)
            if missing := set(taken) - {*own, *described_elsewhere(function)}:
                yield f"{name} takes and does not describe: {missing}"
            if unknown := set(own) - set(taken):
                yield f"{name} describes and does not take: {unknown}"


@objects
def test_help_says_what_it_is_for_and_describes_every_argument(name):
    value = public_objects()[name]
    assert list(problems_of_help(value)) == []
    if inspect.isclass(value):
        assert list(problems_of_members(value)) == []
