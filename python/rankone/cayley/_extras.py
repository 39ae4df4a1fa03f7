"""Optional packages, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def need(module: str, purpose: str) -> ModuleType:
    """Import an optional module.

    Raises:
        ImportError: where it is missing, with the command that installs it.

    Example:
        >>> need("scipy.spatial", "the geometry of puzzles").__name__
        'scipy.spatial'
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"{purpose} needs {package}: pip install 'rankone[cayley]'") from error
