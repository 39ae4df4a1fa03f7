"""TokenFormer (arXiv 2410.23168): a trained model is enlarged and goes on from the same function.

A small model learns a text; copies of it are enlarged, by zero keys and a kept scale or as the
paper's code does it. What matters is the loss right after growth, whether the new keys learn, and
where the enlarged model stands against one of its size trained from scratch and against the small
one trained on. The text of the quick mode is that of Python's own help, character by character;
``settings.data`` may name a text file, or a folder of them, which is read byte by byte. The full
mode is the paper's step from 354 to 757 million parameters, and needs one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rankone.datasets import sample_windows
from rankone.datasets.text import python_topics
from rankone.nn.pattention import Pattention
from rankone.nn.tokenformer import SIZES, TokenFormer
from rankone.nn.training import TrainingConfig, train
from rankone.reproduce import MUTED, Claim, Figure, Reproduction, Settings, Table, panel

SMALL = "small"
GROWN = "grown: zero keys, scale kept"
CONTINUED = "small, continued"
SCRATCH = "large, from scratch"
RESCALED = "scale as sqrt(n) of the grown layer"
RANDOM_KEYS = "random new keys"
BOTH_ZERO = "zero keys and zero values"

# Largest changes that rounding of float32 sums over a few hundred tokens may make.
_LOGIT_TOLERANCE = 1e-4
_LOSS_TOLERANCE = 1e-5

_TRAIN_SHARE = 0.9


_TRAINING = TrainingConfig(max_steps=300, learning_rate=3e-3, warmup_steps=20)


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        hidden_size, num_layers, num_heads: of every model.
        attn_tokens, ffn_tokens: before and after growth.
        context: tokens that are read at once.
        training: optimisation of the small model; its ``max_steps`` are those of the base.
        grown_steps: steps of the branches after growth, each with a schedule of its own.
        scratch_steps: steps of the large model from scratch.
        dead_steps: steps of the branch with zero keys and zero values.
        batch_size: texts a step.
        validation_batches, validation_batch_size: windows of the validation text.
        lead: nats a token by which the grown model must be below that from scratch.
        evaluate_every: steps between the points of the curves.
        gradient_checkpointing: of the models.
    """

    hidden_size: int = 96
    num_layers: int = 2
    num_heads: int = 4
    attn_tokens: tuple[int, int] = (48, 96)
    ffn_tokens: tuple[int, int] = (192, 384)
    context: int = 128
    training: TrainingConfig = _TRAINING
    grown_steps: int = 150
    scratch_steps: int = 150
    dead_steps: int = 30
    batch_size: int = 8
    validation_batches: int = 4
    validation_batch_size: int = 32
    lead: float = 0.2
    evaluate_every: int = 50
    gradient_checkpointing: bool = False


QUICK = Scale()
FULL = Scale(
    hidden_size=SIZES["354M"]["hidden_size"],
    num_layers=SIZES["354M"]["num_layers"],
    num_heads=SIZES["354M"]["num_heads"],
    attn_tokens=(SIZES["354M"]["attn_tokens"], SIZES["757M"]["attn_tokens"]),
    ffn_tokens=(SIZES["354M"]["ffn_tokens"], SIZES["757M"]["ffn_tokens"]),
    context=2048,
    training=TrainingConfig(
        max_steps=600_000,
        learning_rate=6e-4,
        warmup_steps=6_000,
        autocast_dtype=torch.bfloat16,
    ),
    grown_steps=120_000,
    scratch_steps=600_000,
    batch_size=8,
    # The paper's result is the perplexity of training from scratch, for a fraction of its cost.
    lead=0.0,
    evaluate_every=5_000,
    gradient_checkpointing=True,
)


@dataclass(frozen=True)
class Text:
    """A text as numbers.

    Attributes:
        train, validation: (n,) integers.
        vocab_size: how many numbers there are.
        source: what it is.
    """

    train: Tensor
    validation: Tensor
    vocab_size: int
    source: str


@dataclass(frozen=True)
class Branch:
    """A model that was trained.

    Attributes:
        model: the model.
        steps, losses: the points of its validation curve, the last after its last step.
        parameters: how many it has.
    """

    model: TokenFormer
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    parameters: int

    @property
    def loss(self) -> float:
        return self.losses[-1]


