"""Linear attention in the demo: a byte-level language model of Python's own documentation.

It learns for a fixed time, is scored on text that it has not seen against a bigram model, writes a
sample, and is timed token by token at growing context lengths beside a model of the same size
with softmax attention and a cache of keys and values.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from rankone import _environment, _timing, nn
from rankone._progress import Progress
from rankone.datasets import (
    BigramBaseline,
    ByteTokenizer,
    TextDataset,
    bigram_baseline,
    python_docs,
    sample_windows,
)
from rankone.demo import Options, Say
from rankone.reproduce import (
    MUTED,
    Claim,
    Figure,
    Passage,
    Section,
    Table,
    against_length,
    panel,
)
from rankone.reproduce._page import duration

PLAN = (
    "train a small language model with linear attention on the text of Python's documentation, "
    "hold it against a bigram baseline, and time it token by token beside softmax attention"
)

LINEAR = "linear attention"
SOFTMAX = "softmax attention with a KV cache"

# Evaluation, sample and decoding times on two cores, beside the training.
_OTHER_SECONDS = 20.0
# Bytes read in one call where a text is read in pieces; the state carries over.
_PIECE = 1024
_SMOOTHED_STEPS = 20


@dataclass(frozen=True)
class Scale:
    """Sizes of the demo's model and measurements.

    Attributes:
        hidden_size, num_layers, num_heads: of both models.
        window, batch_size: training batches, in bytes.
        learning_rate: peak.
        sample_bytes: length of the generated sample.
        contexts: context lengths at which decoding is timed, increasing.
        repeats: timed rounds, whose median counts.
    """

    hidden_size: int = 160
    num_layers: int = 3
    num_heads: int = 4
    window: int = 256
    batch_size: int = 8
    learning_rate: float = 3e-3
    sample_bytes: int = 500
    contexts: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192, 16384)
    repeats: int = 15


@dataclass(frozen=True)
class Decoding:
    """Time and memory of one more token after contexts of several lengths."""

    timings: dict[tuple[str, int], _timing.Timing]
    state_bytes: dict[tuple[str, int], int]


def expected_seconds(options: Options) -> float:
    """About how long this section takes."""
    return options.seconds + _OTHER_SECONDS


def run(options: Options, say: Say) -> Section:
    """Train, score, sample and time; the section of the report."""
    scale = replace(Scale(), **options.scale("language_model"))
    with _timing.torch_threads(_faster_threads(scale, options.random_state)):
        return _run(scale, options, say)


def _run(scale: Scale, options: Options, say: Say) -> Section:
    start = time.perf_counter()
    docs, tokenizer = python_docs(random_state=options.random_state), ByteTokenizer()
    train_tokens = tokenizer.encode(docs.train)
    validation = tokenizer.encode(docs.validation)
    bigram = bigram_baseline(docs.train, docs.validation)

    model = _model(scale, "lightning_attention", options.random_state)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    say(
        f"\nTraining {parameters:,} parameters on {len(train_tokens):,} bytes of the "
        f"{docs.name} for {duration(options.seconds)}."
    )
    batches = sample_windows(
        train_tokens, scale.window, scale.batch_size, random_state=options.random_state
    )
    result = nn.train(
        model,
        batches,
        nn.TrainingConfig(
            max_seconds=options.seconds, learning_rate=scale.learning_rate, warmup_steps=30
        ),
        progress=options.progress,
        callback=_plain_lines(options, say),
    )
    model.eval()
    loss = nats_per_byte(model, validation)
    say(_verdict(loss, bigram))
    prompt = tokenizer.encode("The ")
    sample = model.generate(
        prompt[None], scale.sample_bytes, temperature=0.7, random_state=options.random_state
    )
    decoding = _decoding(model, scale, validation, options)
    return Section(
        anchor="language-model",
        title="A language model with linear attention",
        lead=f"Trained for {duration(result.seconds)}, {result.steps} steps, on "
        f"{len(train_tokens):,} bytes of the {docs.name} ({docs.source}, {docs.licence}); scored "
        f"on {len(validation):,} bytes of other topics, read in pieces of {_PIECE} with the state "
        "carried over.",
        claims=_claims(scale, loss, bigram, decoding),
        tables=(_loss_table(docs, loss, bigram), _decoding_table(scale, decoding)),
        figures=(
            _loss_figure(result.losses, loss, bigram),
            _decoding_figure(scale, decoding),
        ),
        passages=(
            Passage(
                f"A sample of {scale.sample_bytes} bytes",
                tokenizer.decode(sample[0]),
                "Temperature 0.7, after the prompt 'The '. The model reads single bytes, and has "
                f"learnt for {duration(result.seconds)}.",
            ),
        ),
        settings={
            "parameters": parameters,
            "layers": scale.num_layers,
            "hidden size": scale.hidden_size,
            "heads": scale.num_heads,
            "batch": f"{scale.batch_size} windows of {scale.window} bytes",
            "training, bytes per second": round(result.tokens_per_second),
            "random state": options.random_state,
            **_environment.describe(),
        },
        seconds=time.perf_counter() - start,
    )


def _model(scale: Scale, mixer: str, random_state: int) -> nn.LanguageModel:
    config = nn.LanguageModelConfig(
        vocab_size=ByteTokenizer.vocab_size,
        hidden_size=scale.hidden_size,
        num_layers=scale.num_layers,
        num_heads=scale.num_heads,
        mixer=mixer,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        return nn.LanguageModel(config)


def _faster_threads(scale: Scale, random_state: int) -> int:
    """One thread or all of them, whichever takes a training step in less time here.

    Where other work keeps the cores busy, threads that wait for each other can be many times
    slower than a single one.
    """
    model = _model(scale, "lightning_attention", random_state)
    tokens = torch.zeros(scale.batch_size, scale.window, dtype=torch.int64)

    def step(count: int) -> Callable[[], object]:
        def call() -> None:
            with _timing.torch_threads(count):
                model(tokens, labels=tokens).loss.backward()

        return call

    counts = sorted({1, torch.get_num_threads()})
    timings = _timing.interleaved({count: step(count) for count in counts}, repeats=2)
    return min(counts, key=lambda count: timings[count].median)


def _plain_lines(options: Options, say: Say) -> Callable[[int, float], None] | None:
    """Where there is no terminal for a bar: a line each quarter of the training time."""
    if not options.progress or sys.stdout.isatty():
        return None
    start, told = time.perf_counter(), 0

    def report(step: int, loss: float) -> None:
        nonlocal told
        elapsed = time.perf_counter() - start
        quarter = int(4 * elapsed / options.seconds)
        if quarter > told:
            told = quarter
            say(f"  {elapsed:.0f} s: step {step}, loss {loss:.3f} nats a byte")

    return report


@torch.no_grad()
def nats_per_byte(model: nn.LanguageModel, text: Tensor) -> float:
    """Cross-entropy of every byte of a text but the first, given all bytes before it.

    Args:
        model: a language model over bytes.
        text: (n,) int64, at least two bytes; read in pieces, with the state carried over.
    """
    total, state = 0.0, None
    inputs, targets = text[:-1].split(_PIECE), text[1:].split(_PIECE)
    for piece, target in zip(inputs, targets, strict=True):
        hidden, state = model.hidden_states(piece[None], state=state, return_state=True)
        total += float(F.cross_entropy(model.logits(hidden[0]), target, reduction="sum"))
    return total / (len(text) - 1)


def _verdict(loss: float, bigram: BigramBaseline) -> str:
    compared = f"{loss:.3f} nats a byte on unseen text, bigram baseline {bigram.nats_per_byte:.3f}"
    if loss < bigram.nats_per_byte:
        return f"The model beats the bigram baseline: {compared}."
    return f"The model does NOT beat the bigram baseline: {compared}. Give it more --seconds."


@torch.no_grad()
def _decoding(model: nn.LanguageModel, scale: Scale, text: Tensor, options: Options) -> Decoding:
    """Time ``step`` after contexts of each length, for the model and its softmax twin.

    The twin is not trained: what it computes takes the same time with any weights.
    """
    twin = _model(scale, "softmax_attention", options.random_state).eval()
    longest = scale.contexts[-1]
    context = text.repeat(-(-longest // len(text)))[:longest]
    token = context[:1]
    _, caches = twin.hidden_states(context[None], return_state=True)
    assert caches is not None
    calls: dict[tuple[str, int], Callable[[], object]] = {}
    state_bytes = {}
    for length in scale.contexts:
        _, state = model.hidden_states(context[None, :length], return_state=True)
        assert state is not None
        cut = _cut(caches, length)
        for side, network, memory in ((LINEAR, model, state), (SOFTMAX, twin, cut)):
            calls[side, length] = _step(network, token, memory)
            state_bytes[side, length] = _bytes(memory)
    samples = (scale.repeats + 1) * len(calls)
    # One thread: a single token is too little work to share.
    with (
        Progress("timing tokens", samples, enabled=options.progress) as progress,
        _timing.torch_threads(1),
    ):
        timings = _timing.interleaved(calls, repeats=scale.repeats, on_sample=progress.advance)
    return Decoding(timings, state_bytes)


def _step(network: nn.LanguageModel, token: Tensor, memory: Sequence) -> Callable[[], object]:
    def call() -> object:
        with torch.no_grad():
            return network.step(token, memory)

    return call


def _cut(caches: Sequence[nn.AttentionCache], length: int) -> tuple[nn.AttentionCache, ...]:
    """The caches as they were after the first ``length`` tokens."""
    return tuple(
        nn.AttentionCache(
            cache.keys[:, :length].contiguous(),
            cache.values[:, :length].contiguous(),
            cache.positions[:, :length].contiguous(),
            torch.full_like(cache.length, length),
        )
        for cache in caches
    )


def _bytes(memory: object) -> int:
    """Size of all tensors in a model's state."""
    if isinstance(memory, Tensor):
        return memory.numel() * memory.element_size()
    if isinstance(memory, tuple | list):
        return sum(_bytes(entry) for entry in memory)
    return 0


