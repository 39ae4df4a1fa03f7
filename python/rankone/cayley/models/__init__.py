"""Models that estimate distances, their configurations, and files of their weights."""

from rankone.cayley.models.checkpoint import (
    graph_hash,
    load_checkpoint,
    pretrained_path,
    save_checkpoint,
)
from rankone.cayley.models.models import MlpModel, ModelConfig, ResMlpModel
from rankone.cayley.models.tokenizer import GroupTokenizer

__all__ = [
    "GroupTokenizer",
    "MlpModel",
    "ModelConfig",
    "ResMlpModel",
    "graph_hash",
    "load_checkpoint",
    "pretrained_path",
    "save_checkpoint",
]
