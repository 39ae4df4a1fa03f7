"""Tokenizers of the Bio-xLSTM models: bases, residues, and SMILES atoms.

The vocabularies and their order are those of the published checkpoints (arXiv 2411.04165).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class SequenceTokenizer:
    """Texts to token ids and back, over a fixed list of tokens.

    Attributes:
        tokens: the vocabulary, in the order of its ids.
        complement_map: (vocab_size,) int64, complement of every token; None but for DNA.
        pad_id, mask_id: ids of padding and of the mask, or None.
        replacements: ids that a masked token may be replaced with at random.
    """

    pad_id: int
    mask_id: int | None = None
    complement_map: Tensor | None = None
    # Tokens that frame a text and are no part of it; decoding leaves them out.
    _frame: frozenset[str] = frozenset()

    def __init__(self, tokens: Sequence[str], special: Iterable[str], replacements: str) -> None:
        self.tokens = tuple(tokens)
        self._id_of = {token: index for index, token in enumerate(self.tokens)}
        if len(self._id_of) != len(self.tokens):
            raise ValueError("tokens must differ from one another, got a token twice")
        self.special_ids = tuple(sorted(self._id_of[token] for token in special))
        self.replacements = tuple(self._id_of[token] for token in replacements)

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    def decode(self, ids: Tensor | Sequence[int], *, keep_frame: bool = False) -> str:
        """The text of (n,) ids.

        Args:
            ids: (n,) integers.
            keep_frame: also write start, end and padding tokens, by their names.

        Raises:
            ValueError: for ids that are not 1-D or not in the vocabulary.
        """
        numbers = torch.as_tensor(ids)
        if numbers.ndim != 1:
            raise ValueError(f"ids must be 1-D, got shape {tuple(numbers.shape)}")
        values = numbers.tolist()
        unknown = [value for value in values if not 0 <= value < self.vocab_size]
        if unknown:
            raise ValueError(f"ids must be in 0..{self.vocab_size - 1}, got {unknown[0]}")
        names = (self.tokens[value] for value in values)
        return "".join(name for name in names if keep_frame or name not in self._frame)

    def _text(self, name: str, text: str) -> str:
        if not isinstance(text, str):
            raise TypeError(f"{name} must be a string, got {type(text).__name__}")
        return text

    def _lookup(self, pieces: Iterable[str], unknown: int) -> list[int]:
        return [self._id_of.get(piece, unknown) for piece in pieces]


class DNATokenizer(SequenceTokenizer):
    """One token a base: 7 special tokens, then A, C, G, T and N.

    Lower-case bases, as soft-masked genomes have, are read as upper-case ones; names such as
    ``"[MASK]"`` are read as their tokens, and every other character as ``[UNK]``.

    Example:
        >>> from rankone.nn.bio import DNATokenizer
        >>> tokenizer = DNATokenizer()
        >>> tokenizer.encode("ACGTN").tolist(), tokenizer.vocab_size
        ([7, 8, 9, 10, 11], 12)
        >>> tokenizer.decode(tokenizer.encode("gattaca"))
        'GATTACA'
    """

    SPECIAL = ("[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]")
    _frame = frozenset(("[CLS]", "[SEP]", "[BOS]", "[PAD]"))
    _pieces = re.compile(r"\[(?:CLS|SEP|BOS|MASK|PAD|RESERVED|UNK)\]|.", re.DOTALL)

    def __init__(self) -> None:
        super().__init__((*self.SPECIAL, *"ACGTN"), self.SPECIAL, "ACGT")
        self.pad_id, self.mask_id, self.unk_id = 4, 3, 6
        pairs = dict(zip("ACGT", "TGCA", strict=True))
        self.complement_map = torch.tensor(
            [self._id_of[pairs.get(token, token)] for token in self.tokens]
        )

    def encode(self, sequence: str) -> Tensor:
        """(n,) int64, one entry a base; nothing is added."""
        return torch.tensor(
            self._lookup(
                self._pieces.findall(self._text("sequence", sequence).upper()), self.unk_id
            ),
            dtype=torch.int64,
        )


class ProteinTokenizer(SequenceTokenizer):
    """One token a residue: ``<cls>``, ``<pad>``, ``<eos>``, ``<unk>``, 27 residues, 7 masks.

    Lower-case residues are read as upper-case ones, ``"<mask-1>"`` and the like as their tokens,
    and every other character as ``<unk>``.

    Example:
        >>> from rankone.nn.bio import ProteinTokenizer
        >>> tokenizer = ProteinTokenizer()
        >>> tokenizer.encode("LAG").tolist(), tokenizer.vocab_size
        ([0, 4, 5, 6], 38)
        >>> tokenizer.decode(tokenizer.encode("MKV"))
        'MKV'
    """

    RESIDUES = "LAGVSERTIDPKQNFYMHWCXBUZO.-"
    STANDARD = RESIDUES[:20]
    MASKS = tuple(f"<mask-{index}>" for index in range(1, 6))
    _frame = frozenset(("<cls>", "<pad>", "<eos>"))
    _pieces = re.compile(r"<(?:cls|pad|eos|unk|null_1|mask(?:-[1-5])?)>|.", re.DOTALL)

    def __init__(self) -> None:
        start = ("<cls>", "<pad>", "<eos>", "<unk>")
        end = ("<null_1>", "<mask>", *self.MASKS)
        super().__init__((*start, *self.RESIDUES, *end), (*start, *end), self.STANDARD)
        self.cls_id, self.pad_id, self.eos_id, self.unk_id = range(4)
        self.mask_id = self._id_of["<mask>"]
        self.span_ids = tuple(self._id_of[name] for name in self.MASKS)

    def encode(self, sequence: str, *, add_cls: bool = True) -> Tensor:
        """(n + 1,) int64: ``<cls>`` and one entry a residue; without ``add_cls``, (n,)."""
        self._text("sequence", sequence)
        pieces = (
            piece if len(piece) > 1 else piece.upper() for piece in self._pieces.findall(sequence)
        )
        ids = self._lookup(pieces, self.unk_id)
        return torch.tensor([self.cls_id, *ids] if add_cls else ids, dtype=torch.int64)


class SmilesTokenizer(SequenceTokenizer):
    """SMILES in bracket atoms, Cl, Br, two-digit ring bonds and single characters.

    ``[PAD]`` is 0, ``[BEG]`` 1 and ``[END]`` 2; the other tokens are given, or learnt by
    :meth:`train`.

    Args:
        tokens: all but the three.

    Example:
        >>> from rankone.nn.bio import SmilesTokenizer
        >>> tokenizer = SmilesTokenizer.train(["CC(=O)[O-]", "ClCCBr"])
        >>> tokenizer.tokens[3:]
        ('(', ')', '=', 'Br', 'C', 'Cl', 'O', '[O-]')
        >>> tokenizer.encode("CCO").tolist()
        [1, 7, 7, 9, 2]
        >>> tokenizer.decode(tokenizer.encode("CCO"))
        'CCO'
    """

    SPECIAL = ("[PAD]", "[BEG]", "[END]")
    _frame = frozenset(SPECIAL)
    _pieces = re.compile(r"\[[^\]]*\]|Cl|Br|%\d\d|.", re.DOTALL)

    def __init__(self, tokens: Sequence[str]) -> None:
        super().__init__((*self.SPECIAL, *tokens), self.SPECIAL, "")
        self.pad_id, self.beg_id, self.end_id = range(3)

    @classmethod
    def train(cls, smiles: Iterable[str]) -> SmilesTokenizer:
        """The tokenizer of all tokens that occur, in alphabetical order."""
        found = {piece for text in smiles for piece in cls.split(text)}
        return cls(sorted(found))

    @classmethod
    def split(cls, smiles: str) -> list[str]:
        """The tokens of one text."""
        return cls._pieces.findall(smiles)

    def encode(self, smiles: str, *, add_frame: bool = True) -> Tensor:
        """(n + 2,) int64 from ``[BEG]`` to ``[END]``; without ``add_frame``, (n,).

        Raises:
            ValueError: for a token that the vocabulary lacks.
        """
        pieces = self.split(self._text("smiles", smiles))
        unknown = [piece for piece in pieces if piece not in self._id_of]
        if unknown:
            raise ValueError(f"smiles must be made of known tokens, got {unknown[0]!r}")
        ids = self._lookup(pieces, self.pad_id)
        ids = [self.beg_id, *ids, self.end_id] if add_frame else ids
        return torch.tensor(ids, dtype=torch.int64)
