"""The masked-language-model objective: which tokens are hidden, and how."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from rankone.nn.language_model import IGNORED_LABEL
from rankone.ops.checks import check_tensor

# Of the selected tokens: masked, replaced at random; the rest is kept. As BERT, arXiv 1810.04805.
MASKED_SHARE = 0.8
REPLACED_SHARE = 0.1


class MaskingTokenizer(Protocol):
    """What :func:`mask_tokens` asks of a tokenizer."""

    @property
    def mask_id(self) -> int | None:
        """The mask, if there is one."""

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Tokens that are never hidden."""

    @property
    def replacements(self) -> tuple[int, ...]:
        """Tokens that a hidden one may be replaced with."""


def mask_tokens(
    ids: Tensor,
    tokenizer: MaskingTokenizer,
    p: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Hide tokens to be predicted.

    Every token that is not special is selected with probability ``p``. Of the selected ones 80 %
    become the mask, 10 % a random base or residue, and 10 % stay.

    Args:
        ids: integer tokens, of any shape.
        tokenizer: one with a mask.
        p: share of the tokens to select, from 0 to 1.
        generator: source of randomness; default torch's.

    Returns:
        inputs: ``ids`` with masked and replaced tokens.
        labels: int64, the original token where one was selected and -100 elsewhere.

    Raises:
        ValueError: for a tokenizer without a mask, or ``p`` out of range.

    Source: "Bio-xLSTM", arXiv 2411.04165.

    Example:
        >>> import torch
        >>> from rankone.nn.bio import DNATokenizer, mask_tokens
        >>> tokenizer = DNATokenizer()
        >>> inputs, labels = mask_tokens(tokenizer.encode("ACGT" * 100), tokenizer)
        >>> bool((inputs == tokenizer.mask_id).any()), bool((labels == -100).any())
        (True, True)
    """
    check_tensor("ids", ids)
    if not 0 <= p <= 1:
        raise ValueError(f"p must be in [0, 1], got {p}")
    mask_id = getattr(tokenizer, "mask_id", None)
    if mask_id is None:
        raise ValueError(f"tokenizer must have a mask_id, got {type(tokenizer).__name__} without")
    device = ids.device if generator is None else generator.device

    def uniform() -> Tensor:
        return torch.rand(ids.shape, generator=generator, device=device).to(ids.device)

    special = torch.isin(ids, torch.tensor(tokenizer.special_ids, device=ids.device))
    selected = (uniform() < p) & ~special
    labels = ids.to(torch.int64).masked_fill(~selected, IGNORED_LABEL)
    fate = uniform()
    choices = torch.tensor(tokenizer.replacements, device=ids.device, dtype=ids.dtype)
    drawn = torch.randint(len(choices), ids.shape, generator=generator, device=device)
    inputs = ids.masked_fill(selected & (fate < MASKED_SHARE), mask_id)
    replaced = selected & (fate >= MASKED_SHARE) & (fate < MASKED_SHARE + REPLACED_SHARE)
    return torch.where(replaced, choices[drawn.to(ids.device)], inputs), labels
