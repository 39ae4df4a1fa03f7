"""The examples of all docstrings run and show what they say.

An example of data that is not installed is skipped, with the command that installs it; so is one
that its docstring marks as not to be run here (``+SKIP``: a pretrained network, a folder of the
user's, several processes).
"""

import doctest
import importlib
import pkgutil

import matplotlib
import pytest
import rankone

matplotlib.use("Agg")

MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(rankone.__path__, "rankone.")
    if not info.name.endswith("__main__") and info.name != "rankone._native"
)


def installation_missing(error: BaseException) -> bool:
    return isinstance(error, ImportError) and "install" in str(error)


class Runner(doctest.DocTestRunner):
    """Keeps the error of an example, so that missing data can be told from a mistake."""

    def __init__(self) -> None:
        super().__init__(verbose=False)
        self.missing: list[str] = []

    def report_unexpected_exception(self, out, test, example, exc_info):
        if installation_missing(exc_info[1]):
            self.missing.append(str(exc_info[1]))
        else:
            super().report_unexpected_exception(out, test, example, exc_info)


@pytest.mark.parametrize("name", MODULES)
def test_examples_show_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if installation_missing(error):
            pytest.skip(str(error))
        raise
    missing = []
    for test in doctest.DocTestFinder().find(module, name):
        runner, report = Runner(), []
        failed, _ = runner.run(test, out=report.append)
        missing += runner.missing
        if failed and not runner.missing:
            pytest.fail("".join(report), pytrace=False)
    if missing:
        pytest.skip("; ".join(missing))
