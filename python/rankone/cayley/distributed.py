"""Start a breadth-first search in several processes of this machine, from one that runs already.

The usual way is ``torchrun --nproc-per-node 2 script.py``, on one machine or several: the script
calls ``torch.distributed.init_process_group("gloo")`` and then
:meth:`rankone.cayley.algo.BfsDistributed.bfs`. :func:`launch` serves notebooks and single calls.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing

from rankone._namespace import public_names
from rankone._process_group import DistributedError
from rankone.cayley.algo.bfs_result import BfsResult
from rankone.cayley.cayley_graph import CayleyGraph
from rankone.cayley.cayley_graph_def import CayleyGraphDef
from rankone.cayley.errors import check_range

__all__ = ["launch"]


def _work(
    rank: int,
    nproc: int,
    backend: str,
    folder: str,
    definition: CayleyGraphDef,
    graph_options: dict[str, Any],
    search_options: dict[str, Any],
    threads: int,
) -> None:
    torch.set_num_threads(threads)
    if backend == "nccl":
        torch.cuda.set_device(rank)
        graph_options = {**graph_options, "device": f"cuda:{rank}"}
    torch.distributed.init_process_group(
        backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=nproc
    )
    try:
        graph = CayleyGraph(definition, threads=threads, **graph_options)
        result = graph.bfs(engine="distributed", **search_options)
        if rank == 0:
            with open(Path(folder) / "result", "wb") as file:
                pickle.dump(result.to_device("cpu"), file)
    except Exception as error:
        with contextlib.suppress(Exception), open(Path(folder) / f"error{rank}", "wb") as file:
            pickle.dump(error, file)
        raise
    finally:
        torch.distributed.destroy_process_group()


def _first_error(folder: Path, nproc: int) -> Exception | None:
    """What a process met itself, before what others only heard of."""
    errors = []
    for rank in range(nproc):
        with contextlib.suppress(FileNotFoundError, EOFError):
            errors.append(pickle.loads((folder / f"error{rank}").read_bytes()))
    own = [error for error in errors if not isinstance(error, DistributedError)]
    return next(iter(own or errors), None)


def launch(
    definition: CayleyGraphDef,
    nproc: int | None = None,
    *,
    backend: str | None = None,
    graph_options: dict[str, Any] | None = None,
    **search_options: Any,
) -> BfsResult:
    """Search a graph in ``nproc`` new processes.

    Args:
        definition: the graph.
        nproc: number of processes; default one a GPU, or two without one.
        backend: "gloo" (CPUs) or "nccl" (one GPU a process); default by what there is.
        graph_options: keyword arguments of :class:`CayleyGraph`.
        **search_options: keyword arguments of :meth:`CayleyGraph.bfs`; functions among them must
            be picklable.

    Returns:
        The result of rank 0, on the CPU.

    Raises:
        CayleyError: for a wrong argument.
        Exception: what a process raised.
        rankone.distributed.DistributedError: where a process was killed.

    Example:
        >>> from rankone.cayley import PermutationGroups
        >>> from rankone.cayley.distributed import launch
        >>> launch(PermutationGroups.lrx(5), nproc=2).diameter()  # doctest: +SKIP
        10
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if backend is None:
        backend = "nccl" if gpus and (nproc is None or nproc <= gpus) else "gloo"
    if nproc is None:
        nproc = gpus if backend == "nccl" else 2
    check_range("nproc", nproc, 1)
    options = dict(graph_options or {})
    options.setdefault("device", "cpu")
    threads = max(1, (os.cpu_count() or 1) // nproc)
    with tempfile.TemporaryDirectory(prefix="rankone-bfs-") as folder:
        try:
            torch.multiprocessing.spawn(
                _work,
                args=(nproc, backend, folder, definition, options, search_options, threads),
                nprocs=nproc,
            )
        except torch.multiprocessing.ProcessRaisedException as error:
            raise _first_error(Path(folder), nproc) or error from None
        except torch.multiprocessing.ProcessExitedException as error:
            raise DistributedError(f"a process of the search died: {error}") from error
        with open(Path(folder) / "result", "rb") as file:
            return pickle.load(file)


def __dir__() -> list[str]:
    return public_names(globals())
