"""Lightning Attention-2 (arXiv 2401.04658): constant speed in the sequence length, exactly.

Tiled linear attention against torch's scaled_dot_product_attention on the same normal inputs, each
in its own layout and with one thread on a CPU. All lengths and both sides are timed in the same
alternating rounds. Exactness is held against the float64 recurrence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rankone import _timing, ops
from rankone._progress import Progress
from rankone.reproduce import Claim, Figure, Reproduction, Settings, Table, against_length, panel

LINEAR = "linear attention"
SOFTMAX = "softmax attention"

# Twice the error of rounding float32 products over a few thousand tokens, in units of the output.
_FLOAT32_TOLERANCE = 2e-6
_NAIVE_CHUNK = 64


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        lengths: sequence lengths of the forward measurements.
        backward_lengths: those of forward plus backward.
        short, long: the lengths whose tokens per second are compared; both among ``lengths``.
        rising_from: the speed-up over softmax must rise from this length on.
        batch, heads, head_dim, dtype: shape and dtype of the timed inputs.
        repeats: timed rounds, whose median counts.
        accuracy_time: length at which results are compared with the recurrence.
    """

    lengths: tuple[int, ...]
    backward_lengths: tuple[int, ...]
    short: int = 1024
    long: int = 16384
    rising_from: int = 2048
    batch: int = 1
    heads: int = 4
    head_dim: int = 64
    dtype: str = "float32"
    repeats: int = 5
    accuracy_time: int = 4096

    def __post_init__(self) -> None:
        for name in ("short", "long"):
            if getattr(self, name) not in self.lengths:
                raise ValueError(f"{name} must be one of lengths, got {getattr(self, name)}")
        if sum(length >= self.rising_from for length in self.lengths) < 2:
            raise ValueError(
                f"rising_from must leave at least two of lengths, got {self.rising_from}"
            )


def _powers(first: int, last: int) -> tuple[int, ...]:
    return tuple(1 << exponent for exponent in range(first.bit_length() - 1, last.bit_length()))


QUICK = Scale(lengths=_powers(512, 16384), backward_lengths=_powers(512, 8192))
FULL_CPU = Scale(lengths=_powers(512, 131072), backward_lengths=_powers(512, 131072))
FULL_CUDA = Scale(
    lengths=_powers(512, 32768),
    backward_lengths=_powers(512, 32768),
    batch=4,
    heads=32,
    head_dim=128,
    dtype="bfloat16",
)


@dataclass(frozen=True)
class Speeds:
    """Timings of both sides by length."""

    tokens_per_sequence: tuple[int, ...]
    batch: int
    timings: dict[tuple[str, int], _timing.Timing]

    def tokens_per_second(self, side: str, length: int) -> float:
        return self.batch * length / self.timings[side, length].median

    def speed_up(self, length: int) -> float:
        """How many times as long softmax attention takes: the median over rounds."""
        slower, faster = self.timings[SOFTMAX, length], self.timings[LINEAR, length]
        return _timing.ratio(slower, faster).median


def run(settings: Settings) -> Reproduction:
    """Measure speed against length, exactness for every decay form, and the size of the state."""
    device = torch.device(settings.device)
    full = FULL_CUDA if device.type == "cuda" else FULL_CPU
    scale = settings.scale(quick=QUICK, full=full)
    with _timing.torch_threads(1):
        forward = _speeds(settings, scale, scale.lengths, _forward, "forward")
        both = _speeds(settings, scale, scale.backward_lengths, _forward_backward, "with backward")
    tables = [_speed_table(forward, "forward"), _speed_table(both, "forward and backward")]
    kernel_rows = _kernel_rows(settings, scale) if settings.full and device.type == "cuda" else {}
    return Reproduction(
        slug="lightning-attention-2",
        claims=(
            *_speed_claims(scale, forward),
            *_accuracy_claims(settings, scale),
            *_factorisation_claims(settings, scale),
            _state_claim(settings, scale),
        ),
        tables=(*tables, _training_anchors(), _kernel_anchors(kernel_rows)),
        figures=(_figure(settings, scale, forward, both),),
        settings={
            "threads while timing": 1,
            "rounds": scale.repeats,
            "inputs": f"batch {scale.batch}, heads {scale.heads}, head dim {scale.head_dim}, "
            f"{scale.dtype}, alibi slopes",
        },
    )


