"""The kernels as functions of tensors: differentiable, compiled by ``torch.compile``, checked.

Importing this package registers the custom ops ``torch.ops.rankone.*``.
"""

from rankone.ops import fla
from rankone.ops._causal_conv1d import causal_conv1d, causal_conv1d_step
from rankone.ops._delta_rule import delta_rule, delta_rule_step
from rankone.ops._linear_attention import linear_attention, linear_attention_step
from rankone.ops._route_tokens import route_tokens
from rankone.ops.decay import decay_slopes
from rankone.ops.reference import delta_rule_reference, linear_attention_reference

__all__ = [
    "causal_conv1d",
    "causal_conv1d_step",
    "decay_slopes",
    "delta_rule",
    "delta_rule_reference",
    "delta_rule_step",
    "fla",
    "linear_attention",
    "linear_attention_reference",
    "linear_attention_step",
    "route_tokens",
]
