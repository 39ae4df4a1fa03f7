"""Several processes over gloo find what one finds, and end together whatever happens to one.

One job of four processes serves most tests: it makes groups of 4, 3, 2 and 1 of them one after
another, and the tests look at what each process got.
"""

import itertools
import os
import pickle
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rankone._process_group import DistributedError
from rankone.cayley import CayleyError, MatrixGroups, PermutationGroups
from rankone.cayley.algo import BfsDistributed
from rankone.cayley.distributed import _first_error, launch
from rankone.ops._permutation_bfs import native_kernels

from ..processes import run_all_well, run_processes
from .graphs import graph

GRAPHS = {
    "lrx": PermutationGroups.lrx(6),
    "directed": PermutationGroups.lx(6),
    # Two words a state.
    "coset": PermutationGroups.lrx(18).with_central_state([0] * 16 + [7, 8]),
    "matrices": MatrixGroups.heisenberg(modulo=5),
    "one state": PermutationGroups.lrx(4).with_central_state([0] * 4),
    "few states": PermutationGroups.lrx(3),
}
LARGE = ("lrx", "directed", "coset", "matrices")
KINDS = ["native", "torch"] if native_kernels() is not None else ["torch"]
MESSAGE_BYTES = 640

# What the scripts of both jobs need.
COMMON = f"""
import os, shutil, signal, time
from contextlib import contextmanager
from datetime import timedelta
import rankone.cayley.algo.bfs_distributed as module
from rankone.cayley import CayleyGraph, MatrixGroups, PermutationGroups
from rankone.cayley.algo import _checkpoints, _levels, _shares, _world

_world.OneProcess.message_bytes = {MESSAGE_BYTES}  # many exchanges a level
result = {{}}
groups = 0

def case(name, call):
    try:
        result[name] = call()
    except BaseException as error:
        result[name] = error
        result[name, "cause"] = error.__cause__

def regroup(members, timeout=60):
    '''Make a new default group of some processes; whether this one is in it.'''
    global groups
    if dist.is_initialized():
        dist.destroy_process_group()
    groups += 1
    if rank not in members:
        return False
    dist.init_process_group(
        "gloo", init_method=f"file://{{folder}}/meet{{groups}}", rank=members.index(rank),
        world_size=len(members), timeout=timedelta(seconds=timeout))
    return True

def search(definition, **options):
    return CayleyGraph(definition, device="cpu", threads=1).bfs(engine="distributed", **options)

def at_level(level, action, who=None):
    '''A progress callback that acts at a level, in one process or all.'''
    def progress(found, size, seconds):
        if found == level and (who is None or rank == who):
            action()
    return progress

def use(kind):
    module.has_native_engines = native if kind == "native" else (lambda graph: False)
native = module.has_native_engines
lrx = PermutationGroups.lrx(6)
"""

