"""The comparison of searches: every contender answers alike, or is named. Nothing is judged."""

import json
import sys
from pathlib import Path

import pytest
from rankone.ops._library import native_module

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.peers import permutation_bfs as family

OURS = ("rankone bitarray", "rankone hash", "rankone torch")
needs_kernels = pytest.mark.skipif(native_module() is None, reason="needs the native module")


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Replaces the worker by a script that answers with what it is given."""

    def replace(*answers):
        lines = [json.dumps(answer) for answer in answers]
        path = tmp_path / "worker.py"
        path.write_text(
            "import sys\n"
            f"lines = {lines!r}\n"
            "print('a library says hello'); print(lines[0], flush=True)\n"
            "for request, line in zip(sys.stdin, lines[1:]):\n"
            "    print(line, flush=True)\n"
        )
        monkeypatch.setattr(family, "WORKER", path)

    return replace


def answer(sizes, seconds=1.0):
    return {
        "seconds": seconds, "user_seconds": seconds, "layer_sizes": sizes, "extra_bytes": 2**20,
    }  # fmt: skip


@needs_kernels
def test_engines_are_measured_with_their_memory_and_written(tmp_path, monkeypatch):
    monkeypatch.setattr(family, "CONTENDERS", OURS)
    cases = (family.Case("lrx", 6), family.Case("coxeter", 5))
    report = family.run(cases, repeats=2, contenders=OURS)
    assert report.failures == report.skipped == []
    assert [str(row.case) for row in report.rows] == ["lrx-6", "coxeter-5"]
    for row in report.rows:
        assert list(row.answers) == list(OURS)
        assert {tuple(a["layer_sizes"]) for found in row.answers.values() for a in found}
    text = family.markdown(report)
    assert "lrx-6: 720 states" in text
    assert "load average at the start" in text
    data, table = family.write(report, tmp_path)
    assert table.read_text() == text
    row = json.loads(data.read_text())["rows"][0]
    assert set(row["contenders"]["rankone hash"]) == {
        "user seconds", "seconds", "million states/s", "extra bytes"
    }  # fmt: skip


def test_a_peer_that_is_not_installed_is_named():
    report = family.run((), contenders=("cayleypy bfs",), peer_python=sys.executable)
    (line,) = report.skipped
    assert line.startswith("cayleypy bfs: ModuleNotFoundError")


def test_a_wrong_result_is_not_a_rate(worker):
    worker({"ready": True}, answer([1, 3, 1]))
    report = family.run((family.Case("lrx", 3),), repeats=1, contenders=("cayleypy bfs",))
    assert report.rows[0].answers == {}
    assert report.skipped == ["cayleypy bfs: found 5 states in 3 layers (lrx-3)"]
    worker({"ready": True}, answer([1, 3, 1]))
    report = family.run((family.Case("lrx", 3),), repeats=1, contenders=("rankone hash",))
    assert report.failures == ["rankone hash: found 5 states in 3 layers (lrx-3)"]


def test_a_process_that_dies_is_named(worker):
    worker({"ready": True})
    report = family.run((family.Case("lrx", 3),), repeats=1, contenders=("cayleypy bfs",))
    assert report.skipped == ["cayleypy bfs: the process ended with status 0 (lrx-3)"]


def test_rates_and_ratios(worker):
    worker({"ready": True}, answer([1, 3, 2], 0.5), answer([1, 3, 2], 0.5))
    report = family.run((family.Case("lrx", 3),), repeats=2, contenders=("rankone bitarray",))
    (row,) = report.rows
    assert row.rate("rankone bitarray") == pytest.approx(6 / 0.5 / 1e6)
    assert row.extra_bytes("rankone bitarray") == 2**20
