"""API pages: one a package, every public name under the path a user imports it from.

What is public is read from the sources by static analysis: the ``__all__`` of the modules listed
in ``PAGES``, and for a module without one the functions and classes that it defines. Private
modules do not appear; what they define appears where it is exported. A griffe extension rewrites
the docstrings on the way (:class:`Docstrings`), so that references between them become links.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import griffe

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class ApiPage:
    """One page: a package, and the public modules whose further names stand below its own."""

    package: str
    modules: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The package without the leading ``rankone.``."""
        return self.package.removeprefix("rankone.")

    @property
    def uri(self) -> str:
        """Its source file in the site."""
        return f"api/{self.name}.md"


def _page(name: str, *modules: str) -> ApiPage:
    return ApiPage(f"rankone.{name}", tuple(f"rankone.{name}.{module}" for module in modules))


PAGES = (
    _page("ops"),
    _page("ops.fla"),
    _page("nn", "functional"),
    _page("nn.convert"),
    _page("nn.bio"),
    _page(
        "cayley",
        "analysis",
        "models",
        "train",
        "datasets",
        "distributed",
        "permutation_utils",
        "predictor",
        "puzzles",
    ),
    _page("cayley.algo"),
    _page("forecast", "metrics"),
    _page("imaging"),
    _page(
        "linear_model",
        "dpp_least_squares",
        "generative_classifiers",
        "nonconvex",
        "proximal_ncg",
        "random_pivot_lasso",
    ),
    _page(
        "stats",
        "adaptive",
        "batting",
        "compositional",
        "concentration",
        "coulomb",
        "diebold_mariano",
        "mutual_info",
        "q_gaussian",
        "survival",
    ),
    _page(
        "causal",
        "approximate_invariance",
        "continuous_treatment",
        "debiasing",
        "intervention_extrapolation",
    ),
    _page("rl", "envs", "planning", "adversarial_mdp", "misspecified_bandit", "reward_free"),
    _page("control", "attack_detection"),
    _page(
        "interpret",
        "causal_abstraction",
        "interaction_basis",
        "linear_interpreter",
        "mode_connectivity",
        "subpopulation",
    ),
    _page("icl", "linear_models", "linear_self_attention", "permutation_learning"),
    _page("datasets"),
    _page("distributed"),
    _page("catalog"),
    _page("reproduce"),
)

_KINDS = {
    griffe.Kind.CLASS: "Classes",
    griffe.Kind.FUNCTION: "Functions",
    griffe.Kind.ATTRIBUTE: "Data",
    griffe.Kind.TYPE_ALIAS: "Data",
}


@dataclass(frozen=True)
class Section:
    """The names of one module that a page shows, by kind, the commonest kind first."""

    module: griffe.Module
    groups: dict[str, list[str]]

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [name for names in self.groups.values() for name in names]


@cache
def package() -> griffe.Module:
    """The sources of rankone, read once, with their docstrings rewritten."""
    loaded = griffe.load(
        "rankone",
        search_paths=[str(ROOT / "python")],
        docstring_parser="google",
        docstring_options={"warnings": False},
        extensions=griffe.load_extensions(Docstrings),
        allow_inspection=False,
    )
    assert isinstance(loaded, griffe.Module)
    return loaded


def _member(root: griffe.Module, path: str) -> griffe.Object | griffe.Alias:
    return root[path.removeprefix("rankone.")]


def public_names(module: griffe.Object | griffe.Alias) -> list[str]:
    """What a module offers: its ``__all__``, or else the functions and classes it defines."""
    if module.exports is not None:
        return [name if isinstance(name, str) else name.name for name in module.exports]
    return [
        name
        for name, member in module.members.items()
        if not name.startswith(("_", "check_"))
        and not member.is_alias
        and (member.is_function or member.is_class)
        and member.docstring is not None
    ]


def definition(module: griffe.Object | griffe.Alias, name: str) -> griffe.Object:
    """What ``module.name`` stands for at run time, where it was defined.

    A function that a package imports from a submodule of the same name hides the submodule.
    """
    member = module.members[name]
    target = member.final_target if member.is_alias else member
    if target.is_module and name in target.members:
        return definition(target, name)
    assert isinstance(target, griffe.Object)
    return target


def sections(root: griffe.Module, page: ApiPage) -> Iterator[Section]:
    """The modules of a page with the names each adds to it; a module that adds none is left out."""
    shown: set[str] = set()
    for path in (page.package, *page.modules):
        module = _member(root, path)
        groups: dict[str, list[str]] = {}
        for name in sorted(public_names(module), key=str.casefold):
            target = definition(module, name)
            if target.path not in shown and target.kind in _KINDS:
                shown.add(target.path)
                groups.setdefault(_KINDS[target.kind], []).append(name)
        if groups or path == page.package:
            order = sorted(groups, key=lambda kind: (kind == "Data", -len(groups[kind])))
            yield Section(module, {kind: groups[kind] for kind in order})


