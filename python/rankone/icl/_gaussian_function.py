"""One draw of a vector-valued Gaussian process, extended as inputs are asked for.

A batch of new inputs is drawn conditionally on everything drawn before, so that all values belong
to one random function however the inputs were split into calls. The square root of the covariance
is kept by blocks: with C = L L^T, block row b of L is (B_1, ..., B_{b-1}, R_b), where R_b is the
square root of the covariance that is left once the earlier blocks are known, by its symmetric
eigendecomposition with negative eigenvalues clipped at 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Eigenvalues below this share of the largest prior variance are rounding: their directions are
# left out where later inputs are conditioned on the block.
_RANK_TOLERANCE = 1e-12


@dataclass
class _Block:
    inputs: NDArray  # (n, k) uint8
    earlier: NDArray  # (n, n of all earlier blocks), the B's side by side
    inverse_root: NDArray  # (n, n), R^+
    noise: NDArray  # (n, outputs), standard normal


class GaussianFunction:
    """Values of independent Gaussian processes with mean 0 and one covariance.

    Args:
        covariance: of two lists of distinct inputs, (n, k) and (m, k) uint8, to (n, m).
        n_outputs: independent processes.
        seed: of the draw.
        max_block: inputs drawn at once.

    Example:
        >>> import numpy as np
        >>> from rankone.icl._gaussian_function import GaussianFunction
        >>> same = lambda a, b: (a[:, None] == b[None]).all(axis=-1).astype(float)
        >>> draw = GaussianFunction(same, 2, seed=0)
        >>> values = draw(np.array([[0, 1], [0, 1]], dtype=np.uint8), max_bytes=10**6)
        >>> values.shape, bool((values[0] == values[1]).all())
        ((2, 2), True)
    """

    def __init__(
        self,
        covariance: Callable[[NDArray, NDArray], NDArray],
        n_outputs: int,
        *,
        seed: int,
        max_block: int = 4096,
    ) -> None:
        self.covariance = covariance
        self.n_outputs = n_outputs
        self.max_block = max_block
        self._generator = np.random.default_rng(seed)
        self._blocks: list[_Block] = []
        self._values = np.empty((0, n_outputs))

    def __call__(self, X: NDArray, *, max_bytes: int) -> NDArray:
        """Values at the rows of ``X``, (q, n_outputs); equal inputs have equal values.

        Args:
            X: (q, k) uint8.
            max_bytes: largest size of the stored factor.

        Raises:
            ValueError: for so many distinct inputs that the factor would exceed ``max_bytes``.
        """
        known = [block.inputs for block in self._blocks]
        n_known = len(self._values)
        # Packed bits sort faster; the sorted order also makes a draw blind to the order of rows.
        packed = np.packbits(np.concatenate([*known, X]), axis=1)
        _, first, place = np.unique(packed, axis=0, return_index=True, return_inverse=True)
        fresh = first >= n_known
        n_fresh = int(fresh.sum())
        needed = 8 * (n_known + n_fresh) ** 2
        if n_fresh and needed > max_bytes:
            raise ValueError(
                f"X brings the inputs drawn jointly since fit to {n_known + n_fresh}, which need "
                f"{needed} bytes and max_bytes is {max_bytes}: raise max_bytes, ask for fewer "
                "inputs, or fit again to start a new draw"
            )
        # Row of self._values of every distinct input.
        row = first.copy()
        row[fresh] = n_known + np.arange(n_fresh)
        new = X[first[fresh] - n_known]
        for start in range(0, n_fresh, self.max_block):
            self._extend(new[start : start + self.max_block])
        return self._values[row[place.reshape(-1)[n_known:]]]

    def _extend(self, inputs: NDArray) -> None:
        n = len(inputs)
        earlier = np.empty((n, len(self._values)))
        start = 0
        for block in self._blocks:
            stop = start + len(block.inputs)
            left = self.covariance(inputs, block.inputs) - earlier[:, :start] @ block.earlier.T
            earlier[:, start:stop] = left @ block.inverse_root.T
            start = stop
        prior = self.covariance(inputs, inputs)
        eigenvalues, vectors = np.linalg.eigh(prior - earlier @ earlier.T)
        root = np.sqrt(np.maximum(eigenvalues, 0.0))
        kept = eigenvalues > _RANK_TOLERANCE * max(prior.diagonal().max(), 0.0)
        inverse = np.where(kept, 1 / np.where(kept, root, 1.0), 0.0)
        noise = self._generator.standard_normal((n, self.n_outputs))
        values = (vectors * root) @ noise
        if self._blocks:
            values += earlier @ np.concatenate([block.noise for block in self._blocks])
        self._blocks.append(_Block(inputs, earlier, inverse[:, None] * vectors.T, noise))
        self._values = np.concatenate([self._values, values])
