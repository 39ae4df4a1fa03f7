"""Bad input: each mistake is refused before a kernel runs, by the argument's name."""

import warnings

import pytest
import torch
from rankone.ops import (
    _library,
    linear_attention,
    linear_attention_reference,
    linear_attention_step,
)

B, T, H, K, V = 2, 8, 4, 6, 5


def call(function=linear_attention, **changes):
    arguments = {
        "q": torch.randn(B, T, H, K),
        "k": torch.randn(B, T, 2, K),
        "v": torch.randn(B, T, 2, V),
    }
    arguments.update(changes)
    return function(**arguments)


STATE = torch.zeros(B, 2, K, V)

MISTAKES = {
    "q of rank 3": ({"q": torch.randn(B, T, K)}, r"q must be 4-D .*\(2, 8, 6\)"),
    "k of rank 5": ({"k": torch.randn(B, T, 2, K, 1)}, "k must be 4-D"),
    "v of rank 2": ({"v": torch.randn(B, T)}, "v must be 4-D"),
    "batch of k": ({"k": torch.randn(3, T, 2, K)}, r"k must have shape \(2, 8, 2, 6\)"),
    "time of v": ({"v": torch.randn(B, T + 1, 2, V)}, "v must have shape"),
    "heads of v": ({"v": torch.randn(B, T, 4, V)}, "v must have shape"),
    "key_dim of k": ({"k": torch.randn(B, T, 2, K + 1)}, "k must have shape"),
    "heads no multiple": (
        {"k": torch.randn(B, T, 3, K), "v": torch.randn(B, T, 3, V)},
        "multiple of the heads of k, got 4 and 3",
    ),
    "key_dim too large": (
        {"q": torch.randn(B, T, H, 257), "k": torch.randn(B, T, 2, 257)},
        "last axis of q must be between 1 and 256, got 257",
    ),
    "value_dim too large": ({"v": torch.randn(B, T, 2, 300)}, "last axis of v .* 300"),
    "value_dim zero": ({"v": torch.randn(B, T, 2, 0)}, "last axis of v .* 0"),
    "log_decay of two axes": ({"log_decay": torch.zeros(B, T)}, r"log_decay must have shape"),
    "log_decay per query head": (
        {"log_decay": torch.zeros(B, T, H)},
        r"log_decay must have shape \(kv_heads,\) = \(2,\)",
    ),
    "log_decay of wrong channels": (
        {"log_decay": torch.zeros(B, T, 2, V)},
        "log_decay must have shape",
    ),
    "positive log_decay": (
        {"log_decay": torch.tensor([-0.1, 0.1])},
        "log_decay must be at most 0 .* 0.1",
    ),
    "NaN log_decay": (
        {"log_decay": torch.full((B, T, 2), float("nan"))},
        "log_decay must be at most 0 .* nan",
    ),
    "one positive channel": (
        {"log_decay": torch.zeros(B, T, 2, K).index_fill_(3, torch.tensor(2), 1e-3)},
        "log_decay must be at most 0",
    ),
    "cu_seqlens with a batch": (
        {"cu_seqlens": torch.tensor([0, T])},
        "batch size must be 1 when cu_seqlens is given, got 2",
    ),
    "state of wrong shape": (
        {"initial_state": torch.zeros(B, H, K, V)},
        r"initial_state must have shape \(2, 2, 6, 5\)",
    ),
    "pair without normalize": ({"initial_state": (STATE, STATE[..., 0])}, "initial_state"),
    "tensor with normalize": (
        {"initial_state": STATE, "normalize": True},
        r"initial_state must be a pair \(S, z\)",
    ),
    "z of wrong shape": (
        {"initial_state": (STATE, torch.zeros(B, 2, K + 1)), "normalize": True},
        r"initial_state\[1\] must have shape \(2, 2, 6\)",
    ),
    "chunk size": ({"chunk_size": 48}, r"chunk_size must be one of \(16, 32, 64, 128\)"),
    "backend": ({"backend": "triton"}, "backend must be one of"),
    "scale": ({"scale": float("nan")}, "scale must be finite"),
    "non-causal decay": ({"causal": False, "log_decay": torch.zeros(2)}, "log_decay cannot"),
    "non-causal state": ({"causal": False, "initial_state": STATE}, "initial_state cannot"),
    "non-causal final state": (
        {"causal": False, "output_final_state": True},
        "output_final_state cannot",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_named(mistake):
    changes, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        call(**changes)


@pytest.mark.parametrize("mistake", [name for name in MISTAKES if name != "scale"])
def test_the_reference_refuses_the_same(mistake):
    changes, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        call(linear_attention_reference, **changes)


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
def test_packed_offsets_are_checked(offsets, message):
    tensors = {name: torch.randn(1, T, 2, K) for name in "qkv"}
    with pytest.raises(ValueError, match=message):
        linear_attention(**tensors, cu_seqlens=torch.tensor(offsets, dtype=torch.int64))


def test_packed_offsets_must_be_integers():
    tensors = {name: torch.randn(1, T, 2, K) for name in "qkv"}
    with pytest.raises(TypeError, match="cu_seqlens must be int32 or int64"):
        linear_attention(**tensors, cu_seqlens=torch.tensor([0.0, 8.0]))


@pytest.mark.parametrize("name", ["q", "k", "v"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.complex64])
def test_dtypes_are_checked(name, dtype):
    heads = H if name == "q" else 2
    tensor = torch.ones(B, T, heads, V if name == "v" else K).to(dtype)
    with pytest.raises(TypeError, match="must") as caught:
        call(**{name: tensor})
    assert isinstance(caught.value, ValueError)


def test_integer_decay_is_refused():
    with pytest.raises(TypeError, match="log_decay must be float"):
        call(log_decay=torch.zeros(2, dtype=torch.int64))


def test_not_a_tensor_is_refused():
    with pytest.raises(TypeError, match=r"q must be a torch\.Tensor, got list"):
        call(q=[1.0])


@pytest.mark.parametrize("name", ["k", "v", "log_decay", "initial_state"])
def test_devices_must_agree(name):
    tensor = {
        "k": torch.randn(B, T, 2, K, device="meta"),
        "v": torch.randn(B, T, 2, V, device="meta"),
        "log_decay": torch.zeros(2, device="meta"),
        "initial_state": STATE.to("meta"),
    }[name]
    with pytest.raises(ValueError, match=f"{name} must be on the device of q, cpu, got meta"):
        call(**{name: tensor})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": torch.randn(B, 1, H, K)}, "q must be 3-D"),
        ({"v": torch.randn(3, 2, V)}, "v must have shape"),
        ({"state": torch.zeros(B, 2, V, K)}, "state must have shape"),
        ({"log_decay": torch.zeros(B, H)}, "log_decay must have shape"),
        ({"log_decay": torch.ones(2)}, "log_decay must be at most 0"),
        ({"state": STATE, "normalize": True}, "state must be a pair"),
        ({"k": torch.randn(B, 3, K)}, "multiple of the heads"),
    ],
)
def test_step_mistakes_are_named(changes, message):
    arguments = {"q": torch.randn(B, H, K), "k": torch.randn(B, 2, K), "v": torch.randn(B, 2, V)}
    with pytest.raises(ValueError, match=message):
        linear_attention_step(**{**arguments, **changes})


