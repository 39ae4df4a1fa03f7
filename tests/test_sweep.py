"""Sweeps: one random_state gives one result, whatever the number of jobs."""

import subprocess
import sys

import numpy as np
import pytest
from rankone._optional import require, require_installed
from rankone._sweep import sweep


def draw(cell, generator):
    return cell + generator.standard_normal(3)


def test_results_do_not_depend_on_the_number_of_jobs():
    alone = sweep(draw, range(5), random_state=3)
    shared = sweep(draw, range(5), random_state=3, n_jobs=2)
    np.testing.assert_array_equal(alone, shared)


def test_results_come_in_the_order_of_the_cells():
    assert sweep(lambda cell, _: cell, "abcd", random_state=0) == list("abcd")


def test_every_cell_draws_from_its_own_generator():
    results = sweep(draw, [0.0, 0.0], random_state=3)
    assert not np.allclose(results[0], results[1])


def test_a_cell_keeps_its_draws_when_cells_are_appended():
    np.testing.assert_array_equal(
        sweep(draw, [1.0, 2.0], random_state=0), sweep(draw, [1.0, 2.0, 3.0], random_state=0)[:2]
    )


@pytest.mark.parametrize("random_state", [-1, 1.5, None, True])
def test_random_state_must_be_a_count(random_state):
    with pytest.raises(ValueError, match="random_state must be an integer of at least 0, got"):
        sweep(draw, [1.0], random_state=random_state)


def test_a_missing_dependency_names_its_extra():
    with pytest.raises(ImportError, match=r"no_such_package is needed.*rankone\[stats\]"):
        require("no_such_package.module", extra="stats")


def test_an_error_inside_a_dependency_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "broken_dependency.py").write_text("import absent_of_broken\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="absent_of_broken"):
        require("broken_dependency", extra="stats")


def test_a_fields_package_names_the_extra_that_it_needs():
    require_installed("numpy", "json", extra="stats")
    with pytest.raises(ImportError, match=r"no_such_a, no_such_b needed.*rankone\[stats\]"):
        require_installed("numpy", "no_such_a", "no_such_b", extra="stats")


@pytest.mark.parametrize("package", ["stats", "linear_model"])
def test_packages_without_their_dependencies_say_so(package):
    code = (
        "import sys; sys.modules['sklearn'] = None; import importlib.util as u; f = u.find_spec; "
        "u.find_spec = lambda name, *rest: None if name == 'sklearn' else f(name, *rest)\n"
        f"try:\n    import rankone.{package}\n"
        "except ImportError as error:\n    print(error)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "sklearn needed here" in shown
    assert "rankone[stats]" in shown
