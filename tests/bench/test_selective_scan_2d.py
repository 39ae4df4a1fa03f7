"""The comparison of the 2D scan: its eager peers are right, and a wrong result shows."""

import sys
from pathlib import Path

import pytest
import torch
from rankone.ops import selective_scan, selective_scan_2d_reference

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.peers import registry
from bench.peers import selective_scan_2d as family

CPU = torch.device("cpu")
SCANS = (family.GRID, family.LINE)


def case(mode="forward", scan=family.GRID, dtype=torch.float32):
    axes = {"scan": scan, "B": 2, "V": 1 if scan == family.LINE else 3, "T": 7, "D": 4, "N": 3}
    return registry.Case("Length", mode, axes, dtype)


@pytest.mark.parametrize("scan", SCANS)
def test_eager_peers_equal_the_recurrence_with_their_gradients(scan):
    chosen = case("forward+backward", scan, torch.float64)
    given = family.inputs(chosen, CPU, 0)
    leaves = [tensor.detach().double().requires_grad_() for tensor in given.arguments]
    output = family._eager(chosen)(*leaves)
    if scan == family.GRID:
        expected = selective_scan_2d_reference(*leaves, dt_softplus=True)
    else:
        expected = selective_scan(*leaves, delta_softplus=True, backend="torch")
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-10)
    weight = torch.randn_like(output)
    for one, other in zip(
        torch.autograd.grad(output, leaves, weight),
        torch.autograd.grad(expected, leaves, weight),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*composite torch code")
@pytest.mark.parametrize("mode", ["forward", "forward+backward"])
@pytest.mark.parametrize("scan", SCANS)
def test_a_wrong_result_shows_in_the_error(scan, mode):
    chosen = case(mode, scan)
    given = family.inputs(chosen, CPU, 0)
    contenders = {contender.name: contender for contender in family.BENCHMARK.contenders}
    for name in (family.COMPOSITE, family.EAGER):
        results = contenders[name].prepare(chosen, given)()
        assert family.error(chosen, given, results) <= family.tolerance(chosen)
    for index in range(len(results)):
        wrong = [result.clone() for result in results]
        wrong[index][(-1,) * wrong[index].ndim] += 1
        assert family.error(chosen, given, tuple(wrong)) > family.tolerance(chosen)


def test_work_counts_each_tensor_once():
    work = family.work(case())
    cells = 2 * 3 * 7
    assert work.flops == 22 * 2 * cells * 4 * 3
    # x, dt1, dt2, y; B1, B2, C1, C2; A1 to A4 and D.
    assert work.bytes == 4 * (cells * (4 * 4 + 4 * 3) + 4 * (4 * 3 + 1))
    copied = family._copy(case(), family.inputs(case(), CPU, 0))()
    assert abs(2 * copied[0].nbytes - work.bytes) < 8


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_mamba_is_left_out_with_its_reason():
    assert "one axis alone" in family._mamba_unavailable(case(), CPU)
    assert "CUDA device" in family._mamba_unavailable(case(scan=family.LINE), CPU)
