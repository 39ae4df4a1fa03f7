"""Mutual information of pixels and their codes, estimated by a small trained network.

The Jensen-Shannon estimator: E[-softplus(-T(x, s))] over pairs that belong together less
E[softplus(T(x', s))] over pairs that do not. At T = 0 it is -2 ln 2, its value for independent
variables; its supremum over T is 2 JSD - 2 ln 2.

T must bend between its two layers. For T(x, s) = a(x) + b(s) both expectations of T are equal, and
by Jensen's inequality the estimate never exceeds -2 ln 2, however x and s depend on each other: two
linear layers can measure nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rankone.ops.checks import check_floating, check_tensor


def jensen_shannon_information(joint_scores: Tensor, product_scores: Tensor) -> Tensor:
    """Estimate from the scores of pairs drawn jointly, and of pairs drawn independently.

    Args:
        joint_scores: T(x, s), any shape.
        product_scores: T(x', s) with x' of another pixel, any shape.

    Returns:
        A scalar, at most 0; -2 ln 2 if all scores are zero.

    Raises:
        ValueError: for empty scores.

    Example:
        >>> import torch
        >>> from rankone.imaging import jensen_shannon_information
        >>> jensen_shannon_information(torch.zeros(3), torch.zeros(3))
        tensor(-1.3863)
    """
    for name, scores in (("joint_scores", joint_scores), ("product_scores", product_scores)):
        check_tensor(name, scores)
        check_floating(name, scores)
        if scores.numel() == 0:
            raise ValueError(f"{name} must not be empty")
    return -F.softplus(-joint_scores).mean() - F.softplus(product_scores).mean()


class MutualInformationCritic(nn.Module):
    """T(x, s): a hidden layer as wide as its input, rectified, and one output without bias.

    The paper's published code has no activation between the layers and a sigmoid after them. Here
    it is the other way round: the output is unbounded, as the estimator wants it, and the
    rectifier lets T depend on x and s together.

    Args:
        in_features: dimension l of x.
        n_bases: dimension k of s.

    References:
        "Unsupervised and Unregistered Hyperspectral Image Super-Resolution with Mutual
        Dirichlet-Net", arXiv 1904.12175.

    Example:
        >>> import torch
        >>> from rankone.imaging import MutualInformationCritic
        >>> critic = MutualInformationCritic(4, 12)
        >>> critic(torch.randn(100, 4), torch.rand(100, 12)).shape
        torch.Size([])
    """

    def __init__(self, in_features: int, n_bases: int) -> None:
        for name, size in (("in_features", in_features), ("n_bases", n_bases)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {size!r}")
        super().__init__()
        self.in_features = in_features
        self.hidden = nn.Linear(in_features + n_bases, in_features + n_bases)
        self.output = nn.Linear(in_features + n_bases, 1, bias=False)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights anew, Glorot uniform, and set the bias to zero."""
        nn.init.xavier_uniform_(self.hidden.weight, generator=generator)
        nn.init.zeros_(self.hidden.bias)
        nn.init.xavier_uniform_(self.output.weight, generator=generator)

    def scores(self, x: Tensor, s: Tensor) -> Tensor:
        """(P,) T of the pairs of rows of ``x`` (P, l) and ``s`` (P, k)."""
        return self.output(F.relu(self.hidden(torch.cat([x, s], dim=-1)))).squeeze(-1)

    def forward(self, x: Tensor, s: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The estimate for pixels ``x`` (P, l) and codes ``s`` (P, k), a scalar.

        The pairs that do not belong together are made by a random permutation of the pixels.

        Raises:
            ValueError: if the rows of ``x`` and ``s`` do not match.
        """
        for name, tensor in (("x", x), ("s", s)):
            check_tensor(name, tensor)
            check_floating(name, tensor)
        if x.ndim != 2 or s.ndim != 2 or len(x) != len(s):
            raise ValueError(
                f"x and s must have shapes (P, l) and (P, k), got {tuple(x.shape)} and "
                f"{tuple(s.shape)}"
            )
        order = torch.randperm(len(x), device=x.device, generator=generator)
        # The hidden layer is linear in x and s apart, so that both kinds of pairs share its work.
        of_x, of_s = self.hidden.weight.split([self.in_features, s.shape[1]], dim=1)
        from_x, from_s = x @ of_x.T, F.linear(s, of_s, self.hidden.bias)
        joint = self.output(F.relu(from_x + from_s))
        product = self.output(F.relu(from_x[order] + from_s))
        return jensen_shannon_information(joint, product)
