"""Sequences cut along time over 2 and 4 processes give what one process gives.

One start of the processes runs everything; each test reads its part of what came back.
"""

import textwrap

import pytest
from rankone.distributed import scan_bytes

from tests.distributed.layers import CUTS, LAYERS, MODELS
from tests.distributed.sequence_ops import cases
from tests.processes import run_all_well

# Relative to the largest entry. float64: rounding of some hundred additions. float32: the same. In
# bfloat16 the sharded delta rule rounds the outputs from zeros and the rows that read the entering
# state, three roundings of 2^-8 where one process has one; in gradients they are summed over heads.
TOLERANCES = {"float64": 1e-12, "float32": 2e-5, "bfloat16": 4 * 2**-8}

SCRIPT = textwrap.dedent(
    """
    from tests.distributed import layers, sequence_ops, parallel_training
    from rankone import distributed, ops

    world = dist.group.WORLD
    result = {}
    for index, case in enumerate(sequence_ops.cases()):
        result["op", index] = sequence_ops.run(case, world)
    for name in ("float32", "bfloat16"):
        for op in ("linear_attention", "delta_rule"):
            case = {"op": op, "decay": "token", "lengths": "uneven", "packed": "no"}
            case["initial"] = True
            result["dtype", op, name] = sequence_ops.run(case, world, getattr(torch, name))
    for name in layers.LAYERS:
        for lengths, packed in layers.CUTS:
            result["layer", name, lengths, packed] = layers.run_layer(name, lengths, packed, world)
    for index, (mixer, lengths, packed, options) in enumerate(layers.MODELS):
        result["model", index] = layers.run_model(mixer, lengths, packed, **options)
    result["traffic"] = parallel_training.traffic()
    result["options"] = parallel_training.options()
    result["autocast"] = parallel_training.autocast()
    result["reread"] = parallel_training.rereading()
    result["ddp"] = parallel_training.distributed_data_parallel()
    result["fsdp"] = parallel_training.fully_sharded()
    result["mesh"] = parallel_training.mesh_dimension() if size == 4 else None
    result["fetch"] = parallel_training.fetching()
    """
)


@pytest.fixture(scope="module", params=[2, 4], ids=["2-processes", "4-processes"])
def results(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"run{request.param}")
    return run_all_well(SCRIPT, request.param, folder, timeout=300)


def _largest(differences, tolerance):
    worst = {name: value for name, value in differences.items() if not value <= tolerance}
    assert not worst


def _name(case):
    return "-".join(str(value) for value in case.values())


@pytest.mark.parametrize("index", range(len(cases())), ids=[_name(case) for case in cases()])
def test_op_and_gradients_are_those_of_the_whole(results, index):
    for result in results:
        _largest(result["op", index], TOLERANCES["float64"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("op", ["linear_attention", "delta_rule"])
def test_lower_precision_stays_within_its_rounding(results, op, dtype):
    for result in results:
        _largest(result["dtype", op, dtype], TOLERANCES[dtype])


@pytest.mark.parametrize(("lengths", "packed"), CUTS, ids=["-".join(cut) for cut in CUTS])
@pytest.mark.parametrize("name", sorted(LAYERS))
def test_layer_state_and_gradients_are_those_of_the_whole(results, name, lengths, packed):
    for result in results:
        _largest(result["layer", name, lengths, packed], TOLERANCES["float64"])


@pytest.mark.parametrize("index", range(len(MODELS)))
def test_model_loss_and_gradients_are_those_of_the_whole(results, index):
    for result in results:
        found = dict(result["model", index])
        assert found.pop("loss") < 1e-6  # the loss is taken in float32
        _largest(found, TOLERANCES["float64"])


def test_bytes_sent_are_those_on_paper_whatever_the_length(results):
    ranks = len(results)
    for rank, result in enumerate(results):
        # A rank sends in every round in which there is a rank that far behind it.
        rounds = sum(rank + distance < ranks for distance in (1, 2))
        back = sum(rank >= distance for distance in (1, 2) if distance < ranks)
        for (op, transition), sent in result["traffic"].items():
            assert sent["short"] == sent["long"], op
            most = scan_bytes(ranks, sent["heads"], 16, 8, transition=transition, rows=2)
            message = most // (1 if ranks == 2 else 2)
            assert sent["long"] == {"forward": rounds * message, "backward": back * message}


def test_options_of_the_local_kernels_pass_through(results):
    for result in results:
        _largest(result["options"], TOLERANCES["float32"])


def test_autocast_applies_as_in_one_process(results):
    for result in results:
        assert result["autocast"]["dtypes"] == ["torch.bfloat16"] * 2
        _largest(result["autocast"]["differences"], TOLERANCES["bfloat16"])


def test_a_text_is_read_on_from_the_state_and_decoded_on_any_rank(results):
    for result in results:
        _largest(result["reread"], 1e-12)


def test_gradients_under_ddp_are_those_of_the_whole(results):
    for result in results:
        _largest(result["ddp"], TOLERANCES["float64"])


def test_gradients_under_fsdp2_are_those_of_the_whole(results):
    for result in results:
        _largest(result["fsdp"], TOLERANCES["float64"])


def test_a_mesh_dimension_holds_the_sequence_and_the_other_the_batch(results):
    if len(results) == 2:
        pytest.skip("a mesh of two dimensions needs four processes")
    for result in results:
        _largest(result["mesh"], TOLERANCES["float64"])


def test_tokens_are_fetched_across_several_cuts_and_their_gradients_return(results):
    for result in results:
        assert result["fetch"] == {"tokens": True, "gradients": True}