SCRIPT = (
    COMMON
    + """
graphs, large, kinds = torch.load(folder / "graphs.pt", weights_only=False)

# ---- what is sent at a time
sizes = []
send = dist.all_to_all_single
def sending(arriving, leaving, arriving_splits=None, splits=None, *, group):
    processes = dist.get_world_size(group)
    if splits is None:
        kind = "agreements" if leaving.dtype == torch.uint8 else "counts"
        sent[kind] += leaving.nbytes // processes * (processes - 1)
    else:
        sizes.append(leaving.nbytes)
        sent["states"] += leaving.nbytes - splits[dist.get_rank(group)] * leaving.shape[1] * 8
    return send(arriving, leaving, arriving_splits, splits, group=group)
dist.all_to_all_single = sending

everything = {
    "max_layer_size_to_store": None, "return_all_edges": True, "return_all_hashes": True}
stop = {"stop_condition": lambda states, hashes: len(hashes) > 30}
for members in ([0, 1, 2, 3], [0, 1]):
    if not regroup(members):
        continue
    for kind in kinds:
        use(kind)
        for name, definition in graphs.items():
            key = (len(members), kind, name)
            sent = dict.fromkeys(("counts", "states", "agreements"), 0)
            case((*key, "plain"), lambda: search(definition, max_layer_size_to_store=0))
            result[*key, "sent"] = dict(sent)
            if len(members) == 4:
                case((*key, "everything"), lambda: search(definition, **everything))
                case((*key, "stopped"), lambda: search(definition, **stop))
result["largest message"] = max(sizes)

# ---- checkpoints: written by 4, gone on from by 1, 2 and 3; by 3, gone on from by 4
readers = {4: (0, 1, 2, 3), 3: (0, 4)}  # 0: for the test
for members in ([0, 1, 2, 3], [0, 1, 2]):
    if regroup(members):
        for kind, name in [(kind, name) for kind in kinds for name in large]:
            use(kind)
            scratch = folder / f"{name} {kind} by {len(members)}"
            case(("written", len(members), kind, name),
                 lambda: search(graphs[name], max_diameter=4, scratch_dir=scratch))
            if rank == 0:
                for other in readers[len(members)]:
                    shutil.copytree(scratch, f"{scratch} for {other}")
for members in ([0, 1, 2, 3], [0, 1, 2], [0, 1], [0]):
    if regroup(members):
        writers = 3 if len(members) == 4 else 4
        for kind, name in [(kind, name) for kind in kinds for name in large]:
            # Torch shares go on from what native ones wrote, and the converse.
            use(kinds[-1] if kind == kinds[0] and name != "lrx" else kinds[0])
            scratch = folder / f"{name} {kind} by {writers} for {len(members)}"
            case(("resumed", writers, len(members), kind, name),
                 lambda: search(graphs[name], scratch_dir=scratch, resume=True))
if regroup([0, 1, 2]):
    use(kinds[0])
    for engine in ("hash", "torch"):
        if (folder / f"by {engine}").exists():
            case(("resumed", engine),
                 lambda: search(lrx, scratch_dir=folder / f"by {engine}", resume=True))

# ---- a process that stops anywhere in the writing of a checkpoint leaves the last one
def crash(*_):
    raise OSError("the disk is gone")
def failing(owner, name, replacement, scratch):
    kept = getattr(owner, name)
    setattr(owner, name, replacement(kept))
    case(scratch, lambda: search(lrx, scratch_dir=folder / scratch))
    setattr(owner, name, kept)
def write_part(kept):
    def write(path, content):
        if rank == 2 and path.name.startswith("layer_5"):
            crash()
        return kept(path, content)
    return write
def write_manifest(kept):
    def write(path, content):
        if path.name == _checkpoints.MANIFEST and '"5"' in content:
            crash()
        return kept(path, content)
    return write
def remove(kept):
    def others(checkpoint):
        if len(checkpoint.layer_sizes) == 6:
            crash()
        kept(checkpoint)
    return others
regroup([0, 1, 2, 3])
use(kinds[0])
failing(_checkpoints, "write_whole", write_part, "crash in a part")
failing(_checkpoints, "write_whole", write_manifest, "crash before the manifest")
failing(_checkpoints.Checkpoint, "_remove_others", remove, "crash before the removal")
if rank == 0:
    (folder / "crash in a part" / ".layer_5_2of4.npy.left").write_text("half a file")
dist.barrier()
crashes = ["crash in a part", "crash before the manifest", "crash before the removal"]
if regroup([0, 1]):
    for scratch in crashes:
        case(("resumed", scratch),
             lambda: search(lrx, scratch_dir=folder / scratch, resume=True))

# ---- processes that disagree
regroup([0, 1, 2, 3])
def differing(name, who, other, **same):
    options = {**same, **(other if rank == who else {})}
    definition = options.pop("definition", lrx)
    case(("differ", name), lambda: search(definition, **options))
differing("graph", 2, {"definition": PermutationGroups.lrx(7)})
differing("generators", 1, {"definition": PermutationGroups.lx(6).with_name("lrx-6")})
differing("start", 3, {"start_states": [1, 0, 2, 3, 4, 5]})
differing("limit", 1, {"max_diameter": 4})
differing("flag", 2, {"return_all_hashes": True})
differing("stop", 0, {"stop_condition": lambda states, hashes: False})
differing("scratch", 3, {"scratch_dir": folder / "unwanted"})
differing("folder", 1, {"scratch_dir": folder / "crash in a part"},
          scratch_dir=folder / "lrx torch by 3", resume=True)
differing("bad", 3, {"max_states": 0})
differing("bad start", 1, {"start_states": [[0, 1]]})
differing("overwrite", 1, {}, scratch_dir=folder / "lrx torch by 3")
if rank == 1:
    kept, module.has_native_engines = module.has_native_engines, lambda graph: False
differing("native", None, {})
if rank == 1:
    module.has_native_engines = kept
case(("differ", "folders"), lambda: search(lrx, scratch_dir=folder / f"own {rank}"))
case("after all", lambda: search(lrx))

# ---- one process stops, all do
for kind in kinds:
    use(kind)
    interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)
    case(("interrupted", kind), lambda: search(lrx, progress=at_level(5, interrupt, who=2)))
    scratch = folder / f"interrupted {kind}"
    case(("interrupted all", kind),
         lambda: search(lrx, progress=at_level(5, interrupt), scratch_dir=scratch))
    def bad_callback():
        raise KeyError("no such level")
    case(("callback", kind), lambda: search(
        lrx, progress=at_level(5, bad_callback, who=3), scratch_dir=folder / f"callback {kind}"))
    share = _shares.NativeShare if kind == "native" else _shares.TorchShare
    for step in ("expand", "insert", "advance"):
        kept = getattr(share, step)
        calls = 0
        def failing_step(self, *arguments):
            global calls
            calls += 1
            if rank == 1 and calls == 7:
                raise ValueError("bug") if step == "advance" else _shares.ShareMemoryError("full")
            return kept(self, *arguments)
        setattr(share, step, failing_step)
        case((step, kind), lambda: search(lrx))
        setattr(share, step, kept)
use("torch")
memory = {"max_memory_gb": 3e-5} if rank == 1 else {}
case("memory", lambda: search(PermutationGroups.lrx(8), **memory))
case("handler", lambda: signal.getsignal(signal.SIGINT) is signal.default_int_handler)

# ---- one process stays away for longer than the timeout
use(kinds[0])
regroup([0, 1, 2, 3], timeout=4)
began = time.perf_counter()
case("stalled", lambda: search(
    lrx, progress=at_level(6, lambda: time.sleep(6), who=1), scratch_dir=folder / "stalled"))
result["stalled seconds"] = time.perf_counter() - began
"""
)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """What four processes got, and the folder in which they worked."""
    import torch

    folder = tmp_path_factory.mktemp("search")
    torch.save((GRAPHS, LARGE, KINDS), folder / "graphs.pt")
    for engine in ("hash", "torch") if "native" in KINDS else ("torch",):
        graph(GRAPHS["lrx"]).bfs(engine=engine, max_diameter=4, scratch_dir=folder / f"by {engine}")
    found = run_all_well(SCRIPT, 4, folder, timeout=300)
    return SimpleNamespace(found=found, folder=folder)


