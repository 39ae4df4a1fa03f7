"""Training of distance estimates on random walks."""

from rankone.cayley.train.losses import Loss, MseLoss, PinballLoss, make_loss
from rankone.cayley.train.train_predictor import train_predictor

__all__ = ["Loss", "MseLoss", "PinballLoss", "make_loss", "train_predictor"]