def _claims(
    scale: Scale, loss: float, bigram: BigramBaseline, decoding: Decoding
) -> tuple[Claim, ...]:
    first, last = scale.contexts[0], scale.contexts[-1]

    def growth(side: str) -> float:
        return _timing.ratio(decoding.timings[side, last], decoding.timings[side, first]).median

    return (
        Claim.at_most(
            "nats per byte on unseen text are below those of a bigram model",
            loss,
            bigram.nats_per_byte,
            expected="below the baseline",
            strict=True,
        ),
        Claim.at_most(
            f"time per token of linear attention does not grow: at context {last} over {first}",
            growth(LINEAR),
            1.5,
            expected="about 1",
        ),
        Claim.at_least(
            f"that of softmax attention does: at context {last} over {first}",
            growth(SOFTMAX),
            2.0,
            expected="grows with the context",
        ),
        Claim.exact(
            "the state of linear attention has one size at every context: bytes",
            sorted({decoding.state_bytes[LINEAR, length] for length in scale.contexts}),
            (decoding.state_bytes[LINEAR, first],),
        ),
    )


def _loss_table(docs: TextDataset, loss: float, bigram: BigramBaseline) -> Table:
    bits = 1 / torch.log(torch.tensor(2.0, dtype=torch.float64)).item()
    return Table(
        title="Cross-entropy on unseen text",
        columns=("model", "nats per byte", "bits per byte"),
        rows=(
            ("linear attention", loss, loss * bits),
            ("bigram baseline", bigram.nats_per_byte, bigram.nats_per_byte * bits),
        ),
        note=f"{docs.name}, version {docs.version}, topics held out of the training text. Lower is "
        "better.",
    )