_SINGLE = {}


def single(name, **options):
    """What the torch engine finds in one process."""
    key = (name, str(options))
    if key not in _SINGLE:
        _SINGLE[key] = graph(GRAPHS[name]).bfs(engine="torch", **options)
    return _SINGLE[key]


SEARCHES = {
    "plain": {"max_layer_size_to_store": 0},
    "everything": {
        "max_layer_size_to_store": None,
        "return_all_edges": True,
        "return_all_hashes": True,
    },
    "stopped": {"stop_condition": lambda states, hashes: len(hashes) > 30},
}


def messages(job, key):
    return [f"{type(found[key]).__name__}: {found[key]}" for found in job.found]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("processes", [4, 2])
def test_several_processes_find_what_one_finds(job, processes, kind):
    """Also where there are fewer states than processes: "one state", "few states"."""
    searches = SEARCHES if processes == 4 else {"plain": SEARCHES["plain"]}
    for name, (search, options) in itertools.product(GRAPHS, searches.items()):
        expected = single(name, **options)
        results = [found[processes, kind, name, search] for found in job.found[:processes]]
        assert results[0] == expected, (name, search)
        for result in results:
            assert result.layer_sizes == expected.layer_sizes
            assert result.engine_info["status"] == expected.engine_info["status"]
            assert result.engine_info["world_size"] == processes
        for result in results[1:]:
            assert all(len(states) == 0 for states in result.layers.values())