def _inputs(settings: Settings, scale: Scale, time: int) -> tuple[Tensor, Tensor, Tensor]:
    """Normal q, k, v as (batch, time, heads, dim)."""
    generator = torch.Generator(settings.device).manual_seed(settings.random_state)
    shape = (3, scale.batch, time, scale.heads, scale.head_dim)
    drawn = torch.randn(shape, generator=generator, device=settings.device)
    q, k, v = drawn.to(getattr(torch, scale.dtype))
    return q, k, v


def _float32_inputs(settings: Settings, scale: Scale) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = _inputs(settings, scale, scale.accuracy_time)
    return q.float(), k.float(), v.float()


Sides = dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]]


def _sides(settings: Settings, scale: Scale, time: int) -> Sides:
    """Both functions with their inputs, each contiguous in the layout the function prefers."""
    tensors = _inputs(settings, scale, time)
    slopes = ops.decay_slopes(scale.heads).to(settings.device)

    def linear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ops.linear_attention(q, k, v, slopes)[0]

    def softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    heads_first = tuple(tensor.transpose(1, 2).contiguous() for tensor in tensors)
    return {LINEAR: (linear, tensors), SOFTMAX: (softmax, heads_first)}


def _forward(function: Callable[..., Tensor], tensors: Sequence[Tensor]) -> Callable[[], object]:
    return lambda: function(*tensors)


def _forward_backward(
    function: Callable[..., Tensor], tensors: Sequence[Tensor]
) -> Callable[[], object]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    upstream = torch.ones_like(leaves[2])
    return lambda: torch.autograd.grad(function(*leaves), leaves, upstream)


def _speeds(
    settings: Settings,
    scale: Scale,
    lengths: Sequence[int],
    prepare: Callable[[Callable[..., Tensor], Sequence[Tensor]], Callable[[], object]],
    description: str,
) -> Speeds:
    callables = {
        (side, length): prepare(function, tensors)
        for length in lengths
        for side, (function, tensors) in _sides(settings, scale, length).items()
    }
    samples = (scale.repeats + 1) * len(callables)
    with Progress(f"timing {description}", samples, enabled=settings.progress) as progress:
        timings = _timing.interleaved(
            callables,
            repeats=scale.repeats,
            synchronize=_synchronize(settings.device),
            on_sample=progress.advance,
        )
    return Speeds(tuple(lengths), scale.batch, timings)


def _synchronize(device: str) -> Callable[[], object] | None:
    return torch.cuda.synchronize if torch.device(device).type == "cuda" else None


def _speed_claims(scale: Scale, speeds: Speeds) -> list[Claim]:
    def change(side: str) -> float:
        return speeds.tokens_per_second(side, scale.long) / speeds.tokens_per_second(
            side, scale.short
        )

    rising = [length for length in scale.lengths if length >= scale.rising_from]
    return [
        Claim.at_least(
            f"constant speed: tokens/s of linear attention at {scale.long} over {scale.short}",
            change(LINEAR),
            0.7,
            expected="about 1",
        ),
        Claim.at_most(
            f"softmax slows: tokens/s of softmax attention at {scale.long} over {scale.short}",
            change(SOFTMAX),
            0.25,
            expected=f"about 1/{scale.long // scale.short}",
        ),
        Claim.at_least(
            f"speed-up of linear over softmax attention at {scale.long}",
            speeds.speed_up(scale.long),
            4.0,
            expected="above 1",
        ),
        Claim.increasing(
            "the speed-up grows with the length, at " + ", ".join(map(str, rising)),
            [speeds.speed_up(length) for length in rising],
            expected="grows with T",
        ),
    ]


def _decays(settings: Settings, scale: Scale) -> dict[str, Tensor | None]:
    """One log-decay a form, the projected ones in the layer's range, logsigmoid(x) / 16."""
    generator = torch.Generator().manual_seed(settings.random_state + 1)
    by_token = (scale.batch, scale.accuracy_time, scale.heads)
    return {
        "none": None,
        "per head": ops.decay_slopes(scale.heads).to(settings.device),
        "per token": _gates(by_token, generator, settings.device),
        "per channel": _gates((*by_token, scale.head_dim), generator, settings.device),
    }


def _gates(shape: tuple[int, ...], generator: torch.Generator, device: str) -> Tensor:
    return (F.logsigmoid(torch.randn(shape, generator=generator)) / 16).to(device)


