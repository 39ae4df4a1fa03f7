"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_whole(
    path: str | os.PathLike[str], content: str | bytes | Callable[[BinaryIO], object]
) -> Path:
    """Replace the file at ``path`` by ``content``; until it is complete, the old one stays.

    The content goes to a temporary file in the same folder, which is then renamed. An error or an
    interrupt leaves what was there before and no temporary file.

    Args:
        path: the file to write, in a folder that exists.
        content: text, written as UTF-8, or bytes, or a function that writes to an open file.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> from rankone._files import write_whole
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(f"{folder}/a.txt", "text").read_text()
        'text'
    """
    target = Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            if callable(content):
                content(stream)
            else:
                stream.write(content.encode("utf-8") if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, _mode_of(target))
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    return target


def _mode_of(target: Path) -> int:
    """Permissions of the file that is replaced, or those that a new file gets."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
