"""The processes of a job agree before they start, and end in clear errors on every rank.

One job of four processes makes the calls; the tests below look at what came of them.
"""

import pytest
from rankone._process_group import Traffic, count_traffic, guarded, process_group, record_sent

from .processes import run_all_well

# Each case: what a rank does; its outcome is kept as text, so that one job serves all cases.
SCRIPT = """
import time
from torch.distributed.device_mesh import init_device_mesh
from rankone._process_group import (
    DistributedError, agree, count_traffic, guarded, process_group, record_sent)

group = process_group(None)
result = {}

def case(name, call):
    try:
        result[name] = call()
    except BaseException as error:
        result[name] = f"{type(error).__name__}: {error}"
        if error.__cause__ is not None:
            result[name + " cause"] = type(error.__cause__).__name__

# ---- groups
case("default", lambda: process_group(None) is dist.group.WORLD)
case("itself", lambda: process_group(group) is group)
half = [dist.new_group([0, 1]), dist.new_group([2, 3])]
case("member", lambda: dist.get_world_size(process_group(half[rank // 2])))
case("no member", lambda: process_group(half[1 - rank // 2]))
line = init_device_mesh("cpu", (4,), mesh_dim_names=("line",))
case("mesh", lambda: dist.get_world_size(process_group(line)))
square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("row", "column"))
case("square", lambda: process_group(square))
case("row", lambda: dist.get_process_group_ranks(process_group(square["row"])))

# ---- agreement
case("same", lambda: agree("the start", {"size": 3, "_length": rank}, group))
case("differ", lambda: agree("the start", {"size": 3 + (rank == 2), "name": "a"}, group))
case("absent", lambda: agree("the start", {"size": 3, **({"more": 1} if rank == 1 else {})}, group))
case("two", lambda: agree("the start", {"size": rank // 2, "long": "x" * 500 * (rank == 3)}, group))
bad = ValueError("alpha must be positive,\\n got -1") if rank == 1 else None
case("error", lambda: agree("the start", {"size": 3}, group, error=bad))
bad = KeyboardInterrupt() if rank in (2, 3) else None
case("interrupt", lambda: agree("the start", {}, group, error=bad))
case("unprintable", lambda: agree("the start", {"size": object() if rank == 0 else 1}, group))
case("too long", lambda: agree("the start", {"text": "x" * 70_000 * (rank == 3)}, group))
bad = ValueError("y" * 10**6) if rank == 3 else None
case("long error", lambda: agree("the start", {}, group, error=bad))
case("half", lambda: agree("a half", {"half": rank // 2, "_rank": rank}, half[rank // 2]))

def traffic():
    with count_traffic() as outer:
        with count_traffic() as inner:
            agree("the start", {"a": 1}, group)
        before = outer.bytes_sent
        record_sent(10, messages=0)
    record_sent(99)
    return inner.bytes_sent, inner.messages, before, outer.bytes_sent
case("traffic", traffic)
def more_traffic():
    with count_traffic() as counted:
        agree("the start", {"a": "x" * 700}, group)
    return counted.bytes_sent, counted.messages
case("more traffic", more_traffic)

# ---- errors of the collectives and of other code
def local():
    with guarded("a sum", group):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
case("local", local)
def interrupted():
    with guarded("a sum", group):
        raise KeyboardInterrupt
case("passed interrupt", interrupted)
def passed():
    with guarded("a sum", group):
        with guarded("the inner sum", group):
            raise DistributedError("as it was")
case("passed", passed)
case("gathered", lambda: agree("the end", {"ok": True}, group))

# Rank 3 stays away from the last call, longer than the group's timeout.
def stalled():
    if rank == 3:
        time.sleep(4)
    with guarded("the sum of level 7", group):
        dist.all_reduce(torch.ones(1))
began = time.perf_counter()
case("stalled", stalled)
result["stalled seconds"] = time.perf_counter() - began
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of four ranks got from each case."""
    folder = tmp_path_factory.mktemp("group")
    return run_all_well(SCRIPT, 4, folder, group_timeout=2)


def each(found, name):
    return [result[name] for result in found]


