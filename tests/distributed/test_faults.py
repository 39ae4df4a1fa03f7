"""A rank that is wrong, late or dead ends in a clear error on every rank, and never in a hang."""

import signal
import textwrap

import pytest
import torch
import torch.distributed as dist
from rankone import distributed, nn

from tests.processes import run_all_well, run_processes

# Every entry is a call that fails on some rank; all ranks make it, and then one that is right.
DISAGREEMENTS = textwrap.dedent(
    """
    from rankone import distributed, nn

    world = dist.group.WORLD

    def tokens(time=6, heads=2, dim=4, dtype=torch.float32):
        return torch.randn(1, time, heads, dim, dtype=dtype)

    def attend(time=6, heads=2, dim=4, dtype=torch.float32, **options):
        q, k, v = (tokens(time, heads, dim, dtype) for _ in range(3))
        return distributed.linear_attention(q, k, v, **options)

    def model(**options):
        torch.manual_seed(0)
        return nn.LanguageModel(nn.LanguageModelConfig(
            vocab_size=11, hidden_size=8, num_layers=1, num_heads=2, **options))

    text = torch.zeros(1, 6, dtype=torch.int64)
    other = rank == 1
    calls = {
        "dtype": lambda: attend(dtype=torch.float64 if other else torch.float32),
        "heads": lambda: attend(heads=4 if other else 2),
        "scale": lambda: attend(scale=0.5 if other else None),
        "final state": lambda: attend(output_final_state=other),
        "gradients": lambda: distributed.linear_attention(
            tokens().requires_grad_(other), tokens(), tokens()),
        "packing": lambda: attend(
            cu_seqlens=torch.tensor([0, 7, 18] if other else [0, 8, 18])),
        "packing end": lambda: attend(cu_seqlens=torch.tensor([0, 8, 17])),
        "op": lambda: distributed.delta_rule(
            tokens(), tokens(), tokens(), torch.rand(1, 6, 2)) if other else attend(),
        "wrong shape here": lambda: distributed.linear_attention(
            tokens(), tokens(), tokens(time=5 if other else 6)),
        "wrong value here": lambda: attend(log_decay=torch.full((2,), 0.1 if other else -0.1)),
        "not a tensor here": lambda: distributed.delta_rule(
            None if other else tokens(), tokens(), tokens(), torch.rand(1, 6, 2)),
        "beta here": lambda: distributed.delta_rule(
            tokens(), tokens(), tokens(), torch.full((1, 6, 2), float("nan") if other else 0.5)),
        "weights": lambda: distributed.causal_conv1d(
            torch.zeros(1, 6, 3), torch.zeros(3, 5 if other else 4)),
        "mask": lambda: model()(
            text, attention_mask=torch.ones(1, 6) if other else None, context_parallel=world),
        "configuration": lambda: model(norm="layernorm" if other else "rmsnorm")(
            text, context_parallel=world),
        "labels": lambda: model()(
            text, labels=text if other else None, context_parallel=world),
        "mixer": lambda: model(mixer="softmax_attention")(text, context_parallel=world),
        "shard length": lambda: attend(
            time=7, group=distributed.shard_sequence(6)),
    }
    result = {}
    for name, call in calls.items():
        try:
            call()
            result[name] = "no error"
        except Exception as error:
            result[name] = f"{type(error).__name__}: {error}"
        attend()
    """
)

# What rank 1, who is different, and the others say. Where all are alike they say the same.
MESSAGES = {
    "dtype": ('rank 1 has q = "(1, time, 2, 4) float64"', None),
    "heads": ('rank 1 has q = "(1, time, 4, 4) float32"', None),
    "scale": ("rank 1 has scale = 0.5, rank 0 has null", None),
    "final state": ("rank 1 has output_final_state = true, rank 0 has false", None),
    "gradients": ("float32 requiring a gradient", None),
    "packing": ("rank 1 has cu_seqlens = [0, 7, 18], rank 0 has [0, 8, 18]", None),
    "packing end": ("cu_seqlens must end at the number of tokens of all ranks, 18", "ValueError"),
    "op": ('rank 1 has op = "delta_rule", rank 0 has "linear_attention"', None),
    "wrong shape here": ("v must have shape (1, 6, 2, 4)", "ValueError"),
    "wrong value here": ("log_decay must be at most 0", "ValueError"),
    "not a tensor here": ("q must be a torch.Tensor, got NoneType", "TypeError"),
    "beta here": ("beta must be finite", "ValueError"),
    "weights": ('rank 1 has weight = "(3, 5) float32"', None),
    "mask": ("attention_mask must be None with context_parallel", "ValueError"),
    "configuration": ("rank 1 has configuration", None),
    "labels": ("rank 1 has labels = true, rank 0 has false", None),
    "mixer": ("got SoftmaxAttention in layer 0", "ValueError"),
    "shard length": ("q must have the shard's 6 tokens along axis 1", "ValueError"),
}
# Wrong on every rank alike: each raises its own error.
EVERYWHERE = ("packing end", "mixer", "shard length")


