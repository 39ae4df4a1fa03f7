"""Models that estimate distances, their configurations, and files of their weights."""

from rankone._namespace import public_names
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


def __dir__() -> list[str]:
    return public_names(globals())
