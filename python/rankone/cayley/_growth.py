"""What `rankone growth` prints and draws."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rankone._files import write_whole
from rankone.cayley.algo.bfs_result import BfsResult
from rankone.cayley.cayley_graph import CayleyGraph
from rankone.cayley.errors import check
from rankone.cayley.graphs_lib import prepare_graph_from_words

# More states of the last layer than this are counted, not listed.
_LISTED = 8
_PICTURES = (".png", ".svg", ".pdf")


def run(
    name: str,
    words: list[str],
    *,
    plot: Path | None,
    device: str,
    progress: bool,
    search: dict[str, Any],
) -> BfsResult:
    """Search a named graph, print what was found, and draw it.

    Under ``torchrun``, engine "distributed" runs over its processes, and rank 0 alone prints.

    Args:
        name: name of a family or a puzzle.
        words: its arguments.
        plot: the picture to write, or None.
        device: a torch device.
        progress: show the levels on a terminal.
        search: arguments of :meth:`CayleyGraph.bfs`.

    Returns:
        The result.
    """
    if plot is not None:
        check(
            plot.suffix.lower() in _PICTURES,
            f"plot must end in {', '.join(_PICTURES)}, got {plot.name!r}",
        )
        check(plot.absolute().parent.is_dir(), f"plot needs a folder that exists, got {plot}")
    with _processes(search.get("engine"), device) as (rank, device):
        graph = CayleyGraph(prepare_graph_from_words(name, words), device=device)
        console = _console(quiet=rank > 0)
        with console.status("searching", spinner="line") as status:

            def show(level: int, size: int, seconds: float) -> None:
                if progress and console.is_terminal:
                    status.update(f"distance {level}: {size:,} states after {seconds:.1f} s")

            with warnings.catch_warnings():
                # Why a search stopped early stands in the table.
                warnings.simplefilter("ignore", UserWarning)
                result = graph.bfs(max_layer_size_to_store=_LISTED, progress=show, **search)
    if rank == 0:
        _print(result)
        if plot is not None:
            draw(result, plot)
            print(f"picture       {plot}")
    return result


@contextmanager
def _processes(engine: str | None, device: str) -> Iterator[tuple[int, str]]:
    """Join the process group of ``torchrun`` for the block; this process's rank and device."""
    import torch
    import torch.distributed

    if (
        engine != "distributed"
        or not torch.distributed.is_available()
        or not torch.distributed.is_torchelastic_launched()
    ):
        yield 0, device
        return
    backend = "gloo"
    if torch.device(device).type == "cuda":
        backend, device = "nccl", f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(torch.device(device))
    torch.distributed.init_process_group(backend)
    try:
        yield torch.distributed.get_rank(), device
    finally:
        torch.distributed.destroy_process_group()


def _console(*, quiet: bool) -> Any:
    from rich.console import Console

    return Console(stderr=True, quiet=quiet)


def _print(result: BfsResult) -> None:
    facts = result.statistics()
    info = result.engine_info
    words = "diameter" if result.bfs_completed else "stopped at"
    print(f"graph         {result.graph.name}, {result.graph.n_generators} generators")
    print(f"states        {result.num_vertices:,}")
    print(f"{words:<14}{facts['diameter']}")
    if not result.bfs_completed:
        print(f"because of    {info['status']}")
    print(f"mean distance {facts['mean']:.4f}, standard deviation {facts['std']:.4f}")
    print(f"layers        {' '.join(map(str, result.layer_sizes))}")
    last = len(result.layer_sizes) - 1
    if result.layer_sizes[last] <= _LISTED:
        farthest = " ".join(result.vertex_name(state) for state in result.get_layer(last))
        print(f"last layer    {farthest}")
    rate = info["states_per_second"] / 1e6
    processes = info.get("world_size", 1)
    many = f"{processes} processes of " if processes > 1 else ""
    each = " in each" if processes > 1 else ""
    print(
        f"search        {info['seconds']:.2f} s by engine {info['engine']}, "
        f"{many}{info['threads']} thread(s), {rate:.1f} million states/s, "
        f"peak {info['bytes_peak'] / 2**20:.0f} MiB{each}"
    )
    if processes > 1:
        print(
            f"exchange      {info['bytes_sent'] / 2**20:.1f} MiB sent by rank 0 in "
            f"{info['exchanges']} exchanges, {info['exchange_seconds']:.2f} s with waiting"
        )


def draw(result: BfsResult, path: Path) -> None:
    """Write the picture of the layer sizes, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    result.plot(figure.add_subplot())
    kind = path.suffix.lower().lstrip(".")
    write_whole(path, lambda file: figure.savefig(file, format=kind, dpi=150))
