"""Layers, models and training on top of ``rankone.ops``."""

from rankone.nn.feed_forward import GLU, SwiGLU, make_feed_forward
from rankone.nn.generation import generate, sample_logits
from rankone.nn.language_model import (
    LanguageModel,
    LanguageModelConfig,
    LanguageModelOutput,
)
from rankone.nn.lightning_attention import LightningAttention
from rankone.nn.mixer import Mixer, build_mixer, register_mixer, registered_mixers
from rankone.nn.norms import RMSNorm, SRMSNorm, make_norm
from rankone.nn.rotary import apply_rotary
from rankone.nn.softmax_attention import AttentionCache, SoftmaxAttention
from rankone.nn.training import (
    TrainingConfig,
    TrainingResult,
    evaluate,
    learning_rate_factor,
    parameter_groups,
    train,
)

__all__ = [
    "GLU",
    "AttentionCache",
    "LanguageModel",
    "LanguageModelConfig",
    "LanguageModelOutput",
    "LightningAttention",
    "Mixer",
    "RMSNorm",
    "SRMSNorm",
    "SoftmaxAttention",
    "SwiGLU",
    "TrainingConfig",
    "TrainingResult",
    "apply_rotary",
    "build_mixer",
    "evaluate",
    "generate",
    "learning_rate_factor",
    "make_feed_forward",
    "make_norm",
    "parameter_groups",
    "register_mixer",
    "registered_mixers",
    "sample_logits",
    "train",
]
