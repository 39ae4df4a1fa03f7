"""`rankone growth`: what it prints and draws, and one line for a user's mistake."""

import pytest
from rankone.cli import app
from typer.testing import CliRunner


def run(*arguments):
    return CliRunner().invoke(app, ["growth", *arguments])


def facts(result):
    assert result.exit_code == 0, result.output
    return dict(line.split(None, 1) for line in result.stdout.splitlines())


def test_growth_of_a_family():
    found = facts(run("lrx", "6"))
    assert found["graph"] == "lrx-6, 3 generators"
    assert found["states"] == "720"
    assert found["diameter"] == "15"
    assert found["layers"] == "1 3 6 11 20 35 55 81 109 128 126 95 40 6 3 1"
    assert found["last"] == "layer    105432"


def test_a_picture_is_drawn(tmp_path):
    for name in ("growth.png", "growth.svg"):
        path = tmp_path / name
        facts(run("lrx", "5", "--plot", str(path)))
        assert path.stat().st_size > 1000


def test_arguments_of_every_kind():
    assert facts(run("top_spin", "6", "3"))["graph"].startswith("top_spin-6-3")
    assert facts(run("rubik_cube", "2", "QTM", "--max-diameter", "2"))["layers"] == "1 12 114"
    assert facts(run("dino", "--max-states", "100"))["layers"] == "1 16 160"
    assert facts(run("hungarian_rings", "7"))["states"] == "5,040"
    stopped = facts(run("lx", "6", "--max-diameter", "3", "--engine", "torch"))
    assert stopped["stopped"] == "at    3"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lrxx"], "no graph is called 'lrxx'; did you mean 'lrx'"),
        (["lrx", "2"], "n must be at least 3, got 2"),
        (["lrx", "5", "1", "7"], "'lrx' takes n, k, got 5 1 7"),
        (["lrx"], "arguments of 'lrx'"),
        (["lrx", "16"], "no engine would fit"),
        (["lrx", "5", "--plot", "a.txt"], "plot must end in .png, .svg, .pdf, got 'a.txt'"),
        (["lrx", "5", "--plot", "no/such/a.png"], "plot needs a folder that exists"),
        (["lrx", "5", "--engine", "magic"], "engine must be one of"),
        (["lrx", "5", "--device", "cuda:77"], "'cuda:77' cannot be used here"),
    ],
)
def test_a_mistake_is_one_line(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("rankone: ")
    assert message in line
