"""Layers, models and training on top of ``rankone.ops``."""

from rankone._namespace import public_names
from rankone.nn import bio
from rankone.nn.chimera import Chimera, ChimeraBlock, ClosedLoopDecoder
from rankone.nn.convert.lora import LoRALinear
from rankone.nn.delta_net import DeltaNet, DeltaNetState, GatedDeltaNet
from rankone.nn.diag_attention import DiagAttention, DiagAttentionState
from rankone.nn.dirichlet_encoder import DirichletEncoder
from rankone.nn.feature_maps import HedgehogFeatureMap, feature_map
from rankone.nn.feed_forward import GLU, SwiGLU, make_feed_forward
from rankone.nn.generation import generate, sample_logits
from rankone.nn.grouped_linear import GroupedLinear
from rankone.nn.hedgehog import HedgehogAttention, HedgehogState
from rankone.nn.language_model import (
    LanguageModel,
    LanguageModelConfig,
    LanguageModelOutput,
)
from rankone.nn.language_models import DeltaNetLM, MixtureOfMemoriesLM
from rankone.nn.liger import LigerAttention, LigerMixer
from rankone.nn.liger_heads import LigerState
from rankone.nn.lightning_attention import LightningAttention
from rankone.nn.linear_forecast import LinearForecast
from rankone.nn.lrpe import LRPE
from rankone.nn.memory_rules import MemoryRule, make_memory_rule
from rankone.nn.mixer import Mixer, build_mixer, register_mixer, registered_mixers
from rankone.nn.mixture_of_memories import MemoryState, MixtureOfMemories
from rankone.nn.norm_attention import NormAttention, NormAttentionState
from rankone.nn.norms import RMSNorm, SRMSNorm, make_norm
from rankone.nn.pattention import Pattention
from rankone.nn.rotary import apply_rotary
from rankone.nn.routing import RouterOutput, load_balancing_loss, route
from rankone.nn.selective_scan_2d import SelectiveScan2d, VisionChimera2d
from rankone.nn.series_decomposition import SeriesDecomposition
from rankone.nn.short_convolution import ShortConvolution
from rankone.nn.softmax_attention import (
    AttentionCache,
    SlidingWindowAttention,
    SoftmaxAttention,
)
from rankone.nn.tokenformer import TokenFormer, TokenFormerAttention, TokenFormerOutput
from rankone.nn.training import (
    TrainingConfig,
    TrainingResult,
    evaluate,
    learning_rate_factor,
    parameter_groups,
    train,
)
from rankone.nn.transnormer import (
    TransNormer,
    TransNormerBlock,
    TransNormerLM,
    attention_gradient_bound,
    local_attention_mass,
)
from rankone.nn.window_attention import sliding_window_attention
from rankone.nn.xlstm import XLSTMLM, XLSTMOutput
from rankone.nn.xlstm_blocks import MLSTMBlock, SLSTMBlock
from rankone.nn.xlstm_mixers import MLSTM, SLSTM

_SUBMODULES = ("bio", "convert", "functional")

__all__ = [
    "GLU",
    "LRPE",
    "MLSTM",
    "SLSTM",
    "XLSTMLM",
    "AttentionCache",
    "Chimera",
    "ChimeraBlock",
    "ClosedLoopDecoder",
    "DeltaNet",
    "DeltaNetLM",
    "DeltaNetState",
    "DiagAttention",
    "DiagAttentionState",
    "DirichletEncoder",
    "GatedDeltaNet",
    "GroupedLinear",
    "HedgehogAttention",
    "HedgehogFeatureMap",
    "HedgehogState",
    "LanguageModel",
    "LanguageModelConfig",
    "LanguageModelOutput",
    "LigerAttention",
    "LigerMixer",
    "LigerState",
    "LightningAttention",
    "LinearForecast",
    "LoRALinear",
    "MLSTMBlock",
    "MemoryRule",
    "MemoryState",
    "Mixer",
    "MixtureOfMemories",
    "MixtureOfMemoriesLM",
    "NormAttention",
    "NormAttentionState",
    "Pattention",
    "RMSNorm",
    "RouterOutput",
    "SLSTMBlock",
    "SRMSNorm",
    "SelectiveScan2d",
    "SeriesDecomposition",
    "ShortConvolution",
    "SlidingWindowAttention",
    "SoftmaxAttention",
    "SwiGLU",
    "TokenFormer",
    "TokenFormerAttention",
    "TokenFormerOutput",
    "TrainingConfig",
    "TrainingResult",
    "TransNormer",
    "TransNormerBlock",
    "TransNormerLM",
    "VisionChimera2d",
    "XLSTMOutput",
    "apply_rotary",
    "attention_gradient_bound",
    "bio",
    "build_mixer",
    "evaluate",
    "feature_map",
    "generate",
    "learning_rate_factor",
    "load_balancing_loss",
    "local_attention_mass",
    "make_feed_forward",
    "make_memory_rule",
    "make_norm",
    "parameter_groups",
    "register_mixer",
    "registered_mixers",
    "route",
    "sample_logits",
    "sliding_window_attention",
    "train",
]


def __dir__() -> list[str]:
    return public_names(globals())