def test_a_message_is_bounded(job):
    """No process sends more in one exchange; a layer has up to 128 states of 3 neighbours."""
    for found in job.found:
        assert found["largest message"] <= MESSAGE_BYTES
        assert found["largest message"] > MESSAGE_BYTES // 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("processes", [4, 2])
def test_what_is_sent_is_counted_and_bounded(job, processes, kind):
    """8 W (P - 1) / P bytes an edge, on average over the owners: with 300 states and more within
    15 %. Counted by hand in the calls of torch.distributed."""
    for name, words in {"lrx": 1, "directed": 1, "coset": 2, "matrices": 1}.items():
        parts = job.found[:processes]
        results = [found[processes, kind, name, "plain"] for found in parts]
        states = 0
        for found, result in zip(parts, results, strict=True):
            sent, info = found[processes, kind, name, "sent"], result.engine_info
            assert info["bytes_sent"] == sum(sent.values())
            assert info["exchanges"] * 8 * (processes - 1) == sent["counts"]
            assert info["exchanges"] >= len(result.layer_sizes)
            assert info["exchange_seconds"] > 0
            states += sent["states"]
        edges = results[0].graph.n_generators * results[0].num_vertices
        assert 0 < states <= 1.15 * 8 * words * edges * (processes - 1) / processes


READERS = [(4, 1), (4, 2), (4, 3), (3, 4)]


