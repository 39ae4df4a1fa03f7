"""Does an installed rankone work? One small piece of every part, in under a minute, without pytest.

Usage: python tools/smoke_test.py [--compilers-allowed]

Run it in an environment that holds a built wheel and its runtime dependencies, from a folder that
is not the source tree; `tools/smoke.sh` makes one. Nothing here may start a compiler: unless it is
told that compilers are allowed, the test first makes sure that none can be found.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path

COMPILERS = ("as", "c++", "cc", "clang", "clang++", "cmake", "g++", "gcc", "ld", "make", "ninja")
COMPILERS += ("nvcc", "ptxas")
# What the field packages need and a plain installation does not bring.
EXTRAS_ONLY = ("pandas", "scipy", "sklearn", "statsmodels", "gymnasium", "transformers")
INSTALL_HINT = re.compile(r"pip install 'rankone\[\w+\]'")
FIELDS = ("stats", "linear_model", "forecast", "imaging", "causal", "rl", "control", "interpret")
FIELDS += ("icl",)


def check(holds: object, message: str) -> None:
    """Like assert, also under ``python -O``."""
    if not holds:
        raise AssertionError(message)


def run(*command: str) -> str:
    """The standard output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    check(done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def rankone(*arguments: str) -> str:
    """What the installed command line prints."""
    return run(str(Path(sys.executable).with_name("rankone")), *arguments)


def refuse_compilers() -> str:
    """No compiler can be found, and an attempt to start one under any path would be an error."""
    found = [path for name in COMPILERS if (path := shutil.which(name))]
    check(not found, f"compilers on PATH: {found}")
    check(not {"CC", "CXX", "CUDA_HOME", "CUDACXX"} & set(os.environ), "a compiler is in CC or CXX")

    def audit(event: str, arguments: tuple) -> None:
        if event in ("subprocess.Popen", "os.exec", "os.posix_spawn"):
            name = Path(os.fsdecode(arguments[0] or arguments[1][0])).name
            if re.sub(r"-[\d.]+$", "", name) in COMPILERS:
                raise AssertionError(f"{name} was started")

    sys.addaudithook(audit)
    return f"none of {', '.join(COMPILERS)} on PATH={os.environ.get('PATH', '')}"


def installation() -> str:
    """The package comes from the environment, at one version, with types, data and a licence."""
    import rankone as package

    origin = Path(package.__file__)
    check(origin.is_relative_to(sys.prefix), f"rankone is imported from {origin}, not {sys.prefix}")
    recorded = distribution("rankone")
    check(package.__version__ == recorded.version, f"{package.__version__}, {recorded.version}")
    check((origin.parent / "py.typed").is_file(), "py.typed is missing")
    names = {str(file) for file in recorded.files or ()}
    check(any(name.endswith("licenses/LICENSE") for name in names), "the licence is missing")
    check(not any(name.endswith((".cpp", ".cu", ".h")) for name in names), "sources are installed")
    tops = {top for top, owners in packages_distributions().items() if "rankone" in owners}
    check(tops == {"rankone"}, f"the wheel installs {tops}")
    return f"rankone {recorded.version} in {len(names)} files"


def native_kernels() -> str:
    """The compiled module is there, of this version, with the kernels of every family."""
    from rankone import __version__
    from rankone.ops._library import native_for, native_module
    from torch import device, float32

    native = native_module()
    check(native is not None, "rankone._native cannot be imported")
    public = __version__.partition("+")[0]
    check(native.version == public, f"rankone {public}, rankone._native {native.version}")
    for family in ("linear_attention", "delta_rule", "selective_scan_2d"):
        check(native_for(family, device("cpu"), float32), f"no CPU kernels for {family}")
    check(hasattr(native.cayley, "Graph"), "no search kernels")
    return f"{native.cpu.linear_attention_instruction_set()}, CUDA: {native.cuda_targets or 'no'}"


def differentiable(op: Callable, reference: Callable, tensors: list, tolerance: float) -> str:
    """Values and gradients of ``op`` against ``reference`` in float64; the largest difference."""
    import torch

    def evaluate(function: Callable, dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [tensor.detach().clone().to(dtype).requires_grad_() for tensor in tensors]
        output = function(*leaves)
        output = output[0] if isinstance(output, tuple) else output
        weights = torch.linspace(-1, 1, output.numel(), dtype=dtype).view_as(output)
        (output * weights).sum().backward()
        return [output.detach(), *(leaf.grad for leaf in leaves)]

    worst = 0.0
    pairs = zip(evaluate(op, torch.float32), evaluate(reference, torch.float64), strict=True)
    for got, expected in pairs:
        scale = expected.abs().max().clamp_min(1)
        worst = max(worst, float((got - expected).abs().max() / scale))
    check(worst < tolerance, f"off by {worst:.1e}, more than {tolerance:.1e}")
    return f"values and gradients within {worst:.1e} of the float64 recurrence"


# Sums of about a hundred float32 terms, compared on the scale of the largest.
TOLERANCE = 1e-4


def linear_attention() -> str:
    """Forward and backward against the recurrence."""
    import torch
    from rankone import ops
    from torch.nn.functional import logsigmoid

    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 70, 2, 16) for _ in range(3))
    decay = logsigmoid(torch.randn(2, 70, 2))
    return differentiable(
        ops.linear_attention, ops.linear_attention_reference, [q, k, v, decay], TOLERANCE
    )