def _accuracy_claims(settings: Settings, scale: Scale) -> list[Claim]:
    q, k, v = _float32_inputs(settings, scale)
    claims = []
    for form, log_decay in settings.track(_decays(settings, scale).items(), "checking", total=4):
        tiled, _ = ops.linear_attention(q, k, v, log_decay)
        exact, _ = ops.linear_attention_reference(
            q.double(), k.double(), v.double(), None if log_decay is None else log_decay.double()
        )
        claims.append(
            Claim.at_most(
                f"tiled = untiled, decay {form}: relative error of o to the float64 recurrence",
                _relative_error(tiled, exact),
                _FLOAT32_TOLERANCE,
                expected="0",
            )
        )
    return claims


def _relative_error(measured: Tensor, exact: Tensor) -> float:
    return float((measured.double() - exact).norm() / exact.norm())


def _factorisation_claims(settings: Settings, scale: Scale) -> list[Claim]:
    q, k, v = _float32_inputs(settings, scale)
    generator = torch.Generator().manual_seed(settings.random_state + 2)
    log_decay = F.logsigmoid(20 * torch.randn(k.shape, generator=generator)).to(settings.device)
    ours, _ = ops.linear_attention(q, k, v, log_decay)
    exact, _ = ops.linear_attention_reference(
        q.double(), k.double(), v.double(), log_decay.double()
    )
    return [
        Claim.at_most(
            "naive factorisation (q e^b)(k e^-b)^T fails: its share of finite outputs, "
            f"channel gates logsigmoid(20 N(0, 1)), chunk {_NAIVE_CHUNK}",
            _finite_share(_naive_factorisation(q, k, v, log_decay)),
            0.5,
            expected="below 1",
            strict=True,
        ),
        Claim.exact(
            "running products do not: share of finite outputs on the same gates",
            _finite_share(ours),
            1.0,
            note=f"relative error to the float64 recurrence {_relative_error(ours, exact):.1e}",
        ),
    ]


def _naive_factorisation(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    """Attention within chunks with the decay split into exp(b) on q and exp(-b) on k.

    What the library does not do: b is the cumulative log-decay of the chunk, so exp(-b) overflows.
    """
    chunk = min(_NAIVE_CHUNK, q.shape[1])
    outputs = []
    for start in range(0, q.shape[1] - chunk + 1, chunk):
        part = slice(start, start + chunk)
        exponent = log_decay[:, part].cumsum(dim=1)
        queries, keys = q[:, part] * exponent.exp(), k[:, part] * (-exponent).exp()
        scores = torch.einsum("bihc,bjhc->bhij", queries, keys)
        above = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).triu(1)
        outputs.append(torch.einsum("bhij,bjhv->bihv", scores.masked_fill(above, 0), v[:, part]))
    return torch.cat(outputs, dim=1)


def _finite_share(tensor: Tensor) -> float:
    return float(tensor.isfinite().double().mean())


def _state_claim(settings: Settings, scale: Scale) -> Claim:
    sizes = []
    slopes = ops.decay_slopes(scale.heads).to(settings.device)
    for length in scale.lengths:
        q, k, v = _inputs(settings, scale, length)
        _, state = ops.linear_attention(q, k, v, slopes, output_final_state=True)
        assert isinstance(state, Tensor)
        sizes.append(state.nbytes)
    expected = 4 * scale.batch * scale.heads * scale.head_dim**2
    return Claim.exact(
        f"the final state has the same size at every length, {scale.lengths[0]} to "
        f"{scale.lengths[-1]}: sizes in bytes",
        sorted(set(sizes)),
        (expected,),
        note="heads x head dim x head dim in float32",
    )


def _speed_table(speeds: Speeds, what: str) -> Table:
    rows = []
    for length in speeds.tokens_per_sequence:
        spread = _timing.ratio(speeds.timings[SOFTMAX, length], speeds.timings[LINEAR, length])
        rows.append(
            (
                length,
                speeds.timings[LINEAR, length].median * 1e3,
                speeds.timings[SOFTMAX, length].median * 1e3,
                speeds.tokens_per_second(LINEAR, length),
                speeds.tokens_per_second(SOFTMAX, length),
                str(spread),
            )
        )
    return Table(
        title=f"Speed, {what}",
        columns=(
            "T",
            "linear, ms",
            "softmax, ms",
            "linear, tokens/s",
            "softmax, tokens/s",
            "speed-up [quartiles]",
        ),
        rows=tuple(rows),
        note="Medians of alternating rounds on this machine; the speed-up is taken round by round.",
    )


