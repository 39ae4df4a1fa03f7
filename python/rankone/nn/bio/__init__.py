"""Language models of DNA, proteins and small molecules: tokens, strands and objectives.

The model itself is :class:`rankone.nn.XLSTMLM`; nothing here depends on it.
"""

from rankone._namespace import public_names
from rankone.nn.bio.context import (
    concat_homologues,
    fill_in_the_middle,
    join_molecules,
    restore_fim,
    strip_salts,
)
from rankone.nn.bio.masking import mask_tokens
from rankone.nn.bio.reverse_complement import PostHocRC, rc_augment, reverse_complement
from rankone.nn.bio.tokenizers import DNATokenizer, ProteinTokenizer, SmilesTokenizer

__all__ = [
    "DNATokenizer",
    "PostHocRC",
    "ProteinTokenizer",
    "SmilesTokenizer",
    "concat_homologues",
    "fill_in_the_middle",
    "join_molecules",
    "mask_tokens",
    "rc_augment",
    "restore_fim",
    "reverse_complement",
    "strip_salts",
]


def __dir__() -> list[str]:
    return public_names(globals())
