"""Statistics: survival, compositions, adaptive analysis, matrices, cricket."""
