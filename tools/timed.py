"""Run a command, pass its output and exit status through, and note how long it took.

python tools/timed.py LOG LABEL COMMAND...
python tools/timed.py --report LOG
"""

import subprocess
import sys
import time
from pathlib import Path


def run(log: Path, label: str, command: list[str]) -> int:
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"== {label}", flush=True)
    start = time.monotonic()
    status = subprocess.run(command, check=False).returncode
    with log.open("a") as stream:
        stream.write(f"{time.monotonic() - start:.1f}\t{label}\n")
    return status


def report(log: Path) -> int:
    rows = [line.split("\t") for line in log.read_text().splitlines()]
    print("\nWhere the time went:")
    for seconds, label in rows:
        print(f"{float(seconds):8.1f} s  {label}")
    print(f"{sum(float(seconds) for seconds, _ in rows):8.1f} s  in all")
    log.unlink()
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "--report":
        sys.exit(report(Path(sys.argv[2])))
    sys.exit(run(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
