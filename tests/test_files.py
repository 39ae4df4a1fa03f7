"""Files are written whole or not at all."""

import os

import pytest
from rankone._files import write_whole


@pytest.mark.parametrize(
    "content", ["text \N{LATIN SMALL LETTER U WITH DIAERESIS}", b"\x00\xff"], ids=["text", "bytes"]
)
def test_content_arrives(tmp_path, content):
    path = write_whole(tmp_path / "a", content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)


def test_a_function_writes_to_the_open_file(tmp_path):
    assert write_whole(tmp_path / "a", lambda file: file.write(b"data")).read_bytes() == b"data"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a"
    path.write_text("old")

    def fail(file):
        file.write(b"half of the new")
        raise error

    with pytest.raises(error):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_the_permissions_of_the_replaced_file_stay(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(0o640)
    write_whole(path, "new")
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_new_file_has_ordinary_permissions(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert write_whole(tmp_path / "a", "").stat().st_mode == ordinary.stat().st_mode