def test_values_are_not_read_on_fake_tensors():
    with torch.device("meta"):
        output, _ = call(log_decay=torch.ones(2, device="meta"))
    assert output.shape == (B, T, H, V)


def test_native_backend_without_kernels_says_how_to_get_them(monkeypatch):
    monkeypatch.setattr(_library, "_native", None)
    with pytest.raises(RuntimeError, match="Install rankone from source"):
        call(backend="native")


def test_missing_kernels_warn_once_and_still_compute(monkeypatch):
    expected, _ = call(q=torch.ones(B, T, H, K))
    monkeypatch.setattr(_library, "_native", None)
    _library.warn_composite.cache_clear()
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="runs as composite torch code"):
        call()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output, _ = call()
    _library.warn_composite.cache_clear()
    assert output.shape == expected.shape


def test_cuda_kernels_without_a_driver_raise_and_leave_the_process_usable():
    native = _library.native_module()
    if not native.has_cuda or torch.cuda.is_available():
        pytest.skip("needs a CUDA build on a machine without a device")
    q = torch.randn(1, 4, 1, 8)
    out, state = torch.empty(1, 4, 1, 8), torch.empty(1, 1, 8, 8)
    from rankone.ops import _linear_attention as family

    inputs, alive = family.native_inputs(q, q, q, None, None, None, 1.0, False, 0)
    with pytest.raises(RuntimeError, match="CUDA error in "):
        native.cuda.linear_attention_forward(*inputs, (out.data_ptr(), state.data_ptr()), 0, 0)
    assert linear_attention(q, q, q)[0].isfinite().all()
    assert alive
