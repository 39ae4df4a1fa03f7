"""Steps skip checks that a signature has passed before, and no others."""

import pytest
import torch
from rankone.ops import checks, delta_rule_step, linear_attention_step

B, H, K, V = 2, 3, 4, 5


def arguments(**changes):
    given = {
        "q": torch.randn(B, H, K), "k": torch.randn(B, H, K), "v": torch.randn(B, H, V),
        "state": torch.randn(B, H, K, V), "log_decay": -torch.rand(B, H),
    }  # fmt: skip
    return given | changes


def linear(**changes):
    return linear_attention_step(**arguments(**changes))


def delta(**changes):
    return delta_rule_step(**arguments(**{"beta": torch.rand(B, H), **changes}))


STEPS = (linear, delta)


def test_a_signature_is_checked_once():
    seen, calls = checks.SeenBefore(), []
    for _ in range(3):
        seen.check(lambda: calls.append(1), (torch.ones(2), None), "option")
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("tensors", "option"),
    [
        ((torch.ones(3), None), "option"),
        ((torch.ones(2, dtype=torch.float64), None), "option"),
        ((torch.ones(2, device="meta"), None), "option"),
        ((torch.ones(2), torch.ones(2)), "option"),
        ((None, torch.ones(2)), "option"),
        (([1.0, 1.0], None), "option"),
        ((torch.ones(2), None), "another"),
    ],
)
def test_another_signature_is_checked(tensors, option):
    seen, calls = checks.SeenBefore(), []
    seen.check(lambda: None, (torch.ones(2), None), "option")
    seen.check(lambda: calls.append(1), tensors, option)
    assert len(calls) == 1


def test_a_signature_that_failed_is_checked_again():
    def fail():
        raise ValueError("no")

    seen = checks.SeenBefore()
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            seen.check(fail, (torch.ones(2),))


def test_sizes_that_are_symbols_are_checked_every_time():
    from torch.fx.experimental.proxy_tensor import make_fx

    def step(q, k, v, state):
        return linear_attention_step(q, k, v, state)[0]

    given = arguments()
    inputs = [given[name] for name in ("q", "k", "v", "state")]
    traced = make_fx(step, tracing_mode="symbolic")(*inputs)
    torch.testing.assert_close(traced(*inputs), step(*inputs))


def test_signatures_are_forgotten_beyond_a_limit():
    seen = checks.SeenBefore()
    for size in range(3 * checks.SeenBefore._LIMIT):
        seen.check(lambda: None, (), size)
        assert len(seen._passed) <= checks.SeenBefore._LIMIT


def test_what_passes_under_autocast_alone_fails_without_it():
    mixed = {"q": torch.randn(B, H, K, dtype=torch.bfloat16)}
    for step in STEPS:
        with torch.autocast("cpu", torch.bfloat16):
            step(**mixed)
        with pytest.raises(TypeError, match="must have the dtype of q"):
            step(**mixed)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": torch.randn(B, H, K + 1)}, "k must have shape"),
        ({"v": torch.randn(B, H, V, dtype=torch.float64)}, "v must have the dtype of q"),
        ({"state": torch.randn(B, H, K, V, device="meta")}, "state must be on the device of q"),
        ({"state": torch.randn(B, H, V, K)}, "state must have shape"),
        ({"log_decay": torch.full((B, H), 0.5)}, "log_decay must be at most 0 .* got 0.5"),
        ({"log_decay": torch.full((B, H), torch.nan)}, "log_decay must be at most 0 .* got nan"),
        ({"q": [[[0.0]]]}, "q must be a torch.Tensor, got list"),
    ],
)
def test_a_mistake_after_good_calls_is_still_named(step, changes, message):
    step()
    step()
    with pytest.raises((ValueError, TypeError), match=message):
        step(**changes)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_are_read_every_time(bad, dtype):
    beta = torch.rand(B, H).to(dtype)
    delta(beta=beta)
    beta[1, 2] = bad
    with pytest.raises(ValueError, match=f"beta must be finite, got {bad}"):
        delta(beta=beta)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("layout", ["dense", "transposed", "large"])
def test_the_largest_log_decay_is_found_wherever_it_lies(layout, dtype):
    shape = (200, 300) if layout == "large" else (4, 6)
    values = -torch.rand(shape) - 0.1
    values[0, 0] = -torch.inf
    values[-1, -2] = 0.25
    values = values.to(dtype)
    values = values.T.contiguous().T if layout == "transposed" else values
    with pytest.raises(ValueError, match=r"log_decay must be at most 0 .* got 0\.25"):
        checks.check_log_decay_values(values)
    values[-1, -2] = torch.nan
    with pytest.raises(ValueError, match="got nan"):
        checks.check_log_decay_values(values)
    values[-1, -2] = 0.0
    checks.check_log_decay_values(values)


@pytest.mark.parametrize("step", STEPS)
def test_a_gradient_is_kept_where_any_input_asks_for_one(step):
    for name in ("q", "k", "v", "state", "log_decay"):
        given = arguments()
        given[name].requires_grad_()
        output, state = step(**given)
        (gradient,) = torch.autograd.grad(output.sum() + state.sum(), given[name])
        assert gradient.any()
    with torch.no_grad():
        assert not step(**given)[0].requires_grad
