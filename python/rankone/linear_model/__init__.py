"""Regression and classification with scikit-learn's interface."""

from rankone.linear_model.generative_classifiers import LinearGaussianNB

__all__ = ["LinearGaussianNB"]