@pytest.mark.parametrize(("writers", "readers"), READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_processes_goes_on_from_a_checkpoint(job, kind, writers, readers):
    for name in LARGE:
        for found in job.found[:writers]:
            written = found["written", writers, kind, name]
            assert written.layer_sizes == single(name).layer_sizes[:5]
        results = [found["resumed", writers, readers, kind, name] for found in job.found[:readers]]
        assert results[0] == single(name), name
        for other in results:
            assert other.layer_sizes == single(name).layer_sizes


def test_one_process_and_several_go_on_from_each_other(job):
    """Folder "... for 0" is a copy that no job has gone on from."""
    for engine in ("hash", "torch") if "native" in KINDS else ("torch",):
        assert job.found[0]["resumed", engine] == single("lrx")
        for name, writers in itertools.product(LARGE, (3, 4)):
            source = job.folder / f"{name} {KINDS[0]} by {writers} for 0"
            copy = job.folder / f"{source.name} {engine}"
            shutil.copytree(source, copy)
            result = graph(GRAPHS[name]).bfs(engine=engine, scratch_dir=copy, resume=True)
            assert result == single(name)


CRASHES = ("crash in a part", "crash before the manifest", "crash before the removal")


@pytest.mark.parametrize("where", CRASHES)
def test_a_crash_while_a_checkpoint_is_written_leaves_the_last(job, where):
    culprit = 2 if where == "crash in a part" else 0
    last = 5 if where == "crash before the removal" else 4
    for rank, message in enumerate(messages(job, where)):
        if rank == culprit:
            assert message == "OSError: the disk is gone"
        else:
            assert f"because rank {culprit} failed: OSError: the disk is gone" in message
            assert f"{where} holds levels 0..{last}; go on with resume=True" in message
    for found in job.found[:2]:
        assert found["resumed", where].layer_sizes == single("lrx").layer_sizes
    assert job.found[0]["resumed", where] == single("lrx")
    # What the crash left is gone, too.
    names = {path.name for path in (job.folder / where).iterdir()}
    assert {name for name in names if name.startswith((".", "layer_"))} <= {
        f"layer_{level}_{rank}of2.npy" for level in (14, 15) for rank in range(2)
    }


@pytest.mark.parametrize(
    ("name", "rank", "words"),
    [
        ("graph", 2, 'rank 2 has graph = "lrx-7", rank 0 has "lrx-6"'),
        ("generators", 1, "rank 1 has generators = "),
        ("start", 3, "rank 3 has start_states = "),
        ("limit", 1, "rank 1 has max_diameter = 4, rank 0 has 1000000"),
        ("flag", 2, "rank 2 has return_all_hashes = true, rank 0 has false"),
        ("stop", 0, 'rank 1 has stop_condition = null, rank 0 has "given"'),
        ("scratch", 3, 'rank 3 has scratch_dir = "given", rank 0 has null'),
        ("folder", 1, 'rank 1 has what scratch_dir holds = "a search of 16 layers'),
        pytest.param(
            "native",
            1,
            'rank 1 has native module = "not used", rank 0 has "built"',
            marks=pytest.mark.skipif("native" not in KINDS, reason="the native module is missing"),
        ),
    ],
)
def test_processes_that_disagree_all_say_who_and_in_what(job, name, rank, words):
    (message,) = set(messages(job, ("differ", name)))
    assert message.startswith("DistributedError: the ranks disagree in the start of the search: ")
    assert words in message
    others = {0, 1, 2, 3} - {rank, 0}
    assert rank == 0 or not any(f"rank {other} has" in message for other in others)


@pytest.mark.parametrize(
    ("name", "rank", "words"),
    [
        ("bad", 3, "CayleyError: max_states must be at least 1, got 0"),
        ("bad start", 1, "CayleyError: start_states must have states of shape (6,)"),
    ],
)
def test_a_wrong_argument_of_one_process_ends_all(job, name, rank, words):
    for other, message in enumerate(messages(job, ("differ", name))):
        if other == rank:
            assert message.startswith(words)
        else:
            assert message.startswith(
                f"DistributedError: rank {other} of 4 stopped in the start of the search, "
                f"because rank {rank} failed: {words}"
            )


def test_what_is_wrong_everywhere_is_told_everywhere(job):
    for message in messages(job, ("differ", "overwrite")):
        assert message.startswith("CayleyError: scratch_dir")
        assert "already holds a search; give resume=True" in message
    folders = messages(job, ("differ", "folders"))
    assert folders[0].startswith("CayleyError: scratch_dir")
    assert "must be one folder that every process sees" in folders[0]
    for message in folders[1:]:
        assert "because rank 0 failed: CayleyError: scratch_dir" in message
    # And the group still works.
    assert job.found[0]["after all"] == single("lrx")


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_of_one_process_ends_all_with_what_was_found(job, kind):
    for case, found in itertools.product(("interrupted", "interrupted all"), job.found):
        result = found[case, kind]
        assert result.engine_info["status"] == "interrupted"
        assert result.layer_sizes == single("lrx").layer_sizes[:6]
    layers = job.found[0]["interrupted", kind].layers
    assert all((states == single("lrx").layers[level]).all() for level, states in layers.items())
    folder = job.folder / f"interrupted {kind}"
    assert graph(GRAPHS["lrx"]).bfs(engine="torch", scratch_dir=folder, resume=True) == single(
        "lrx"
    )
    assert job.found[0]["handler"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_in_one_process_ends_all(job, kind):
    for rank, message in enumerate(messages(job, ("callback", kind))):
        if rank == 3:
            assert message == "KeyError: 'no such level'"
        else:
            assert "because rank 3 failed: KeyError: 'no such level'" in message
            assert message.endswith(
                "holds levels 0..4; go on with resume=True, on any number of processes"
            )
    for rank, message in enumerate(messages(job, ("advance", kind))):
        assert message.startswith("ValueError: bug" if rank == 1 else "DistributedError: rank")
        assert rank == 1 or message.endswith(
            "nothing was kept; with scratch_dir=... the search could go on"
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", ["expand", "insert"])
def test_the_memory_limit_of_one_process_ends_all_with_what_was_found(job, kind, step):
    results = [found[step, kind] for found in job.found]
    found = results[0].layer_sizes
    assert 1 < len(found) < 16
    assert found == single("lrx").layer_sizes[: len(found)]
    for result in results:
        assert result.layer_sizes == found
        assert result.engine_info["status"] == "memory_limit"
    last = len(found) - 1
    assert (results[0].layers[last] == single("lrx", **SEARCHES["everything"]).layers[last]).all()


def test_memory_is_each_process_its_own(job):
    sizes = {tuple(found["memory"].layer_sizes) for found in job.found}
    statuses = {found["memory"].engine_info["status"] for found in job.found}
    assert (len(sizes), statuses) == (1, {"memory_limit"})


def test_a_process_that_stays_away_ends_all_within_the_timeout(job):
    for rank, message in enumerate(messages(job, "stalled")):
        assert message.startswith(f"DistributedError: rank {rank} of 4 lost contact in the ")
        assert "level 6: another rank died, stopped or did not make this call" in message
        assert "stalled holds levels 0..5; go on with resume=True" in message
    assert max(found["stalled seconds"] for found in job.found) < 20
    folder = job.folder / "stalled"
    assert graph(GRAPHS["lrx"]).bfs(engine="torch", scratch_dir=folder, resume=True) == single(
        "lrx"
    )


KILLED = (
    COMMON
    + """
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
progress = at_level(7, die, who=2)
case("killed", lambda: search(lrx, progress=progress, scratch_dir=folder / "scratch"))
regroup([0, 1, 3])
if rank == 0:
    shutil.copytree(folder / "scratch", folder / "copy")
case("resumed", lambda: search(lrx, scratch_dir=folder / "scratch", resume=True))
"""
)


def test_a_killed_process_ends_the_others_and_three_go_on(tmp_path):
    outcomes = run_processes(KILLED, 4, tmp_path)
    assert [outcome.finished for outcome in outcomes] == [True, True, False, True]
    for rank in (0, 1, 3):
        result = outcomes[rank].result
        message = str(result["killed"])
        assert type(result["killed"]).__name__ == "DistributedError"
        assert message.startswith(f"rank {rank} of 4 lost contact in the ")
        assert "level 7: another rank died, stopped or did not make this call" in message
        assert message.endswith(
            f"the last complete checkpoint in {tmp_path / 'scratch'} holds levels 0..6; "
            "go on with resume=True, on any number of processes"
        )
        assert "onnection" in str(result["killed", "cause"])  # what gloo said
        assert result["resumed"].layer_sizes == single("lrx").layer_sizes
    assert outcomes[0].result["resumed"] == single("lrx")
    again = graph(GRAPHS["lrx"]).bfs(engine="torch", scratch_dir=tmp_path / "copy", resume=True)
    assert again == single("lrx")


def test_the_command_runs_under_torchrun(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", "-m", "rankone.cli", "growth", "lrx", "6"]
    command += ["--engine", "distributed", "--plot", str(tmp_path / "growth.png")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        "graph         lrx-6, 3 generators",
        "states        720",
        "diameter      15",
    ]
    assert [line.split()[0] for line in lines].count("graph") == 1
    assert "by engine distributed, 2 processes of 1 thread(s)" in lines[-3]
    assert lines[-2].startswith("exchange")
    assert lines[-1].startswith("picture")
    assert "Warning" not in done.stderr
    assert (tmp_path / "growth.png").stat().st_size > 1000


def test_launch_starts_processes():
    result = launch(PermutationGroups.lrx(6), nproc=2, max_layer_size_to_store=None)
    assert result == single("lrx", max_layer_size_to_store=None)
    assert result.engine_info["world_size"] == 2


def test_launch_raises_what_a_process_met_itself(tmp_path):
    """Not what the others heard of it."""
    for rank, error in enumerate([DistributedError("rank 1 failed"), CayleyError("wrong")]):
        (tmp_path / f"error{rank}").write_bytes(pickle.dumps(error))
    found = _first_error(tmp_path, 3)
    assert isinstance(found, CayleyError)
    assert str(found) == "wrong"
    assert _first_error(tmp_path / "none", 2) is None


def test_without_a_group_it_is_a_search_in_one_process():
    made = graph(PermutationGroups.lx(6))
    result = BfsDistributed.bfs(made)
    assert result == made.bfs(engine="torch")
    info = result.engine_info
    assert (info["world_size"], info["bytes_sent"], info["exchanges"]) == (1, 0, 0)
