"""What context parallelism sends, on paper: the numbers that the tests hold the counters to."""

from __future__ import annotations

from rankone.distributed._scan import scan_rounds

# Entries of a head's transition, by how the op moves a state.
TRANSITIONS = ("head", "channel", "matrix")


def scan_bytes(
    ranks: int,
    heads: int,
    key_dim: int,
    value_dim: int,
    *,
    transition: str,
    rows: int = 1,
    itemsize: int = 4,
) -> int:
    """Bytes that a rank sends at most in one scan of states; a training step makes two an op.

    ceil(log2 ranks) messages of rows * heads * (key_dim * value_dim + transition) numbers,
    whatever the length of the sequence.

    Args:
        ranks: processes that the time axis is cut over.
        heads: heads that hold a state: those of the keys in linear attention, of the values in the
            delta rule.
        key_dim, value_dim: of a head; one value column more where linear attention normalises.
        transition: ``"head"`` (linear attention with no decay or one a head: 1 number),
            ``"channel"`` (a decay a key channel: key_dim) or ``"matrix"`` (the delta rule:
            key_dim ** 2).
        rows: batch rows; 1 for packed sequences.
        itemsize: bytes of a number, 8 for float64.

    Returns:
        The bytes; 0 for one rank.

    Raises:
        ValueError: for an unknown transition or sizes below 1.

    Example:
        >>> from rankone.distributed import scan_bytes
        >>> scan_bytes(8, heads=16, key_dim=128, value_dim=128, transition="matrix")
        6291456
    """
    if transition not in TRANSITIONS:
        raise ValueError(f"transition must be one of {TRANSITIONS}, got {transition!r}")
    sizes = {
        "ranks": ranks,
        "heads": heads,
        "key_dim": key_dim,
        "value_dim": value_dim,
        "rows": rows,
        "itemsize": itemsize,
    }
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    moved = {"head": 1, "channel": key_dim, "matrix": key_dim**2}[transition]
    return scan_rounds(ranks) * rows * heads * (key_dim * value_dim + moved) * itemsize
