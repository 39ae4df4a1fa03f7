"""The functions of flash-linear-attention (fla) under their own names, over rankone's ops.

Argument order, defaults, state shapes and return structure are those of ``fla.ops``, so a user of
fla changes only the import::

    from rankone.ops.fla import chunk_gated_delta_rule

Differences: linear attention takes grouped heads (k and v may have fewer heads than q), gates must
be at most 0 and are checked on CPU tensors, and every argument is checked with an error that names
it. ``chunk_*`` and ``fused_recurrent_*`` give the same result here.
"""

from rankone._namespace import public_names
from rankone.ops.fla.delta_rule import (
    chunk_delta_rule,
    chunk_gated_delta_rule,
    chunk_kda,
    fused_recurrent_delta_rule,
    fused_recurrent_gated_delta_rule,
    fused_recurrent_kda,
)
from rankone.ops.fla.linear_attention import (
    chunk_gla,
    chunk_lightning_attn,
    chunk_linear_attn,
    chunk_simple_gla,
    fused_recurrent_gla,
    fused_recurrent_lightning_attn,
    fused_recurrent_linear_attn,
    fused_recurrent_simple_gla,
)

__all__ = [
    "chunk_delta_rule",
    "chunk_gated_delta_rule",
    "chunk_gla",
    "chunk_kda",
    "chunk_lightning_attn",
    "chunk_linear_attn",
    "chunk_simple_gla",
    "fused_recurrent_delta_rule",
    "fused_recurrent_gated_delta_rule",
    "fused_recurrent_gla",
    "fused_recurrent_kda",
    "fused_recurrent_lightning_attn",
    "fused_recurrent_linear_attn",
    "fused_recurrent_simple_gla",
]


def __dir__() -> list[str]:
    return public_names(globals())