@dataclass(frozen=True)
class Jump:
    """What growth did at once.

    Attributes:
        model: the grown model.
        logits: largest change of a logit.
        before, after: validation loss.
    """

    model: TokenFormer
    logits: float
    before: float
    after: float

    @property
    def loss(self) -> float:
        return self.after - self.before


def run(settings: Settings) -> Reproduction:
    """Train the small model, grow it in every way, and train the branches."""
    scale = settings.scale(quick=QUICK, full=FULL)
    text = _text(settings)
    bench = _Bench(settings, scale, text)
    small = bench.train(bench.model(0), scale.training, SMALL)
    base_steps = small.steps[-1]
    jumps = {
        GROWN: bench.grow(small.model),
        RESCALED: bench.grow(small.model, rescale=True),
        RANDOM_KEYS: bench.grow(small.model, key_init="normal"),
        BOTH_ZERO: bench.grow(small.model, value_init="zeros"),
    }
    steps = replace(scale.training, max_steps=scale.grown_steps)
    dead = bench.train(
        jumps[BOTH_ZERO].model, replace(steps, max_steps=scale.dead_steps), BOTH_ZERO
    )
    branches = {
        SMALL: small,
        GROWN: bench.train(jumps[GROWN].model, steps, GROWN),
        CONTINUED: bench.train(copy.deepcopy(small.model), steps, CONTINUED),
        SCRATCH: bench.train(
            bench.model(1), replace(steps, max_steps=scale.scratch_steps), SCRATCH
        ),
    }
    return Reproduction(
        slug="tokenformer",
        claims=(
            *_growth_claims(jumps),
            *_key_claims(scale, dead.model, branches[GROWN].model),
            *_training_claims(scale, branches),
        ),
        tables=(_growth_table(jumps), _training_table(branches, base_steps)),
        figures=(_figure(branches, jumps),),
        settings={
            "text": text.source,
            "model": f"{scale.num_layers} layers of width {scale.hidden_size}, attention tokens "
            f"{scale.attn_tokens[0]} to {scale.attn_tokens[1]}, feed-forward tokens "
            f"{scale.ffn_tokens[0]} to {scale.ffn_tokens[1]}",
            "training": f"{base_steps} steps, then {scale.grown_steps}, of {scale.batch_size} "
            f"texts of {scale.context} tokens, peak learning rate "
            f"{scale.training.learning_rate:g}, a new optimizer and schedule a branch",
        },
    )


def _text(settings: Settings) -> Text:
    if settings.data is not None:
        return _bytes_of(Path(settings.data))
    if settings.full:
        raise ValueError(
            "data must name a large text file or a folder of them for the full mode, got None"
        )
    topics = python_topics(separator="\n", ascii_only=False, validation_fraction=1 - _TRAIN_SHARE)
    parts = [topics.train.decode(), topics.validation.decode()]
    characters = sorted(set("".join(parts)))
    index = {character: number for number, character in enumerate(characters)}
    train, validation = (torch.tensor([index[character] for character in part]) for part in parts)
    number = len(train) + len(validation)
    source = f"{topics.name}, {number} characters, {len(characters)} distinct"
    return Text(train, validation, len(characters), source)


def _bytes_of(path: Path) -> Text:
    """The files' bytes one after another, as they are: a large text stays one byte a token."""
    files = sorted(entry for entry in path.rglob("*") if entry.is_file())
    files = files if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise FileNotFoundError(f"data must name a text file or a folder of them, got {path}")
    tokens = torch.from_numpy(np.concatenate([np.fromfile(file, np.uint8) for file in files]))
    cut = int(_TRAIN_SHARE * len(tokens))
    return Text(tokens[:cut], tokens[cut:], 256, f"{path.name}, {len(tokens)} bytes")


