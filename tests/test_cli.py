"""The command line: what it prints, its exit status, and one clear line for a user's mistake."""

import subprocess
import sys

import pytest
from rankone import catalog
from rankone.cli import app
from rankone.reproduce import Claim, Failure, Reproduction, Run
from typer.testing import CliRunner


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def one_line(result):
    """The single line of an error, without a traceback."""
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("rankone: ")
    return line


def test_help_lists_the_commands():
    result = run("--help")
    assert result.exit_code == 0
    for command in ("methods", "reproduce", "demo", "bench", "info"):
        assert command in result.stdout


def test_help_and_listings_do_not_import_torch():
    code = (
        "import sys, rankone.cli, rankone.catalog; rankone.catalog.catalog_table(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_methods_lists_every_slug():
    result = run("methods")
    assert result.exit_code == 0
    for entry in catalog.methods():
        assert entry.slug in result.stdout
        assert all(name in result.stdout for name in entry.entry_points)


def test_methods_markdown_is_the_table_of_the_readme():
    result = run("methods", "--markdown")
    assert result.exit_code == 0
    assert result.stdout == catalog.catalog_table() + "\n"


def test_methods_update_renews_a_readme(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"{catalog.TABLE_BEGIN}\n{catalog.TABLE_END}\n")
    assert "renewed" in run("methods", "--update", str(readme)).stdout
    assert catalog.catalog_table() in readme.read_text()
    assert "already current" in run("methods", "--update", str(readme)).stdout


def test_methods_update_of_a_file_without_markers_is_one_line(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("text")
    assert "end of catalogue" in one_line(run("methods", "--update", str(readme)))
    assert readme.read_text() == "text"


def test_info_names_versions_kernels_and_processor():
    result = run("info")
    assert result.exit_code == 0
    facts = {line.split("  ")[0].strip() for line in result.stdout.splitlines()}
    assert {"rankone", "python", "torch", "native module", "processor", "GPU"} <= facts


def test_an_unknown_slug_names_the_nearest():
    line = one_line(run("reproduce", "lightning-atention"))
    assert "'lightning-atention'" in line
    assert "did you mean 'lightning-attention-2'?" in line


@pytest.mark.parametrize("arguments", [[], ["lightning-attention-2", "--all"]])
def test_slugs_or_all(arguments):
    assert "slugs of methods, or --all" in one_line(run("reproduce", *arguments))


def test_an_unusable_device_is_one_line(tmp_path):
    line = one_line(
        run("reproduce", "--all", "--device", "cuda:99", "--out", str(tmp_path / "out"))
    )
    assert "device 'cuda:99' cannot be used here" in line
    assert not (tmp_path / "out").exists()


HOLDS = Reproduction("lightning-attention-2", (Claim.exact("x", 1, 1),))
FAILS = Reproduction("lightning-attention-2", (Claim.exact("x", 1, 2),))


@pytest.mark.parametrize(
    ("result", "strict", "status"),
    [
        (Run((HOLDS,), (), None, None), True, 0),
        (Run((FAILS,), (), None, None), False, 0),
        (Run((FAILS,), (), None, None), True, 1),
        (Run((), (Failure("lightning-attention-2", "why"),), None, None), False, 1),
    ],
    ids=["holds", "claim fails", "claim fails, strict", "did not run"],
)
def test_exit_status_of_reproduce(monkeypatch, result, strict, status):
    given = []
    monkeypatch.setattr(
        "rankone.reproduce.reproduce", lambda *arguments: given.append(arguments) or result
    )
    arguments = ["reproduce", "--all", "--full", "--random-state", "3"]
    assert run(*arguments, *(["--strict"] if strict else [])).exit_code == status
    ((slugs, settings),) = given
    assert slugs == [entry.slug for entry in catalog.methods()]
    assert settings.full
    assert settings.random_state == 3
    assert settings.device == "cpu"


def test_demo_refuses_no_time(tmp_path):
    assert "seconds must be positive" in one_line(run("demo", "--seconds", "0"))


def test_an_interrupt_has_the_status_of_one(monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("rankone.demo.demo", interrupt)
    result = run("demo")
    assert (result.exit_code, result.stderr) == (130, "rankone: interrupted\n")


def test_bench_prints_a_row_a_length():
    result = run("bench", "--lengths", "16,48", "--repeats", "1")
    assert result.exit_code == 0
    rows = [line.split()[0] for line in result.stdout.splitlines() if line.strip()[:1].isdigit()]
    assert rows == ["16", "48", "16", "48"]


@pytest.mark.parametrize("lengths", ["", "a", "16,-1", "0"])
def test_bench_refuses_lengths_that_are_none(lengths):
    assert "lengths must be positive integers" in one_line(run("bench", "--lengths", lengths))