@cache
def available() -> tuple[ApiPage, ...]:
    """The pages whose package is there."""
    return tuple(
        page
        for page in PAGES
        if (ROOT / "python" / page.package.replace(".", "/")).is_dir()
        or (ROOT / "python" / f"{page.package.replace('.', '/')}.py").is_file()
    )


def public_paths(root: griffe.Module) -> dict[str, str]:
    """Where what is defined at a path appears on the site: canonical path to public path."""
    paths: dict[str, str] = {}
    for page in available():
        for section in sections(root, page):
            for name in section.names:
                target = definition(section.module, name)
                paths.setdefault(target.path, f"{section.module.path}.{name}")
            paths.setdefault(section.module.path, section.module.path)
    return paths


def other_paths(root: griffe.Module) -> dict[str, list[str]]:
    """The public paths that have no entry of their own, by the public path of what they name."""
    entries = {
        f"{section.module.path}.{name}"
        for page in available()
        for section in sections(root, page)
        for name in section.names
    }
    public = public_paths(root)
    others: dict[str, list[str]] = {}
    for page in available():
        for path in (page.package, *page.modules):
            module = _member(root, path)
            for name in public_names(module):
                target, path = definition(module, name), f"{module.path}.{name}"
                if path not in entries and target.path in public and target.path != path:
                    others.setdefault(public[target.path], []).append(path)
    return others


def markdown(page: ApiPage) -> str:
    """The Markdown of a page: a list of its names, then each with its documentation."""
    parts = [f"# {page.package} {{ #{page.package} }}", ""]
    others = other_paths(package())
    for section in sections(package(), page):
        path = section.module.path
        nested = path != page.package
        if nested:
            # A function of the same name has the path of the module for itself.
            hidden = definition(_member(package(), page.package), section.module.name)
            anchor = path if hidden.is_module else f"module-{path}"
            parts += [f"## {path} {{ #{anchor} }}", ""]
        parts += [
            f"::: {path}",
            "    options:",
            "      members: false",
            "      show_root_heading: false",
            "      show_root_toc_entry: false",
            "",
            _overview(section),
            "",
        ]
        for kind, names in section.groups.items():
            if not nested:
                parts += [f"## {kind} {{ #{path}--{kind.lower()} }}", ""]
            for name in names:
                parts += _entry(section.module, name, others)
    return "\n".join(parts)


def _entry(module: griffe.Object, name: str, others: dict[str, list[str]]) -> list[str]:
    public = f"{module.path}.{name}"
    member = module.members[name]
    source, anchors = public, list(others.get(public, ()))
    if not member.is_alias and member.is_module:
        source = definition(module, name).path
        anchors.insert(0, public)
    return [
        *(f"[](){{ #{anchor} }}\n" for anchor in anchors),
        f"::: {source}",
        "    options:",
        "      heading_level: 3",
        "",
    ]


def _overview(section: Section) -> str:
    rows = []
    for names in section.groups.values():
        for name in names:
            line = summary(definition(section.module, name)).replace("|", r"\|")
            rows.append(f"| [`{name}`][{section.module.path}.{name}] | {line} |")
    return "\n".join(["| name | purpose |", "| --- | --- |", *rows]) if rows else ""


def summary(member: griffe.Object | griffe.Alias) -> str:
    """The first paragraph of a docstring on one line."""
    text = member.docstring.value if member.docstring else ""
    return " ".join(text.split("\n\n")[0].split())


def index() -> str:
    """The page that lists the API pages."""
    lines = [
        "# API",
        "",
        "Every public name of every package, written from the sources. A name is documented under "
        "the path from which it is imported.",
        "",
        "| package | what it holds |",
        "| --- | --- |",
    ]
    for page in available():
        text = summary(_member(package(), page.package)).replace("|", r"\|")
        lines.append(f"| [`{page.package}`]({page.name}.md) | {text} |")
    return "\n".join(lines) + "\n"