class _Bench:
    """What all branches share: text, validation windows, sizes and seeds."""

    def __init__(self, settings: Settings, scale: Scale, text: Text) -> None:
        self.settings = settings
        self.scale = scale
        self.text = text
        # Of the validation windows, of the base's batches, and of those of every other branch.
        seeds = np.random.SeedSequence(settings.random_state).generate_state(3)
        self.base_seed, self.branch_seed = int(seeds[1]), int(seeds[2])
        windows = sample_windows(
            text.validation,
            scale.context + 1,
            scale.validation_batch_size,
            random_state=int(seeds[0]),
        )
        self.validation = [next(windows).long() for _ in range(scale.validation_batches)]

    def model(self, stage: int) -> TokenFormer:
        """A new model of the small (0) or the large (1) size."""
        torch.manual_seed(self.settings.random_state)
        scale = self.scale
        model = TokenFormer(
            self.text.vocab_size,
            hidden_size=scale.hidden_size,
            num_layers=scale.num_layers,
            num_heads=scale.num_heads,
            attn_tokens=scale.attn_tokens[stage],
            ffn_tokens=scale.ffn_tokens[stage],
            gradient_checkpointing=scale.gradient_checkpointing,
        )
        return model.to(self.settings.device)

    def grow(self, model: TokenFormer, **how: Any) -> Jump:
        """A grown copy, and what became of the function."""
        grown = copy.deepcopy(model)
        torch.manual_seed(self.settings.random_state)
        grown.grow(
            attn_tokens=self.scale.attn_tokens[1], ffn_tokens=self.scale.ffn_tokens[1], **how
        )
        first = self.validation[0][:, :-1].to(self.settings.device)
        with torch.no_grad():
            logits = float((grown(first).logits - model(first).logits).abs().max())
        return Jump(grown, logits, self.loss(model), self.loss(grown))

    @torch.no_grad()
    def loss(self, model: TokenFormer) -> float:
        """Mean validation loss in nats a token."""
        losses = []
        for batch in self.validation:
            ids = batch.to(self.settings.device)
            loss = model(ids, labels=ids).loss
            assert loss is not None
            losses.append(float(loss))
        return sum(losses) / len(losses)

    def train(self, model: TokenFormer, config: TrainingConfig, name: str) -> Branch:
        """Train ``model`` itself, with its loss before, on the way and after."""
        steps, losses = [0], [self.loss(model)]

        def record(step: int, _: float) -> None:
            if step % self.scale.evaluate_every == 0 or step == config.max_steps:
                steps.append(step)
                losses.append(self.loss(model))

        seed = self.base_seed if name == SMALL else self.branch_seed
        batches = self._batches(seed)
        train(model, batches, config, progress=self.settings.progress, callback=record)
        return Branch(model, tuple(steps), tuple(losses), _size(model))

    def _batches(self, seed: int) -> Iterator[Mapping[str, Tensor]]:
        windows = sample_windows(
            self.text.train, self.scale.context + 1, self.scale.batch_size, random_state=seed
        )
        for batch in windows:
            yield {"input_ids": batch.long(), "labels": batch.long()}


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _new_keys(scale: Scale, model: TokenFormer) -> Tensor:
    """Every entry of the keys that growth added."""
    number = {
        model.config["attn_tokens"]: scale.attn_tokens[0],
        model.config["ffn_tokens"]: scale.ffn_tokens[0],
    }
    return torch.cat(
        [
            layer.key_param_tokens.detach()[number[layer.num_tokens] :].flatten()
            for layer in model.modules()
            if isinstance(layer, Pattention)
        ]
    )


def _growth_claims(jumps: dict[str, Jump]) -> list[Claim]:
    kept, rescaled, random = jumps[GROWN], jumps[RESCALED], jumps[RANDOM_KEYS]
    return [
        Claim.at_most(
            "growth by zero keys with the scale kept, float32: largest change of a logit",
            kept.logits,
            _LOGIT_TOLERANCE,
            expected="0",
            strict=True,
        ),
        Claim.at_most(
            "growth by zero keys with the scale kept, float32: change of the validation loss",
            abs(kept.loss),
            _LOSS_TOLERANCE,
            expected="0",
            strict=True,
            note=f"{kept.before:.5f} before, {kept.after:.5f} after",
        ),
        Claim.at_least(
            "growth with the scale following sqrt(n): jump of the validation loss",
            rescaled.loss,
            0.05,
            expected="above 0",
            strict=True,
            note=f"largest change of a logit {rescaled.logits:.2g}",
        ),
        Claim.at_least(
            "growth with random new keys: jump of the validation loss",
            random.loss,
            0.02,
            expected="above 0",
            strict=True,
            note=f"largest change of a logit {random.logits:.2g}",
        ),
    ]


