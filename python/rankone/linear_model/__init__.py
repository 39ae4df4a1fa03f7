"""Regression and classification with scikit-learn's interface."""
