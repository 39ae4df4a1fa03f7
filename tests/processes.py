"""Run a script on several processes under ``torch.distributed.run`` and collect what came of it.

The script runs in each process with the names ``rank``, ``size``, ``folder`` (a Path that the
processes share) and ``torch``, ``dist`` at hand; the default group is initialised with gloo. What
it binds to ``result`` comes back pickled. An error ends its process quietly, so that the others get
to tell what they saw, and comes back as text.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any


@dataclass
class Outcome:
    """What one process did.

    Attributes:
        rank: of the process.
        finished: False where it was killed.
        result: what the script bound to ``result``.
        error: the last line of the traceback, "Type: message", or "".
        traceback: all of it.
    """

    rank: int
    finished: bool = False
    result: Any = None
    error: str = ""
    traceback: str = ""


def run_processes(
    script: str,
    nproc: int,
    folder: Path,
    timeout: float = 120,
    *,
    group_timeout: float = 60,
) -> list[Outcome]:
    """Run ``script`` on ``nproc`` processes.

    Args:
        script: Python source.
        nproc: number of processes.
        folder: an existing folder for this run alone.
        timeout: seconds after which everything is ended and AssertionError raised.
        group_timeout: of the process group's collectives, in seconds.

    Returns:
        The outcomes by rank.
    """
    (folder / "script.py").write_text(script, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={nproc}", __file__, str(folder), str(group_timeout)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(folder / "output.txt", "wb") as output:
        launcher = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            launcher.wait(timeout)
        except subprocess.TimeoutExpired:
            launcher.terminate()  # ends its workers, too
            try:
                launcher.wait(35)
            except subprocess.TimeoutExpired:
                launcher.kill()
            printed = (folder / "output.txt").read_text(errors="replace")
            raise AssertionError(f"no end after {timeout} s:\n{printed[-4000:]}") from None
    outcomes = []
    for rank in range(nproc):
        path = folder / f"outcome{rank}"
        outcomes.append(pickle.loads(path.read_bytes()) if path.exists() else Outcome(rank))
    return outcomes


def run_all_well(script: str, nproc: int, folder: Path, **options: Any) -> list[Any]:
    """As :func:`run_processes`, where no process may fail; the results by rank."""
    outcomes = run_processes(script, nproc, folder, **options)
    for outcome in outcomes:
        assert outcome.finished, (folder / "output.txt").read_text(errors="replace")[-4000:]
        assert not outcome.error, f"rank {outcome.rank}:\n{outcome.traceback}"
    return [outcome.result for outcome in outcomes]


def _work(folder: Path, group_timeout: float) -> None:
    import torch
    import torch.distributed as dist

    # The launcher ends the others when one dies; they are to tell first what they saw.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    outcome = Outcome(rank, finished=True)
    dist.init_process_group("gloo", timeout=timedelta(seconds=group_timeout))
    names = {
        "__name__": "__main__",
        "rank": rank,
        "size": dist.get_world_size(),
        "folder": folder,
        "torch": torch,
        "dist": dist,
    }
    try:
        source = (folder / "script.py").read_text(encoding="utf-8")
        exec(compile(source, str(folder / "script.py"), "exec"), names)
        outcome.result = names.get("result")
    except BaseException as error:
        outcome.error = traceback.format_exception_only(error)[-1].strip()
        outcome.traceback = traceback.format_exc()
    path = folder / f"outcome{rank}"
    path.with_suffix(".part").write_bytes(pickle.dumps(outcome))
    path.with_suffix(".part").rename(path)
    dist.destroy_process_group()


if __name__ == "__main__":
    # Outcomes are pickled under the name by which tests import them.
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from tests.processes import _work as work

    work(Path(sys.argv[1]), float(sys.argv[2]))