def test_groups_and_meshes(found):
    assert each(found, "default") == each(found, "itself") == [True] * 4
    assert each(found, "member") == [2] * 4
    assert each(found, "mesh") == [4] * 4
    assert each(found, "row") == [[0, 2], [1, 3], [0, 2], [1, 3]]
    for message in each(found, "square"):
        assert message.startswith("ValueError: group must be a process group or a one-dimensional")
        assert "got a mesh of 2 dimensions ('row', 'column')" in message
        assert message.endswith('give one of its dimensions, mesh["name"]')
    for message in each(found, "no member"):
        assert message.startswith("ValueError: group must hold this process")


def test_equal_facts_come_back_from_every_rank(found):
    expected = [{"size": 3, "_length": rank} for rank in range(4)]
    assert each(found, "same") == [expected] * 4
    assert each(found, "half")[3] == [{"half": 1, "_rank": 2}, {"half": 1, "_rank": 3}]


def test_every_rank_hears_who_differs_and_in_what(found):
    assert set(each(found, "differ")) == {
        "DistributedError: the ranks disagree in the start: rank 2 has size = 4, rank 0 has 3"
    }
    assert set(each(found, "absent")) == {
        "DistributedError: the ranks disagree in the start: rank 1 has more = 1, rank 0 has nothing"
    }
    (message,) = set(each(found, "two"))
    assert "rank 2 has size = 1, rank 0 has 0; rank 3 has size = 1, rank 0 has 0" in message
    assert message.count("x") == 199
    assert "rank 1" not in message


def test_an_error_on_one_rank_ends_all(found):
    for rank, message in enumerate(each(found, "error")):
        if rank == 1:
            assert message == "ValueError: alpha must be positive,\n got -1"
        else:
            assert message == (
                f"DistributedError: rank {rank} of 4 stopped in the start, because rank 1 failed: "
                "ValueError: alpha must be positive, got -1"
            )
    messages = each(found, "interrupt")
    assert messages[2] == messages[3] == "KeyboardInterrupt: "
    assert messages[0].endswith("because rank 2 failed: KeyboardInterrupt")
    assert each(found, "unprintable")[0].startswith("TypeError: Object of type object")
    assert "because rank 0 failed: TypeError" in each(found, "unprintable")[3]


def test_facts_are_small(found):
    messages = each(found, "too long")
    assert messages[3].startswith("ValueError: facts of the start must take at most 65536 bytes")
    assert "because rank 3 failed: ValueError: facts" in messages[0]
    lengths = [len(message) for message in each(found, "long error")]
    assert max(lengths[:3]) < 9000
    assert lengths[3] > 10**6


def test_traffic_counts_what_is_sent(found):
    """One message of 512 bytes to each of three others, and where a text is longer, one more."""
    assert each(found, "traffic") == [(3 * 512, 1, 3 * 512, 3 * 512 + 10)] * 4
    longer = 8 + 1 + len('{"a": ""}') + 700
    assert each(found, "more traffic") == [(3 * longer, 2)] * 4


def test_only_errors_of_collectives_are_translated(found):
    assert set(each(found, "local")) == {"RuntimeError: mat1 and mat2 shapes cannot be multiplied"}
    assert set(each(found, "passed interrupt")) == {"KeyboardInterrupt: "}
    assert set(each(found, "passed")) == {"DistributedError: as it was"}
    assert each(found, "gathered") == [[{"ok": True}] * 4] * 4


def test_a_rank_that_stays_away_ends_the_others_within_the_timeout(found):
    for rank, message in enumerate(each(found, "stalled")):
        assert message == (
            f"DistributedError: rank {rank} of 4 lost contact in the sum of level 7: "
            "another rank died, stopped or did not make this call"
        )
    assert set(each(found, "stalled cause")) <= {"RuntimeError", "DistBackendError"}
    assert max(each(found, "stalled seconds")[:3]) < 10


def test_without_a_group_the_error_says_how_to_make_one():
    with pytest.raises(RuntimeError, match=r"torchrun .* and call .*init_process_group"):
        process_group(None)
    for wrong in ("gloo", 3, object):
        with pytest.raises(TypeError, match="group must be a ProcessGroup, a DeviceMesh or None"):
            process_group(wrong)


def test_traffic_without_a_group():
    with count_traffic() as first, count_traffic() as second:
        record_sent(5)
    assert first == second == Traffic(5, 1)
    assert first is not second
    with pytest.raises(ValueError, match="local"), guarded("a sum", None):
        raise ValueError("local")
