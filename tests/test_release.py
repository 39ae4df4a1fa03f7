"""What a release promises: one version everywhere, a changelog, a citation, light imports."""

import datetime
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest
import rankone
import yaml
from rankone.ops._library import native_module
from rankone.reproduce import _runner

ROOT = Path(__file__).parents[1]
PACKAGE = Path(rankone.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
HEADING = re.compile(r"^## (.*)$", re.MULTILINE)
RELEASE = re.compile(r"(\d+\.\d+\.\d+) - (\d{4}-\d{2}-\d{2})")


def python(code, *arguments, **options):
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def releases():
    """(version, date) of every dated heading of the changelog, newest first."""
    headings = HEADING.findall((ROOT / "CHANGELOG.md").read_text())
    assert headings[0] == "Unreleased"
    matches = [RELEASE.fullmatch(heading) for heading in headings[1:]]
    assert all(matches), f"headings must be 'X.Y.Z - YYYY-MM-DD', got {headings[1:]}"
    return [match.groups() for match in matches]


def test_the_package_has_the_projects_version():
    assert rankone.__version__ == PROJECT["version"]


def test_the_native_module_has_the_projects_version():
    native = native_module()
    if native is None:
        pytest.skip("the native module is not built")
    assert native.version == PROJECT["version"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f'version = "{PROJECT["version"]}"', PROJECT["version"]),
        ('version = "1.20.3"', "1.20.3"),
        ('version = "1.20.3+cu130"', "1.20.3"),
    ],
)
def test_cmake_reads_the_version(tmp_path, line, expected):
    text = (ROOT / "CMakeLists.txt").read_text()
    reading = text[text.index("file(STRINGS pyproject.toml") : text.index("project(rankone")]
    (tmp_path / "read.cmake").write_text(reading + 'message("${RANKONE_VERSION}")\n')
    (tmp_path / "pyproject.toml").write_text(
        f'[build-system]\n[project]\nname = "rankone"\n{line}\n\nminimum-version = "0.10"\n'
    )
    cmake = shutil.which("cmake") or str(Path(sys.executable).with_name("cmake"))
    if not Path(cmake).exists():
        pytest.skip("cmake is not installed")
    done = subprocess.run(
        [cmake, "-P", "read.cmake"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == expected


def test_the_citation_has_the_projects_version_and_licence():
    assert CITATION["version"] == PROJECT["version"]
    assert CITATION["license"] == PROJECT["license"]


def test_the_newest_release_of_the_changelog_is_the_project():
    version, date = releases()[0]
    assert version == PROJECT["version"]
    assert str(CITATION["date-released"]) == date


def test_info_prints_the_version():
    from rankone._environment import versions

    assert versions()["rankone"] == PROJECT["version"]


@pytest.fixture
def copied_tree(tmp_path):
    """A copy of the package without its tree, its metadata and its native module."""
    target = tmp_path / "tree" / "python" / "rankone"
    target.mkdir(parents=True)
    shutil.copy(PACKAGE / "__init__.py", target)
    return tmp_path / "tree"


ASK = "import sys; sys.path.insert(0, sys.argv[1]); import rankone; print(rankone.__version__)"


def test_a_source_tree_answers_with_its_own_version(copied_tree):
    (copied_tree / "pyproject.toml").write_text('[project]\nname = "rankone"\nversion = "7.8.9"\n')
    assert python(ASK, str(copied_tree / "python")) == "7.8.9"


def test_another_projects_pyproject_is_not_read(copied_tree):
    (copied_tree / "pyproject.toml").write_text('[project]\nname = "other"\nversion = "7.8.9"\n')
    try:
        expected = importlib.metadata.version("rankone")
    except importlib.metadata.PackageNotFoundError:
        expected = "0+unknown"
    assert python(ASK, str(copied_tree / "python")) == expected


def test_a_copied_package_without_metadata_says_that_it_does_not_know(copied_tree):
    code = "import sys; sys.path = [sys.argv[1], *[p for p in sys.path if 'site-packages' not in p "
    code += "and not p.endswith('/python')]]; import rankone; print(rankone.__version__)"
    assert python(code, str(copied_tree / "python")) == "0+unknown"


def test_releases_of_the_changelog_descend_in_version_and_date():
    found = releases()
    versions = [tuple(map(int, version.split("."))) for version, _ in found]
    dates = [datetime.date.fromisoformat(date) for _, date in found]
    assert versions == sorted(set(versions), reverse=True)
    assert dates == sorted(dates, reverse=True)


def test_sections_of_the_changelog_are_those_of_keep_a_changelog():
    sections = re.findall(r"^### (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    allowed = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert sections
    assert set(sections) <= allowed


# Citation File Format 1.2.0: the required fields, and those that indexes of software read.
@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ("cff-version", str),
        ("message", str),
        ("title", str),
        ("authors", list),
        ("type", str),
        ("version", str),
        ("license", str),
        ("abstract", str),
        ("keywords", list),
        ("date-released", str),
    ],
)
def test_the_citation_has_the_field(field, kind):
    assert isinstance(CITATION[field], kind)
    assert CITATION[field]


def test_the_citation_follows_its_format():
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["type"] == "software"
    assert CITATION["authors"] == [{"name": PROJECT["authors"][0]["name"]}]
    assert CITATION["keywords"] == PROJECT["keywords"]
    assert len(set(CITATION["keywords"])) == len(CITATION["keywords"])


def test_the_project_invents_no_address():
    assert "urls" not in PROJECT
    assert not {"url", "repository-code", "doi", "identifiers"} & set(CITATION)


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").is_file()
    assert "Typing :: Typed" in PROJECT["classifiers"]


# Imports without timing them: what each package may not load. torch itself loads none of these.
HEAVY = ("gymnasium", "joblib", "matplotlib", "networkx", "pandas", "scipy", "sklearn")
HEAVY += ("statsmodels", "sympy", "transformers")


@pytest.fixture(scope="module")
def loaded():
    """After each import, one after another in one process, the top-level modules there are."""
    packages = ("rankone", "rankone.catalog", "rankone.cli", "rankone.reproduce", "rankone.ops")
    packages += ("rankone.nn", "rankone.cayley", "rankone.distributed", "rankone.datasets")
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n"
    code += "    importlib.import_module(name); print(*{m.partition('.')[0] for m in sys.modules})"
    lines = python(code, *packages).splitlines()
    return {name: set(line.split()) for name, line in zip(packages, lines, strict=True)}


@pytest.mark.parametrize("package", ["rankone", "rankone.catalog", "rankone.cli"])
def test_listings_load_neither_torch_nor_numpy(loaded, package):
    assert loaded[package].isdisjoint({"torch", "numpy", *HEAVY})


def test_the_claims_and_reports_load_no_torch(loaded):
    assert loaded["rankone.reproduce"].isdisjoint({"torch", *HEAVY})


@pytest.mark.parametrize(
    "package", ["rankone.ops", "rankone.nn", "rankone.cayley", "rankone.distributed"]
)
def test_the_core_loads_no_library_of_a_field(loaded, package):
    assert "torch" in loaded[package]
    assert loaded[package].isdisjoint(HEAVY)


def test_datasets_load_no_library_of_a_field(loaded):
    assert loaded["rankone.datasets"].isdisjoint(HEAVY)


# An installation without extras: the finder of installed modules does not find these.
WITHOUT_EXTRAS = """
import sys
from importlib import import_module
from importlib.machinery import PathFinder

absent = set(sys.argv[1].split(","))
find = PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in absent else find(name, path, target)

PathFinder.find_spec = find_spec
for name in sys.argv[2:]:
    try:
        import_module(name)
    except ImportError as error:
        print(f"{name}: {error}")
    else:
        print(f"{name}: imported")
"""
FIELDS = ("causal", "control", "forecast", "icl", "imaging", "interpret", "linear_model", "rl")
FIELDS += ("stats",)
PLAIN = ("cayley", "datasets", "datasets.group_images", "demo.forecast", "nn.convert", "nn.bio")


@pytest.fixture(scope="module")
def without_extras():
    """What importing each package says where no extra is installed."""
    names = [f"rankone.{name}" for name in (*FIELDS, *PLAIN)]
    absent = ",".join({*HEAVY, "h5py", "gguf", "skimage"} - {"matplotlib", "networkx", "sympy"})
    answers = python(WITHOUT_EXTRAS, absent, *names).splitlines()
    return dict(line.removeprefix("rankone.").split(": ", 1) for line in answers)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_without_its_libraries_names_its_extra(without_extras, field):
    assert re.search(r"not installed: pip install 'rankone\[\w+\]'$", without_extras[field])


@pytest.mark.parametrize("package", PLAIN)
def test_what_needs_no_extra_imports_without_any(without_extras, package):
    assert without_extras[package] == "imported"


def test_a_reproduction_without_its_libraries_names_its_extra(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    monkeypatch.setattr(_runner, "importlib", types.SimpleNamespace(import_module=absent))
    (failure,) = _runner.reproduce("coulomb-gas", show=False).failures
    assert failure.error.endswith(
        "scipy is needed here and not installed: pip install 'rankone[stats]'"
    )


def test_the_how_to_names_what_exists():
    page = (ROOT / "docs" / "pages" / "how-to" / "release.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"make ([a-z][\w-]*)", page))
    assert {"dist", "smoke", "test", "lint"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    files = set(re.findall(r"\b(?:tools|tests)/[\w./]*\w", page))
    assert {"tools/check_dist.py", "tools/smoke.sh", "tools/build_wheels.sh"} <= files
    for file in files:
        assert (ROOT / file).exists(), file
    calls = re.compile(r"^(tools/\w+\.sh)((?: --[\w-]+(?: \S+)?)+)", re.MULTILINE)
    for script, options in calls.findall(page):
        for option in re.findall(r"--[\w-]+", options):
            assert option in (ROOT / script).read_text(), f"{script} has no option {option}"
