"""What ``dir()`` and tab completion show of a module: its public names, and no import of its own.

A package says ``__all__``, the public modules below it in ``_SUBMODULES``, and::

    def __dir__() -> list[str]:
        return public_names(globals())
"""

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


def public_names(namespace: Mapping[str, Any]) -> list[str]:
    """The names that a module shows.

    Args:
        namespace: the module's ``globals()``, with ``__all__`` and, in a package, ``_SUBMODULES``.

    Returns:
        Public names and submodules, with the module's own attributes such as ``__doc__``, sorted.

    Example:
        >>> from rankone._namespace import public_names
        >>> public_names({"__all__": ["fit"], "fit": max, "numpy": None, "__doc__": "Fits."})
        ['__all__', '__doc__', 'fit']
    """
    own = [name for name in namespace if name.startswith("__") and name.endswith("__")]
    return sorted({*own, *namespace["__all__"], *namespace.get("_SUBMODULES", ())})


def submodule(package: str, name: str, submodules: tuple[str, ...]) -> ModuleType:
    """Import a public submodule when it is first asked for as an attribute.

    Args:
        package: dotted name of the package.
        name: the attribute asked for.
        submodules: the package's ``_SUBMODULES``.

    Returns:
        The module.

    Raises:
        AttributeError: if ``name`` is no public submodule.

    Example:
        >>> from rankone._namespace import submodule
        >>> submodule("rankone.stats", "survival", ("survival",)).__name__
        'rankone.stats.survival'
    """
    if name in submodules:
        return import_module(f"{package}.{name}")
    raise AttributeError(f"module {package!r} has no attribute {name!r}")
