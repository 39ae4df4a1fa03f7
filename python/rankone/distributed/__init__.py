"""Beyond one machine: sequence ops over the ranks of ``torch.distributed``.

Context parallelism: the time axis of a sequence is cut over the ranks of a process group, every
rank runs the local kernels on its part, and only states travel (for the delta rule their
transitions as well), forward and backward. Layers and :class:`rankone.nn.LanguageModel` take the
group through ``context_parallel``. Start the processes with ``torchrun``; gloo serves CPUs, NCCL
GPUs.

The breadth-first search over several processes is the engine ``"distributed"`` of
:meth:`rankone.cayley.CayleyGraph.bfs`.
"""

from rankone._namespace import public_names
from rankone._process_group import DistributedError, Traffic, count_traffic
from rankone.distributed._causal_conv1d import causal_conv1d
from rankone.distributed._delta_rule import delta_rule
from rankone.distributed._linear_attention import linear_attention
from rankone.distributed._shard import (
    SequenceShard,
    fetch_tokens,
    gather_sequence,
    shard_sequence,
    split_sequence,
)
from rankone.distributed._traffic import scan_bytes

__all__ = [
    "DistributedError",
    "SequenceShard",
    "Traffic",
    "causal_conv1d",
    "count_traffic",
    "delta_rule",
    "fetch_tokens",
    "gather_sequence",
    "linear_attention",
    "scan_bytes",
    "shard_sequence",
    "split_sequence",
]


def __dir__() -> list[str]:
    return public_names(globals())
