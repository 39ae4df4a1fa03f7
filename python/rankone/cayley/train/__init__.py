"""Training of distance estimates on random walks."""

from rankone._namespace import public_names
from rankone.cayley.train.losses import Loss, MseLoss, PinballLoss, make_loss
from rankone.cayley.train.train_predictor import train_predictor

__all__ = ["Loss", "MseLoss", "PinballLoss", "make_loss", "train_predictor"]


def __dir__() -> list[str]:
    return public_names(globals())
