"""The kernels as functions of tensors: differentiable, compiled by ``torch.compile``, checked.

Importing this package registers the custom ops ``torch.ops.rankone.*``.
"""

from rankone._namespace import public_names
from rankone.ops import fla
from rankone.ops._causal_conv1d import causal_conv1d, causal_conv1d_step
from rankone.ops._delta_rule import delta_rule, delta_rule_step
from rankone.ops._linear_attention import linear_attention, linear_attention_step
from rankone.ops._mlstm import MLSTMState, mlstm, mlstm_step
from rankone.ops._permutation_bfs import (
    PermutationBfs,
    perm_apply,
    perm_hash_neighbors,
    permutation_bfs,
)
from rankone.ops._permutation_bfs_reference import permutation_bfs_reference
from rankone.ops._route_tokens import route_tokens
from rankone.ops._selective_scan import selective_scan
from rankone.ops._selective_scan_2d import (
    roesser_kernel,
    selective_scan_2d,
    selective_scan_2d_step,
)
from rankone.ops._slstm import SLSTMState, slstm
from rankone.ops.decay import decay_slopes
from rankone.ops.reference import (
    delta_rule_reference,
    linear_attention_reference,
    selective_scan_2d_reference,
)

_SUBMODULES = ("fla", "reference")

__all__ = [
    "MLSTMState",
    "PermutationBfs",
    "SLSTMState",
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
    "mlstm",
    "mlstm_step",
    "perm_apply",
    "perm_hash_neighbors",
    "permutation_bfs",
    "permutation_bfs_reference",
    "roesser_kernel",
    "route_tokens",
    "selective_scan",
    "selective_scan_2d",
    "selective_scan_2d_reference",
    "selective_scan_2d_step",
    "slstm",
]


def __dir__() -> list[str]:
    return public_names(globals())
