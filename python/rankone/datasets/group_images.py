"""A folder of the user's own images with a label and an attribute for each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rankone._optional import require

if TYPE_CHECKING:
    from sklearn.utils import Bunch

METADATA = "metadata.csv"
COLUMNS = ("file", "label", "attribute", "split")
_WHITE = 255


def group_images(folder: str | Path, size: int = 16) -> tuple[Bunch, Bunch]:
    """Read images and their groups; the majority are those whose attribute agrees with the label.

    ``metadata.csv`` in the folder has a row an image: ``file`` (its path from the folder),
    ``label`` and ``attribute`` (each 0 or 1, and coded so that they agree for the majority) and
    ``split`` (train or test; other splits are left out).

    Args:
        folder: the folder.
        size: images are read as grey, resized to size x size and scaled to [0, 1].

    Returns:
        (train, test), each a Bunch of X (n, size^2), y, attribute and majority (n,).

    Raises:
        FileNotFoundError: for a folder without ``metadata.csv``, or an image that is not there.
        ValueError: for a missing column, other labels than 0 and 1, or an empty split.

    Example:
        >>> from rankone.datasets.group_images import group_images
        >>> train, test = group_images("waterbirds")  # doctest: +SKIP
    """
    from PIL import Image

    pd = require("pandas", extra="interpret")
    bunch = require("sklearn.utils", extra="interpret").Bunch
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    folder = Path(folder)
    if not (folder / METADATA).is_file():
        raise FileNotFoundError(f"folder must hold {METADATA}, got {folder}")
    frame = pd.read_csv(folder / METADATA)
    missing = [column for column in COLUMNS if column not in frame]
    if missing:
        raise ValueError(f"{METADATA} must have the columns {', '.join(COLUMNS)}, lacks {missing}")
    for column in ("label", "attribute"):
        if not frame[column].isin((0, 1)).all():
            raise ValueError(f"{column} must be 0 or 1, got {frame[column].unique().tolist()}")

    def grey(file: str) -> np.ndarray:
        with Image.open(folder / file) as image:
            return np.asarray(image.convert("L").resize((size, size)), dtype=np.float64).ravel()

    splits = []
    for split in ("train", "test"):
        rows = frame[frame["split"] == split]
        if rows.empty:
            raise ValueError(f"split must have rows of {split!r}, got none")
        y, attribute = (rows[column].to_numpy(np.int64) for column in ("label", "attribute"))
        X = np.stack([grey(file) for file in rows["file"]]) / _WHITE
        splits.append(bunch(X=X, y=y, attribute=attribute, majority=y == attribute))
    return splits[0], splits[1]