_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr|exc|obj):`([^`]+)`")
_EXAMPLE = re.compile(r"^([ ]*)Example:[ ]*$", flags=re.MULTILINE)
_LITERAL_BLOCK = re.compile(r"::[ ]*$", flags=re.MULTILINE)
# Several attributes of one description; griffe would read what follows the first as a type.
_WRAPPED = re.compile(r"^([ ]+)((?:\w+, )*\w+,)\n\1[ ]+((?:\w+, )*\w+: )", flags=re.MULTILINE)
_ATTRIBUTES = re.compile(r"^Attributes:[ ]*\n(?:[ ]+.*\n?|\n)+", flags=re.MULTILINE)
_SEVERAL = re.compile(r"^[ ]+\w+_?(?:, \w+)+(?=: )", flags=re.MULTILINE)
_JOINT = ",\u2009"
_ARXIV = re.compile(r"\barXiv[: ]\s*(\d{4}\.\d{4,5})\b")


class Docstrings(griffe.Extension):
    """Rewrites docstrings for the site.

    Roles such as ``:func:`` become links to the public path of what they name, or code where it
    has no entry; ``Example:`` is read as a section of examples; a literal block's two colons are
    one; arXiv identifiers are links.
    """

    def on_package(self, *, pkg: griffe.Module, **kwargs: object) -> None:
        if pkg.path != "rankone":
            return
        public = public_paths(pkg)
        for item in _objects(pkg):
            if item.docstring is None:
                continue
            text = _ROLE.sub(lambda role, item=item: _link(role[1], item, public), _text(item))
            text = _WRAPPED.sub(r"\1\2 \3", text)
            text = _ATTRIBUTES.sub(lambda part: _SEVERAL.sub(_joint, part[0]), text)
            text = _ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", text)
            item.docstring.value = _LITERAL_BLOCK.sub(":", _EXAMPLE.sub(r"\1Examples:", text))
            for section in item.docstring.parsed:
                _settle(section, item)


def _joint(names: re.Match[str]) -> str:
    return names[0].replace(", ", _JOINT)


def _settle(section: griffe.DocstringSection, item: griffe.Object) -> None:
    """Give every entry of a section the type of what it names, and no other."""
    if isinstance(section, griffe.DocstringSectionParameters):
        for entry in section.value:
            named = [_parameter(item, name.strip(" *")) for name in entry.name.split(",")]
            if len(named) > 1 and len({_written(parameter) for parameter in named}) == 1:
                entry.annotation = named[0].annotation if named[0] else None
                entry.value = named[0].default if named[0] else None
    elif isinstance(section, griffe.DocstringSectionAttributes):
        for entry in section.value:
            entry.name = entry.name.replace(_JOINT, ", ")
            attribute = item.members.get(entry.name.partition(",")[0])
            entry.annotation = getattr(attribute, "annotation", None)
    elif isinstance(section, griffe.DocstringSectionRaises):
        for entry in section.value:
            if isinstance(entry.annotation, griffe.ExprTuple):
                entry.annotation = ", ".join(str(kind) for kind in entry.annotation.elements)


def _written(parameter: griffe.Parameter | None) -> tuple[str, str]:
    if parameter is None:
        return "", ""
    return str(parameter.annotation), str(parameter.default)


def _parameter(item: griffe.Object, name: str) -> griffe.Parameter | None:
    parameters = getattr(item, "parameters", None)
    return parameters[name] if parameters is not None and name in parameters else None


def _text(item: griffe.Object) -> str:
    return item.docstring.value if item.docstring else ""


def _objects(item: griffe.Object) -> Iterator[griffe.Object]:
    yield item
    for member in item.members.values():
        if not member.is_alias:
            yield from _objects(member)


def _link(name: str, scope: griffe.Object, public: dict[str, str]) -> str:
    short = name.startswith("~")
    name = name.lstrip("~")
    shown = name.rpartition(".")[2] if short else name
    path = _public(name, scope, public)
    return f"[`{shown}`][{path}]" if path else f"`{shown}`"


def _public(name: str, scope: griffe.Object, public: dict[str, str]) -> str | None:
    """The public path of ``name`` as it is meant in the docstring of ``scope``, or None."""
    root = scope.package
    candidates = [name] if name.startswith("rankone.") else []
    inner: griffe.Object | None = scope
    while inner is not None and not candidates:
        head, *rest = name.split(".")
        if head in inner.members:
            candidates.append(".".join([inner.path, head, *rest]))
        inner = inner.parent if not inner.is_module else None
    for candidate in candidates:
        try:
            found = _member(root, candidate)
            target = found.final_target if found.is_alias else found
        except (KeyError, griffe.AliasResolutionError, griffe.CyclicAliasError):
            continue
        if target.path in public:
            return public[target.path]
        owner = target.parent
        documented = target.docstring is not None and not target.name.startswith("_")
        if owner is not None and owner.is_class and owner.path in public and documented:
            return f"{public[owner.path]}.{target.name}"
    return None
