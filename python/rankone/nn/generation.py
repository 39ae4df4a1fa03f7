"""Decoding: a prompt read in one call, then one step a token.

With linear attention every step costs the same time and memory however long the text is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rankone._arguments import check_size
from rankone.nn.mixer import check_attention_mask
from rankone.ops.checks import check_tensor, shape_of

if TYPE_CHECKING:
    from rankone.nn.language_model import LanguageModel


def sample_logits(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw one token from each row of logits.

    Args:
        logits: (batch, vocab_size).
        temperature: logits are divided by it; 0 takes the most likely token.
        top_k: draw among the k most likely tokens only.
        top_p: draw among the fewest most likely tokens whose probabilities reach ``top_p``.
        generator: source of randomness, on the device of ``logits``.

    Returns:
        (batch,) int64.

    Raises:
        ValueError: for a negative temperature, top_k below 1 or top_p outside (0, 1].

    Source: top-p, "The Curious Case of Neural Text Degeneration", arXiv 1904.09751.

    Example:
        >>> import torch
        >>> from rankone.nn import sample_logits
        >>> sample_logits(torch.tensor([[0.0, 9.0, 1.0]]), temperature=0.0)
        tensor([1])
    """
    check_tensor("logits", logits)
    _check_sampling(temperature, top_k, top_p)
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        kth = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, float("-inf"))
    if top_p is not None and top_p < 1:
        ordered, order = logits.softmax(-1).sort(dim=-1, descending=True)
        # A token is left out when the more likely ones already reach top_p.
        left_out = ordered.cumsum(-1) - ordered >= top_p
        left_out = left_out.scatter(-1, order, left_out)
        logits = logits.masked_fill(left_out, float("-inf"))
    return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompt: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos: int | None = None,
    attention_mask: Tensor | None = None,
    random_state: int | torch.Generator | None = None,
    prompt_options: Mapping[str, Any] | None = None,
) -> Tensor:
    """Continue prompts token by token.

    Args:
        model: a language model; its training mode is left as it is.
        prompt: (batch, time) int64 or int32 with time at least 1.
        max_new_tokens: tokens to add, at least 0.
        temperature: 0 is greedy.
        top_k: see :func:`sample_logits`.
        top_p: see :func:`sample_logits`.
        eos: token that ends a text; a text that has ended is filled up with it, and decoding stops
            when all have.
        attention_mask: (batch, time), 1 on tokens and 0 on padding of prompts of unlike lengths,
            left or right; each needs at least one token.
        random_state: seed, or a generator on the device of ``prompt``; None draws from torch's
            global generator.
        prompt_options: further arguments of the model's ``hidden_states`` for the prompt.

    Returns:
        (batch, time + new) int64: the prompt, padding included, then the new tokens.

    Raises:
        ValueError: for an empty prompt, a negative ``max_new_tokens``, or sampling options out of
            range.

    Example:
        >>> import torch
        >>> from rankone.nn import LanguageModel, LanguageModelConfig, generate
        >>> model = LanguageModel(LanguageModelConfig(vocab_size=16, hidden_size=16, num_layers=1))
        >>> generate(model, torch.tensor([[1, 2, 3]]), 4, random_state=0).shape
        torch.Size([1, 7])
    """
    _check_sampling(temperature, top_k, top_p)
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be at least 0, got {max_new_tokens}")
    check_tensor("prompt", prompt)
    if prompt.ndim != 2 or prompt.shape[1] == 0:
        raise ValueError(
            f"prompt must have shape (batch, time) with time at least 1, got {shape_of(prompt)}"
        )
    mask = check_attention_mask(attention_mask, prompt)
    if mask is not None and not bool(mask.any(1).all()):
        raise ValueError("attention_mask must leave at least one token in every row, got none")
    if isinstance(random_state, int):
        random_state = torch.Generator(prompt.device).manual_seed(random_state)

    texts = [prompt.to(torch.int64)]
    if max_new_tokens == 0:
        return texts[0]
    hidden, state = model.hidden_states(
        prompt, attention_mask=attention_mask, return_state=True, **(prompt_options or {})
    )
    if mask is None:
        hidden = hidden[:, -1]
    else:
        time = torch.arange(prompt.shape[1], device=prompt.device)
        last = (mask * time).amax(1)
        hidden = hidden[torch.arange(prompt.shape[0], device=prompt.device), last]
    logits = model.logits(hidden)
    ended = torch.zeros(prompt.shape[0], dtype=torch.bool, device=prompt.device)
    for index in range(max_new_tokens):
        token = sample_logits(
            logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=random_state
        )
        if eos is not None:
            token = token.masked_fill(ended, eos)
            ended = ended | (token == eos)
        texts.append(token[:, None])
        if index + 1 == max_new_tokens or (eos is not None and bool(ended.all())):
            break
        logits, state = model.step(token, state)
    return torch.cat(texts, dim=1)


def _check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be at least 0 and finite, got {temperature}")
    if top_k is not None:
        check_size("top_k", top_k)
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