def delta_rule() -> str:
    """Forward and backward against the recurrence."""
    import torch
    from rankone import ops

    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 70, 2, 16) for _ in range(3))
    beta = torch.rand(2, 70, 2)

    def normalised(op: Callable) -> Callable:
        return lambda *leaves: op(*leaves, use_qk_l2norm=True)

    return differentiable(
        normalised(ops.delta_rule), normalised(ops.delta_rule_reference), [q, k, v, beta], TOLERANCE
    )


def selective_scan_2d() -> str:
    """Forward and backward against the recurrence; the one-dimensional form runs."""
    import torch
    from rankone import ops

    torch.manual_seed(0)
    u, delta = torch.randn(2, 2, 8, 40)
    b, c = torch.randn(2, 2, 4, 40)
    y = ops.selective_scan(u, delta, -torch.rand(8, 4), b, c, delta_softplus=True)
    check(y.shape == u.shape and y.isfinite().all(), "the 1D scan is not finite")

    x = torch.randn(2, 5, 7, 8)
    dt1, dt2 = torch.rand(2, 2, 5, 7, 8)
    decay, coupling = -1 - torch.rand(8, 4), 0.5 * torch.rand(8, 4)
    inputs = [x, dt1, dt2, decay, coupling, coupling, decay, *torch.randn(4, 2, 5, 7, 4)]
    return differentiable(
        ops.selective_scan_2d,
        ops.selective_scan_2d_reference,
        inputs,
        TOLERANCE,
    )


def permutation_search() -> str:
    """Breadth-first search over all permutations of 7, against a search in plain Python."""
    import torch
    from rankone.cayley import CayleyGraph, PermutationGroups
    from rankone.ops import permutation_bfs

    n = 7
    generators = [(*range(1, n), 0), (n - 1, *range(n - 1)), (1, 0, *range(2, n))]
    layer = {tuple(range(n))}
    seen, sizes = set(layer), []
    while layer:
        sizes.append(len(layer))
        layer = {tuple(s[i] for i in g) for s in layer for g in generators} - seen
        seen |= layer
    found = permutation_bfs(torch.tensor(generators))
    check(found.complete and found.layer_sizes == sizes, f"{found.layer_sizes}, not {sizes}")
    graph = CayleyGraph(PermutationGroups.lrx(n), device="cpu")
    check(graph.growth() == sizes, f"CayleyGraph: {graph.growth()}, not {sizes}")
    return f"{sum(sizes)} states in {len(sizes)} layers by engine {found.engine}"


def registered_ops() -> str:
    """torch's own checker accepts the ops; the parts of it that compile are left out."""
    import torch
    from rankone import ops  # noqa: F401  registers them

    # torch.compile, and the checks that trace for it, are the tests' business.
    utilities = ("test_schema", "test_autograd_registration", "test_faketensor")
    q, k, v = (torch.randn(1, 9, 2, 8, requires_grad=True) for _ in range(3))
    settings = (None, None, None, 0.5, False, 1e-6, 0, "auto")
    torch.library.opcheck(
        torch.ops.rankone.delta_rule_fwd.default,
        (q, k, v, torch.rand(1, 9, 2), *settings),
        test_utils=utilities,
    )
    states = torch.stack([torch.randperm(9) for _ in range(4)])
    torch.library.opcheck(
        torch.ops.rankone.perm_hash_neighbors.default,
        (states, states[:3], torch.randint(-(2**62), 2**62, (9,))),
        test_utils=utilities,
    )
    return "a differentiable and an integer op pass torch.library.opcheck"