@pytest.fixture(scope="module")
def disagreements(tmp_path_factory):
    return run_all_well(DISAGREEMENTS, 3, tmp_path_factory.mktemp("disagreements"))


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_a_rank_that_differs_is_named_on_every_rank(disagreements, name):
    """And the group serves the next call, which each rank made after every one of these."""
    words, own_error = MESSAGES[name]
    for rank, result in enumerate(disagreements):
        kind = "DistributedError"
        if own_error is not None and (rank == 1 or name in EVERYWHERE):
            kind = own_error
        assert result[name].startswith(kind)
        assert words in result[name]
        if kind == "DistributedError" and own_error is not None:
            assert "because rank 1 failed" in result[name]


ATTEND = textwrap.dedent(
    """
    import os, signal, time
    from rankone import distributed, nn

    q, k, v = (torch.randn(1, 8, 2, 4, requires_grad=True) for _ in range(3))
    """
)


def test_a_rank_that_dies_ends_the_others_with_an_error(tmp_path):
    """Killed between forward and backward: the others are then in the scan of the gradients."""
    script = ATTEND + textwrap.dedent(
        f"""
        o, _ = distributed.delta_rule(q, k, v, torch.rand(1, 8, 2))
        if rank == 1:
            os.kill(os.getpid(), {int(signal.SIGKILL)})
        o.sum().backward()
        """
    )
    outcomes = run_processes(script, 3, tmp_path, group_timeout=30)
    assert [outcome.finished for outcome in outcomes] == [True, False, True]
    for rank in (0, 2):
        assert f"DistributedError: rank {rank} of 3 lost contact in" in outcomes[rank].error
        assert "another rank died, stopped or did not make this call" in outcomes[rank].error


def test_a_rank_that_stays_away_ends_the_others_within_the_groups_timeout(tmp_path):
    script = ATTEND + textwrap.dedent(
        """
        start = time.monotonic()
        if rank == 1:
            time.sleep(8)
        try:
            distributed.linear_attention(q, k, v)
            result = "no error"
        except distributed.DistributedError as error:
            result = (str(error), time.monotonic() - start)
        """
    )
    outcomes = run_processes(script, 2, tmp_path, group_timeout=3)
    message, seconds = outcomes[0].result
    assert "rank 0 of 2 lost contact in sharding a sequence" in message
    # Far below torch's own default of half an hour, whatever the load of the machine.
    assert seconds < 60
    assert outcomes[1].finished


def test_without_a_group_the_error_says_how_to_start():
    assert not dist.is_initialized()
    with pytest.raises(RuntimeError, match="torchrun --nproc-per-node"):
        distributed.shard_sequence(4)


@pytest.fixture
def single_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_one_process_is_a_group_of_one(single_process):
    q, k, v = (torch.randn(2, 9, 2, 4) for _ in range(3))
    o, state = distributed.linear_attention(q, k, v, output_final_state=True)
    expected, expected_state = distributed._linear_attention.local.linear_attention(
        q, k, v, output_final_state=True
    )
    assert torch.equal(o, expected)
    assert torch.equal(state, expected_state)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"time": -1}, ValueError, "time must be at least 0, got -1"),
        ({"time": 4, "group": "gloo"}, TypeError, "group must be a ProcessGroup"),
        (
            {"time": 4, "cu_seqlens": torch.tensor([0, 5, 4])},
            ValueError,
            "cu_seqlens must not decrease",
        ),
        (
            {"time": 4, "cu_seqlens": torch.tensor([0.0, 4.0])},
            TypeError,
            "cu_seqlens must be int32 or int64",
        ),
    ],
)
def test_wrong_arguments_of_a_shard_are_named(single_process, arguments, error, message):
    with pytest.raises(error, match=message):
        distributed.shard_sequence(**arguments)


def test_wrong_spans_are_named(single_process):
    shard = distributed.shard_sequence(4)
    with pytest.raises(ValueError, match="spans must hold 1 pairs"):
        distributed.fetch_tokens(torch.zeros(1, 4), shard, [(0, 5)])
    with pytest.raises(ValueError, match="x must have the shard's 4 tokens"):
        distributed.fetch_tokens(torch.zeros(1, 3), shard, [(0, 4)])


def test_a_model_on_an_agreed_shard_names_its_tokens(single_process):
    model = nn.LanguageModel(nn.LanguageModelConfig(vocab_size=5, hidden_size=8, num_layers=1))
    shard = distributed.shard_sequence(4)
    with pytest.raises(ValueError, match="tokens must have the shard's 4 tokens along axis 1"):
        model(torch.zeros(1, 3, dtype=torch.int64), context_parallel=shard)
    assert model(torch.zeros(1, 4, dtype=torch.int64), context_parallel=shard).logits.shape == (
        1, 4, 5,
    )  # fmt: skip


def test_packed_sequences_come_from_the_shard_where_one_is_given(single_process):
    offsets = torch.tensor([0, 2, 4])
    shard = distributed.shard_sequence(4, cu_seqlens=offsets)
    q = torch.zeros(1, 4, 1, 2)
    with pytest.raises(ValueError, match="cu_seqlens must be None when group is a SequenceShard"):
        distributed.linear_attention(q, q, q, group=shard, cu_seqlens=offsets)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranks": 0}, "ranks must be at least 1"),
        ({"transition": "diagonal"}, "transition must be one of"),
    ],
)
def test_wrong_arguments_of_the_traffic_are_named(change, message):
    arguments = {"ranks": 2, "heads": 1, "key_dim": 4, "value_dim": 4, "transition": "head"}
    with pytest.raises(ValueError, match=message):
        distributed.scan_bytes(**{**arguments, **change})
