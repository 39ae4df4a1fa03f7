"""What the tests of every sequence op share: tolerances, comparisons and random inputs."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

BACKENDS = ("native", "torch")

# Norm-wise relative error against float64 on the same inputs. float32: accumulation in blocks of
# at most 64 keeps it near 2**-23; bfloat16 and float16: one rounding of the output, and on CUDA of
# the operands of the matrix units, each half a unit in the last place (2**-9 and 2**-12).
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.bfloat16: 4e-3,
    torch.float16: 6e-4,
}
# Gradients pass through about three times as many roundings as the output.
GRADIENT_FACTOR = 3


def decay_gradient_tolerance(time: int) -> float:
    """The decay's gradient is a sum from t to the end of float32 terms whose rounding errors walk
    at random, so its error grows with the root of the length; the terms are taken before rounding
    to the inputs' dtype."""
    return GRADIENT_FACTOR * TOLERANCE[torch.float32] * time**0.5


def relative_error(measured: Tensor, expected: Tensor) -> float:
    measured, expected = measured.detach().double(), expected.detach().double()
    difference = torch.linalg.vector_norm(measured - expected)
    size = torch.linalg.vector_norm(expected)
    return float(difference / size) if size > 0 else float(difference)


def assert_near(measured: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float):
    assert len(measured) == len(expected)
    for one, other in zip(measured, expected, strict=True):
        assert one.shape == other.shape
        assert relative_error(one, other) <= tolerance


def assert_gradients_near(measured: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float):
    """As assert_near, but a gradient that cancels to nothing is held to the size of the others."""
    largest = max(float(torch.linalg.vector_norm(gradient)) for gradient in expected)
    for one, other in zip(measured, expected, strict=True):
        assert one.shape == other.shape
        size = max(float(torch.linalg.vector_norm(other)), 1e-3 * largest)
        assert float(torch.linalg.vector_norm(one.double() - other.double())) <= tolerance * size


def layouts() -> tuple[Callable[[Tensor], Tensor], ...]:
    """Functions that lay the same (batch, time, ...) numbers out with other strides."""
    return (
        lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
        lambda x: x.transpose(1, -1).contiguous().transpose(1, -1),
        lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
    )


class SequenceCase:
    """Random inputs of a sequence op. A subclass has ``run``, ``differentiable`` and the fields
    ``dtype``, ``seed`` and ``rounded_to``; where the op has a decay, ``log_decay`` and ``time``."""

    log_decay = None

    def normal(self) -> Callable[..., Tensor]:
        """A source of normal numbers, the same for the same seed in every dtype."""
        generator = torch.Generator().manual_seed(self.seed)

        def draw(*shape, dtype=self.dtype):
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        return draw

    def gradients(self, function, **options) -> tuple[Tensor, ...]:
        """Gradients of one fixed random linear functional of the results."""
        results = self.run(function, **options)
        generator = torch.Generator().manual_seed(self.seed + 1)
        weights = [torch.randn(r.shape, generator=generator, dtype=torch.float64) for r in results]
        if self.rounded_to is not None:
            # The results of that dtype: an output of it, and float32 states.
            state_dtype = torch.promote_types(self.rounded_to, torch.float32)
            dtypes = [self.rounded_to, *(state_dtype for _ in weights[1:])]
            weights = [w.to(dtype) for w, dtype in zip(weights, dtypes, strict=True)]
        total = sum((r * w.to(r.dtype)).sum() for r, w in zip(results, weights, strict=True))
        return torch.autograd.grad(total, self.differentiable())