def _training_anchors() -> Table:
    return Table(
        title="Training speed of a 0.4B model on one A100",
        columns=("model", "1K tokens", "8K tokens", "94K tokens"),
        rows=(
            ("Lightning Attention-2", 38615, 38172, 38596),
            ("LLaMA with FlashAttention-2", 35931, 21996, 4078),
        ),
        note="Tokens per GPU and second, quoted from arXiv 2401.04658: another machine and a whole "
        "model, so compare how the numbers change along a row.",
        published=True,
    )


@dataclass(frozen=True)
class KernelRow:
    """Milliseconds and MiB of one side at one length on a CUDA device."""

    forward: float
    backward: float
    memory: float


def _kernel_rows(settings: Settings, scale: Scale) -> dict[tuple[str, int], KernelRow]:
    """Forward, backward and peak memory apart, length by length, on a CUDA device."""
    rows = {}
    for length in settings.track(scale.lengths, "timing kernels"):
        calls: dict[str, Callable[[], object]] = {}
        memory = {}
        for side, (function, tensors) in _sides(settings, scale, length).items():
            calls[f"{side} forward"] = _forward(function, tensors)
            memory[side] = _peak_mebibytes(calls[f"{side} forward"], tensors)
            calls[f"{side} backward"] = _backward(function, tensors)
        timings = _timing.interleaved(
            calls, repeats=scale.repeats, synchronize=torch.cuda.synchronize
        )
        for side in (LINEAR, SOFTMAX):
            rows[side, length] = KernelRow(
                forward=timings[f"{side} forward"].median * 1e3,
                backward=timings[f"{side} backward"].median * 1e3,
                memory=memory[side],
            )
    return rows


def _backward(function: Callable[..., Tensor], tensors: Sequence[Tensor]) -> Callable[[], object]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    output = function(*leaves)
    upstream = torch.ones_like(output)
    return lambda: torch.autograd.grad(output, leaves, upstream, retain_graph=True)


def _peak_mebibytes(call: Callable[[], object], inputs: Sequence[Tensor]) -> float:
    """Peak memory that a call adds to what is allocated, plus its inputs."""
    call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    added = torch.cuda.max_memory_allocated() - before
    return (added + sum(tensor.nbytes for tensor in inputs)) / 2**20


def _kernel_anchors(measured: dict[tuple[str, int], KernelRow]) -> Table:
    """The repository's kernel timings with this machine's beside them, where it has a GPU."""
    published = (
        ("forward, ms", 8192, 4.41, 10.39, "forward"),
        ("forward, ms", 32768, 17.66, 162.9, "forward"),
        ("backward, ms", 8192, 18.6, 32.0, "backward"),
        ("backward, ms", 32768, 74.6, 470.7, "backward"),
        ("forward peak memory, MB", 8192, 1024, None, "memory"),
    )

    def ours(side: str, length: int, name: str) -> float | None:
        row = measured.get((side, length))
        return None if row is None else getattr(row, name)

    return Table(
        title="Kernel times at batch 4, 32 heads, dim 128, bf16",
        columns=(
            "quantity",
            "T",
            "published: Lightning Attention-2",
            "published: FlashAttention-2",
            "here: linear attention",
            "here: softmax attention",
        ),
        rows=tuple(
            (what, length, theirs, flash, ours(LINEAR, length, name), ours(SOFTMAX, length, name))
            for what, length, theirs, flash, name in published
        ),
        note="Published columns quoted from the method's repository, on its GPU. "
        + ("" if measured else "The columns of this machine need full mode on a CUDA device. ")
        + "Peak memory includes q, k and v.",
        published=True,
    )


def _figure(settings: Settings, scale: Scale, forward: Speeds, both: Speeds) -> Figure:
    drawings = []
    for title, speeds in (("forward", forward), ("forward and backward", both)):
        with panel("sequence length T", "tokens per second", title=title) as (drawing, axes):
            for side, marker in ((LINEAR, "o"), (SOFTMAX, "s")):
                axes.plot(
                    speeds.tokens_per_sequence,
                    [speeds.tokens_per_second(side, n) for n in speeds.tokens_per_sequence],
                    marker=marker,
                    label=side,
                )
            against_length(axes, scale.lengths)
            axes.legend()
        drawings.append(drawing)
    threads = "one thread" if torch.device(settings.device).type == "cpu" else settings.device
    return Figure.render(
        "Tokens per second against sequence length",
        f"Batch {scale.batch}, {scale.heads} heads of dim {scale.head_dim}, {scale.dtype}, "
        f"{threads}; medians of {scale.repeats} alternating rounds.",
        *drawings,
    )
