"""Bad input: each mistake is refused before a kernel runs, by the argument's name."""

import warnings

import pytest
import torch
from rankone.ops import _library, delta_rule, delta_rule_reference, delta_rule_step

B, T, H, HV, K, V = 2, 8, 2, 4, 6, 5


def call(function=delta_rule, **changes):
    arguments = {
        "q": torch.randn(B, T, H, K),
        "k": torch.randn(B, T, H, K),
        "v": torch.randn(B, T, HV, V),
        "beta": torch.rand(B, T, HV),
    }
    arguments.update(changes)
    return function(**arguments)


NAN, INFINITY = float("nan"), float("inf")

MISTAKES = {
    "q of rank 3": ({"q": torch.randn(B, T, K)}, r"q must be 4-D .*\(2, 8, 6\)"),
    "k of rank 5": ({"k": torch.randn(B, T, H, K, 1)}, "k must be 4-D"),
    "v of rank 2": ({"v": torch.randn(B, T)}, "v must be 4-D"),
    "heads of k": ({"k": torch.randn(B, T, 1, K)}, r"k must have shape \(2, 8, 2, 6\)"),
    "key_dim of k": ({"k": torch.randn(B, T, H, K + 1)}, "k must have shape"),
    "time of v": ({"v": torch.randn(B, T + 1, HV, V)}, r"v must have shape \(2, 8, 4, 5\)"),
    "value heads no multiple": (
        {"v": torch.randn(B, T, 3, V), "beta": torch.rand(B, T, 3)},
        "v must have a multiple of the heads of q, got 3 and 2",
    ),
    "no heads": (
        {"q": torch.randn(B, T, 0, K), "k": torch.randn(B, T, 0, K)},
        "multiple of the heads of q, got 4 and 0",
    ),
    "key_dim zero": (
        {"q": torch.randn(B, T, H, 0), "k": torch.randn(B, T, H, 0)},
        "last axis of q must be at least 1, got 0",
    ),
    "value_dim zero": ({"v": torch.randn(B, T, HV, 0)}, "last axis of v .* 0"),
    "beta per key head": ({"beta": torch.rand(B, T, H)}, r"beta must have shape \(2, 8, 4\)"),
    "beta per channel": ({"beta": torch.rand(B, T, HV, V)}, "beta must have shape"),
    "NaN beta": ({"beta": torch.full((B, T, HV), NAN)}, "beta must be finite, got nan"),
    "infinite beta": (
        {"beta": torch.rand(B, T, HV).index_fill(1, torch.tensor(3), -INFINITY)},
        "beta must be finite, got -inf",
    ),
    "log_decay of one axis": ({"log_decay": torch.zeros(HV)}, "log_decay must have shape"),
    "log_decay per key head": (
        {"log_decay": torch.zeros(B, T, H)},
        r"log_decay must have shape \(batch, time, value_heads\) = \(2, 8, 4\)",
    ),
    "log_decay of wrong channels": (
        {"log_decay": torch.zeros(B, T, HV, V)},
        r"log_decay must have shape .* \(2, 8, 4, 6\), got \(2, 8, 4, 5\)",
    ),
    "positive log_decay": (
        {"log_decay": torch.full((B, T, HV), 0.5)},
        "log_decay must be at most 0 .* 0.5",
    ),
    "NaN log_decay": ({"log_decay": torch.full((B, T, HV), NAN)}, "at most 0 .* nan"),
    "one positive channel": (
        {"log_decay": torch.zeros(B, T, HV, K).index_fill_(3, torch.tensor(2), 1e-3)},
        "log_decay must be at most 0",
    ),
    "cu_seqlens with a batch": (
        {"cu_seqlens": torch.tensor([0, T])},
        "batch size must be 1 when cu_seqlens is given, got 2",
    ),
    "state of the key heads": (
        {"initial_state": torch.zeros(B, H, K, V)},
        r"initial_state must have shape \(2, 4, 6, 5\)",
    ),
    "transposed state": (
        {"initial_state": torch.zeros(B, HV, V, K)},
        "initial_state must have shape .* got",
    ),
    "chunk size": ({"chunk_size": 128}, r"chunk_size must be one of \(16, 32, 64\)"),
    "chunk size of the recurrence": (
        {"chunk_size": 16, "mode": "recurrent"},
        "chunk_size must be None when mode='recurrent'",
    ),
    "mode": ({"mode": "parallel"}, "mode must be one of"),
    "backend": ({"backend": "triton"}, "backend must be one of"),
    "scale": ({"scale": INFINITY}, "scale must be finite"),
    "epsilon of zero": ({"l2norm_eps": 0.0}, "l2norm_eps must be positive and finite, got 0.0"),
    "epsilon": ({"l2norm_eps": NAN}, "l2norm_eps must be positive"),
}


@pytest.mark.parametrize("function", [delta_rule, delta_rule_reference])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_named(mistake, function):
    changes, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        call(function, **changes)


def packed_call(offsets, function=delta_rule, **changes):
    tensors = {name: torch.randn(1, T, 2, K) for name in "qkv"}
    return function(**tensors, beta=torch.rand(1, T, 2), cu_seqlens=offsets, **changes)


@pytest.mark.parametrize("function", [delta_rule, delta_rule_reference])
@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([1, 8], "cu_seqlens must start at 0, got 1"),
        ([0, 5, 3, 8], "cu_seqlens must not decrease, got 5 followed by 3"),
        ([0, 4, 7], "cu_seqlens must end at the time length 8, got 7"),
        ([], "cu_seqlens must be 1-D"),
        ([[0, 8]], "cu_seqlens must be 1-D"),
    ],
)
def test_packed_offsets_are_checked(offsets, message, function):
    with pytest.raises(ValueError, match=message):
        packed_call(torch.tensor(offsets, dtype=torch.int64), function)


