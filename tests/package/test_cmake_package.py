"""The exported CMake package: an outside program finds rankone::core and computes with it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CONSUMER = Path(__file__).parent / "consumer"


@pytest.fixture(scope="module")
def prefix(tmp_path_factory) -> Path:
    build = os.environ.get("RANKONE_BUILD_DIR")
    if build is None:
        pytest.skip("RANKONE_BUILD_DIR names no build tree; `make test` sets it")
    target = tmp_path_factory.mktemp("prefix")
    subprocess.run(
        ["cmake", "--install", build, "--prefix", str(target), "--component", "core"],
        check=True,
        capture_output=True,
    )
    return target


def test_outside_program_builds_against_the_installed_package(prefix, tmp_path):
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    configure = ["cmake", "-S", str(CONSUMER), "-B", str(tmp_path), f"-DCMAKE_PREFIX_PATH={prefix}"]
    subprocess.run([*configure, *generator], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", str(tmp_path)], check=True, capture_output=True)
    result = subprocess.run(
        [str(tmp_path / "consumer")], check=True, capture_output=True, text=True
    )
    assert result.stdout.split() == ["1", "2", "3", "4"]


def test_installed_headers_are_all_the_program_needs(prefix):
    headers = {path.name for path in (prefix / "include" / "rankone").iterdir()}
    assert {"core.h", "linear_attention.h"} <= headers
