"""Checkpoints of one process: what a crash or damage leaves, and what the folder holds.

Those of several processes stand in test_distributed.py.
"""

import json
import shutil

import numpy as np
import pytest
from rankone.cayley import CayleyError, PermutationGroups
from rankone.cayley.algo import _checkpoints
from rankone.cayley.algo._checkpoints import MANIFEST, Checkpoint
from rankone.ops._permutation_bfs import native_kernels

from .graphs import graph

GRAPHS = {"closed": PermutationGroups.lrx(6), "directed": PermutationGroups.lx(6)}
ENGINES = ["hash", "torch"] if native_kernels() is not None else ["torch"]


class CrashError(Exception):
    pass


def crash(*_):
    raise CrashError


@pytest.fixture(params=GRAPHS)
def name(request):
    return request.param


@pytest.fixture
def written(name, tmp_path):
    """A folder that holds levels 0 to 4, and its graph."""
    made = graph(GRAPHS[name])
    made.bfs(engine=ENGINES[0], scratch_dir=tmp_path / "scratch", max_diameter=4)
    return made, tmp_path / "scratch"


def levels(folder):
    return len(json.loads((folder / MANIFEST).read_text())["layer_sizes"]) - 1


def crash_in_a_file(prefix, when):
    """A write_whole that stops at the first file of this name, before or after it is there."""

    def write(path, content, whole=_checkpoints.write_whole):
        if path.name.startswith(prefix) and when == "after":
            whole(path, content)
        if path.name.startswith(prefix):
            raise CrashError
        return whole(path, content)

    return write


POINTS = {
    "before the part": (_checkpoints, "write_whole", crash_in_a_file("layer_", "before"), 4),
    "after the part": (_checkpoints, "write_whole", crash_in_a_file("layer_", "after"), 4),
    "in a stored layer": (_checkpoints, "write_whole", crash_in_a_file("stored_", "before"), 4),
    "before the manifest": (Checkpoint, "_commit", crash, 4),
    "after the manifest": (_checkpoints, "write_whole", crash_in_a_file(MANIFEST, "after"), 5),
    "before the removal": (Checkpoint, "_remove_others", crash, 5),
}


@pytest.mark.parametrize("where", POINTS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_crash_leaves_the_last_checkpoint(written, engine, where, monkeypatch):
    made, folder = written
    owner, attribute, broken, level = POINTS[where]
    with monkeypatch.context() as patch:
        patch.setattr(owner, attribute, broken)
        with pytest.raises(CrashError):
            made.bfs(engine=engine, scratch_dir=folder, resume=True)
    assert levels(folder) == level
    assert made.bfs(engine=engine, scratch_dir=folder, resume=True) == made.bfs(engine="torch")


def test_only_what_is_needed_stays(written, name):
    made, folder = written
    # What a killed process may have left, and what is none of ours.
    for left in (
        ".layer_3_0of1.npy.x7",
        ".bfs_manifest.json.ab",
        "stored_77.npy",
        "layer_9_1of4.npy",
    ):
        (folder / left).write_text("left")
    for other in ("notes.txt", "layer_1.txt"):
        (folder / other).write_text("mine")
    made.bfs(engine="torch", scratch_dir=folder, max_diameter=6, resume=True)
    kept = range(7) if name == "directed" else (5, 6)
    names = {path.name for path in folder.iterdir()}
    assert names == {
        MANIFEST,
        "notes.txt",
        "layer_1.txt",
        *(f"layer_{level}_0of1.npy" for level in kept),
        *(f"stored_{level}.npy" for level in range(7)),
    }


def test_damage_is_named(written, name):
    made, folder = written
    last = "layer_4_0of1.npy"
    rows = np.load(folder / last)

    def damaged(change, message):
        copy = folder.parent / "damaged"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        change(copy)
        with pytest.raises(CayleyError, match=message):
            made.bfs(engine=ENGINES[0], scratch_dir=copy, resume=True)

    damaged(lambda copy: (copy / last).unlink(), f"{last} cannot be read")
    damaged(lambda copy: (copy / last).write_bytes(b"none"), f"{last} cannot be read")
    damaged(
        lambda copy: (copy / last).write_bytes((folder / last).read_bytes()[:-8]),
        f"{last} cannot be read",
    )
    damaged(lambda copy: np.save(copy / last, rows[1:]), rf"{last} should hold int64 of shape \(")
    damaged(lambda copy: np.save(copy / last, rows.astype(float)), "should hold int64 .* float64")
    rows[1] = rows[0]
    damaged(
        lambda copy: np.save(copy / last, rows), "is damaged: .* states of level 4 were restored"
    )
    damaged(lambda copy: (copy / MANIFEST).write_text("{"), f"{MANIFEST} cannot be read")
    damaged(lambda copy: (copy / "stored_2.npy").unlink(), r"stored_2\.npy cannot be read")


def test_another_search_is_refused(written):
    made, folder = written
    with pytest.raises(CayleyError, match=r"another graph, start or encoding \('l.*x-6'\)"):
        made.bfs(engine="torch", scratch_dir=folder, resume=True, start_states=[1, 0, 2, 3, 4, 5])


def test_a_search_in_small_batches_goes_on(written, monkeypatch):
    """A layer is read in pieces of 5 states."""
    made, folder = written
    monkeypatch.setattr("rankone.cayley.algo._world.OneProcess.message_bytes", 40)
    for engine in ENGINES:
        copy = folder.parent / engine
        shutil.copytree(folder, copy)
        assert made.bfs(engine=engine, scratch_dir=copy, resume=True) == made.bfs(engine="torch")


def test_an_interrupted_search_goes_on(written):
    made, folder = written

    def interrupt(level, size, seconds):
        if level == 7:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="was interrupted and stopped at depth 7"):
        part = made.bfs(engine="torch", scratch_dir=folder, resume=True, progress=interrupt)
    whole = made.bfs(engine="torch")
    assert part.layer_sizes == whole.layer_sizes[:8]
    assert levels(folder) == 7
    assert made.bfs(engine="torch", scratch_dir=folder, resume=True) == whole