def _decoding_table(scale: Scale, decoding: Decoding) -> Table:
    return Table(
        title="One more token",
        columns=(
            "context",
            "linear, ms",
            "softmax, ms",
            "linear, state KiB",
            "softmax, cache KiB",
        ),
        rows=tuple(
            (
                length,
                decoding.timings[LINEAR, length].median * 1e3,
                decoding.timings[SOFTMAX, length].median * 1e3,
                decoding.state_bytes[LINEAR, length] / 1024,
                decoding.state_bytes[SOFTMAX, length] / 1024,
            )
            for length in scale.contexts
        ),
        note=f"The whole model, one sequence, one thread; medians of {scale.repeats} alternating "
        "rounds. The softmax model has the same sizes and appends to its cache at every token.",
    )


def _loss_figure(losses: Sequence[float], loss: float, bigram: BigramBaseline) -> Figure:
    smoothed = [
        sum(losses[max(0, end - _SMOOTHED_STEPS) : end])
        / len(losses[max(0, end - _SMOOTHED_STEPS) : end])
        for end in range(1, len(losses) + 1)
    ]
    with panel("training step", "nats per byte") as (drawing, axes):
        axes.plot(range(1, len(losses) + 1), smoothed, label="training")
        axes.plot([len(losses)], [loss], "s", label="unseen text")
        axes.axhline(bigram.nats_per_byte, color=MUTED, linestyle="--", label="bigram baseline")
        axes.locator_params(axis="x", integer=True)
        axes.legend()
    return Figure.render(
        "Loss while training",
        f"Training loss as a running mean of {_SMOOTHED_STEPS} steps; the square is the loss on "
        "unseen text after the last step, the dashed line the bigram baseline on that text.",
        drawing,
    )


def _decoding_figure(scale: Scale, decoding: Decoding) -> Figure:
    drawings = []
    for title, label, value in (
        ("time", "milliseconds per token", lambda key: decoding.timings[key].median * 1e3),
        ("memory", "KiB of state", lambda key: decoding.state_bytes[key] / 1024),
    ):
        with panel("context length", label, title=title) as (drawing, axes):
            for side, marker in ((LINEAR, "o"), (SOFTMAX, "s")):
                values = [value((side, length)) for length in scale.contexts]
                axes.plot(scale.contexts, values, marker=marker, label=side)
            against_length(axes, scale.contexts)
            axes.legend()
        drawings.append(drawing)
    return Figure.render(
        "The cost of one more token",
        f"Both models have {scale.num_layers} layers of width {scale.hidden_size} and read one "
        "token after the context, on one thread.",
        *drawings,
    )
