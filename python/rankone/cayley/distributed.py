"""Start a breadth-first search in several processes of this machine.

On several machines, start the script with ``torchrun``, initialise a process group and call
:meth:`rankone.cayley.algo.BfsDistributed.bfs` in every process instead.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing

from rankone.cayley.algo.bfs_result import BfsResult
from rankone.cayley.cayley_graph import CayleyGraph
from rankone.cayley.cayley_graph_def import CayleyGraphDef
from rankone.cayley.errors import check_range


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
    finally:
        torch.distributed.destroy_process_group()


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
        RuntimeError: where a process failed.

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
        torch.multiprocessing.spawn(
            _work,
            args=(nproc, backend, folder, definition, options, search_options, threads),
            nprocs=nproc,
        )
        with open(Path(folder) / "result", "rb") as file:
            return pickle.load(file)