def language_model() -> str:
    """Three optimiser steps on one sentence lower the loss, and the model generates."""
    import torch
    from rankone.nn import LanguageModel, LanguageModelConfig, TrainingConfig, train

    torch.manual_seed(0)
    config = LanguageModelConfig(vocab_size=256, hidden_size=32, num_layers=2, num_heads=2)
    model = LanguageModel(config)
    tokens = torch.tensor([list(b"a torch extension with kernels for linear structure")])
    losses: list[float] = []
    train(
        model,
        [tokens] * 3,
        TrainingConfig(max_steps=3, learning_rate=1e-2, warmup_steps=0),
        progress=False,
        callback=lambda step, loss: losses.append(loss),
    )
    check(len(losses) == 3 and losses[-1] < losses[0], f"losses {losses}")
    written = model.generate(tokens[:, :5], max_new_tokens=4, random_state=0)
    check(written.shape[1] in (4, 9), f"generated {tuple(written.shape)}")
    return " -> ".join(f"{loss:.3f}" for loss in losses)


def command_line() -> str:
    """`rankone info`, `methods` and `growth` answer."""
    import rankone as package

    info = rankone("info")
    check(package.__version__ in info, f"rankone info names no version:\n{info}")
    check(re.search(r"native module +built", info), f"rankone info:\n{info}")
    listed = rankone("methods").splitlines()
    slugs = [method.slug for method in package.catalog.methods()]
    check(slugs and set(slugs) <= set(listed), f"rankone methods lists {listed}")
    growth = rankone("growth", "lrx", "6")
    check("1 3 6 11 20 35 55 81 109 128 126 95 40 6 3 1" in growth, f"rankone growth:\n{growth}")
    return f"{len(slugs)} methods; growth lrx 6 sums to 720"


def missing_extras() -> str:
    """Whatever needs an extra says which; everything else imports."""
    import rankone as package

    absent = [name for name in EXTRAS_ONLY if find_spec(name) is None]
    imported, hinted = 0, []
    for module in pkgutil.walk_packages(package.__path__, "rankone.", onerror=lambda name: None):
        # Reproductions import their method's libraries; the runner, tried below, names the extra.
        if module.name.startswith("rankone.reproduce.") and "._" not in module.name:
            continue
        try:
            importlib.import_module(module.name)
            imported += 1
        except ImportError as error:
            check(INSTALL_HINT.search(str(error)), f"{module.name}: {error!r}")
            hinted.append(module.name)
    if "sklearn" in absent:
        check(set(hinted) >= {f"rankone.{field}" for field in FIELDS}, f"only {hinted}")
        with_report = [str(Path(sys.executable).with_name("rankone")), "reproduce", "coulomb-gas"]
        done = subprocess.run(with_report, capture_output=True, text=True, check=False)
        check(done.returncode == 1, f"status {done.returncode}")
        check(INSTALL_HINT.search(done.stdout), f"reproduce: {done.stdout}{done.stderr}")
    return (
        f"{imported} modules import; {len(hinted)} name their extra (absent: {', '.join(absent)})"
    )


def missing_data() -> str:
    """A loader whose data package is absent names the command that installs it."""
    from rankone import datasets

    if find_spec("arch") is not None:
        return f"{len(datasets.sp500_prices().frame)} rows"
    try:
        datasets.sp500_prices()
    except ModuleNotFoundError as error:
        check("pip install" in str(error), f"{error}")
        return str(error)
    raise AssertionError("sp500_prices returned without its data")


def import_time() -> str:
    """User CPU seconds of fresh processes, the least of two; for the reader, not judged."""
    clock = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)"

    def least(imports: str) -> float:
        return min(float(run(sys.executable, "-c", f"{imports}; {clock}")) for _ in range(2))

    torch = least("import torch")
    packages = ("rankone", "rankone.ops", "rankone.nn", "rankone.cayley", "rankone.datasets")
    beyond = (f"{name} {least(f'import torch, {name}') - torch:+.2f}" for name in packages)
    return f"torch {torch:.2f} s; beyond it: {', '.join(beyond)}"


CHECKS = (
    installation,
    native_kernels,
    linear_attention,
    delta_rule,
    selective_scan_2d,
    permutation_search,
    registered_ops,
    language_model,
    command_line,
    missing_data,
    missing_extras,
    import_time,
)


def main() -> int:
    """Run every check; the exit status is 1 when one fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--compilers-allowed", action="store_true")
    checks = CHECKS if parser.parse_args().compilers_allowed else (refuse_compilers, *CHECKS)
    failures = 0
    for each in checks:
        start = time.perf_counter()
        try:
            outcome, told = "ok", each()
        except Exception as error:  # every check runs, and every failure is told
            failures += 1
            outcome, told = "FAILED", f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - start
        print(f"{outcome:6} {each.__name__:18} {seconds:5.1f} s  {told}", flush=True)
    print(f"{failures} of {len(checks)} checks failed" if failures else "rankone works")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
