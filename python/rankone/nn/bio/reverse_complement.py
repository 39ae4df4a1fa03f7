"""The two strands of DNA: reverse complement, augmentation, and averaging after the fact.

RC(ids) reverses the tokens and exchanges A with T and C with G; every other token stays itself.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from rankone._arguments import check_instance
from rankone.nn.bio.tokenizers import DNATokenizer, SequenceTokenizer
from rankone.ops.checks import check_shape, check_tensor


def reverse_complement(
    ids: Tensor, tokenizer: SequenceTokenizer | None = None, *, attention_mask: Tensor | None = None
) -> Tensor:
    """The other strand, read in its own direction.

    Args:
        ids: (..., time) integer tokens.
        tokenizer: one with a ``complement_map``; default :class:`DNATokenizer`.
        attention_mask: (..., time), 1 on tokens and 0 on padding, which stays where it is; default
            no padding.

    Returns:
        (..., time) tokens.

    Raises:
        ValueError: for a tokenizer without complements, or a mask of another shape.
        TypeError: for ids that are no tensor.

    Example:
        >>> from rankone.nn.bio import DNATokenizer, reverse_complement
        >>> tokenizer = DNATokenizer()
        >>> tokenizer.decode(reverse_complement(tokenizer.encode("AACGN"), tokenizer))
        'NCGTT'
    """
    check_tensor("ids", ids)
    complement = _complement_of(tokenizer).to(ids.device)[ids.to(torch.int64)].to(ids.dtype)
    return reversed_tokens(complement, attention_mask)


def reversed_tokens(x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """(..., time) turned around; the places of padding keep what they hold."""
    if attention_mask is None:
        return x.flip(-1)
    check_shape("attention_mask", attention_mask, x.shape, "that of the tokens")
    return x.gather(-1, reading_order(attention_mask))


def reading_order(attention_mask: Tensor) -> Tensor:
    """(..., time) int64: where each place of a reversed text is read from, padding from itself."""
    mask = attention_mask != 0
    time = mask.shape[-1]
    places = torch.arange(time, device=mask.device).expand(mask.shape)
    # Tokens in time order, then padding; the k-th token from the front meets the k-th from the end.
    order = torch.argsort((~mask).to(torch.int8), dim=-1, stable=True)
    count = mask.sum(-1, keepdim=True)
    mirrored = torch.where(places < count, count - 1 - places, places)
    return torch.empty_like(order).scatter(-1, order, order.gather(-1, mirrored))


def rc_augment(
    batch: Tensor,
    p: float = 0.5,
    generator: torch.Generator | None = None,
    *,
    tokenizer: SequenceTokenizer | None = None,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Each row as it is, or with probability ``p`` its reverse complement.

    Args:
        batch: (batch, time) integer tokens.
        p: probability, from 0 to 1.
        generator: source of randomness; default torch's.
        tokenizer: one with a ``complement_map``; default :class:`DNATokenizer`.
        attention_mask: (batch, time), 1 on tokens and 0 on padding.

    Returns:
        (batch, time) tokens.

    Raises:
        ValueError: for a batch that is not 2-D or a probability out of range.

    Source: "Bio-xLSTM", arXiv 2411.04165.

    Example:
        >>> import torch
        >>> from rankone.nn.bio import rc_augment
        >>> rc_augment(torch.tensor([[7, 8, 11]]), 1.0)
        tensor([[11,  9, 10]])
    """
    check_tensor("batch", batch)
    if batch.ndim != 2:
        raise ValueError(f"batch must be 2-D (batch, time), got shape {tuple(batch.shape)}")
    if not 0 <= p <= 1:
        raise ValueError(f"p must be in [0, 1], got {p}")
    other = reverse_complement(batch, tokenizer, attention_mask=attention_mask)
    device = batch.device if generator is None else generator.device
    chosen = torch.rand(batch.shape[0], 1, generator=generator, device=device) < p
    return torch.where(chosen.to(batch.device), other, batch)


class PostHocRC(nn.Module):
    """A model made equivariant after training: the mean of what it says of both strands.

        1/2 (f(x) + complemented reverse of f(RC x))

    It costs two evaluations. The model should have been trained with :func:`rc_augment`.

    Args:
        model: called with token ids; gives logits (batch, time, vocab_size), or an output with an
            attribute ``logits``.
        tokenizer: one with a ``complement_map``; default the model's own ``complement_map``, and
            where it has none, that of :class:`DNATokenizer`.

    Source: post-hoc conjugation as in "Bio-xLSTM", arXiv 2411.04165.

    Example:
        >>> import torch
        >>> from rankone.nn.bio import PostHocRC, reverse_complement
        >>> from rankone.nn.xlstm import XLSTMLM
        >>> model = PostHocRC(XLSTMLM(12, 32, 1, direction="bidirectional")).double()
        >>> x = torch.randint(7, 11, (1, 20))
        >>> mirrored = model(x).logits.flip(1)[..., model.complement_map]
        >>> torch.allclose(model(reverse_complement(x)).logits, mirrored)
        True
    """

    def __init__(self, model: nn.Module, tokenizer: SequenceTokenizer | None = None) -> None:
        super().__init__()
        self.model = model
        own = getattr(model, "complement_map", None)
        complement = _complement_of(tokenizer) if own is None or tokenizer is not None else own
        self.register_buffer("complement_map", complement.clone(), persistent=False)

    def forward(
        self, input_ids: Tensor, *, attention_mask: Tensor | None = None, **options: Any
    ) -> Any:
        """What the model returns, with averaged logits, and without what belongs to one strand.

        Args:
            input_ids: (batch, time) integer tokens.
            attention_mask: (batch, time), 1 on tokens and 0 on padding.
            options: further arguments of the model that hold for both strands; labels, states and
                positions do not.

        Raises:
            ValueError: for such an argument.
        """
        for name in ("labels", "state", "return_state", "return_hidden", "cu_seqlens"):
            if name in options and options[name] is not None and options[name] is not False:
                raise ValueError(f"{name} must be None: it belongs to one strand alone")
        if attention_mask is not None:
            check_shape("attention_mask", attention_mask, input_ids.shape, "that of input_ids")
            options["attention_mask"] = attention_mask
        complement = cast(Tensor, self.complement_map)
        output = self.model(input_ids, **options)
        strand = reversed_tokens(complement[input_ids.to(torch.int64)], attention_mask)
        other = _logits(self.model(strand.to(input_ids.dtype), **options))[..., complement]
        if attention_mask is None:
            other = other.flip(1)
        else:
            order = reading_order(attention_mask)[..., None]
            other = other.gather(1, order.expand(other.shape))
        logits = (_logits(output) + other) / 2
        return logits if isinstance(output, Tensor) else output._replace(logits=logits)


def _logits(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def _complement_of(tokenizer: SequenceTokenizer | None) -> Tensor:
    tokenizer = DNATokenizer() if tokenizer is None else tokenizer
    check_instance("tokenizer", tokenizer, SequenceTokenizer)
    complement = tokenizer.complement_map
    if complement is None:
        raise ValueError(
            f"tokenizer must have a complement_map, got {type(tokenizer).__name__} without one"
        )
    return complement
