"""Folders of images with a label and an attribute."""

import numpy as np
import pytest
from rankone.datasets.group_images import group_images

image = pytest.importorskip("PIL.Image")

HEAD = "file,label,attribute,split"
ROWS = ["a.png,1,1,train", "b.png,0,1,train", "a.png,0,0,test", "b.png,1,0,val"]


@pytest.fixture
def folder(tmp_path):
    image.fromarray(np.full((6, 4), 255, dtype=np.uint8)).save(tmp_path / "a.png")
    image.fromarray(np.full((6, 4, 3), 51, dtype=np.uint8)).save(tmp_path / "b.png")
    (tmp_path / "metadata.csv").write_text("\n".join([HEAD, *ROWS]))
    return tmp_path


def test_images_are_grey_scaled_and_resized(folder):
    train, _ = group_images(folder, size=2)
    assert train.X.shape == (2, 4)
    np.testing.assert_allclose(train.X, [[1.0] * 4, [0.2] * 4])


def test_majority_is_agreement_of_label_and_attribute(folder):
    train, test = group_images(str(folder))
    assert train.majority.tolist() == [True, False]
    assert (train.y.tolist(), train.attribute.tolist()) == ([1, 0], [1, 1])
    assert (test.y.tolist(), test.majority.tolist()) == ([0], [True])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,label,split", "a.png,1,train"], r"metadata.csv must have .* lacks \['attribute'\]"),
        ([HEAD, "a.png,2,1,train"], r"label must be 0 or 1, got \[2\]"),
        ([HEAD, "a.png,1,7,train"], r"attribute must be 0 or 1, got \[7\]"),
        ([HEAD, "a.png,1,1,train"], "split must have rows of 'test', got none"),
    ],
)
def test_bad_metadata_is_named(folder, lines, message):
    (folder / "metadata.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        group_images(folder)


def test_missing_files_are_named(folder, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match=r"folder must hold metadata.csv"):
        group_images(tmp_path_factory.mktemp("empty"))
    (folder / "metadata.csv").write_text("\n".join([HEAD, "c.png,1,1,train"]))
    with pytest.raises(FileNotFoundError, match=r"c.png"):
        group_images(folder)


def test_size_must_be_positive(folder):
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        group_images(folder, size=0)