def _key_claims(scale: Scale, dead: TokenFormer, grown: TokenFormer) -> list[Claim]:
    return [
        Claim.exact(
            "growth by zero keys and zero values: sum of the absolute new key entries after "
            f"{scale.dead_steps} steps",
            float(_new_keys(scale, dead).abs().sum()),
            0.0,
        ),
        Claim.at_least(
            "growth by zero keys and random values: sum of the absolute new key entries after "
            f"{scale.grown_steps} steps",
            float(_new_keys(scale, grown).abs().sum()),
            10,
            expected="above 0",
            strict=True,
        ),
    ]


def _training_claims(scale: Scale, branches: dict[str, Branch]) -> list[Claim]:
    grown, scratch, continued = (branches[name] for name in (GROWN, SCRATCH, CONTINUED))
    return [
        Claim.at_least(
            f"grown and trained for {scale.grown_steps} steps: nats a token below the large model "
            f"after {scale.scratch_steps} steps from scratch",
            scratch.loss - grown.loss,
            scale.lead,
            expected="above 0",
            strict=True,
            note=f"validation loss {grown.loss:.3f}, from scratch {scratch.loss:.3f}",
        ),
        Claim.at_least(
            f"grown and trained for {scale.grown_steps} steps: nats a token below the small model "
            "trained on for as many",
            continued.loss - grown.loss,
            0.0,
            expected="not worse",
            note=f"validation loss {grown.loss:.3f}, continued {continued.loss:.3f}",
        ),
    ]


def _growth_table(jumps: dict[str, Jump]) -> Table:
    return Table(
        title="Right after growth",
        columns=("growth", "largest change of a logit", "validation loss", "jump"),
        rows=tuple((name, jump.logits, jump.after, jump.loss) for name, jump in jumps.items()),
        note="Of copies of one trained model. The last two are as the paper's code grows a "
        "checkpoint, one difference at a time; zero keys and values keep the function but never "
        "learn.",
    )


def _training_table(branches: dict[str, Branch], base_steps: int) -> Table:
    rows = []
    for name, branch in branches.items():
        before = base_steps if name in (GROWN, CONTINUED) else 0
        cost = branch.steps[-1] * branch.parameters + before * branches[SMALL].parameters
        rows.append((name, branch.parameters, before + branch.steps[-1], cost / 1e6, branch.loss))
    return Table(
        title="After training",
        columns=("model", "parameters", "steps", "steps x parameters, millions", "nats a token"),
        rows=tuple(rows),
        note="Steps and their cost include those of the small model where a model started from it.",
    )


def _figure(branches: dict[str, Branch], jumps: dict[str, Jump]) -> Figure:
    small = branches[SMALL]
    at_growth = small.steps[-1] * small.parameters / 1e6
    with panel(
        "training steps x parameters, millions",
        "validation loss, nats a token",
        title="a grown model goes on where it was",
    ) as (drawing, axes):
        for name in (SMALL, GROWN, CONTINUED, SCRATCH):
            branch = branches[name]
            start = at_growth if name in (GROWN, CONTINUED) else 0.0
            cost = [start + step * branch.parameters / 1e6 for step in branch.steps]
            first = 0 if start else 1  # an untrained model would set the scale of the axis
            axes.plot(cost[first:], branch.losses[first:], "o-", label=name)
        for name, marker in ((RESCALED, "^"), (RANDOM_KEYS, "s")):
            jump = jumps[name]
            ends = [jump.before, jump.after]
            axes.plot([at_growth] * 2, ends, color=MUTED, linestyle=":", linewidth=1)
            axes.plot([at_growth], [jump.after], marker, color=MUTED, label=name)
        axes.legend(fontsize=8)
    return Figure.render(
        "Validation loss across growth",
        f"One model of {small.parameters} parameters is enlarged to "
        f"{branches[GROWN].parameters}. With zero keys and the scale kept its curve has no jump; "
        "grey marks are the losses right after growth when the scale follows the number of tokens, "
        "or when new keys are random.",
        drawing,
    )
