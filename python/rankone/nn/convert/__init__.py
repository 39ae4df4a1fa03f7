"""Conversion of trained softmax models to recurrent ones.

``adapters`` reads the attention modules of transformers, torch and rankone, ``cache`` holds the
states of converted transformers models; each conversion has a module of its own.
"""

from rankone._namespace import public_names
from rankone.nn.convert.adapters import (
    AttentionAdapter,
    AttentionCall,
    AttentionSpec,
    RankoneAttentionAdapter,
    find_attention,
    register_attention_adapter,
)
from rankone.nn.convert.cache import RecurrentCache
from rankone.nn.convert.distillation import attention_distillation_loss, attention_metrics
from rankone.nn.convert.hedgehog import (
    attention_fidelity,
    attention_weights,
    distill_attention,
    set_attention_mode,
    to_hedgehog,
)
from rankone.nn.convert.liger import to_liger
from rankone.nn.convert.lora import LoRAConfig, add_lora, lora_parameters, merge_lora
from rankone.nn.liger_gates import liger_gate

__all__ = [
    "AttentionAdapter",
    "AttentionCall",
    "AttentionSpec",
    "LoRAConfig",
    "RankoneAttentionAdapter",
    "RecurrentCache",
    "add_lora",
    "attention_distillation_loss",
    "attention_fidelity",
    "attention_metrics",
    "attention_weights",
    "distill_attention",
    "find_attention",
    "liger_gate",
    "lora_parameters",
    "merge_lora",
    "register_attention_adapter",
    "set_attention_mode",
    "to_hedgehog",
    "to_liger",
]


def __dir__() -> list[str]:
    return public_names(globals())