def test_packed_offsets_must_be_integers():
    with pytest.raises(TypeError, match="cu_seqlens must be int32 or int64"):
        packed_call(torch.tensor([0.0, 8.0]))


def test_states_are_one_a_packed_sequence():
    with pytest.raises(ValueError, match=r"initial_state must have shape \(2, 2, 6, 6\)"):
        packed_call(torch.tensor([0, 3, 8]), initial_state=torch.zeros(1, 2, K, K))


@pytest.mark.parametrize("name", ["q", "k", "v"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.complex64])
def test_dtypes_are_checked(name, dtype):
    shape = (B, T, HV, V) if name == "v" else (B, T, H, K)
    with pytest.raises(TypeError, match="must") as caught:
        call(**{name: torch.ones(shape).to(dtype)})
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("beta", (B, T, HV)), ("log_decay", (B, T, HV)), ("initial_state", (B, HV, K, V))],
)
def test_integers_are_refused(name, shape):
    with pytest.raises(TypeError, match=f"{name} must be float"):
        call(**{name: torch.zeros(shape, dtype=torch.int64)})


@pytest.mark.parametrize("name", ["q", "beta", "log_decay", "initial_state", "cu_seqlens"])
def test_not_a_tensor_is_refused(name):
    with pytest.raises(TypeError, match=f"{name} must be a torch.Tensor, got list"):
        call(**{name: [1.0]})


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("k", (B, T, H, K)),
        ("v", (B, T, HV, V)),
        ("beta", (B, T, HV)),
        ("log_decay", (B, T, HV, K)),
        ("initial_state", (B, HV, K, V)),
    ],
)
def test_devices_must_agree(name, shape):
    with pytest.raises(ValueError, match=f"{name} must be on the device of q, cpu, got meta"):
        call(**{name: torch.zeros(shape, device="meta")})


STATE = torch.zeros(B, HV, K, V)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"q": torch.randn(B, 1, H, K)}, ValueError, "q must be 3-D"),
        ({"v": torch.randn(3, HV, V)}, ValueError, "v must have shape"),
        ({"beta": torch.rand(B, H)}, ValueError, r"beta must have shape \(2, 4\)"),
        ({"beta": torch.full((B, HV), NAN)}, ValueError, "beta must be finite"),
        ({"state": torch.zeros(B, HV, V, K)}, ValueError, "state must have shape"),
        ({"log_decay": torch.zeros(B, H)}, ValueError, r"\(batch, value_heads\) = \(2, 4\)"),
        ({"log_decay": torch.ones(B, HV)}, ValueError, "log_decay must be at most 0"),
        ({"v": torch.randn(B, 3, V)}, ValueError, "multiple of the heads"),
        ({"l2norm_eps": -1.0}, ValueError, "l2norm_eps must be positive"),
        ({"k": torch.randn(B, H, K).double()}, TypeError, "k must have the dtype of q"),
        ({"inplace": True, "state": None}, ValueError, "state must be a tensor when inplace"),
        ({"inplace": True, "state": STATE.double()}, TypeError, "state must be torch.float32"),
        (
            {"inplace": True, "state": torch.zeros(B, HV, V, K).mT},
            ValueError,
            "state must be contiguous when inplace=True",
        ),
        (
            {"inplace": True, "beta": torch.rand(B, HV, requires_grad=True)},
            ValueError,
            "beta must not require a gradient when inplace=True",
        ),
    ],
)
def test_step_mistakes_are_named(changes, error, message):
    arguments = {
        "q": torch.randn(B, H, K),
        "k": torch.randn(B, H, K),
        "v": torch.randn(B, HV, V),
        "beta": torch.rand(B, HV),
        "state": STATE,
    }
    with pytest.raises(error, match=message):
        delta_rule_step(**{**arguments, **changes})


def test_values_are_not_read_on_fake_tensors():
    with torch.device("meta"):
        output, _ = call(beta=torch.full((B, T, HV), NAN))
    assert output.shape == (B, T, HV, V)


def test_native_backend_without_kernels_says_how_to_get_them(monkeypatch):
    monkeypatch.setattr(_library, "_native", None)
    with pytest.raises(RuntimeError, match="Install rankone from source"):
        call(backend="native")


def test_missing_kernels_warn_once_and_still_compute(monkeypatch):
    monkeypatch.setattr(_library, "_native", None)
    _library.warn_composite.cache_clear()
    with pytest.warns(UserWarning, match="delta_rule runs as composite torch code"):
        call()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output, _ = call()
    _library.warn_composite.cache_clear()
    assert output.isfinite().all()


def test_cuda_kernels_without_a_driver_raise_and_leave_the_process_usable():
    native = _library.native_module()
    if native is None or not native.has_cuda or torch.cuda.is_available():
        pytest.skip("needs a CUDA build on a machine without a device")
    if not hasattr(native.cuda, "delta_rule_forward"):
        pytest.skip("built without the delta rule's CUDA kernels (RANKONE_CUDA_FAMILIES)")
    from rankone.ops import _delta_rule as family

    q, beta = torch.randn(1, 4, 1, 8), torch.rand(1, 4, 1)
    out, state = torch.empty(1, 4, 1, 8), torch.empty(1, 1, 8, 8)
    inputs = family.Inputs(q, q, q, beta, None, None, None, 1.0, False, 1e-6, 0)
    numbers, alive = family.native_inputs(inputs)
    with pytest.raises(RuntimeError, match="CUDA error in "):
        native.cuda.delta_rule_forward(*numbers, (out.data_ptr(), state.data_ptr()), 0, 0)
    assert delta_rule(q, q, q, beta)[0].isfinite().all()
    assert alive
