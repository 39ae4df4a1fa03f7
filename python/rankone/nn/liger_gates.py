"""Forget gates and key features of Liger, read off the keys that a pretrained model already has.

    P = Pool(k): the keys themselves (a gate a channel) or their mean over a head (a gate a head)

| structure                   | gate G                            | key feature |
| --------------------------- | --------------------------------- | ----------- |
| gla                         | sigmoid(P)^(1 / tau)              | softmax(k)  |
| hgrn2                       | gamma + (1 - gamma) sigmoid(P)    | 1 - G       |
| rwkv6                       | exp(-exp(P))                      | softmax(k)  |
| mlstm, gated_retention      | sigmoid(P)^(1 / tau), a head      | softmax(k)  |
| mamba2                      | exp(-softplus(P))^(1 / tau), a head | softmax(k) |
| none                        | 1                                 | softmax(k)  |

Adaptive average pooling over the channels of all heads side by side to one value a head is the mean
of each head, and to one a channel the identity.
"""

from __future__ import annotations

import math
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor

from rankone.ops.checks import check_floating, check_rank

STRUCTURES = ("gla", "hgrn2", "rwkv6", "mlstm", "gated_retention", "mamba2", "none")

# rwkv6: at exp(20) nothing of the state is left, and the log-decay stays far from overflow.
MAX_RWKV6_EXPONENT = 20.0


def check_structure(structure: str, gate_normalizer: float, lower_bound: float) -> None:
    """Raise what :func:`liger_gate` documents for its options."""
    if structure == "gsa":
        raise ValueError(
            "structure 'gsa' is not supported: gated slot attention decays the value side of its "
            f"state as well; choose one of {list(STRUCTURES)}"
        )
    if structure not in STRUCTURES:
        raise ValueError(f"structure must be one of {list(STRUCTURES)}, got {structure!r}")
    check_real("gate_normalizer", gate_normalizer)
    check_real("lower_bound", lower_bound)
    if not (gate_normalizer > 0 and math.isfinite(gate_normalizer)):
        raise ValueError(f"gate_normalizer must be positive and finite, got {gate_normalizer}")
    if not 0 <= lower_bound < 1:
        raise ValueError(f"lower_bound must be in [0, 1), got {lower_bound}")


def check_real(name: str, value: object) -> None:
    """Require a real number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number, got {type(value).__name__}")


def liger_gate(
    k: Tensor,
    structure: str = "gla",
    *,
    gate_normalizer: float = 16.0,
    lower_bound: float = 0.0,
) -> tuple[Tensor | None, Tensor]:
    """Log-decay of the state and features of the keys, both without a parameter of their own.

    Args:
        k: (batch, time, kv_heads, head_dim) projected keys **before** rotary positions; any
            floating dtype.
        structure: ``"gla"``, ``"hgrn2"`` or ``"rwkv6"`` (a gate a channel), ``"mlstm"`` (also
            ``"gated_retention"``) or ``"mamba2"`` (a gate a head), or ``"none"``.
        gate_normalizer: tau, the root taken of the gates of gla, mlstm and mamba2.
        lower_bound: gamma, the least gate of hgrn2.

    Returns:
        log_decay: natural log of the gate, at most 0: (batch, time, kv_heads, head_dim) for a gate
            a channel, (batch, time, kv_heads) for a gate a head, None for ``"none"``.
        key_features: (batch, time, kv_heads, head_dim).

        Both float32, or float64 for float64 keys.

    Raises:
        ValueError: for an unknown structure, ``"gsa"`` (gated slot attention, whose state decays
            on the value side too), a gate_normalizer that is not positive, a lower_bound outside
            [0, 1), or keys that do not have four axes.
        TypeError: for keys that are not floating, or options that are no numbers.

    Source: "Liger: Linearizing Large Language Models to Gated Recurrent Structures",
    arXiv 2503.01496. The root with tau = 16 is in the authors' code for gla and not in the paper's
    table, which is ``gate_normalizer=1``; for mlstm and mamba2, which that code lacks, it is this
    project's choice, because it starts from a lower perplexity.

    Example:
        >>> import torch
        >>> from rankone.nn.convert import liger_gate
        >>> log_decay, features = liger_gate(torch.zeros(1, 5, 2, 4))
        >>> log_decay.shape, round(float(log_decay[0, 0, 0, 0]), 4), float(features[0, 0, 0, 0])
        (torch.Size([1, 5, 2, 4]), -0.0433, 0.25)
    """
    check_structure(structure, gate_normalizer, lower_bound)
    check_rank("k", k, ("batch", "time", "kv_heads", "head_dim"))
    check_floating("k", k)
    k = k.to(torch.promote_types(k.dtype, torch.float32))
    if structure == "hgrn2":
        # 1 - G without cancellation where G is near 1.
        return _hgrn2_log_gate(k, lower_bound), (1 - lower_bound) * torch.sigmoid(-k)
    features = k.softmax(-1)
    if structure == "none":
        return None, features
    if structure == "gla":
        return F.logsigmoid(k) / gate_normalizer, features
    if structure == "rwkv6":
        return -k.clamp(max=MAX_RWKV6_EXPONENT).exp(), features
    pooled = k.mean(-1)
    log_gate = -F.softplus(pooled) if structure == "mamba2" else F.logsigmoid(pooled)
    return log_gate / gate_normalizer, features


def _hgrn2_log_gate(k: Tensor, lower_bound: float) -> Tensor:
    log_gate = F.logsigmoid(k)
    if lower_bound == 0:
        return log_gate
    bound = torch.full_like(log_gate, math.log(lower_bound))
    return torch.logaddexp(bound, log_gate + math.log1p(-lower_bound)).clamp(max=0)
