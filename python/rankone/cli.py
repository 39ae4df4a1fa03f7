"""The command line: `rankone methods | reproduce | demo | growth | bench | info`.

What a user got wrong is answered in one line on standard error and exit status 1. torch and
everything built on it is imported inside the commands, so that help and listings are quick.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="rankone",
    help="Kernels for linear-structure computations, and the published methods built on them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Device = Annotated[str, typer.Option(help="A torch device, such as cpu or cuda.")]
Seed = Annotated[int, typer.Option("--random-state", min=0, help="Seed of everything random.")]
Progress = Annotated[bool, typer.Option(help="Show progress bars on a terminal.")]


def main() -> None:
    """Run the command line."""
    app()


# What a shell reports for a program that an interrupt ended: 128 + SIGINT.
_INTERRUPTED = 130


def fail(message: object, status: int = 1) -> typer.Exit:
    """Say in one line what is wrong; the exit to raise."""
    line = " ".join(str(message).split())
    typer.echo(f"rankone: {line}", err=True)
    return typer.Exit(status)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Answer an error of the user's making in one line instead of a traceback.

    RANKONE_TRACEBACK=1 shows the traceback after all.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise fail("interrupted", _INTERRUPTED) from None
    except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_of_processes(error):
            raise
        if os.environ.get("RANKONE_TRACEBACK") == "1":
            raise
        raise fail(error) from None


def _is_of_processes(error: RuntimeError) -> bool:
    from rankone._process_group import DistributedError

    return isinstance(error, DistributedError)


@app.command()
def methods(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the README's table instead.")
    ] = False,
    update: Annotated[
        Path | None,
        typer.Option(metavar="README", help="Renew the table between the markers of this file."),
    ] = None,
) -> None:
    """List the methods."""
    from rankone import catalog

    if update is not None:
        with one_line_errors():
            changed = catalog.update_readme(update)
        typer.echo(f"{update}: {'renewed' if changed else 'already current'}")
        return
    if markdown:
        typer.echo(catalog.catalog_table())
        return

    from rankone.reproduce._terminal import console

    for entry in catalog.methods():
        arxiv = f", arXiv {entry.paper.arxiv}" if entry.paper.arxiv else ""
        show = console()
        show.print(entry.slug, style="bold", markup=False, highlight=False, soft_wrap=True)
        show.print(f"  {entry.title} ({entry.field}{arxiv})", markup=False, highlight=False)
        for name in entry.entry_points:
            show.print(f"    {name}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def reproduce(
    slugs: Annotated[
        list[str] | None, typer.Argument(metavar="SLUG...", help="Methods, by slug.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every method.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="The paper's scale instead of about a minute.")
    ] = False,
    device: Device = "cpu",
    out: Annotated[Path, typer.Option(help="Folder of the reports.")] = Path("rankone-reports"),
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with status 1 when a claim does not hold.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", "--data-dir", exists=True, help="Your own data, for methods that take some."
        ),
    ] = None,
    n_jobs: Annotated[int, typer.Option("--jobs", help="Jobs of simulation sweeps; -1: all.")] = 1,
    random_state: Seed = 0,
    progress: Progress = True,
) -> None:
    """Measure what methods claim, and write a JSON file and an HTML page.

    The exit status is 0 when every reproduction ran, whether or not its claims hold.
    """
    from rankone import catalog

    if every == bool(slugs):
        raise fail("give the slugs of methods, or --all; `rankone methods` lists them")
    with one_line_errors():
        asked = [entry.slug for entry in catalog.methods()] if every else list(slugs or ())
        for slug in asked:
            catalog.method(slug)
        from rankone.reproduce import Settings
        from rankone.reproduce import reproduce as run_all

        settings = Settings(
            full=full,
            device=device,
            random_state=random_state,
            progress=progress,
            out=out,
            data=data,
            n_jobs=n_jobs,
        )
        run = run_all(asked, settings)
    if run.failures:
        raise fail("did not run: " + ", ".join(failure.slug for failure in run.failures))
    if strict and not run.passed:
        raise fail("a claim does not hold")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("rankone-demo"),
    seconds: Annotated[
        float, typer.Option(help="How long the language model learns, in seconds.")
    ] = 60.0,
    random_state: Seed = 0,
    progress: Progress = True,
) -> None:
    """Each kernel family at real work on real data, with one HTML report."""
    with one_line_errors():
        from rankone.demo import Options
        from rankone.demo import demo as run_demo

        run_demo(out, Options(seconds=seconds, random_state=random_state, progress=progress))


@app.command()
def growth(
    name: Annotated[
        str, typer.Argument(help="A family or a puzzle, such as lrx, pancake, dino, rubik_cube.")
    ],
    numbers: Annotated[
        list[str] | None,
        typer.Argument(metavar="N...", help="The family's arguments, in order: top_spin 10 4."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the layer sizes to this file (.png, .svg, .pdf).")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="auto, torch, hash, bitarray, external or distributed.")
    ] = "auto",
    max_diameter: Annotated[int | None, typer.Option(min=0, help="Stop at this distance.")] = None,
    max_states: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many states.")
    ] = None,
    time_limit: Annotated[float | None, typer.Option(help="Stop after so many seconds.")] = None,
    memory: Annotated[
        float | None, typer.Option(help="Most memory in GiB; the default is 16, or what is free.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; the default is all.")
    ] = None,
    scratch: Annotated[
        Path | None, typer.Option(help="Folder of checkpoints and of the external engine.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from what the scratch folder holds.")
    ] = False,
    device: Device = "cpu",
    progress: Progress = True,
) -> None:
    """Growth and diameter of a Cayley graph, and a picture of its layers.

    On several processes: torchrun --nproc-per-node 2 -m rankone.cli growth lrx 8 --engine
    distributed
    """
    with one_line_errors():
        from rankone.cayley import _growth

        _growth.run(
            name,
            list(numbers or ()),
            plot=plot,
            device=device,
            progress=progress,
            search={
                "engine": engine,
                "max_states": max_states,
                "time_limit": time_limit,
                "max_memory_gb": memory,
                "threads": threads,
                "scratch_dir": scratch,
                "resume": resume,
                **({} if max_diameter is None else {"max_diameter": max_diameter}),
            },
        )


@app.command()
def bench(
    device: Device = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Threads for all sides, on a CPU.")] = 1,
    lengths: Annotated[
        str, typer.Option(help="Sequence lengths, separated by commas.")
    ] = "256,1024,4096",
    repeats: Annotated[int, typer.Option(min=1, help="Alternating rounds.")] = 7,
    progress: Progress = True,
) -> None:
    """Time the native kernel beside chunked torch and SDPA on this machine."""
    with one_line_errors():
        from rankone import _bench, _environment
        from rankone.reproduce._terminal import console, print_table

        environment = _environment.describe()
        tables = _bench.bench(
            _lengths(lengths), device=device, threads=threads, repeats=repeats, progress=progress
        )
        screen = console()
        for table in tables:
            print_table(screen, table)
        where = environment["processor"] if device == "cpu" else environment["GPU"]
        typer.echo(f"{where}, torch {environment['torch']}, {threads} thread(s)")
        if environment["native module"] != "built":
            typer.echo(f"native module: {environment['native module']}", err=True)


def _lengths(text: str) -> tuple[int, ...]:
    try:
        lengths = tuple(int(part) for part in text.split(","))
    except ValueError:
        lengths = ()
    if not lengths or min(lengths) < 1:
        raise ValueError(f"lengths must be positive integers separated by commas, got {text!r}")
    return lengths


@app.command()
def info() -> None:
    """Versions, kernels, processor and GPU of this installation."""
    from rankone import _environment

    facts = _environment.describe()
    width = max(map(len, facts))
    for name, value in facts.items():
        typer.echo(f"{name:<{width}}  {value}")


if __name__ == "__main__":
    main()
