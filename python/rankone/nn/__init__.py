"""Layers, models and training on top of ``rankone.ops``."""

from rankone.nn.chimera import Chimera, ChimeraBlock, ClosedLoopDecoder
from rankone.nn.delta_net import DeltaNet, DeltaNetState, GatedDeltaNet
from rankone.nn.feed_forward import GLU, SwiGLU, make_feed_forward
from rankone.nn.generation import generate, sample_logits
from rankone.nn.grouped_linear import GroupedLinear
from rankone.nn.language_model import (
    LanguageModel,
    LanguageModelConfig,
    LanguageModelOutput,
)
from rankone.nn.language_models import DeltaNetLM, MixtureOfMemoriesLM
from rankone.nn.lightning_attention import LightningAttention
from rankone.nn.memory_rules import MemoryRule, make_memory_rule
from rankone.nn.mixer import Mixer, build_mixer, register_mixer, registered_mixers
from rankone.nn.mixture_of_memories import MemoryState, MixtureOfMemories
from rankone.nn.norms import RMSNorm, SRMSNorm, make_norm
from rankone.nn.rotary import apply_rotary
from rankone.nn.routing import RouterOutput, load_balancing_loss, route
from rankone.nn.selective_scan_2d import SelectiveScan2d, VisionChimera2d
from rankone.nn.series_decomposition import SeriesDecomposition
from rankone.nn.short_convolution import ShortConvolution
from rankone.nn.sliding_window_attention import SlidingWindowAttention
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
    "Chimera",
    "ChimeraBlock",
    "ClosedLoopDecoder",
    "DeltaNet",
    "DeltaNetLM",
    "DeltaNetState",
    "GatedDeltaNet",
    "GroupedLinear",
    "LanguageModel",
    "LanguageModelConfig",
    "LanguageModelOutput",
    "LightningAttention",
    "MemoryRule",
    "MemoryState",
    "Mixer",
    "MixtureOfMemories",
    "MixtureOfMemoriesLM",
    "RMSNorm",
    "RouterOutput",
    "SRMSNorm",
    "SelectiveScan2d",
    "SeriesDecomposition",
    "ShortConvolution",
    "SlidingWindowAttention",
    "SoftmaxAttention",
    "SwiGLU",
    "TrainingConfig",
    "TrainingResult",
    "VisionChimera2d",
    "apply_rotary",
    "build_mixer",
    "evaluate",
    "generate",
    "learning_rate_factor",
    "load_balancing_loss",
    "make_feed_forward",
    "make_memory_rule",
    "make_norm",
    "parameter_groups",
    "register_mixer",
    "registered_mixers",
    "route",
    "sample_logits",
    "train",
]
