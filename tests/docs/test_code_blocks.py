"""Every code block of the documentation and of the README runs, or is checked, as a reader uses it.

A page is one session in one empty folder, top to bottom: its ``python`` blocks share a namespace,
and the commands of its ``console`` blocks run between them. A ``python`` block with a title is a
file of that name, and so is a ``cpp`` block, which must compile. Commands that set something up
(make, pip, cmake, git) are not run: what they name must exist.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import rankone
import torch

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "pages"
README = ROOT / "README.md"
FENCE = re.compile(r"^([ ]*)```([^\n`]*)\n(.*?)^\1```[ ]*$", flags=re.MULTILINE | re.DOTALL)
TITLE = re.compile(r'title="([^"]+)"')

# Shown and not run; everything else is an error.
SHOWN = {"text"}
SHOWN_IN_README = {"cmake"}
COMMAND_SECONDS = 120


@dataclass(frozen=True)
class Block:
    language: str
    title: str | None
    code: str
    line: int

    @property
    def commands(self) -> list[str]:
        """What a reader types: the lines after a prompt, with their continuations."""
        joined = self.code.replace("\\\n", " ")
        return [line[2:].strip() for line in joined.splitlines() if line.startswith("$ ")]


def blocks_of(text: str) -> list[Block]:
    found = []
    for match in FENCE.finditer(text):
        language, _, rest = match[2].strip().partition(" ")
        title = TITLE.search(rest)
        found.append(
            Block(
                language,
                title[1] if title else None,
                textwrap.dedent(match[3]),
                text.count("\n", 0, match.start(3)) + 1,
            )
        )
    return found


def page_names() -> list[str]:
    return sorted(path.relative_to(PAGES).as_posix() for path in PAGES.rglob("*.md"))


@pytest.fixture
def session(tmp_path, monkeypatch):
    """An empty folder, and the settings of torch as they were afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    yield tmp_path
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", page_names())
def test_page_runs_top_to_bottom(name, session):
    namespace = {"__name__": "__main__"}
    files, sources = {}, []
    for block in blocks_of((PAGES / name).read_text(encoding="utf-8")):
        place = f"{name}, line {block.line}"
        if block.language == "python" and block.title:
            (session / block.title).write_text(block.code, encoding="utf-8")
            files[block.title] = place
        elif block.language == "python":
            # Errors name the page and its line.
            code = "\n" * (block.line - 1) + block.code
            exec(compile(code, str(PAGES / name), "exec"), namespace)
        elif block.language == "cpp" and block.title:
            path = session / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code, encoding="utf-8")
            sources.append(path)
        elif block.language == "console":
            assert block.commands, f"{place}: a console block without a line that starts with '$ '"
            for command in block.commands:
                for file in [file for file in files if file in command]:
                    del files[file]
                run_or_check(command, place, session)
        else:
            assert block.language in SHOWN, f"{place}: {block.language!r} is not a kind of block"
    assert not files, f"no command of {name} uses {files}"
    for path in sources:
        if path.suffix in (".cpp", ".h"):  # CUDA sources need its compiler
            compile_only(path, session)


def compile_only(path: Path, session: Path) -> None:
    folders = [session / "cpp", session / "cpp" / "include", ROOT / "cpp", ROOT / "cpp" / "include"]
    command = [os.environ.get("CXX", "c++"), "-std=c++20", "-fsyntax-only", "-x", "c++"]
    command += [f"-I{folder}" for folder in folders]
    done = subprocess.run([*command, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    "index",
    range(sum(block.language == "python" for block in blocks_of(README.read_text()))),
)
def test_example_of_the_readme_runs(index, session):
    blocks = [block for block in blocks_of(README.read_text()) if block.language == "python"]
    code = "\n" * (blocks[index].line - 1) + blocks[index].code
    exec(compile(code, str(README), "exec"), {})


def test_commands_of_the_readme_name_what_exists():
    blocks = blocks_of(README.read_text())
    assert {block.language for block in blocks} <= {"python", "sh", *SHOWN_IN_README}
    commands = [
        line.partition("#")[0].strip()
        for block in blocks
        if block.language == "sh"
        for line in block.code.splitlines()
    ]
    assert len(commands) >= 5
    for command in filter(None, commands):
        check_setup(shlex.split(command), f"README: {command}")


def run_or_check(command: str, place: str, folder: Path) -> None:
    words = shlex.split(command, comments=True)
    runners = {
        "rankone": [sys.executable, "-m", "rankone.cli"],
        "python": [sys.executable],
        "torchrun": [sys.executable, "-m", "torch.distributed.run"],
    }
    if words[0] not in runners:
        check_setup(words, f"{place}: {command}")
        return
    packages = str(Path(rankone.__file__).parents[1])
    path = os.pathsep.join(filter(None, (packages, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [*runners[words[0]], *words[1:]],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{place}: {command}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"


def check_setup(words: list[str], place: str) -> None:
    """What a command that sets something up names must exist in this tree."""
    checks = {"make": check_make, "pip": check_pip, "cmake": check_cmake, "git": check_nothing}
    assert words[0] in checks, f"{place}: {words[0]!r} is neither run nor checked"
    checks[words[0]](words[1:], place)


def check_make(words: list[str], place: str) -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    targets = {word for word in words if "=" not in word and not word.startswith("-")}
    assert targets <= set(phony[1].split()), place


def check_pip(words: list[str], place: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for previous, word in zip(["", *words], words, strict=False):
        if previous in ("-r", "-c"):
            assert (ROOT / word).is_file(), place
        named = re.fullmatch(r"(?:rankone|\.)\[([^\]]*)\]", word)
        if named:
            extras = {extra.strip() for extra in named[1].split(",")}
            assert extras <= set(project["optional-dependencies"]), place
        option = re.search(r"cmake\.define\.(\w+)=", word)
        if option:
            assert option[1] in cmake_sources(), place


def check_cmake(words: list[str], place: str) -> None:
    presets = json.loads((ROOT / "CMakePresets.json").read_text())
    kind = "buildPresets" if "--build" in words else "configurePresets"
    for previous, word in zip(["", *words], words, strict=False):
        if previous == "--preset":
            assert word in {preset["name"] for preset in presets[kind]}, place
        option = re.match(r"-D(RANKONE_\w+)=", word)
        if option:
            assert option[1] in cmake_sources(), place


def check_nothing(words: list[str], place: str) -> None:
    assert words, place


def cmake_sources() -> str:
    files = [ROOT / "CMakeLists.txt", *(ROOT / "cmake").glob("*.cmake")]
    return "\n".join(file.read_text() for file in files)


@pytest.mark.parametrize(
    "command",
    [
        "make nothing-of-the-kind",
        "pip install '.[nothing]'",
        "pip install -r nothing.txt",
        "pip install . -C cmake.define.RANKONE_NOTHING=ON",
        "cmake --preset nothing",
        "cmake --build --preset nothing",
        "curl example",
    ],
)
def test_a_command_that_names_what_is_not_there_is_found(command):
    with pytest.raises(AssertionError, match=r"a page"):
        check_setup(shlex.split(command), "a page")


def test_blocks_inside_tabs_are_found():
    text = '=== "Tab"\n\n    ```python\n    if x:\n        y\n    ```\n'
    assert blocks_of(text) == [Block("python", None, "if x:\n    y\n", 4)]
