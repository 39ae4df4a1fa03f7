"""Breadth-first search over permutations and modular matrices, and two ops on many states.

A permutation generator p acts on positions, ``new[i] = old[p[i]]``; a matrix generator from the
left, ``new = A @ old mod m``. Packed states hold element i in bits [i w, (i + 1) w) of a row of
64-bit words, lowest bits first, as int64 tensors. A search runs where its generators lie: the
native engines on the CPU, the hash and bitarray engines on CUDA, too. Without kernels for a device
the plain torch search of ``_permutation_bfs_reference`` answers, and says so.

The graphs and their growth: CayleyPy Growth, arXiv 2509.19162. Packing and engines are this
project's own design.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rankone._repr import short_repr
from rankone.ops import _library, checks
from rankone.ops._permutation_bfs_arguments import check_graph, check_int64, check_permutations
from rankone.ops._permutation_bfs_cuda import cuda_kernels, cuda_search, device_limit
from rankone.ops._permutation_bfs_reference import permutation_bfs_reference

WIDTHS = (1, 2, 4, 8, 16, 32, 64)
ENGINES = ("auto", "hash", "bitarray", "external", "reference")


def native_kernels() -> ModuleType | None:
    """The compiled submodule of this family, or None where it was not built."""
    return getattr(_library.native_module(), "cayley", None)


def require_native_kernels(what: str) -> ModuleType:
    """The compiled submodule, or an error that says how to get it."""
    native = native_kernels()
    if native is None:
        raise RuntimeError(f"{what} has no kernels in this installation. {_library.BUILD_HINT}")
    return native


def words_to_tensor(words: np.ndarray) -> Tensor:
    """uint64 words as an int64 tensor of the same bits, without a copy."""
    return torch.from_numpy(words.view(np.int64))


def tensor_to_words(states: Tensor) -> np.ndarray:
    """An int64 tensor as uint64 words, without a copy where it is a contiguous CPU tensor."""
    return states.detach().cpu().contiguous().numpy().view(np.uint64)


# ---- rankone::perm_apply ----


def _perm_apply(states: Tensor, generators: Tensor, n: int, w: int) -> Tensor:
    cuda = cuda_kernels(states.device)
    if cuda is not None:
        states, generators = states.contiguous(), generators.contiguous()
        neighbors = states.new_empty(generators.shape[0], *states.shape)
        _library.call(
            cuda,
            "perm_apply",
            neighbors,
            n,
            w,
            generators.shape[0],
            generators.data_ptr(),
            states.shape[0],
            states.data_ptr(),
            neighbors.data_ptr(),
        )
        return neighbors
    native = native_kernels()
    if native is not None and states.device.type == "cpu":
        moved = native.apply(
            tensor_to_words(states),
            generators.contiguous().numpy(),
            n,
            w,
            threads=torch.get_num_threads(),
        )
        return words_to_tensor(moved)
    return _perm_apply_torch(states, generators, n, w)


def _perm_apply_torch(states: Tensor, generators: Tensor, n: int, w: int) -> Tensor:
    per_word = 64 // w
    shifts = torch.arange(per_word, device=states.device) * w
    if w < 64:
        values = (states[:, :, None] >> shifts) & ((1 << w) - 1)
    else:
        values = states[:, :, None]
    values = values.reshape(states.shape[0], -1)[:, :n]
    moved = values[:, generators].movedim(1, 0)
    padded = torch.nn.functional.pad(moved, (0, states.shape[1] * per_word - n))
    # The elements of a word share no bit, so their sum is their union.
    return (padded.unflatten(2, (-1, per_word)) << shifts).sum(3)


def _perm_apply_fake(states: Tensor, generators: Tensor, n: int, w: int) -> Tensor:
    return states.new_empty(generators.shape[0], *states.shape)


_perm_apply_op = _library.define(
    "perm_apply(Tensor states, Tensor generators, int n, int w) -> Tensor",
    implementation=_perm_apply,
    fake=_perm_apply_fake,
    cast_inputs=(),
)


def perm_apply(states: Tensor, generators: Tensor, n: int, w: int) -> Tensor:
    """Every permutation on every packed state.

    Args:
        states: (N, words) int64, words = ceil(n / (64 // w)).
        generators: (G, n) int64, permutations in one-line form.
        n: elements of a state.
        w: bits of an element, 1, 2, 4, 8, 16, 32 or 64.

    Returns:
        (G, N, words) int64.

    Raises:
        ValueError: for wrong shapes, a width that is none, or generators that are no permutations
            (on CUDA looked at with ``RANKONE_CHECK_VALUES=1`` only; there an element outside
            0..n-1 gives 0).
        TypeError: for dtypes other than int64 (also a ``ValueError``).

    Example:
        >>> import torch
        >>> from rankone.ops import perm_apply
        >>> perm_apply(torch.tensor([[0x210]]), torch.tensor([[1, 2, 0]]), 3, 4)
        tensor([[[33]]])
    """
    if w not in WIDTHS:
        raise ValueError(f"w must be one of {WIDTHS}, got {w}")
    checks.check_rank("states", states, ("states", "words"))
    checks.check_rank("generators", generators, ("generators", "n"))
    check_int64(states=states, generators=generators)
    if n < 1 or generators.shape[1] != n:
        raise ValueError(f"generators must have n = {n} columns, got {generators.shape[1]}")
    words = -(-n // (64 // w))
    if states.shape[1] != words:
        raise ValueError(f"states must have {words} words for n={n}, w={w}, got {states.shape[1]}")
    checks.check_same_device({"states": states, "generators": generators})
    _check_device_permutations(generators)
    return _perm_apply_op(states, generators, n, w)


# ---- rankone::perm_hash_neighbors ----


def _perm_hash_neighbors(states: Tensor, generators: Tensor, weights: Tensor) -> Tensor:
    cuda = cuda_kernels(states.device)
    if cuda is not None:
        states, generators = states.contiguous(), generators.contiguous()
        weights = weights.contiguous()
        hashes = weights.new_empty(generators.shape[0], states.shape[0])
        _library.call(
            cuda,
            "perm_hash_neighbors",
            hashes,
            states.shape[1],
            generators.shape[0],
            generators.data_ptr(),
            weights.data_ptr(),
            states.shape[0],
            states.data_ptr(),
            states.element_size(),
            hashes.data_ptr(),
        )
        return hashes
    native = native_kernels()
    if native is not None and states.device.type == "cpu":
        hashes = native.hash_neighbors(
            states.contiguous().numpy(),
            generators.contiguous().numpy(),
            weights.contiguous().numpy(),
            threads=torch.get_num_threads(),
        )
        return torch.from_numpy(hashes)
    return _perm_hash_neighbors_torch(states, generators, weights)


def _perm_hash_neighbors_torch(states: Tensor, generators: Tensor, weights: Tensor) -> Tensor:
    # h(g(s)) = sum_i v_i s_{g(i)} = sum_k s_k v_{g^-1(k)}; int64 wraps, which is mod 2^64.
    moved = torch.empty_like(generators).scatter_(1, generators, weights.expand_as(generators))
    hashes = torch.zeros(
        generators.shape[0], states.shape[0], dtype=torch.int64, device=states.device
    )
    for element in range(states.shape[1]):
        hashes += moved[:, element, None] * states[None, :, element].long()
    return hashes


def _perm_hash_neighbors_fake(states: Tensor, generators: Tensor, weights: Tensor) -> Tensor:
    return weights.new_empty(generators.shape[0], states.shape[0])


_perm_hash_neighbors_op = _library.define(
    "perm_hash_neighbors(Tensor states, Tensor generators, Tensor weights) -> Tensor",
    implementation=_perm_hash_neighbors,
    fake=_perm_hash_neighbors_fake,
    cast_inputs=(),
)


def perm_hash_neighbors(states: Tensor, generators: Tensor, weights: Tensor) -> Tensor:
    """The linear hash of every neighbour, none of which is made.

    h(s) = sum_i weights[i] s[i] mod 2^64, so that h(g(s)) = sum_k s[k] weights[g^-1[k]]: one
    integer matrix product for all generators and states.

    Args:
        states: (N, n) uint8, int16, int32 or int64, not packed.
        generators: (G, n) int64, permutations in one-line form.
        weights: (n,) int64.

    Returns:
        (G, N) int64.

    Raises:
        ValueError: for wrong shapes or devices, or generators that are no permutations (on CUDA
            looked at with ``RANKONE_CHECK_VALUES=1`` only; there an element outside 0..n-1 counts
            nothing).
        TypeError: for wrong dtypes (also a ``ValueError``).

    Example:
        >>> import torch
        >>> from rankone.ops import perm_hash_neighbors
        >>> weights = torch.tensor([1, 10, 100])
        >>> perm_hash_neighbors(torch.tensor([[0, 1, 2]]), torch.tensor([[1, 2, 0]]), weights)
        tensor([[21]])
    """
    checks.check_rank("states", states, ("states", "n"))
    checks.check_rank("generators", generators, ("generators", "n"))
    checks.check_rank("weights", weights, ("n",))
    if states.dtype not in (torch.uint8, torch.int16, torch.int32, torch.int64):
        raise checks.DTypeError(f"states must be uint8, int16, int32 or int64, got {states.dtype}")
    check_int64(generators=generators, weights=weights)
    n = states.shape[1]
    for name, tensor in (("generators", generators), ("weights", weights)):
        if tensor.shape[-1] != n:
            raise ValueError(
                f"{name} must have the {n} elements of states in the last axis, "
                f"got {tensor.shape[-1]}"
            )
    checks.check_same_device({"states": states, "generators": generators, "weights": weights})
    _check_device_permutations(generators)
    return _perm_hash_neighbors_op(states, generators, weights)


def _check_device_permutations(generators: Tensor) -> None:
    """The native CPU functions check this themselves."""
    compiling = torch.compiler.is_compiling()
    if generators.is_cuda and not compiling and checks.values_checked(generators):
        check_permutations(generators)


# ---- searches ----


@dataclass(frozen=True)
class SearchLimits:
    """Where a search stops before it is complete; None means no limit.

    Attributes:
        max_level: the largest distance to compute.
        max_states: stop after the level that reaches so many states.
        max_layer_size: a larger layer is not explored.
        max_seconds: a level under way when it has passed is dropped.
        max_bytes: most memory that an engine may hold.
    """

    max_level: int | None = None
    max_states: int | None = None
    max_layer_size: int | None = None
    max_seconds: float | None = None
    max_bytes: int | None = None

    def as_keywords(self) -> dict[str, Any]:
        """The limits that are set, as the native engines take them."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class PermutationBfs:
    """What a search found.

    Attributes:
        layer_sizes: number of states at distance 0, 1, ...
        layers: distance -> (N, n) int64, sorted lexicographically: the first, the last and those
            that were to be stored.
        complete: whether every state was found.
        status: "complete", or the limit that ended the search.
        engine: which engine ran.
        seconds: how long.
        peak_bytes: most memory that the engine's arrays took.
    """

    __repr__ = short_repr

    layer_sizes: list[int]
    layers: dict[int, Tensor] = field(repr=False)
    complete: bool
    status: str
    engine: str
    seconds: float
    peak_bytes: int


def native_graph(
    generators: Tensor | np.ndarray,
    start_states: Tensor | np.ndarray,
    bits: int,
    modulus: int = 0,
    kernels: ModuleType | None = None,
) -> Any:
    """A graph as the native engines take it; generators (G, n) or (G, r, r), starts (k, n).

    ``kernels``: the module whose engines are to search it, default the CPU's.
    """
    native = kernels or require_native_kernels("the native breadth-first search")
    return native.Graph(
        np.ascontiguousarray(generators, dtype=np.int64),
        np.ascontiguousarray(start_states, dtype=np.int64),
        bits,
        modulus,
    )


def native_search(
    engine: str,
    graph: Any,
    *,
    limits: SearchLimits,
    max_layer_size_to_store: int | None,
    threads: int,
    on_level: Callable[[int, int, float], bool | None] | None = None,
    on_states: Callable[[int, np.ndarray], bool | None] | None = None,
    planes: int = 2,
    scratch_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    keep_layers: bool = True,
    expected_states: int = 0,
    device: torch.device | None = None,
) -> Mapping[str, Any]:
    """Run one native engine; packed layers and the summary as the native module returns them.

    ``device``: where it runs, default the CPU.
    """
    native = require_native_kernels(f"engine {engine!r}")
    common = {
        "on_level": on_level,
        "on_states": on_states,
        "max_layer_size_to_store": max_layer_size_to_store,
        **limits.as_keywords(),
    }
    kernels = None if device is None else cuda_kernels(device)
    if device is not None and kernels is not None:
        if planes != 2:
            raise ValueError(f"planes must be 2 for a search on {device}, got {planes}")
        return cuda_search(kernels, engine, graph, device, **common)
    if device is not None and device.type != "cpu":
        raise RuntimeError(f"engine {engine!r} has no kernels for {device}. {_library.BUILD_HINT}")
    common["threads"] = threads
    if engine == "hash":
        return native.bfs_hash(graph, **common)
    if engine == "bitarray":
        return native.bfs_bitarray(graph, planes=planes, **common)
    if engine == "external":
        return native.bfs_external(
            graph,
            os.fspath(scratch_dir or ""),
            resume=resume,
            keep_layers=keep_layers,
            expected_states=expected_states,
            **common,
        )
    raise ValueError(f"engine must be 'hash', 'bitarray' or 'external', got {engine!r}")


def permutation_bfs(
    generators: Tensor,
    start_state: Tensor | None = None,
    *,
    modulus: int = 0,
    engine: str = "auto",
    max_level: int | None = None,
    max_states: int | None = None,
    max_layer_size: int | None = None,
    max_seconds: float | None = None,
    max_bytes: int | None = None,
    max_layer_size_to_store: int | None = 0,
    scratch_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    num_threads: int | None = None,
    on_level: Callable[[int, int, float], bool | None] | None = None,
) -> PermutationBfs:
    """Breadth-first search from a state: sizes of the layers, and the layers asked for.

    Args:
        generators: (G, n) int64 permutations in one-line form, or (G, r, r) int64 matrices; the
            search runs on their device.
        start_state: (n,) or (k, n) int64 non-negative, default 0..n-1; for matrices (r, c) or
            (k, r, c), default the identity.
        modulus: of matrices, 2 to 2**31; 0 means int64 arithmetic with wrap-around.
        engine: "hash" (any generators), "bitarray" (2 bits a state: whole symmetric groups, and on
            the CPU 0/1 words and unitriangular matrices), "external" (sorted files in
            ``scratch_dir``, CPU only), "reference" (plain torch), or "auto": bitarray where it
            applies and fits ``max_bytes``, else hash; reference where there are no kernels for the
            device, with a warning.
        max_level: the largest distance to compute.
        max_states: stop after the level that reaches so many states.
        max_layer_size: a larger layer is not explored.
        max_seconds: stop after so long.
        max_bytes: most memory of the engine; on CUDA never more than nine tenths of what is free
            when it starts.
        max_layer_size_to_store: layers of at most so many states are returned, and the first and
            the last always; None returns all.
        scratch_dir: folder of the external engine.
        resume: go on from what an external search left in ``scratch_dir``.
        num_threads: of the CPU's engines, default torch's number.
        on_level: called with (level, size, seconds) after each layer; True stops.

    Returns:
        A :class:`PermutationBfs`, layers on the device of ``generators``. Layers are sorted, so no
        result depends on engine, device or threads.

    Raises:
        ValueError: for generators that are no permutations, of different lengths, or none at all;
            a start state of the wrong length; an engine that does not apply.
        TypeError: for dtypes other than int64 (also a ``ValueError``).
        MemoryError: for a search that cannot fit ``max_bytes``; it names the engine that would.
        RuntimeError: for a native engine in an installation without kernels for the device.

    Source: CayleyPy Growth, arXiv 2509.19162; the engines were designed for this project.

    Example:
        >>> import torch
        >>> from rankone.ops import permutation_bfs
        >>> generators = torch.tensor([[1, 2, 3, 0], [3, 0, 1, 2], [1, 0, 2, 3]])
        >>> permutation_bfs(generators).layer_sizes
        [1, 3, 5, 6, 5, 3, 1]
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    generators, starts, shape = check_graph(generators, start_state, modulus)
    device = generators.device
    limits = SearchLimits(max_level, max_states, max_layer_size, max_seconds, max_bytes)
    for name, value in vars(limits).items():
        if value is not None and (value < 0 or (value == 0 and name != "max_level")):
            raise ValueError(f"{name} must be positive, got {value}")
    if engine == "external" and scratch_dir is None:
        raise ValueError("scratch_dir must be given for engine 'external'")
    if engine == "external" and device.type != "cpu":
        raise ValueError(f"engine 'external' runs on the CPU, got generators on {device}")
    if resume and engine != "external":
        raise ValueError(f"resume goes with engine 'external', got engine {engine!r}")
    if num_threads is not None and num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, got {num_threads}")
    threads = num_threads or torch.get_num_threads()
    cuda = cuda_kernels(device)

    if engine == "auto" and cuda is None and (native_kernels() is None or device.type != "cpu"):
        _library.warn_composite("permutation_bfs", device.type)
        engine = "reference"
    if engine == "reference":
        found: Mapping[str, Any] = permutation_bfs_reference(
            generators,
            starts.to(device),
            modulus=modulus,
            limits=limits.as_keywords(),
            max_layer_size_to_store=max_layer_size_to_store,
            on_level=on_level,
        )
        layers = {level: states.reshape(-1, *shape) for level, states in found["layers"].items()}
    else:
        native = require_native_kernels(f"engine {engine!r}")
        bits = _bits(starts, modulus, generators.ndim == 3)
        graph = native_graph(generators.cpu(), starts, bits, modulus, kernels=cuda)
        if cuda is not None:
            limits = replace(limits, max_bytes=device_limit(device, max_bytes))
        if engine == "auto":
            engine = _choose_engine(graph, cuda, limits.max_bytes)
        found = native_search(
            engine,
            graph,
            limits=limits,
            max_layer_size_to_store=max_layer_size_to_store,
            threads=threads,
            on_level=on_level,
            scratch_dir=scratch_dir,
            resume=resume,
            device=device,
        )
        layers = {
            level: torch.from_numpy(native.unpack(words, starts.shape[1], bits))
            .reshape(-1, *shape)
            .to(device)
            for level, words in found["layers"].items()
        }
    return PermutationBfs(
        layer_sizes=list(found["layer_sizes"]),
        layers=layers,
        complete=found["status"] == "complete",
        status=found["status"],
        engine=engine,
        seconds=found["seconds"],
        peak_bytes=found["peak_bytes"],
    )


# Without a limit "auto" takes the bits of a whole space on the CPU up to here: 13! states fit.
_MOST_BITS_UNASKED = 2**33


def _choose_engine(graph: Any, cuda: ModuleType | None, max_bytes: int | None) -> str:
    """Bitarray where it applies and fits, else hash."""
    if cuda is None:
        obstacle = graph.bitarray_obstacle()
        needed = graph.memory()["bitarray"]
    else:
        obstacle = cuda.bitarray_obstacle(graph)
        needed = cuda.bfs_memory(graph)["bitarray"]
    fits = needed <= (max_bytes or _MOST_BITS_UNASKED)
    return "bitarray" if not obstacle and fits else "hash"


def _bits(starts: Tensor, modulus: int, matrices: bool) -> int:
    """The narrowest width that holds every value that a state can have."""
    if matrices and modulus == 0:
        return 64
    largest = modulus - 1 if matrices else int(starts.max())
    return next(width for width in WIDTHS if largest < 1 << width)
