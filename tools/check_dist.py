"""Do a source distribution and a wheel hold what they should, and nothing else?

Usage: python tools/check_dist.py FOLDER

FOLDER holds one of each, as `make dist` leaves them. In a git checkout the source distribution must
hold exactly what git tracks, less continuous integration; everywhere it must hold what building and
testing need, no build products and no large files. The wheel must hold exactly the package of the
source distribution, the native module and its metadata.
"""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
# Tracked by git and of no use outside the repository.
NOT_DISTRIBUTED = (".ci/*",)
REQUIRED_FILES = (
    "CHANGELOG.md",
    "CITATION.cff",
    "CMakeLists.txt",
    "CMakePresets.json",
    "LICENSE",
    "Makefile",
    "README.md",
    "constraints.txt",
    "pyproject.toml",
    "python/rankone/__init__.py",
    "python/rankone/py.typed",
    "requirements-data.txt",
    "requirements-models.txt",
    "tests/CMakeLists.txt",
    "tests/conftest.py",
    "tools/requirements.py",
)
REQUIRED_FOLDERS = ("bench", "cmake", "cpp", "cuda", "docs/pages", "python", "tests", "tools")
BUILD_PRODUCTS = (
    "*.a",
    "*.egg-info/*",
    "*.o",
    "*.pyc",
    "*.so",
    "*.whl",
    "*/__pycache__/*",
    ".git/*",
    ".venv/*",
    "build/*",
    "dist/*",
    "docs/site/*",
    "out/*",
)
LARGEST_FILE = 2 * 2**20  # the stored runs of reproductions carry figures; nothing else comes near


def sdist_faults(files: dict[str, int], tracked: set[str] | None = None) -> list[str]:
    """What is wrong with a source distribution.

    Args:
        files: size in bytes of each file, by its path below the top folder.
        tracked: what git tracks, or None where there is no git.
    """
    faults = [f"sdist lacks {name}" for name in REQUIRED_FILES if name not in files]
    for folder in REQUIRED_FOLDERS:
        if not any(name.startswith(folder + "/") for name in files):
            faults.append(f"sdist lacks the folder {folder}")
    for name, size in files.items():
        if any(fnmatch.fnmatch(name, pattern) for pattern in BUILD_PRODUCTS):
            faults.append(f"sdist holds the build product {name}")
        if any(fnmatch.fnmatch(name, pattern) for pattern in NOT_DISTRIBUTED):
            faults.append(f"sdist holds {name}, which is for the repository alone")
        if size > LARGEST_FILE:
            faults.append(f"sdist holds {name} of {size / 2**20:.1f} MiB")
    if tracked is not None:
        expected = {
            name
            for name in tracked
            if not any(fnmatch.fnmatch(name, pattern) for pattern in NOT_DISTRIBUTED)
        }
        held = set(files) - {"PKG-INFO"}
        faults += [f"sdist lacks {name}, which git tracks" for name in sorted(expected - held)]
        faults += [f"sdist holds {name}, which git does not track" for name in held - expected]
    return faults


def wheel_faults(names: set[str], sources: set[str], version: str) -> list[str]:
    """What is wrong with a wheel.

    Args:
        names: its files.
        sources: the files of the source distribution it was built from.
        version: of the project.
    """
    prefix = "python/"
    expected = {
        name.removeprefix(prefix) for name in sources if name.startswith(prefix + "rankone/")
    }
    metadata = f"rankone-{version}.dist-info/"
    expected |= {metadata + name for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    expected.add(metadata + "licenses/LICENSE")
    native = {name for name in names if re.fullmatch(r"rankone/_native\.[^/]*\.so", name)}
    faults = [] if len(native) == 1 else [f"wheel holds {len(native)} native modules, expected one"]
    faults += [f"wheel lacks {name}" for name in sorted(expected - names)]
    # auditwheel adds a bill of materials.
    extra = {name for name in names - expected - native if not name.startswith(metadata + "sboms/")}
    return faults + [
        f"wheel holds {name}, which is no part of the package" for name in sorted(extra)
    ]


def metadata_faults(metadata: str, project: dict) -> list[str]:
    """What is wrong with a METADATA file, given the ``project`` table of pyproject.toml."""
    from trove_classifiers import classifiers

    fields = Parser().parsestr(metadata)
    expected = {
        "Name": project["name"],
        "Version": project["version"],
        "Summary": project["description"],
        "License-Expression": project["license"],
        "Requires-Python": project["requires-python"],
        "Description-Content-Type": "text/markdown",
        "Keywords": ",".join(project["keywords"]),
    }
    faults = [
        f"metadata: {name} is {fields[name]!r}, expected {value!r}"
        for name, value in expected.items()
        if fields[name] != value
    ]
    if not str(fields.get_payload()).lstrip().startswith("# rankone"):
        faults.append("metadata: the long description is not README.md")
    unknown = set(fields.get_all("Classifier", [])) - set(classifiers)
    faults += [f"metadata: no classifier {name!r} exists" for name in sorted(unknown)]
    missing = set(project["classifiers"]) - set(fields.get_all("Classifier", []))
    faults += [f"metadata lacks the classifier {name!r}" for name in sorted(missing)]
    missing = set(project["optional-dependencies"]) - set(fields.get_all("Provides-Extra", []))
    return faults + [f"metadata lacks the extra {name}" for name in sorted(missing)]


def tracked_files(root: Path) -> set[str] | None:
    """What git tracks below ``root``, or None if that is no checkout."""
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True, check=True
    )
    return set(filter(None, listed.stdout.split("\0")))


def only(folder: Path, pattern: str) -> Path:
    """The one file of ``folder`` that fits ``pattern``."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"{folder} holds {len(found)} files {pattern}, expected one")
    return found[0]


def main(folder: Path) -> int:
    """Check the two archives in ``folder``; the exit status is 1 if something is wrong."""
    sdist, wheel = only(folder, "*.tar.gz"), only(folder, "*.whl")
    with tarfile.open(sdist) as archive:
        members = [member for member in archive.getmembers() if not member.isdir()]
        odd = [member.name for member in members if not member.isfile()]
        files = {"/".join(PurePosixPath(m.name).parts[1:]): m.size for m in members}
        (top,) = {PurePosixPath(member.name).parts[0] for member in members}
        held = archive.extractfile(f"{top}/pyproject.toml")
        assert held is not None
        project = tomllib.loads(held.read().decode())["project"]
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        (described,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(described).decode()

    tracked = tracked_files(ROOT)
    faults = [f"sdist holds {name}, which is no plain file" for name in odd]
    if top != f"rankone-{project['version']}":
        faults.append(f"sdist unpacks to {top}")
    faults += sdist_faults(files, tracked)
    faults += wheel_faults(names, set(files), project["version"])
    faults += metadata_faults(metadata, project)
    for fault in faults:
        print(fault, file=sys.stderr)
    for path, count in ((sdist, len(files)), (wheel, len(names))):
        print(f"{path.name}: {count} files, {path.stat().st_size / 2**20:.1f} MiB")
    if tracked is not None and not faults:
        print("the source distribution holds exactly what git tracks")
    return 1 if faults else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit((__doc__ or "").split("\n\n")[1])
    sys.exit(main(Path(sys.argv[1])))
