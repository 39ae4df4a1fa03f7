"""Indirect-object identification: in which of two orders did a prompt name the indirect object?

"When Mary and John went to the store, John gave a drink to" goes on with Mary. The algorithm's one
variable is whether the indirect object is the second of the two names; the intervention takes it
from another prompt, at the last position of the middle layer, in half of the coordinates. The task
is that of "Interpretability in the Wild" (arXiv 2211.00593), with prompts of our own.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rankone._optional import require
from rankone.interpret._causal_models import seeded
from rankone.interpret.causal_abstraction import (
    CausalModel,
    DistributedAlignmentSearch,
    HookSite,
    sample_interventions,
)
from rankone.reproduce import Table

TEMPLATES = (
    "When {first} and {second} went to the {place}, {subject} gave a {thing} to",
    "Then, {first} and {second} met at the {place}, and {subject} handed a {thing} to",
    "After {first} and {second} came back from the {place}, {subject} sent a {thing} to",
    "While {first} and {second} were at the {place}, {subject} bought a {thing} for",
)
NAMES = (
    "Mary", "John", "Anna", "Tom", "James", "Sarah", "David", "Laura", "Paul", "Emma",
    "Mark", "Alice", "Peter", "Kate", "Robert", "Jane", "Michael", "Rose", "Simon", "Helen",
)  # fmt: skip
PLACES = ("store", "park", "school", "office", "house", "station")
THINGS = ("drink", "book", "ring", "letter", "ball", "card")

# The paper's map and training for language models.
N_BLOCKS, HIDDEN = 8, 64
RATE, WARMUP_STEPS = 1e-3, 500
EPOCHS = 2

# What a row holds after the tokens: the two names' tokens, and whether the second is the answer.
_EXTRA = 3


class TwoNames(nn.Module):
    """A causal language model that answers with the logits of the prompt's two names."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 2) of rows of tokens and the two names."""
        logits = self.model(x[:, :-_EXTRA]).logits[:, -1]
        return logits.gather(1, x[:, -_EXTRA:-1])


def indirect_objects(
    folder: Path,
    sizes: tuple[int, int, int],
    *,
    batch_size: int = 256,
    device: str = "cpu",
    random_state: int = 0,
) -> Table:
    """Align a pretrained model and a random one of its configuration.

    Args:
        folder: a causal language model and its tokenizer, as transformers saves them.
        sizes: interventions to train on, to choose the epoch, and to test on.
        batch_size: interventions a step.
        device: where to run.
        random_state: seed.

    Returns:
        Table of accuracies.

    Raises:
        ImportError: without transformers.
        ValueError: for a tokenizer that knows too few of the names, or a model without a list of
            layers.
    """
    transformers: Any = require("transformers", extra="convert")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    pretrained = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    with seeded(random_state):
        fresh = transformers.AutoModelForCausalLM.from_config(pretrained.config)
    prompts = _prompts(tokenizer).to(device)

    def sampler(n: int, generator: torch.Generator) -> Tensor:
        return prompts[torch.randint(len(prompts), (n,), generator=generator).to(device)]

    algorithm = CausalModel({"second": _second}, _answer)
    train, validation, test = (
        sample_interventions(sampler, algorithm, n, random_state=3 * random_state + i)
        for i, n in enumerate(sizes)
    )
    rows: list[tuple[str | float, ...]] = []
    for weights, model in (("pretrained", pretrained), ("random", fresh)):
        network = TwoNames(model.to(device=device, dtype=torch.float64)).eval()
        layer, d = _middle_layer(model)
        site = HookSite(network, layer, position=-1)
        right = 0
        with torch.no_grad():
            for batch in test.base.split(batch_size):
                right += int((network(batch).argmax(dim=1) == algorithm.run(batch)).sum())
        found = []
        for alignment in ("orthogonal", "revnet"):
            search = DistributedAlignmentSearch(
                site,
                [range(d // 2)],
                alignment,
                n_blocks=N_BLOCKS,
                hidden=HIDDEN,
                lr=RATE,
                max_epochs=EPOCHS,
                batch_size=batch_size,
                warmup_steps=WARMUP_STEPS,
                random_state=random_state,
            )
            found.append(search.fit(train, validation).score(test))
        rows.append((weights, right / len(test), *found))
    return Table(
        title=f"Indirect-object identification, {folder.name}",
        columns=("weights", "task accuracy", "orthogonal", "reversible network"),
        rows=tuple(rows),
        note=f"Last position of the middle layer, {d // 2} of {d} coordinates; the answer is the "
        "likelier of the two names.",
    )


def _second(x: Tensor) -> Tensor:
    return x[:, -1]


def _answer(values: dict[str, Tensor]) -> Tensor:
    return values["second"]


def _prompts(tokenizer: Any) -> Tensor:
    """Rows of tokens, the names' tokens and the answer: all prompts of the commonest length."""

    def tokens(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    single = [name for name in NAMES if len(tokens(" " + name)) == 1]
    if len(single) < 2:
        raise ValueError(
            f"the tokenizer must have at least 2 of the names as one token, got {len(single)}"
        )
    rows = []
    for i, template in enumerate(TEMPLATES):
        for j, first in enumerate(single):
            for k, second in enumerate(single):
                if first == second:
                    continue
                place = PLACES[(i + j + k) % len(PLACES)]
                thing = THINGS[(i + 2 * j + k) % len(THINGS)]
                for answer, subject in ((1, first), (0, second)):
                    text = template.format(
                        first=first, second=second, subject=subject, place=place, thing=thing
                    )
                    pair = (tokens(" " + first)[0], tokens(" " + second)[0])
                    rows.append([*tokens(text), *pair, answer])
    ((length, _),) = Counter(map(len, rows)).most_common(1)
    return torch.tensor([row for row in rows if len(row) == length])


def _middle_layer(model: nn.Module) -> tuple[nn.Module, int]:
    """The middle of the model's layers, and the width of the states."""
    config: Any = model.config
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers:
            return module[len(module) // 2], int(config.hidden_size)
    raise ValueError("the model must have a list of its layers, got none of the configured length")
