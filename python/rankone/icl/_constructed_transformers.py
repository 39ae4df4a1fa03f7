"""Transformers whose weights are written down: one runs SGD on its prompt, one ridge regression.

Every step is one of four primitives, and a primitive is a set of matrices that a generic block
applies: move (a softmax head that reads one position), affine and multiply (a GELU layer), divide
(LayerNorm of a projection). A block adds attention, then the GELU layer, then the norm layer, each
where it has one, to the residual stream; nothing else touches data. Products cancel down to the
size of scale^2, for which float32 has no digits: all of it is float64.

The prompt is x_1, y_1, ..., x_n, y_n, x_q, and the answer is read at x_q. Tokens before the example
of a step read an average in its place; no token reads what another has computed, only its input.

Source: "What learning algorithm is in-context learning? Investigations with linear models" (arXiv
2211.15661) for the primitives and for what can be computed with them: a step of gradient descent in
O(1) layers of width O(d), ridge regression by Sherman-Morrison in O(1) layers an example of width
O(d^2). The weights, the products of order 1 and 2 and the reciprocal from four channels are
rankone's own; norming a projection rather than the whole stream is a simplification of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rankone.icl._gradient_descent import check_context
from rankone.icl._tasks import check_count, check_number

PRODUCT_SCALE = 5e-4  # rounding and the error of order s^4 are both near 1e-11 here
NORM_GAIN = 1e5
NORM_EPS = 1e-5
_ORDERS = (0, 1, 2)

# A linear function of the hidden slots: {slot: coefficient}.
Form = dict[int, float]


def _product_units(scale: float, order: int) -> list[tuple[float, float, float]]:
    """GELU units of a product: coefficients of a, of b, and of the unit in the result."""
    s = scale
    if order == 0:
        c = math.sqrt(math.pi / 2) / s**2
        return [(s, s, c), (s, 0.0, -c), (0.0, s, -c)]
    if order == 1:
        c = math.sqrt(math.pi / 2) / (4 * s**2)
        return [(s, s, c), (-s, -s, c), (s, -s, -c), (-s, s, -c)]
    fine = [(a, b, 4 * c / 3) for a, b, c in _product_units(s / 2, 1)]
    return fine + [(a, b, -c / 3) for a, b, c in _product_units(s, 1)]


def _check_order(name: str, order: Any) -> int:
    if isinstance(order, bool) or order not in _ORDERS:
        raise ValueError(f"{name} must be one of 0, 1, 2, got {order!r}")
    return int(order)


def _as_real(name: str, value: Any) -> Tensor:
    """``value`` as a floating tensor; anything but a tensor becomes float64."""
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a tensor or numbers, got {value!r}") from error
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating, got {tensor.dtype}")
    return tensor


def gelu_product(
    a: Tensor | float, b: Tensor | float, *, scale: float = PRODUCT_SCALE, order: int = 2
) -> Tensor:
    """a b as a sum of GELU units, which is how the constructed transformers multiply.

    Order 0 is the paper's sqrt(pi/2) (G(a + b) - G(a) - G(b)) on arguments times ``scale``, with
    error -scale^2 (4 a^3 b + 6 a^2 b^2 + 4 a b^3) / 12. Order 1 takes G(u) + G(-u), whose odd terms
    vanish: error -scale^2 a b (a^2 + b^2) / 3, 4 units. Order 2 extrapolates order 1 from two
    scales: error of order scale^4, 8 units.

    Args:
        a, b: tensors that broadcast, or numbers.
        scale: s, above 0; the smaller, the smaller the error and the more digits cancel.
        order: 0, 1 or 2.

    Returns:
        The product, computed in float64, in the common dtype of the tensors.

    Raises:
        ValueError: for a scale not above 0, an unknown order, or shapes that do not broadcast.
        TypeError: for tensors that are not floating.

    Source: arXiv 2211.15661 for order 0; orders 1 and 2 and the scale are rankone's own.

    Example:
        >>> from rankone.icl.linear_models import gelu_product
        >>> round(float(gelu_product(1.0, 2.0)), 9)
        2.0
    """
    scale = check_number("scale", scale, positive=True)
    units = torch.tensor(_product_units(scale, _check_order("order", order)), dtype=torch.float64)
    a, b = _as_real("a", a), _as_real("b", b)
    dtype = torch.promote_types(a.dtype, b.dtype)
    try:
        a, b = torch.broadcast_tensors(a, b)
    except RuntimeError as error:
        raise ValueError(
            f"b must broadcast with a of shape {tuple(a.shape)}, got {tuple(b.shape)}"
        ) from error
    units = units.to(a.device)
    hidden = torch.stack([a, b], -1).double() @ units[:, :2].T
    return (F.gelu(hidden) @ units[:, 2]).to(dtype)


def layernorm_reciprocal(
    a: Tensor | float, *, gain: float = NORM_GAIN, eps: float = NORM_EPS
) -> Tensor:
    """1 / a as a channel of LayerNorm(M a, -M a, 1, -1), times M / sqrt 2.

    The relative error is (1/2 + eps) / (M a)^2.

    Args:
        a: positive tensor or number.
        gain: M, above 0.
        eps: of the LayerNorm.

    Returns:
        The reciprocal, computed in float64, in the dtype of a.

    Raises:
        ValueError: for entries of ``a`` that are not above 0, ``gain`` not above 0, a negative
            ``eps``.
        TypeError: for a tensor that is not floating.

    Source: division by LayerNorm is of arXiv 2211.15661; the four channels are rankone's own.

    Example:
        >>> from rankone.icl.linear_models import layernorm_reciprocal
        >>> round(float(layernorm_reciprocal(4.0)), 9)
        0.25
    """
    gain = check_number("gain", gain, positive=True)
    eps = check_number("eps", eps)
    a = _as_real("a", a)
    if a.numel() and not bool((a > 0).all()):
        raise ValueError(f"a must be above 0, got a smallest entry of {float(a.min()):.3g}")
    scaled, one = gain * a.double(), torch.ones_like(a, dtype=torch.float64)
    channels = torch.stack([scaled, -scaled, one, -one], -1)
    return (gain / math.sqrt(2) * F.layer_norm(channels, (4,), eps=eps)[..., 2]).to(a.dtype)


def _fixed(matrix: Tensor) -> nn.Parameter:
    return nn.Parameter(matrix, requires_grad=False)


class MoveAttention(nn.Module):
    """Causal softmax heads that each read one position.

    Args:
        width: d_model.
        constant: slot that is 1 everywhere.
        moves: by head, the slot of the position to read and the (source, target) slots to copy.
        beta: score of that position; the others have 0.
    """

    def __init__(
        self,
        width: int,
        constant: int,
        moves: Sequence[tuple[int, Sequence[tuple[int, int]]]],
        beta: float,
    ) -> None:
        super().__init__()
        heads, channels = len(moves), max(len(copies) for _, copies in moves)
        query = torch.zeros(heads, 1, width, dtype=torch.float64)
        key, query[:, 0, constant] = torch.zeros_like(query), beta
        value = torch.zeros(heads, channels, width, dtype=torch.float64)
        output = torch.zeros(heads, width, channels, dtype=torch.float64)
        for head, (position, copies) in enumerate(moves):
            key[head, 0, position] = 1
            for channel, (source, target) in enumerate(copies):
                value[head, channel, source] = 1
                output[head, target, channel] = 1
        self.query, self.key = _fixed(query), _fixed(key)
        self.value, self.output = _fixed(value), _fixed(output)

    def forward(self, h: Tensor) -> Tensor:
        h = h[:, None]
        q, k, v = (h @ matrix.mT for matrix in (self.query, self.key, self.value))
        read = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
        return (read @ self.output.mT).sum(1)


class GeluLayer(nn.Module):
    """W_2 GELU(W_1 h), built from products and affine maps of slots."""

    def __init__(
        self,
        width: int,
        *,
        products: Iterable[tuple[int, int, int, float]] = (),
        affine: Iterable[tuple[Form, int]] = (),
        clear: Iterable[int] = (),
        scale: float,
        order: int,
    ) -> None:
        """Add to the stream, for each entry.

        Args:
            width: d_model.
            products: (slot a, slot b, target, c) adds c a b to the target.
            affine: (linear function of slots, target) adds its value to the target.
            clear: slots set to 0.
            scale, order: of the products.
        """
        super().__init__()
        rows: list[tuple[Form, int, float]] = []
        for a, b, target, factor in products:
            for coefficient_a, coefficient_b, out in _product_units(scale, order):
                rows.append(({a: coefficient_a, b: coefficient_b}, target, factor * out))
        for form, target in (*affine, *(({slot: -1.0}, slot) for slot in clear)):
            # u = GELU(u) - GELU(-u)
            rows.append((form, target, 1.0))
            rows.append(({slot: -c for slot, c in form.items()}, target, -1.0))
        first = torch.zeros(len(rows), width, dtype=torch.float64)
        second = torch.zeros(width, len(rows), dtype=torch.float64)
        for unit, (form, target, out) in enumerate(rows):
            for slot, coefficient in form.items():
                first[unit, slot] = coefficient
            second[target, unit] = out
        self.first, self.second = _fixed(first), _fixed(second)

    def forward(self, h: Tensor) -> Tensor:
        return F.gelu(h @ self.first.T) @ self.second.T


class NormLayer(nn.Module):
    """W_out LayerNorm(W_in h + bias): adds 1 / source to the target slot."""

    def __init__(self, width: int, source: int, target: int, *, gain: float) -> None:
        super().__init__()
        first = torch.zeros(4, width, dtype=torch.float64)
        first[0, source], first[1, source] = gain, -gain
        second = torch.zeros(width, 4, dtype=torch.float64)
        second[target, 2] = gain / math.sqrt(2)
        self.first, self.second = _fixed(first), _fixed(second)
        self.bias = _fixed(torch.tensor([0.0, 0.0, 1.0, -1.0], dtype=torch.float64))

    def forward(self, h: Tensor) -> Tensor:
        channels = h @ self.first.T + self.bias
        return F.layer_norm(channels, (4,), eps=NORM_EPS) @ self.second.T


class ConstructedBlock(nn.Module):
    """A transformer block: h + attention(h), then + GELU layer, then + norm layer, where given."""

    def __init__(
        self,
        *,
        attention: MoveAttention | None = None,
        gelu: GeluLayer | None = None,
        norm: NormLayer | None = None,
    ) -> None:
        super().__init__()
        layers = (attention, gelu, norm)
        self.layers = nn.ModuleList(layer for layer in layers if layer is not None)

    def forward(self, h: Tensor) -> Tensor:
        for layer in self.layers:
            h = h + layer(h)
        return h


class _Slots:
    """Names of the hidden slots, given out one after another."""

    def __init__(self) -> None:
        self.width = 0

    def take(self, size: int) -> list[int]:
        self.width += size
        return list(range(self.width - size, self.width))

    def one(self) -> int:
        return self.take(1)[0]


class _ConstructedTransformer(nn.Module):
    """Embedding, slots and reading of the constructed transformers."""

    blocks: nn.ModuleList

    def __init__(
        self,
        n_features: int,
        n_examples: int,
        product_scale: float,
        product_order: int,
        beta: float,
    ) -> None:
        super().__init__()
        self.n_features = d = check_count("n_features", n_features)
        self.n_examples = n = check_count("n_examples", n_examples)
        self.product_scale = check_number("product_scale", product_scale, positive=True)
        self.product_order = _check_order("product_order", product_order)
        self.beta = check_number("beta", beta, positive=True)
        slots = self._slots = _Slots()
        self._y_in, self._x_in = slots.one(), slots.take(d)
        self._position, self._constant = slots.take(2 * n + 1), slots.one()
        self._x, self._y, self._r = slots.take(d), slots.one(), slots.one()
        self._w, self._out = slots.take(d), slots.one()

    def _embed(self, start: Form | None = None) -> None:
        """Matrices from tokens (y, x) to slots; ``start`` is in the slots of every token."""
        self.d_model = self._slots.width
        tokens = 2 * self.n_examples + 1
        embedding = torch.zeros(self.d_model, self.n_features + 1, dtype=torch.float64)
        for channel, slot in enumerate((self._y_in, *self._x_in)):
            embedding[slot, channel] = 1
        positions = torch.zeros(tokens, self.d_model, dtype=torch.float64)
        positions[range(tokens), self._position] = 1
        positions[:, self._constant] = 1
        for slot, value in (start or {}).items():
            positions[:, slot] = value
        self.embedding, self.positions = _fixed(embedding), _fixed(positions)

    def _gelu(self, **parts: Any) -> GeluLayer:
        return GeluLayer(self.d_model, scale=self.product_scale, order=self.product_order, **parts)

    def _move_example(self, i: int) -> MoveAttention:
        """Example i of the prompt into the work slots."""
        moves = [
            (self._position[2 * i], list(zip(self._x_in, self._x, strict=True))),
            (self._position[2 * i + 1], [(self._y_in, self._y)]),
        ]
        return MoveAttention(self.d_model, self._constant, moves, self.beta)

    def _answer(self) -> ConstructedBlock:
        """out = w . x_q."""
        move = (self._position[-1], list(zip(self._x_in, self._x, strict=True)))
        products = [(w, x, self._out, 1.0) for w, x in zip(self._w, self._x, strict=True)]
        return ConstructedBlock(
            attention=MoveAttention(self.d_model, self._constant, [move], self.beta),
            gelu=self._gelu(products=products),
        )

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def forward(self, X: Tensor, y: Tensor, X_query: Tensor) -> Tensor:
        """Answers to one query a task.

        Args:
            X: (B, n, d) float64 examples, n as the model was built for.
            y: (B, n) labels.
            X_query: (B, d) queries.

        Returns:
            (B,) float64.

        Raises:
            ValueError: for shapes that disagree, another number of examples, another dtype.
            TypeError: for arguments that are no tensors.
        """
        self._check(X, y, X_query)
        return self._run(X, y, X_query, self.n_blocks)[:, self._out]

    def weights(self, X: Tensor, y: Tensor) -> Tensor:
        """The weights in the residual stream before the query is answered.

        Args:
            X: (B, n, d) float64 examples, n as the model was built for.
            y: (B, n) labels.

        Returns:
            (B, d) float64.

        Raises:
            ValueError: for shapes that disagree, another number of examples, another dtype.
            TypeError: for arguments that are no tensors.
        """
        self._check(X, y, None)
        query = X.new_zeros(len(X), self.n_features)
        return self._run(X, y, query, self.n_blocks - 1)[:, self._w]

    def _run(self, X: Tensor, y: Tensor, X_query: Tensor, n_blocks: int) -> Tensor:
        """The stream of the last token, (B, d_model), after the first blocks."""
        tokens = X.new_zeros(len(X), 2 * self.n_examples + 1, self.n_features + 1)
        tokens[:, 0:-1:2, 1:], tokens[:, 1::2, 0], tokens[:, -1, 1:] = X, y, X_query
        h = tokens @ self.embedding.T + self.positions
        for block in self.blocks[:n_blocks]:
            h = block(h)
        return h[:, -1]

    def _check(self, X: Tensor, y: Tensor, X_query: Tensor | None) -> None:
        check_context(X, y, X_query)
        if X_query is not None and X_query.ndim != 2:
            raise ValueError(
                f"X_query must have shape ({len(X)}, {self.n_features}), got {tuple(X_query.shape)}"
            )
        if X.shape[1:] != (self.n_examples, self.n_features):
            raise ValueError(
                f"X must have shape (B, {self.n_examples}, {self.n_features}) as the model was "
                f"built for, got {tuple(X.shape)}"
            )
        given = {"X": X, "y": y, "the model": self.embedding}
        for name, tensor in (given | ({} if X_query is None else {"X_query": X_query})).items():
            if tensor.dtype != torch.float64:
                raise ValueError(
                    f"{name} must be torch.float64, for products are differences of numbers of "
                    f"the size of product_scale^2, got {tensor.dtype}"
                )

    def extra_repr(self) -> str:
        return (
            f"n_features={self.n_features}, n_examples={self.n_examples}, d_model={self.d_model}, "
            f"n_blocks={self.n_blocks}"
        )


class ConstructedSGD(_ConstructedTransformer):
    """A transformer that runs stochastic gradient descent on the examples of its prompt, in order.

    From w = 0, w -= step_size ((w . x_i - y_i) x_i + weight_decay w) for each example in turn: two
    blocks an example and one for the answer, d_model = 3 d + 2 n + 6. Blocks share the matrices
    that do not depend on the example.

    Args:
        n_features: d.
        n_examples: n, of every prompt.
        step_size: above 0.
        weight_decay: at least 0.
        n_passes: over the examples.
        product_scale, product_order: of :func:`gelu_product`.
        beta: score of a moved position; others weigh exp(-beta).

    Attributes:
        blocks: the blocks; their parameters are the matrices, without gradients.
        n_blocks: 2 n n_passes + 1.
        d_model: width of the residual stream.

    Raises:
        ValueError: for numbers out of range.

    Source: Theorem 1 of arXiv 2211.15661; the weights are rankone's own.

    Example:
        >>> import torch
        >>> from rankone.icl.linear_models import ConstructedSGD
        >>> model = ConstructedSGD(1, 2, step_size=0.5)
        >>> X, y = torch.ones(1, 2, 1).double(), torch.ones(1, 2).double()
        >>> model(X, y, torch.ones(1, 1).double()).round(decimals=6)
        tensor([0.7500], dtype=torch.float64)
    """

    def __init__(
        self,
        n_features: int,
        n_examples: int,
        *,
        step_size: float,
        weight_decay: float = 0.0,
        n_passes: int = 1,
        product_scale: float = PRODUCT_SCALE,
        product_order: int = 2,
        beta: float = 80.0,
    ) -> None:
        super().__init__(n_features, n_examples, product_scale, product_order, beta)
        self.step_size = step = check_number("step_size", step_size, positive=True)
        self.weight_decay = check_number("weight_decay", weight_decay)
        self.n_passes = check_count("n_passes", n_passes)
        self._embed()
        pairs = list(zip(self._w, self._x, strict=True))
        residual = self._gelu(
            products=[(w, x, self._r, 1.0) for w, x in pairs],
            affine=[({self._y: -1.0}, self._r)],
        )
        decay = [({w: -step * self.weight_decay}, w) for w in self._w] if weight_decay else []
        update = ConstructedBlock(
            gelu=self._gelu(
                products=[(self._r, x, w, -step) for w, x in pairs],
                affine=decay,
                clear=(*self._x, self._y, self._r),
            )
        )
        blocks: list[nn.Module] = []
        for i in range(self.n_examples):
            blocks += [ConstructedBlock(attention=self._move_example(i), gelu=residual), update]
        self.blocks = nn.ModuleList([*(blocks * self.n_passes), self._answer()])


class ConstructedRidge(_ConstructedTransformer):
    """A transformer that computes ridge regression of its prompt, by Sherman-Morrison updates.

    The residual stream holds A, (alpha I + sum x x^T)^-1 over the examples so far: five blocks an
    example and two for the answer, d_model = d^2 + 6 d + 2 n + 8. Blocks share the matrices that do
    not depend on the example.

    Args:
        n_features: d.
        n_examples: n, of every prompt.
        alpha: penalty, above 0. Products lose accuracy with the size of A, at most 1 / alpha.
        product_scale, product_order: of :func:`gelu_product`.
        norm_gain: M of :func:`layernorm_reciprocal`.
        beta: score of a moved position; others weigh exp(-beta).

    Attributes:
        blocks: the blocks; their parameters are the matrices, without gradients.
        n_blocks: 5 n + 2.
        d_model: width of the residual stream.

    Raises:
        ValueError: for numbers out of range.

    Source: Theorem 2 of arXiv 2211.15661; the weights are rankone's own.

    Example:
        >>> import torch
        >>> from rankone.icl.linear_models import ConstructedRidge
        >>> model = ConstructedRidge(1, 2, alpha=1.0)
        >>> X, y = torch.ones(1, 2, 1).double(), torch.ones(1, 2).double()
        >>> model(X, y, torch.ones(1, 1).double()).round(decimals=6)
        tensor([0.6667], dtype=torch.float64)
    """

    def __init__(
        self,
        n_features: int,
        n_examples: int,
        *,
        alpha: float = 1.0,
        product_scale: float = PRODUCT_SCALE,
        product_order: int = 2,
        norm_gain: float = NORM_GAIN,
        beta: float = 80.0,
    ) -> None:
        super().__init__(n_features, n_examples, product_scale, product_order, beta)
        self.alpha = check_number("alpha", alpha, positive=True)
        self.norm_gain = check_number("norm_gain", norm_gain, positive=True)
        d, take, one = self.n_features, self._slots.take, self._slots.one
        inverse = [take(d) for _ in range(d)]  # A
        u, v, b = take(d), take(d), take(d)
        denominator, reciprocal = one(), one()
        self._embed({inverse[j][j]: 1 / self.alpha for j in range(d)})
        indices = range(d)
        gradient = self._gelu(  # u = A x, b += y x
            products=[
                *((inverse[j][k], self._x[k], u[j], 1.0) for j in indices for k in indices),
                *((self._y, self._x[j], b[j], 1.0) for j in indices),
            ]
        )
        tail = [
            ConstructedBlock(  # den = 1 + x . u
                gelu=self._gelu(
                    products=[(self._x[j], u[j], denominator, 1.0) for j in indices],
                    affine=[({self._constant: 1.0}, denominator)],
                )
            ),
            ConstructedBlock(
                norm=NormLayer(self.d_model, denominator, reciprocal, gain=self.norm_gain)
            ),
            ConstructedBlock(
                gelu=self._gelu(products=[(reciprocal, u[j], v[j], 1.0) for j in indices])
            ),
            ConstructedBlock(  # A -= u v^T
                gelu=self._gelu(
                    products=[(u[j], v[k], inverse[j][k], -1.0) for j in indices for k in indices],
                    clear=(*self._x, self._y, *u, *v, denominator, reciprocal),
                )
            ),
        ]
        blocks: list[nn.Module] = []
        for i in range(self.n_examples):
            blocks += [ConstructedBlock(attention=self._move_example(i), gelu=gradient), *tail]
        solve = self._gelu(  # w = A b
            products=[(inverse[j][k], b[k], self._w[j], 1.0) for j in indices for k in indices]
        )
        self.blocks = nn.ModuleList([*blocks, ConstructedBlock(gelu=solve), self._answer()])
