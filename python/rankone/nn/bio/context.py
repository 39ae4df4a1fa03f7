"""What a model reads at once: proteins with holes, families of homologues, series of molecules.

Fill-in-the-middle moves spans of a protein behind its end, so that a causal model learns to fill
holes; every token keeps the position it had. Homologues stand one after the other, and positions
start again with each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from rankone._arguments import check_instance
from rankone.nn.bio.tokenizers import ProteinTokenizer, SmilesTokenizer


def fill_in_the_middle(
    seq: str | Tensor | Sequence[int],
    rng: np.random.Generator,
    *,
    mean_spans: float = 1.0,
    max_spans: int = 5,
    max_fraction: float = 0.2,
) -> tuple[Tensor, Tensor]:
    """Cut spans out of a protein and put them behind its end.

    The number of spans is Poisson, drawn again while above ``max_spans`` (and at most the number of
    places). Their starts are distinct places other than the first; with the distance g to the next
    start, or to the end, a length is uniform on 1 .. max(floor(max_fraction g), 2) - 1. In each
    hole stands ``<mask-i>``; after ``<eos>``, every ``<mask-i>`` again with what it hides. Without
    a span the protein stays as it is, and there is no ``<eos>``.

    Args:
        seq: a protein, or its ids from ``<cls>`` on.
        rng: numpy generator.
        mean_spans: mean of the Poisson distribution.
        max_spans: most spans, at most 5.
        max_fraction: largest share of a gap that is hidden, below 1.

    Returns:
        ids: (n,) int64.
        positions: (n,) int64, where each token stood; both copies of ``<mask-i>`` carry the start
            of their span, ``<eos>`` carries 0.

    Raises:
        ValueError: for options out of range, ids that are not 1-D, or ids that hold ``<eos>`` or a
            span mask already.
        TypeError: for ``rng`` that is no numpy generator.

    Source: "Bio-xLSTM", arXiv 2411.04165, as in ProtMamba.

    Example:
        >>> import numpy as np
        >>> from rankone.nn.bio import ProteinTokenizer, fill_in_the_middle, restore_fim
        >>> ids, positions = fill_in_the_middle("MKVLAAGIVGLLLA" * 3, np.random.default_rng(3))
        >>> ProteinTokenizer().decode(restore_fim(ids)) == "MKVLAAGIVGLLLA" * 3
        True
    """
    if not 0 <= max_spans <= len(ProteinTokenizer.MASKS):
        raise ValueError(f"max_spans must be in 0..{len(ProteinTokenizer.MASKS)}, got {max_spans}")
    if mean_spans < 0:
        raise ValueError(f"mean_spans must be at least 0, got {mean_spans}")
    if not 0 <= max_fraction < 1:
        raise ValueError(f"max_fraction must be in [0, 1), got {max_fraction}")
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, got {type(rng).__name__}")
    tokenizer = ProteinTokenizer()
    ids = tokenizer.encode(seq) if isinstance(seq, str) else torch.as_tensor(seq, dtype=torch.int64)
    if ids.ndim != 1:
        raise ValueError(f"seq must be 1-D, got shape {tuple(ids.shape)}")
    reserved = torch.tensor([tokenizer.eos_id, *tokenizer.span_ids])
    if bool(torch.isin(ids, reserved).any()):
        raise ValueError("seq must not hold <eos> or <mask-1> to <mask-5> already")
    length = ids.shape[0]
    places = torch.arange(length)
    count = int(rng.poisson(mean_spans))
    while count > max_spans:
        count = int(rng.poisson(mean_spans))
    count = min(count, max(length - 1, 0))
    if count == 0:
        return ids, places
    starts = np.sort(rng.choice(np.arange(1, length), size=count, replace=False))
    gaps = np.diff(np.append(starts, length))
    lengths = [int(rng.integers(1, max(int(max_fraction * gap), 2))) for gap in gaps]

    kept: list[Tensor] = []
    hidden: list[Tensor] = []
    end = 0
    # Rows of (id, position), so that both are cut and joined as one.
    tokens = torch.stack([ids, places])
    for mask_id, start, span in zip(tokenizer.span_ids, starts.tolist(), lengths, strict=False):
        hole = torch.tensor([[mask_id], [start]])
        kept += [tokens[:, end:start], hole]
        hidden += [hole, tokens[:, start : start + span]]
        end = start + span
    stop = torch.tensor([[tokenizer.eos_id], [0]])
    result = torch.cat([*kept, tokens[:, end:], stop, *hidden], dim=1)
    return result[0], result[1]


def restore_fim(ids: Tensor | Sequence[int]) -> Tensor:
    """Put the spans that :func:`fill_in_the_middle` cut out back into their holes.

    Args:
        ids: (n,) of one protein.

    Returns:
        (m,) int64, without ``<eos>`` and span masks.

    Raises:
        ValueError: for a hole without content or content without a hole.

    Example:
        >>> from rankone.nn.bio import ProteinTokenizer, restore_fim
        >>> tokenizer = ProteinTokenizer()
        >>> tokenizer.decode(restore_fim(tokenizer.encode("MK<mask-1>A<eos><mask-1>VL")))
        'MKVLA'
    """
    tokenizer = ProteinTokenizer()
    values = torch.as_tensor(ids).tolist()
    spans = set(tokenizer.span_ids)
    if tokenizer.eos_id not in values:
        if spans & set(values):
            raise ValueError("ids must end in <eos> and the spans' content, got holes alone")
        return torch.tensor(values, dtype=torch.int64)
    end = values.index(tokenizer.eos_id)
    contents: dict[int, list[int]] = {}
    current: list[int] | None = None
    for value in values[end + 1 :]:
        if value in spans:
            if value in contents:
                raise ValueError(f"ids must fill a hole once, got {tokenizer.tokens[value]} twice")
            current = contents[value] = []
        elif current is None:
            raise ValueError("ids must name a span mask after <eos>, got another token")
        else:
            current.append(value)
    holes = [value for value in values[:end] if value in spans]
    if sorted(holes) != sorted(contents):
        raise ValueError(
            "ids must have one content a hole, got holes "
            f"{[tokenizer.tokens[value] for value in holes]} and contents "
            f"{[tokenizer.tokens[value] for value in contents]}"
        )
    whole: list[int] = []
    for value in values[:end]:
        whole += contents[value] if value in spans else [value]
    return torch.tensor(whole, dtype=torch.int64)


def concat_homologues(
    seqs: Iterable[str],
    *,
    rng: np.random.Generator | None = None,
    shuffle: bool = False,
    fim: bool = False,
    max_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """One context of a family of proteins, each preceded by ``<cls>``.

    Args:
        seqs: the proteins.
        rng: numpy generator, needed with ``shuffle`` or ``fim``.
        shuffle: put them in random order.
        fim: pass each through :func:`fill_in_the_middle`.
        max_length: leave out the proteins from the first that no longer fits on; default no limit.

    Returns:
        ids: (n,) int64.
        positions: (n,) int64, which start again at 0 with every protein.

    Raises:
        ValueError: for ``shuffle`` or ``fim`` without a generator.

    Source: "Bio-xLSTM", arXiv 2411.04165.

    Example:
        >>> from rankone.nn.bio import concat_homologues
        >>> ids, positions = concat_homologues(["LA", "LAG"])
        >>> ids.tolist(), positions.tolist()
        ([0, 4, 5, 0, 4, 5, 6], [0, 1, 2, 0, 1, 2, 3])
    """
    texts = list(seqs)
    if rng is None and (shuffle or fim):
        raise ValueError("rng must be given with shuffle or fim, got None")
    if rng is not None and shuffle:
        texts = [texts[index] for index in rng.permutation(len(texts))]
    tokenizer = ProteinTokenizer()
    ids = [torch.empty(0, dtype=torch.int64)]
    positions = [torch.empty(0, dtype=torch.int64)]
    total = 0
    for text in texts:
        tokens = tokenizer.encode(text)
        places = torch.arange(tokens.shape[0])
        if fim and rng is not None:
            tokens, places = fill_in_the_middle(tokens, rng)
        total += tokens.shape[0]
        if max_length is not None and total > max_length:
            break
        ids.append(tokens)
        positions.append(places)
    return torch.cat(ids), torch.cat(positions)


def strip_salts(smiles: str) -> str:
    """The largest of the fragments that "." separates, by SMILES tokens; the first of equals.

    Args:
        smiles: one SMILES string.

    Returns:
        The fragment.

    Example:
        >>> from rankone.nn.bio import strip_salts
        >>> strip_salts("Cl.CCN(CC)CC")
        'CCN(CC)CC'
    """
    check_instance("smiles", smiles, str)
    return max(smiles.split("."), key=lambda part: len(SmilesTokenizer.split(part)))


def join_molecules(
    smiles: Sequence[str], tokenizer: SmilesTokenizer, *, rng: np.random.Generator | None = None
) -> Tensor:
    """Molecules of one domain as one text: joined by "." between ``[BEG]`` and ``[END]``.

    Args:
        smiles: the molecules, without salts (see :func:`strip_salts`).
        tokenizer: one that knows their tokens and ".".
        rng: numpy generator that puts them in random order, anew every epoch; default as given.

    Returns:
        (n,) int64.

    Raises:
        ValueError: for a molecule that holds "." itself, or unknown tokens.

    Source: "Bio-xLSTM", arXiv 2411.04165.

    Example:
        >>> from rankone.nn.bio import SmilesTokenizer, join_molecules
        >>> tokenizer = SmilesTokenizer.train(["CCO", "CCN", "."])
        >>> tokenizer.decode(join_molecules(["CCO", "CCN"], tokenizer))
        'CCO.CCN'
    """
    check_instance("tokenizer", tokenizer, SmilesTokenizer)
    for text in smiles:
        if "." in text:
            raise ValueError(f"smiles must have no fragments of their own, got {text!r}")
    order = range(len(smiles)) if rng is None else rng.permutation(len(smiles))
    return tokenizer.encode(".".join(smiles[index] for index in order))
