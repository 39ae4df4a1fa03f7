"""The kernels as functions of tensors: differentiable, compiled by ``torch.compile``, checked.

Importing this package registers the custom ops ``torch.ops.rankone.*``.
"""

from rankone.ops import fla
from rankone.ops._linear_attention import linear_attention, linear_attention_step
from rankone.ops.decay import decay_slopes
from rankone.ops.reference import linear_attention_reference

__all__ = [
    "decay_slopes",
    "fla",
    "linear_attention",
    "linear_attention_reference",
    "linear_attention_step",
]
