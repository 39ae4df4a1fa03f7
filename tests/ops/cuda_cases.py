"""What the tests of every sequence op on a CUDA device share."""

import copy

import torch
from rankone.ops import _library
from torch import Tensor

from .sequence_cases import (
    GRADIENT_FACTOR,
    TOLERANCE,
    decay_gradient_tolerance,
    relative_error,
)

DEVICE = torch.device("cuda")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def moved(value):
    """Floating tensors as leaves on the device, other tensors on the device, the rest as it is."""
    if isinstance(value, dict):
        return {name: moved(part) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(moved(part) for part in value)
    if not isinstance(value, Tensor):
        return value
    value = value.detach().to(DEVICE)
    return value.requires_grad_() if value.is_floating_point() else value


def on_device(case):
    """The same numbers in leaves on the device."""
    other = copy.copy(case)
    for name, value in vars(case).items():
        setattr(other, name, moved(value))
    return other


def run(case, function, **options):
    """The output and the states, and the gradients of one fixed random functional of both."""
    results = case.run(function, **options)
    generator = torch.Generator().manual_seed(case.seed + 1)
    weights = [torch.randn(r.shape, generator=generator, dtype=torch.float64) for r in results]
    weights = [w.to(case.rounded_to or case.dtype) for w in weights]
    gradients = torch.autograd.grad(
        results, case.differentiable(), [w.to(r) for w, r in zip(weights, results, strict=True)]
    )
    return tuple(result.detach() for result in results), gradients


def assert_close_to_float64(case, *, function, exact):
    """``function`` on the device against ``exact`` on the host: outputs, states and all gradients,
    each by its norm-wise relative error."""
    results, gradients = run(on_device(case), function)
    expected, expected_gradients = run(case.in_double(), exact)
    assert results[0].dtype == case.dtype
    assert all(state.dtype == torch.float32 for state in results[1:])
    assert all(tensor.device.type == DEVICE.type for tensor in (*results, *gradients))
    # The operands of the matrix units have the inputs' dtype, also those that make the state.
    for measured, wanted in zip(results, expected, strict=True):
        assert relative_error(measured.cpu(), wanted) <= TOLERANCE[case.dtype]
    assert_gradients_close(case, gradients, expected_gradients)


def assert_gradients_close(case, measured, expected):
    """A gradient that cancels to nothing is held to the size of the others."""
    tolerances = [GRADIENT_FACTOR * TOLERANCE[case.dtype]] * len(expected)
    for index, tensor in enumerate(case.differentiable()):
        if tensor is case.log_decay:
            tolerances[index] = max(tolerances[index], decay_gradient_tolerance(case.time))
    largest = max(float(torch.linalg.vector_norm(gradient)) for gradient in expected)
    for one, other, tolerance in zip(measured, expected, tolerances, strict=True):
        assert one.shape == other.shape
        assert one.isfinite().all()
        size = max(float(torch.linalg.vector_norm(other)), 1e-3 * largest)
        difference = torch.linalg.vector_norm(one.cpu().double() - other)
        assert float(difference) <= tolerance * size


def assert_same_bits(measured, expected):
    assert all(torch.equal(one, other) for one, other in zip(measured, expected, strict=True))


def captured(function):
    """A CUDA graph of one call, and the tensors it writes."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        results = function()
    return graph, results


def assert_a_graph_replays_on_new_inputs(function, inputs):
    """``function`` takes no arguments and reads ``inputs``, which are overwritten in between."""
    graph, results = captured(function)
    with torch.no_grad():
        for tensor in inputs:
            tensor.copy_(torch.randn_like(tensor))
    graph.replay()
    with torch.no_grad():
        assert_same_bits(results, function())


def assert_runs_on_the_current_stream(case, function, late):
    """``late`` is an input of the case, whose numbers come after a wait."""
    expected, expected_gradients = run(case, function)
    torch.cuda.synchronize()
    values = late.detach().clone()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        # On any other stream the kernel would read it before the wait is over.
        with torch.no_grad():
            late.zero_()
            torch.cuda._sleep(50_000_000)
            late.copy_(values)
        results, gradients = run(case, function)
    torch.cuda.current_stream().wait_stream(stream)
    assert_same_bits((*results, *gradients), (*expected, *expected_gradients))


def assert_does_not_wait_for_the_device(case, function):
    weights = [torch.randn_like(result) for result in case.run(function)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        results = case.run(function)
        torch.autograd.grad(results, case.differentiable(), weights)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def peak_of_a_training_call(function, leaves):
    """Bytes beyond the inputs; ``function`` takes no arguments, ``leaves`` get gradients."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    output = function()
    weight = torch.ones((), device=DEVICE, dtype=output.dtype).expand_as(output)
    gradients = torch.autograd.grad(output, leaves, weight)
    del gradients
    return torch.cuda.max_memory_allocated() - before


def unreachable(*arguments):
    raise AssertionError("a kernel was started")


def forbid_kernels(monkeypatch):
    """Any start of a kernel fails the test."""
    monkeypatch.setattr(_library, "call", unreachable)
