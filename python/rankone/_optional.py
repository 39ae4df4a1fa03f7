"""Optional dependencies: imported where they are used, named with their extra when missing."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


def require(module: str, *, extra: str, package: str | None = None) -> ModuleType:
    """Import ``module``, or say how to install it.

    Args:
        module: dotted name, such as ``"statsmodels.api"``.
        extra: the extra of rankone that installs it.
        package: its name on the package index, where that is not the first part of ``module``.

    Returns:
        The module.

    Raises:
        ImportError: if it is not installed, with the command that installs it.

    Example:
        >>> from rankone._optional import require
        >>> require("json", extra="stats").dumps([1])
        '[1]'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module != missing and not module.startswith(missing + "."):
            raise  # the module is there and lacks something of its own
        name = package or module.partition(".")[0]
        raise ImportError(
            f"{name} is needed here and not installed: pip install 'rankone[{extra}]'",
            name=name,
        ) from error


def require_installed(*packages: str, extra: str) -> None:
    """Stop the import of a field's package where what it is built on is missing.

    Args:
        *packages: importable names, such as ``"sklearn"``.
        extra: the extra of rankone that installs them.

    Raises:
        ImportError: naming every missing one, with the command that installs them.

    Example:
        >>> from rankone._optional import require_installed
        >>> require_installed("json", extra="stats")
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ImportError(
            f"{', '.join(missing)} needed here and not installed: pip install 'rankone[{extra}]'",
            name=missing[0],
        )
