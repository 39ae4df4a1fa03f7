"""Running reproductions: each on its own, every failure told, nothing half written."""

import types

import pytest
from rankone import catalog
from rankone.reproduce import Claim, Reproduction, Settings, read_report, reproduce
from rankone.reproduce import _runner as runner


@pytest.fixture
def two_methods(monkeypatch):
    """A catalogue of two methods; the test says what each one's ``run`` does."""
    paper = catalog.Paper("A paper", "0000.00000")
    entries = {
        slug: catalog.Method(slug, slug.title(), paper, "field", ()) for slug in ("one", "two")
    }
    modules = {entry.module: types.SimpleNamespace() for entry in entries.values()}
    monkeypatch.setattr(catalog, "method", lambda slug: entries[slug])
    monkeypatch.setattr(
        runner, "importlib", types.SimpleNamespace(import_module=modules.__getitem__)
    )
    return {slug: modules[entry.module] for slug, entry in entries.items()}


def returns(slug, value=1):
    return lambda settings: Reproduction(slug, (Claim.exact("x", value, 1),), settings={"x": 3})


def raises(error):
    def run(settings):
        raise error

    return run


def test_conditions_are_recorded(two_methods):
    two_methods["one"].run = returns("one")
    settings = Settings(random_state=7, overrides={"length": 64})
    (result,) = reproduce("one", settings, show=False).reproductions
    assert result.settings["mode"] == "quick"
    assert result.settings["random state"] == 7
    assert result.settings["scale: length"] == "64"
    assert result.settings["x"] == 3
    assert {"rankone", "torch", "processor", "torch threads"} <= set(result.settings)
    assert result.seconds > 0


def test_a_failure_does_not_stop_the_others(two_methods, tmp_path):
    two_methods["one"].run = raises(ImportError("needs rankone[forecast]"))
    two_methods["two"].run = returns("two")
    run = reproduce(["one", "two"], Settings(out=tmp_path / "new"), show=False)
    assert [entry.slug for entry in run.reproductions] == ["two"]
    assert not run.passed
    reproductions, failures = read_report(run.json)
    assert failures == list(run.failures)
    assert "rankone[forecast]" in failures[0].error
    assert reproductions == list(run.reproductions)
    assert "did not run. ImportError: needs rankone[forecast]" in run.html.read_text()


def test_a_claim_that_does_not_hold_is_not_a_failure_to_run(two_methods):
    two_methods["one"].run = returns("one", value=2)
    run = reproduce("one", show=False)
    assert run.failures == ()
    assert not run.passed


def test_an_interrupt_keeps_what_ran(two_methods, tmp_path):
    two_methods["one"].run = returns("one")
    two_methods["two"].run = raises(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        reproduce(["one", "two"], Settings(out=tmp_path), show=False)
    reproductions, failures = read_report(tmp_path / "reproduction.json")
    assert [entry.slug for entry in reproductions] == ["one"]
    assert failures == []


def test_what_ran_is_on_disk_before_the_next_method_begins(two_methods, tmp_path):
    """A process that is killed in a long run leaves the report of what it has done."""
    two_methods["one"].run = returns("one")

    def second(settings):
        assert [entry.slug for entry in read_report(tmp_path / "reproduction.json")[0]] == ["one"]
        return returns("two")(settings)

    two_methods["two"].run = second
    run = reproduce(["one", "two"], Settings(out=tmp_path, progress=False), show=False)
    assert not run.failures
    assert len(read_report(tmp_path / "reproduction.json")[0]) == 2


def test_the_summary_names_what_does_not_hold(two_methods, capsys):
    two_methods["one"].run = returns("one", value=2)
    two_methods["two"].run = raises(ImportError("no such package"))
    reproduce(["one", "two"], Settings(progress=False))
    summary = capsys.readouterr().out.rpartition("Summary")[2]
    assert "the claim does not hold" in summary
    assert "ImportError: no such package" in summary
    assert "1 methods ran, 1 did not" in summary


def test_each_method_runs_once(two_methods):
    two_methods["one"].run = returns("one")
    assert len(reproduce(["one", "one"], show=False).reproductions) == 1


def test_every_slug_is_checked_before_the_first_runs(monkeypatch):
    monkeypatch.setattr(runner, "run_one", raises(AssertionError("ran")))
    with pytest.raises(ValueError, match="no method is called 'other'"):
        reproduce(["lightning-attention-2", "other"], show=False)


def test_no_slug_is_refused():
    with pytest.raises(ValueError, match="at least one method"):
        reproduce([])


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_is_not_here_is_refused(device):
    with pytest.raises(ValueError, match=f"device '{device}' cannot be used here"):
        reproduce("lightning-attention-2", Settings(device=device), show=False)
