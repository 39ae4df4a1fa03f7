"""Packing, hashing, sorted sets and devices."""

import pytest
import torch
from rankone.cayley import CayleyError, CayleyGraph, MatrixGroups, PermutationGroups
from rankone.cayley.device_config import DeviceConfig
from rankone.cayley.hasher import mix
from rankone.cayley.string_encoder import StringEncoder, width_for
from rankone.cayley.torch_utils import (
    CachedTensor,
    SeenStates,
    TorchHashSet,
    contained,
    isin_via_searchsorted,
    lexicographic_order,
    sort_unique,
)

from .graphs import graph


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8, 13, 16, 31, 32, 63])
@pytest.mark.parametrize("n", [1, 7, 16, 65])
def test_packing_round_trips_and_permutes(width, n):
    encoder = StringEncoder(code_width=width, n=n)
    states = torch.randint(0, 2**width - (width == 63), (9, n))
    packed = encoder.encode(states)
    assert packed.shape == (9, -(-n // (64 // width)))
    assert torch.equal(encoder.decode(packed), states)
    order = torch.randperm(n)
    target = torch.zeros_like(packed)
    encoder.implement_permutation(order.tolist())(packed, target)
    assert torch.equal(encoder.decode(target), states[:, order])


def test_element_zero_has_the_lowest_bits():
    packed = StringEncoder(code_width=4, n=3).encode(torch.tensor([[1, 2, 3]]))
    assert packed.tolist() == [[0x321]]
    top = StringEncoder(code_width=1, n=64).encode(torch.tensor([[0] * 63 + [1]]))
    assert top.tolist() == [[-(2**63)]]


def test_permutations_of_numpy_states():
    encoder = StringEncoder(code_width=4, n=4)
    packed = encoder.encode(torch.tensor([[0, 1, 2, 3]]))[:, 0].numpy()
    assert encoder.implement_permutation_1d([1, 2, 3, 0])(packed).tolist() == [0x0321]
    with pytest.raises(CayleyError, match="one word of 16 elements, got 17"):
        StringEncoder(code_width=4, n=17).implement_permutation_1d(list(range(17)))


@pytest.mark.parametrize(("value", "width"), [(0, 1), (1, 1), (3, 2), (4, 4), (16, 8), (2**16, 32)])
def test_widths_are_the_narrowest(value, width):
    assert width_for(value) == width


def test_values_that_do_not_fit_are_refused():
    with pytest.raises(CayleyError, match="from 0 to 3 to be packed in 2 bits, got 4"):
        StringEncoder(code_width=2, n=2).encode(torch.tensor([[0, 4]]))
    with pytest.raises(CayleyError, match="got -1"):
        StringEncoder(code_width=2, n=2).encode(torch.tensor([[0, -1]]))
    with pytest.raises(CayleyError, match="at least 3 for values up to 4, got 2"):
        graph(PermutationGroups.lrx(5), bit_encoding_width=2)


def test_graphs_choose_their_width():
    assert graph(PermutationGroups.lrx(16)).encoded_state_size == 1
    assert graph(PermutationGroups.lrx(17)).encoded_state_size == 3
    assert graph(PermutationGroups.lrx(64).with_central_state([0, 1] * 32)).encoded_state_size == 1
    assert graph(MatrixGroups.heisenberg(modulo=5)).encoded_state_size == 1
    assert graph(MatrixGroups.heisenberg()).encoded_state_size == 9
    assert graph(PermutationGroups.lrx(5), bit_encoding_width=None).encoded_state_size == 5


def test_one_word_is_its_own_hash():
    made = graph(PermutationGroups.lrx(9))
    assert made.hasher.is_identity
    packed = made.encode_states(torch.arange(9))
    assert torch.equal(made.hasher.make_hashes(packed), packed[:, 0])
    assert torch.equal(made.central_state_hash, packed[:, 0])


def test_seeds_change_hashes_and_zero_is_a_seed():
    definition = PermutationGroups.lrx(20)
    state = torch.arange(20)
    hashes = [
        int(
            graph(definition, random_seed=seed).hasher.make_hashes(
                graph(definition).encode_states(state)
            )
        )
        for seed in (None, 0, 1, 0)
    ]
    assert hashes[1] == hashes[3]
    assert len(set(hashes)) == 3


def test_hashes_do_not_depend_on_chunks():
    states = torch.randint(-(2**62), 2**62, (100, 3))
    wide = graph(PermutationGroups.lrx(20))
    narrow = graph(PermutationGroups.lrx(20), hash_chunk_size=7)
    assert torch.equal(wide.hasher.make_hashes(states), narrow.hasher.make_hashes(states))


def test_mixing_is_injective():
    x = torch.cat([torch.arange(10**5), torch.arange(10**5) << 40])
    assert len(mix(x).unique()) == len(x.unique())


def test_membership_by_search():
    elements = torch.tensor([5, 1, 9, 3])
    assert isin_via_searchsorted(elements, torch.tensor([1, 3])).tolist() == [
        False,
        True,
        False,
        True,
    ]
    assert not isin_via_searchsorted(elements, torch.tensor([], dtype=torch.int64)).any()


def test_a_hash_set_remembers_everything():
    seen = TorchHashSet()
    numbers = torch.randperm(1000)
    for part in numbers[:600].split(37):
        seen.add_sorted_hashes(part.sort().values)
    unseen = seen.get_mask_to_remove_seen_hashes(numbers)
    assert unseen.tolist() == [False] * 600 + [True] * 400
    assert len(seen.data) < 10


def test_states_with_one_hash_stay_apart():
    """All hashes equal: only the words can tell states apart."""
    states = torch.tensor([[1, 2], [3, 4], [1, 2], [0, 9], [3, 4], [1, 3]])
    unique, hashes = sort_unique(states, torch.zeros(6, dtype=torch.int64))
    assert sorted(map(tuple, unique.tolist())) == [(0, 9), (1, 2), (1, 3), (3, 4)]
    asked = torch.tensor([[3, 4], [9, 0], [1, 2], [1, 1], [0, 9]])
    found = contained(asked, torch.zeros(5, dtype=torch.int64), unique, hashes)
    assert found.tolist() == [True, False, True, False, True]
    seen = SeenStates()
    seen.add(unique[:2], hashes[:2])
    seen.add(unique[2:], hashes[2:])
    assert seen.contains(asked, torch.zeros(5, dtype=torch.int64)).tolist() == found.tolist()


def test_a_search_is_exact_under_colliding_hashes(monkeypatch):
    definition = PermutationGroups.lrx(5)
    expected = graph(definition).bfs(engine="torch").layer_sizes
    made = graph(definition, bit_encoding_width=None)
    monkeypatch.setattr(made.hasher, "make_hashes", lambda states: states[:, 0] * 0)
    assert made.bfs(engine="torch").layer_sizes == expected


@pytest.mark.parametrize("values", [3, 2**40, 2**63 - 1])
def test_lexicographic_order_is_that_of_lists(values):
    rows = torch.randint(-values, values, (200, 5)) // torch.tensor([1, 1, 2, 3, 5])
    rows[:100, :4] = rows[0, :4]
    assert rows[lexicographic_order(rows)].tolist() == sorted(rows.tolist())


def test_copies_on_devices_are_made_once():
    tensor = torch.arange(3)
    assert CachedTensor(tensor).to("cpu") is tensor


def test_devices():
    assert DeviceConfig.create("cpu").device == torch.device("cpu")
    assert DeviceConfig.create("cpu").num_gpus == 0
    assert DeviceConfig.create("auto", num_gpus=0).gpu_devices == []
    made = CayleyGraph(PermutationGroups.lrx(4), device_config=DeviceConfig.create("cpu"))
    assert (made.device, made.gpu_devices, made.num_gpus) == (torch.device("cpu"), [], 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "device must be auto, cpu or cuda, got 'gpu'"),
        ({"device": "cuda:99"}, "'cuda:99' cannot be used here"),
        ({"specific_devices": []}, "specific_devices must not be empty"),
        ({"specific_devices": ["cpu"]}, "must be GPUs, got 'cpu'"),
        ({"specific_devices": [0, 0]}, "must be different"),
        ({"num_gpus": -1}, "num_gpus must be at least 0, got -1"),
    ],
)
def test_bad_devices_are_named(options, message):
    with pytest.raises(CayleyError, match=message):
        CayleyGraph(PermutationGroups.lrx(4), **options)
