"""The comparisons with peers: fair peers, checked results, complete tables. Nothing is timed here
to be judged."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from rankone._timing import Ratio, Timing
from rankone.ops import (
    delta_rule_reference,
    delta_rule_step,
    linear_attention_reference,
    linear_attention_step,
)
from rankone.ops._library import native_for, native_module

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.peers import __main__ as command_line
from bench.peers import delta_rule as delta
from bench.peers import linear_attention as family
from bench.peers import measure, memory, registry, report, sequence
from bench.peers.eager_delta_rule import eager_delta_rule, eager_delta_rule_step
from bench.peers.eager_linear_attention import (
    eager_linear_attention,
    eager_linear_attention_step,
)
from bench.peers.run import Report, Row, run

CPU = torch.device("cpu")
BENCHMARK = family.BENCHMARK
FORMS = [
    *((family, form, {"Hk": 2}) for form in family.FORMS),
    *((delta, form, {"H": 2, "HV": 4}) for form in delta.FORMS),
]
needs_kernels = pytest.mark.skipif(native_module() is None, reason="needs the native module")


def case(mode="forward", *, section="Length", memory=False, **axes):
    sizes = {"T": 70, "D": 8, "B": 2, "H": 4, "decay": "token", **axes}
    if mode == "step":
        del sizes["T"]
    return registry.Case(section, mode, sizes, memory=memory)


def relative_error(measured, expected):
    return float((measured - expected).norm() / expected.norm())


def assert_gradients_near(leaves, measured, expected):
    weight = torch.randn_like(measured)
    gradients = torch.autograd.grad(measured, leaves, weight)
    wanted = torch.autograd.grad(expected, leaves, weight)
    for one, other in zip(gradients, wanted, strict=True):
        size = max(float(other.norm()), 1e-3 * float(wanted[0].norm()))
        assert float((one - other).norm()) <= 1e-12 * size


# The eager peers.


@pytest.mark.parametrize("form", family.FORMS)
@pytest.mark.parametrize("time", [1, 64, 130])
@pytest.mark.parametrize("heads", [(2, 2), (6, 2)])
def test_eager_peer_equals_the_recurrence_with_its_gradients(form, time, heads):
    q = torch.randn(2, time, heads[0], 8, dtype=torch.float64, requires_grad=True)
    k = torch.randn(2, time, heads[1], 8, dtype=torch.float64, requires_grad=True)
    v = torch.randn(2, time, heads[1], 5, dtype=torch.float64, requires_grad=True)
    leaves = [q, k, v]
    log_decay = None
    if form != "none":
        shape = {"head": (heads[1],), "token": (2, time, heads[1]), "channel": k.shape}[form]
        log_decay = torch.empty(shape, dtype=torch.float64).uniform_(0.8, 1.0).log_()
        leaves.append(log_decay.requires_grad_())
    output = eager_linear_attention(q, k, v, log_decay)
    expected, _ = linear_attention_reference(q, k, v, log_decay)
    assert relative_error(output.detach(), expected.detach()) <= 1e-13
    assert_gradients_near(leaves, output, expected)


@pytest.mark.parametrize("peer", [eager_delta_rule, delta.token_by_token])
@pytest.mark.parametrize("form", delta.FORMS)
@pytest.mark.parametrize("time", [1, 64, 130])
@pytest.mark.parametrize("heads", [(2, 2), (2, 6)])
def test_delta_rule_peers_equal_the_recurrence_with_their_gradients(peer, form, time, heads):
    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64)

    q, v = draw(2, time, heads[0], 8), draw(2, time, heads[1], 5)
    k = torch.nn.functional.normalize(draw(2, time, heads[0], 8), dim=-1)
    beta = torch.rand(2, time, heads[1], dtype=torch.float64)
    leaves = [q, k, v, beta]
    log_decay = None
    if form != "none":
        shape = {"token": beta.shape, "channel": (*beta.shape, 8)}[form]
        log_decay = torch.empty(shape, dtype=torch.float64).uniform_(0.8, 1.0).log_()
        leaves.append(log_decay)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    output = peer(q, k, v, beta, log_decay)
    expected, _ = delta_rule_reference(q, k, v, beta, log_decay=log_decay)
    assert relative_error(output.detach(), expected.detach()) <= 1e-13
    assert_gradients_near(leaves, output, expected)


@pytest.mark.parametrize("chunk", [16, 64])
def test_the_chunk_of_the_eager_delta_rule_changes_rounding_only(chunk):
    given = delta.inputs(case(T=100), CPU, 0)
    arguments = [x.double() for x in given.arguments()]
    measured = eager_delta_rule(*arguments, chunk=chunk)
    assert relative_error(measured, eager_delta_rule(*arguments)) <= 1e-13


STEPS = {
    family: (eager_linear_attention_step, lambda *a: linear_attention_step(*a)),
    delta: (eager_delta_rule_step, lambda *a: delta_rule_step(*a[:5], log_decay=a[5])),
}


@pytest.mark.parametrize(("module", "form", "heads"), FORMS)
def test_eager_step_equals_the_step(module, form, heads):
    given = module.inputs(case("step", decay=form, **heads), CPU, 0)
    arguments = [x if x is None else x.double() for x in given.arguments()]
    eager, step = STEPS[module]
    for one, other in zip(eager(*arguments), step(*arguments), strict=True):
        assert relative_error(one, other) <= 1e-14


# The registry.


@pytest.mark.parametrize("name", registry.NAMES)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("quick", [False, True])
def test_every_benchmark_lists_its_cases_and_their_work(name, device, quick):
    benchmark = registry.load(name)
    cases = benchmark.cases(torch.device(device), quick)
    assert benchmark.name == name
    assert len({str(each) + each.section + str(each.dtype) for each in cases}) == len(cases)
    for each in cases:
        work = benchmark.work(each)
        assert work.flops > 0
        assert work.bytes > 0
        assert benchmark.tolerance(each) > 0


def test_an_unknown_op_is_refused():
    with pytest.raises(ValueError, match="op must be one of"):
        registry.load("no_such_op")


def test_work_counts_each_tensor_once():
    work = family.work(case(T=100, D=8, B=1, H=2, decay="none"))
    assert work.bytes == 4 * (4 * 100 * 2 * 8)
    # Per token and head: 4 K V of the recurrence and 64 (K + V) of half a chunk.
    assert work.flops == 100 * 2 * (4 * 8 * 8 + 64 * 16)
    both = family.work(case("forward+backward", T=100, D=8, B=1, H=2, decay="none"))
    assert both.bytes == 4 * (4 + 7) * 100 * 2 * 8


def test_work_of_the_delta_rule_counts_each_tensor_once():
    sizes = {"T": 100, "D": 8, "B": 1, "H": 2, "HV": 4}
    work = delta.work(case(**sizes, decay="channel"))
    keys, values, strengths = 100 * 2 * 8, 100 * 4 * 8, 100 * 4
    gates = strengths * 8
    assert work.bytes == 4 * (2 * keys + 2 * values + strengths + gates)
    # Per token: 6 K V and half a chunk's solve and outputs a value head, its two products a key
    # head.
    assert work.flops == 100 * (4 * (6 * 8 * 8 + 64 * 16) + 2 * 64 * 16)
    both = delta.work(case("forward+backward", **sizes, decay="channel"))
    assert both.bytes - work.bytes == 4 * (4 * keys + 3 * values + 2 * strengths + 2 * gates)


@pytest.mark.parametrize(("module", "decay", "heads"), FORMS)
@pytest.mark.parametrize("mode", ["forward", "forward+backward", "step"])
def test_a_wrong_result_shows_in_the_error(mode, module, decay, heads):
    chosen = case(mode, T=300, decay=decay, **heads)
    given = module.inputs(chosen, CPU, 0)
    contenders = {contender.name: contender for contender in module.BENCHMARK.contenders}
    results = contenders[sequence.EAGER].prepare(chosen, given)()
    limit = module.BENCHMARK.tolerance(chosen)
    assert module.error(chosen, given, results) <= limit
    for index in range(len(results)):
        wrong = [result.clone() for result in results]
        # Late in time, in the last head: where a state that was carried wrongly shows.
        wrong[index][(-1,) * wrong[index].ndim] += 1
        assert module.error(chosen, given, tuple(wrong)) > limit


def test_keys_of_the_delta_rule_are_unit_and_drawn_the_same_again():
    chosen = case("forward+backward", H=2, HV=4)
    given = delta.inputs(chosen, CPU, 3)
    assert torch.allclose(given.k.norm(dim=-1), torch.ones(2, 70, 2))
    assert all(leaf.requires_grad for leaf in given.leaves())
    assert torch.equal(given.v, delta.inputs(chosen, CPU, 3).v)


def test_softmax_attention_gives_every_value_head_its_own_keys():
    chosen = case(H=2, HV=4, decay="none")
    given = delta.inputs(chosen, CPU, 0)
    (output,) = sequence.softmax_attention(chosen, given)()
    q, k = (x.repeat_interleave(2, dim=2) for x in (given.q, given.k))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * 8**-0.5
    past = torch.ones(70, 70, dtype=torch.bool).tril()
    weights = scores.masked_fill(~past, -torch.inf).softmax(-1)
    expected = torch.einsum("bhij,bjhd->bhid", weights, given.v)
    assert relative_error(output, expected) <= 1e-5


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
@pytest.mark.parametrize("name", ["linear_attention", "delta_rule"])
def test_kernels_of_other_libraries_are_named_where_they_cannot_run(name):
    chosen = case()
    reasons = {
        contender.name: contender.unavailable(chosen, CPU)
        for contender in registry.load(name).contenders
    }
    assert reasons["fla"] == "flash-linear-attention needs a CUDA device"
    if name == "delta_rule":
        assert reasons[delta.FLASH_QLA] == "FlashQLA needs a CUDA device"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_mamba_ssm_says_where_it_cannot_run():
    from bench.peers import selective_scan_2d as scan

    (mamba,) = [
        contender
        for contender in registry.load("selective_scan_2d").contenders
        if contender.name == "mamba-ssm"
    ]
    reasons = {
        chosen.axes["scan"]: mamba.unavailable(chosen, CPU) for chosen in scan.cases(CPU, True)
    }
    assert reasons[scan.LINE] == "mamba-ssm needs a CUDA device"
    assert reasons[scan.GRID] == "mamba-ssm scans one axis alone"


def test_the_token_by_token_peer_runs_on_short_sequences_alone():
    reasons = [delta._only_short(case(T=time), CPU) for time in (512, 513)]
    assert reasons == [None, "is timed up to T = 512"]
    assert delta._only_short(case("step"), CPU) is not None


# A run.


@needs_kernels
@pytest.mark.filterwarnings("ignore:.*composite torch code")
def test_a_run_measures_every_contender_and_writes_its_tables(tmp_path):
    cases = [
        *(case(mode, T=time, memory=True)
          for mode in ("forward", "forward+backward") for time in (64, 128)),
        case("forward", section="Heads", T=64, Hk=2),
        case("step", section="Decode step"),
    ]  # fmt: skip
    finished = run(BENCHMARK, device=CPU, cases=cases, repeats=2, threads=1, progress=False)
    assert finished.failures == []
    assert any(line.startswith("fla: ") for line in finished.skipped)
    assert [row.case for row in finished.rows] == cases
    whole = {family.SUBJECT, family.COMPOSITE, family.EAGER, family.SDPA, measure.SGEMM}
    for row in finished.rows:
        expected = {family.SUBJECT, family.EAGER, measure.SGEMM}
        assert row.timings.keys() == (expected if row.case.mode == "step" else whole)
        assert all(len(timing.seconds) == 2 for timing in row.timings.values())
        assert row.errors[family.SUBJECT] <= sequence.tolerance(row.case)
        assert row.extra_bytes.keys() == (whole - {measure.SGEMM} if row.case.memory else set())
    assert finished.facts["torch threads"] == 1

    as_json, as_markdown = report.write(finished, tmp_path / "results")
    data = json.loads(as_json.read_text())
    assert len(data["rows"]) == len(cases)
    seconds = data["rows"][0]["contenders"][family.EAGER]["seconds"]
    assert 0 < seconds["low"] <= seconds["median"] <= seconds["high"]
    text = as_markdown.read_text()
    for part in ("| processor", "x eager torch", "## Heads: forward", "Peak memory", "T^", "fla: "):
        assert part in text


@pytest.mark.skipif(
    native_for("delta_rule", CPU, torch.float32) is None, reason="needs the native module"
)
def test_a_run_of_the_delta_rule_measures_every_contender(tmp_path):
    cases = [
        *(case(mode, T=64) for mode in ("forward", "forward+backward")),
        case("forward", section="Heads", T=64, H=2, HV=4),
        case("step", section="Decode step"),
    ]
    finished = run(delta.BENCHMARK, device=CPU, cases=cases, repeats=1, threads=1, progress=False)
    assert finished.failures == []
    whole = {delta.SUBJECT, delta.COMPOSITE, delta.EAGER, delta.RECURRENCE, delta.SDPA}
    for measured in finished.rows:
        expected = whole if measured.case.mode != "step" else {delta.SUBJECT, delta.EAGER}
        assert measured.timings.keys() == expected | {measure.SGEMM}
    text = report.write(finished, tmp_path)[1].read_text()
    assert "x recurrence" in text


def test_a_subject_that_is_wrong_is_a_failure_and_a_peer_is_left_out():
    def off(case_, given):
        call = right.prepare(case_, given)
        return lambda: tuple(result + 1 for result in call())

    right = registry.Contender("right", sequence.whole(eager_linear_attention))
    wrong = registry.Contender("wrong", off)
    options = {"device": CPU, "cases": [case(T=64)], "repeats": 1, "progress": False}
    benchmark = dataclasses.replace(BENCHMARK, contenders=(wrong, right))
    finished = run(benchmark, **options)
    assert finished.rows == []
    assert "relative error" in finished.failures[0]
    finished = run(dataclasses.replace(BENCHMARK, contenders=(right, wrong)), **options)
    assert finished.failures == []
    assert finished.rows[0].timings.keys() == {"right", measure.SGEMM}
    assert any(line.startswith("wrong: relative error") for line in finished.skipped)


def test_a_contender_that_raises_does_not_end_the_run():
    def prepare(case_, given):
        def call():
            raise RuntimeError("no room")

        return call

    right = registry.Contender("right", sequence.whole(eager_linear_attention))
    broken = registry.Contender("broken", prepare)
    benchmark = dataclasses.replace(BENCHMARK, contenders=(right, broken))
    finished = run(benchmark, device=CPU, cases=[case(T=64)], repeats=1, progress=False)
    assert len(finished.rows) == 1
    assert any("broken: RuntimeError: no room" in line for line in finished.skipped)


def test_an_interrupted_run_keeps_what_it_measured():
    def prepare(case_, given):
        if case_.axes["T"] == 128:
            raise KeyboardInterrupt
        return right.prepare(case_, given)

    right = registry.Contender("right", sequence.whole(eager_linear_attention))
    benchmark = dataclasses.replace(BENCHMARK, contenders=(registry.Contender("any", prepare),))
    cases = [case(T=64), case(T=128)]
    finished = run(benchmark, device=CPU, cases=cases, repeats=1, progress=False)
    assert [row.case for row in finished.rows] == cases[:1]
    assert finished.failures == ["interrupted after 1 of 2 cases"]


def test_memory_of_a_call_is_what_it_allocates():
    chosen = case(T=4096, D=64, B=1, H=8, decay="none")
    result = 4096 * 8 * 64 * 4
    eager = memory.cpu_extra_bytes(BENCHMARK.name, family.EAGER, chosen)
    softmax = memory.cpu_extra_bytes(BENCHMARK.name, family.SDPA, chosen)
    # Resident sizes are counted in pages, a few of them late; softmax attention needs little more
    # than its result and the eager form keeps scores and states of all chunks.
    assert 0.8 * result <= softmax <= 2 * result
    assert eager >= 3 * result


# Tables and goals.


def row(seconds, **axes):
    timings = {name: Timing(name, (value,)) for name, value in seconds.items()}
    return Row(case(**axes), family.SUBJECT, timings, errors={family.SUBJECT: 1e-7})


def test_goals_hold_only_where_every_case_meets_them():
    fast = row({family.SUBJECT: 1.0, family.EAGER: 4.0, family.SDPA: 2.0}, D=64, T=1024)
    slow = row({family.SUBJECT: 1.0, family.EAGER: 2.0, family.SDPA: 0.5}, D=64, T=2048)
    short = row({family.SUBJECT: 1.0, family.EAGER: 4.0, family.SDPA: 0.5}, D=64, T=256)
    assert [goal.holds for goal in sequence.speed_goals([fast, short], CPU)] == [True, True]
    assert [goal.holds for goal in sequence.speed_goals([fast, slow], CPU)] == [False, False]
    assert "1 of 2 cases" in sequence.speed_goals([fast, slow], CPU)[0].measured
    assert sequence.speed_goals([fast], torch.device("cuda")) == []


def test_goals_are_said_for_each_head_dim():
    rows = [row({family.SUBJECT: 1.0, family.EAGER: 4.0}, D=dim) for dim in (64, 128)]
    assert ["D = 64" in rows_goal.statement for rows_goal in sequence.speed_goals(rows, CPU)] == [
        True, False,
    ]  # fmt: skip


@pytest.mark.parametrize(("power", "holds"), [(1.0, True), (1.14, True), (1.3, False)])
def test_growth_is_compared_with_that_of_the_eager_peer(power, holds):
    """A machine that runs at half its speed for the longer sequence changes nothing."""
    rows = [
        row(
            {
                delta.SUBJECT: speed * time**power,
                delta.EAGER: 3 * speed * time**1.1,
                measure.SGEMM: speed,
            },
            T=time,
        )
        for speed, time in ((1.0, 256), (2.0, 16384))
    ]
    (goal,) = sequence.growth_goals(rows)
    assert goal.holds == holds
    assert f"T^{power:.2f} against T^1.10 from T = 256 to 16384" in goal.measured
    assert sequence.growth_goals(rows[:1]) == []


def test_a_ratio_says_how_many_times_as_long_the_peer_takes():
    assert row({family.SUBJECT: 2.0, family.EAGER: 5.0}).ratio(family.EAGER) == Ratio(2.5, 2.5, 2.5)


def test_columns_are_the_axes_that_vary():
    first, second = row({family.SUBJECT: 1.0}, T=64), row({family.SUBJECT: 1.0}, T=128)
    lines = report._section([first, second])
    assert lines[0] == "## Length: forward (D=8, B=2, H=4, decay=token, float32)"
    assert lines[2].split("|")[1].strip() == "T"


def test_result_files_are_named_by_op_device_and_threads():
    def named(device, **facts):
        return report.stem(Report(BENCHMARK, torch.device(device), facts, [], [], []))

    assert named("cpu", **{"torch threads": 2, "cores": 2}) == "linear_attention_cpu"
    assert named("cpu", **{"torch threads": 1, "cores": 2}) == "linear_attention_cpu_threads1"
    assert named("cuda", GPU="NVIDIA X 80GB") == "linear_attention_nvidia-x-80gb"


@pytest.mark.parametrize(
    ("threads", "load", "expected"),
    [(2, "0.1", False), (2, "1.5", True), (1, "3.0", False), (1, "0.1", False)],
)
def test_a_crowded_machine_is_named_where_threads_wait_for_each_other(threads, load, expected):
    facts = {"torch threads": threads, "cores": 2, "load average at the start": load}
    assert report.crowded(facts) == expected
    finished = Report(BENCHMARK, CPU, facts, [], [], [])
    assert ("do not count" in report.markdown(finished)) == expected


def test_numbers_have_three_digits():
    assert [report._digits(value) for value in (0.01234, 1.234, 12.34, 1234.5)] == [
        "0.0123", "1.23", "12.3", "1234",
    ]  # fmt: skip


def test_the_next_input_set_is_used_each_time():
    call = measure.rotating([lambda: "first", lambda: "second"])
    assert [call() for _ in range(3)] == ["first", "second", "first"]


def test_the_floor_is_the_slower_of_copy_and_product():
    ceilings = measure.Ceilings(100.0, {"torch.float32": 1000.0})
    assert ceilings.floor(flops=1000.0, size=1000.0, dtype=torch.float32) == 10.0
    assert ceilings.floor(flops=1e6, size=1000.0, dtype=torch.float32) == 1000.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_the_command_line_says_that_there_is_no_gpu(capsys):
    assert command_line.main(["--device", "cuda"]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err
