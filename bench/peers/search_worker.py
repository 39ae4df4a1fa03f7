"""One contender of the search comparison, in a process and, for peers, an interpreter of its own.

Needs nothing of this repository but, for rankone itself, rankone. A line {"family", "n"} on
standard input asks for a complete search; the answer is a line with its wall and user CPU
seconds, the layer sizes, and how far the resident size grew beyond what it was before. Run by
``permutation_bfs.py``: ``python search_worker.py CONTENDER THREADS``.
"""

from __future__ import annotations

import ctypes
import gc
import json
import resource
import sys
import time

# Short searches are repeated up to it: user CPU time is counted in ticks of some milliseconds.
MIN_SECONDS = 0.3

# Layers as sorted sets, for generators closed under inverses.
GAP_SETS = """function(generators)
  local before, layer, next, sizes;
  before := []; layer := [()]; sizes := [];
  while not IsEmpty(layer) do
    Add(sizes, Length(layer));
    next := Set(Concatenation(List(generators, g -> layer * g)));
    SubtractSet(next, layer);
    SubtractSet(next, before);
    before := layer; layer := next;
  od;
  return sizes;
end"""


def status_bytes(field):
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no " + field)


def start_peak():
    """Hand free memory back, start a new peak, and return the resident size."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    return status_bytes("VmRSS")


def rankone(engine, threads):
    import torch
    from rankone.cayley import CayleyGraph, PermutationGroups

    torch.set_num_threads(threads)

    def prepare(family, n):
        definition = getattr(PermutationGroups, family)(n)
        graph = CayleyGraph(definition, device="cpu", threads=threads)
        return lambda: graph.bfs(engine=engine, max_layer_size_to_store=0).layer_sizes

    return prepare


def cayleypy(variant, threads):
    import torch
    from cayleypy import CayleyGraph, PermutationGroups, bfs_bitmask, bfs_numpy

    torch.set_num_threads(threads)

    def prepare(family, n):
        definition = getattr(PermutationGroups, family)(n)
        graph = CayleyGraph(definition, device="cpu")
        if variant == "numpy":
            return lambda: bfs_numpy(graph)
        if variant == "bitmask":
            return lambda: bfs_bitmask(graph)
        return lambda: graph.bfs(max_layer_size_to_store=1).layer_sizes

    return prepare


def gap(variant, threads):
    from sage.all__sagemath_gap import libgap  # passagemath-gap

    growth = libgap.eval(GAP_SETS if variant == "sets" else "GrowthFunctionOfGroup")

    def transposition(n, i, j):
        images = list(range(1, n + 1))
        images[i], images[j] = images[j], images[i]
        return images

    families = {
        "lrx": lambda n: [[*range(2, n + 1), 1], [n, *range(1, n)], transposition(n, 0, 1)],
        "coxeter": lambda n: [transposition(n, i, i + 1) for i in range(n - 1)],
        "pancake": lambda n: [[*range(k, 0, -1), *range(k + 1, n + 1)] for k in range(2, n + 1)],
    }

    def prepare(family, n):
        generators = [libgap.PermList(images) for images in families[family](n)]
        start = libgap(generators) if variant == "sets" else libgap.Group(generators)
        return lambda: [int(size) for size in growth(start)]

    return prepare


CONTENDERS = {"rankone": rankone, "cayleypy": cayleypy, "GAP": gap}


def main(contender, threads):
    library, _, variant = contender.partition(" ")
    try:
        prepare = CONTENDERS[library](variant, int(threads))
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        return 1
    print(json.dumps({"ready": contender}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        search = prepare(request["family"], request["n"])
        before = start_peak()
        user = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        start = time.perf_counter()
        count, seconds = 0, 0.0
        try:
            while seconds < MIN_SECONDS:
                sizes = search()
                count += 1
                seconds = time.perf_counter() - start
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
            continue
        user = resource.getrusage(resource.RUSAGE_SELF).ru_utime - user
        answer = {
            "seconds": seconds / count,
            "user_seconds": user / count,
            "layer_sizes": [int(size) for size in sizes],
            "extra_bytes": status_bytes("VmHWM") - before,
        }
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
