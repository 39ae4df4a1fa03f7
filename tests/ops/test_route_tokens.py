"""The dispatch against a list of tokens for each memory."""

import pytest
import torch
from rankone.ops import route_tokens


def choices(batch, time, slots, memories, seed=0):
    """``slots`` different memories for every token."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, time, memories, generator=generator).argsort(-1)[..., :slots]


def by_lists(indices, memories, mask=None):
    """Pairs of every (memory, batch row) in order of time."""
    batch, time, slots = indices.shape
    segments = []
    for memory in range(memories):
        for row in range(batch):
            segments.append([
                (row * time + t) * slots + slot
                for t in range(time) for slot in range(slots)
                if indices[row, t, slot] == memory and (mask is None or mask[row, t])
            ])  # fmt: skip
    return segments


SHAPES = ((2, 9, 2, 4), (1, 1, 1, 5), (3, 50, 3, 3), (1, 7, 1, 1), (2, 0, 2, 4), (0, 3, 1, 2))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_segments_are_the_lists_of_tokens(shape, masked):
    indices = choices(*shape)
    mask = torch.rand(shape[:2]) < 0.6 if masked else None
    perm, inv, offsets = route_tokens(indices, shape[3], mask=mask)
    segments = by_lists(indices, shape[3], mask)
    assert perm.tolist() == [pair for segment in segments for pair in segment]
    assert offsets.tolist() == [sum(map(len, segments[:n])) for n in range(len(segments) + 1)]
    assert torch.equal(inv, perm.argsort())


def test_the_inverse_restores_the_order_of_time():
    indices = choices(2, 30, 2, 4)
    perm, inv, _ = route_tokens(indices, 4)
    pairs = torch.randn(2 * 30 * 2, 5)
    assert torch.equal(pairs[perm][inv], pairs)


def test_many_equal_choices_keep_the_order_of_time():
    """What an unstable sort would lose."""
    indices = torch.zeros(1, 5000, 1, dtype=torch.int64)
    perm, _, offsets = route_tokens(indices, 3)
    assert torch.equal(perm, torch.arange(5000))
    assert offsets.tolist() == [0, 5000, 5000, 5000]


def test_offsets_pack_for_the_sequence_ops():
    _, _, offsets = route_tokens(choices(2, 9, 2, 4).int(), 4)
    assert offsets.dtype == torch.int64
    assert offsets.shape == (4 * 2 + 1,)
    assert offsets[-1] == 2 * 9 * 2


def test_masked_tokens_may_hold_any_memory():
    indices = torch.tensor([[[0, 1], [-1, -1], [2, 0]]])
    mask = torch.tensor([[True, False, True]])
    perm, inv, offsets = route_tokens(indices, 3, mask=mask)
    assert perm.tolist() == [0, 5, 1, 4]
    assert inv.tolist() == [0, 2, 3, 1]
    assert offsets.tolist() == [0, 2, 3, 4]


def test_compiles_without_a_graph_break():
    indices = choices(2, 30, 2, 4)
    compiled = torch.compile(route_tokens, fullgraph=True, backend="aot_eager")
    for one, other in zip(compiled(indices, 4), route_tokens(indices, 4), strict=True):
        assert torch.equal(one, other)


INDICES = torch.tensor([[[0, 1], [2, 0]]])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((INDICES[0], 3), ValueError, "indices must be 3-D"),
        ((INDICES.float(), 3), TypeError, "indices must be int32 or int64"),
        ((INDICES, 0), ValueError, "num_memories must be at least 1"),
        ((INDICES, 1), ValueError, "last axis of indices must be between 1 and num_memories = 1"),
        ((INDICES[..., :0], 3), ValueError, "last axis of indices must be between 1"),
        ((INDICES, 2), ValueError, "indices must be between 0 and num_memories - 1 = 1, got 2"),
        ((INDICES - 1, 3), ValueError, "indices must be between 0 .* got -1"),
        ((torch.tensor([[[1, 1]]]), 3), ValueError, "indices must be different .* got 1 twice"),
    ],
)
def test_mistakes_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        route_tokens(*arguments)


def test_masks_are_checked():
    with pytest.raises(ValueError, match=r"mask must have shape \(1, 2\)"):
        route_tokens(INDICES, 3, mask=torch.ones(2, 1, dtype=torch.bool))
    with pytest.raises(TypeError, match="mask must be bool"):
        route_tokens(INDICES, 3, mask=torch.ones(1, 2))
    with pytest.raises(ValueError, match="mask must be on the device of indices"):
        route_tokens(INDICES, 3, mask=torch.ones(1, 2, dtype=torch.bool, device="meta"))
