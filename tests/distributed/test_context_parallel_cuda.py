"""Sharded ops and models on CUDA tensors: alone in their group, they give what they give without.

One process and one device. CUDA tensors go by NCCL there, and what the host has to know by gloo.
Several ranks are those of ``test_context_parallel.py``.
"""

import pytest
import torch
import torch.distributed as dist

from tests.distributed.layers import run_model
from tests.distributed.sequence_ops import cases, run

pytestmark = pytest.mark.cuda

DEVICE = torch.device("cuda")
BACKEND = "cpu:gloo,cuda:nccl"
# Relative to the largest entry: rounding of some hundred additions, and in bfloat16 three roundings
# of 2^-8 where the op alone has one.
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 4 * 2**-8}

# Every form of decay, packed and not; one rank leaves one way of cutting.
CASES = [
    case
    for case in cases()
    if case.get("causal") is False
    or (case["lengths"] == "even" and case["packed"] in ("no", "many"))
]
CASES += [
    {"op": "linear_attention", "decay": "channel", "lengths": "even", "packed": packed,
     "initial": True, "normalize": True}
    for packed in ("no", "many")
]  # fmt: skip

# Mixers, way of packing, options.
MODELS = [
    ("lightning_attention", "no", {}),
    ("gated_delta_net", "many", {"mixer_kwargs": {"head_dim": 4}}),
    ("delta_net", "many", {"activation_checkpointing": True}),
    (["hedgehog_attention", "norm_attention"], "one", {}),
]


@pytest.fixture(scope="module")
def group():
    dist.init_process_group(BACKEND, store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def assert_all_within(differences, tolerance):
    assert not {name: value for name, value in differences.items() if not value <= tolerance}


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_op_and_gradients_are_those_without_a_group(group, case):
    found = run(case, group, torch.float32, DEVICE)
    assert_all_within(found, TOLERANCES[torch.float32])


@pytest.mark.parametrize("op", ["linear_attention", "delta_rule", "causal_conv1d"])
def test_bfloat16_stays_within_its_rounding(group, op):
    case = {"op": op, "decay": "token", "lengths": "even", "packed": "no", "initial": True}
    assert_all_within(run(case, group, torch.bfloat16, DEVICE), TOLERANCES[torch.bfloat16])


@pytest.mark.parametrize("index", range(len(MODELS)))
def test_model_loss_and_gradients_are_those_without_a_group(group, index):
    mixer, packed, options = MODELS[index]
    found = run_model(mixer, "even", packed, dtype=torch.float32, device=DEVICE, **options)
    assert_all_within(found, TOLERANCES[torch.float32])
