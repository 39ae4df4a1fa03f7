"""Bio-xLSTM (arXiv 2411.04165): DNA, proteins and molecules by one recurrent model.

The op is held against its defining sum, and equivariance under the reverse complement on real
bases. Small models are trained on SMILES, on real DNA and on families of related sequences, beside
an LSTM and n-grams. Full mode adds models of the published sizes, on a genome, a proteome and
molecules, or on the user's own.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rankone._sweep import sweep
from rankone.datasets.biology import load_dna_contig, load_smiles
from rankone.nn.bio import DNATokenizer, PostHocRC, reverse_complement
from rankone.nn.xlstm import XLSTMLM
from rankone.ops._mlstm import mlstm
from rankone.reproduce import MUTED, SERIES, Claim, Figure, Reproduction, Settings, Table, panel
from rankone.reproduce._bio_xlstm_full import Preset, presets_table
from rankone.reproduce._bio_xlstm_models import (
    BIDIRECTIONAL,
    CAUSAL,
    LSTM,
    MARKOV_ORDERS,
    XLSTM,
    Families,
    Training,
    training_runs,
)

PS, PH, PLAIN = "parameter sharing", "post hoc", "plain"
_AXIS_START = 1e-9  # of the errors' axis

_SMILES = Training(250, 32)
_MASKED = Training(200, 16)
_DNA = Training(200, 8)
_FAMILIES = Families()
_FAMILIES_XLSTM = Training(200, 32, learning_rate=5e-3)
_FAMILIES_LSTM = Training(400, 32, learning_rate=5e-3)


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        width, layers, heads: of the small models.
        lstm_width: of the two-layer LSTM beside them.
        smiles, masked, dna: training on molecules, on masked molecules and on DNA.
        families, families_xlstm, families_lstm: the in-context task, and training on it.
        window: bases a row of DNA.
        molecules, bases: how much data to read; None for all.
        exact_time: tokens of the exactness check.
        equivariance_bases: real bases of the equivariance check.
        processes: at most, where the settings ask for one job.
        whole_genome: train on the genome rather than on one contig of another bacterium.
        presets: models of published size.
    """

    width: int = 64
    layers: int = 2
    heads: int = 4
    lstm_width: int = 96
    smiles: Training = _SMILES
    masked: Training = _MASKED
    dna: Training = _DNA
    families: Families = _FAMILIES
    families_xlstm: Training = _FAMILIES_XLSTM
    families_lstm: Training = _FAMILIES_LSTM
    window: int = 128
    molecules: int | None = None
    bases: int | None = None
    exact_time: int = 128
    equivariance_bases: int = 512
    processes: int = 2
    whole_genome: bool = False
    presets: tuple[Preset, ...] = ()


QUICK = Scale()
FULL = Scale(
    families_xlstm=_FAMILIES_LSTM,
    whole_genome=True,
    presets=(
        # 2^20 tokens a step, as published.
        Preset("dna_500k", 1024, Training(10_000, 1024, learning_rate=8e-3, warmup=1000)),
        Preset("dna_2m", 1024, Training(10_000, 1024, learning_rate=8e-3, warmup=1000)),
        Preset(
            "dna_2m",
            1024,
            Training(10_000, 1024, learning_rate=8e-3, warmup=1000),
            options=(("slstm_at", (0, 1, 2, 3)), ("rope", False), ("rc_equivariance", "ps")),
        ),
        Preset("prot_26m", 2048, Training(10_000, 32, learning_rate=6e-4, warmup=500)),
        Preset("chem_15m", 100, Training(10_000, 256, learning_rate=1e-3, warmup=500)),
    ),
)


def run(settings: Settings) -> Reproduction:
    """Exactness, equivariance, and what small models learn."""
    scale = settings.scale(quick=QUICK, full=FULL)
    molecules = list(load_smiles().sequences)[: scale.molecules]
    genome = load_dna_contig(whole_genome=scale.whole_genome).sequences[0][: scale.bases]
    jobs = training_runs(scale, molecules, genome, settings.device)
    if settings.device == "cpu":
        # The runs are independent and each uses one thread.
        results = sweep(
            lambda name, rng: jobs[name](int(rng.integers(2**31))),
            jobs,
            random_state=settings.random_state,
            n_jobs=_processes(settings, scale),
            description="training",
            progress=settings.progress,
        )
    else:
        seeds = np.random.SeedSequence(settings.random_state).generate_state(len(jobs))
        cells = list(zip(jobs.values(), seeds.tolist(), strict=True))
        results = [job(seed) for job, seed in settings.track(cells, "training")]
    measured = dict(zip(jobs, results, strict=True))
    errors = _equivariance_errors(settings, scale, genome)
    claims = [
        *_exactness_claims(settings, scale),
        Claim.at_most(
            f"logits of the reverse complement of {scale.equivariance_bases} real bases are those "
            "of the strand, turned around: error of a parameter-sharing model of mLSTM and sLSTM "
            "blocks, float32",
            errors[PS],
            1e-5,
            expected="0",
            strict=True,
        ),
        *_smiles_claims(measured, scale),
        *_family_claims(measured, scale),
        *_dna_claims(measured),
    ]
    tables = [_losses_table(measured), _families_table(measured, scale)]
    if scale.presets:
        tables.append(presets_table(settings, scale, molecules, genome))
    return Reproduction(
        slug="bio-xlstm",
        claims=tuple(claims),
        tables=tuple(tables),
        figures=(_figure(scale, measured, errors),),
        settings={
            "model": f"{scale.layers} mLSTM blocks, width {scale.width}, {scale.heads} heads",
            "molecules": f"{len(molecules)} of ChEMBL, at most 100 characters, 10 % validation",
            "DNA": f"{len(genome)} bases, the last 10 % validation, windows of {scale.window}",
            "training": "AdamW (0.9, 0.95), weight decay 0.1, cosine to 10 %, gradients clipped "
            "at 1, one thread a run",
        },
    )


def _processes(settings: Settings, scale: Scale) -> int:
    """As asked for; where nothing was, as many as the scale allows and the machine has."""
    if settings.n_jobs != 1:
        return settings.n_jobs
    return min(scale.processes, os.cpu_count() or 1)


# Exactness and equivariance.


def _exactness_claims(settings: Settings, scale: Scale) -> list[Claim]:
    generator = torch.Generator().manual_seed(settings.random_state)
    shape = (1, scale.exact_time, 2)

    def draw(*more: int) -> Tensor:
        return torch.randn(*shape, *more, generator=generator, dtype=torch.float64)

    q, k, v, weights = draw(32), draw(32), draw(32), draw(32)
    leaves = [
        tensor.to(settings.device).requires_grad_() for tensor in (q, k, v, 5 * draw(), 5 * draw())
    ]
    weights = weights.to(settings.device)
    h, _ = mlstm(*leaves, eps=0.0)
    expected = _direct_sum(*leaves)
    ours = torch.autograd.grad((h * weights).sum(), leaves)
    theirs = torch.autograd.grad((expected * weights).sum(), leaves)
    gradient_error = max(
        float((one - other).norm() / other.norm()) for one, other in zip(ours, theirs, strict=True)
    )
    what = f"float64, T = {scale.exact_time}, gates N(0, 5^2), eps = 0"
    return [
        Claim.at_most(
            f"mLSTM op = its defining sum over all pairs, {what}: largest error",
            float((h - expected).detach().abs().max()),
            1e-11,
            expected="0",
            strict=True,
        ),
        Claim.at_most(
            f"gradients of the mLSTM op in q, k, v and both gates, {what}: largest relative error",
            gradient_error,
            1e-11,
            expected="0",
            strict=True,
        ),
    ]


def _direct_sum(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """sum_s exp(F_t - F_s + i_s) (q_t . k_s) v_s / max(|sum_s ...|, 1)."""
    pairs = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool, device=q.device)
    # F_t - F_s is summed from s on: the difference of two sums from 0 on would cost two digits.
    later = pairs.tril(-1)[None, :, :, None]
    between = torch.where(later, F.logsigmoid(f)[:, :, None], 0.0).cumsum(1)
    weight = (between + i[:, None]).masked_fill(pairs.triu(1)[None, :, :, None], -math.inf)
    scores = torch.einsum("bthk,bshk->btsh", q, k) * q.shape[-1] ** -0.5
    scores = scores * weight.exp()
    below = scores.sum(2).abs().clamp(min=1.0)[..., None]
    return torch.einsum("btsh,bshv->bthv", scores, v) / below


@torch.no_grad()
def _equivariance_errors(settings: Settings, scale: Scale, genome: str) -> dict[str, float]:
    """Largest |logits(RC x) - turned logits(x)| of three models with the same weights."""
    tokenizer = DNATokenizer()
    x = tokenizer.encode(genome[: scale.equivariance_bases])[None].to(settings.device)
    errors = {}
    for kind in (PS, PH, PLAIN):
        torch.manual_seed(settings.random_state)
        model: nn.Module = XLSTMLM(
            tokenizer.vocab_size,
            scale.width,
            2,
            num_heads=scale.heads,
            slstm_at=(1,),
            direction="bidirectional",
            rc_equivariance="ps" if kind == PS else None,
            complement_map=tokenizer.complement_map,
        )
        if kind == PH:
            model = PostHocRC(model)
        model = model.to(settings.device)
        turned = model(x).logits.flip(1)[..., tokenizer.complement_map]
        errors[kind] = float((model(reverse_complement(x)).logits - turned).abs().max())
    return errors


# Claims and what is shown.


def _smiles_claims(measured: dict[tuple[str, str], Any], scale: Scale) -> list[Claim]:
    xlstm, lstm = measured["smiles", XLSTM], measured["smiles", LSTM]
    grams = measured["smiles", "n-gram"]
    both, causal = measured["masked", BIDIRECTIONAL]["nats"], measured["masked", CAUSAL]["nats"]
    return [
        Claim.at_most(
            f"SMILES, {scale.smiles.steps} steps: validation nats a character of xLSTM "
            f"({xlstm['parameters']} parameters)",
            xlstm["nats"],
            1.12,
            strict=True,
        ),
        Claim.at_least(
            "SMILES: 5-gram less xLSTM, nats a character",
            grams["5-gram"] - xlstm["nats"],
            0.0,
            strict=True,
        ),
        Claim.close(
            "SMILES: nats a character of the interpolated 5-gram (Witten-Bell)",
            grams["5-gram"],
            1.145,
            absolute=0.01,
            note=", ".join(f"{name} {nats:.3f}" for name, nats in grams.items()),
        ),
        Claim.at_least(
            f"SMILES: two-layer LSTM ({lstm['parameters']} parameters) less xLSTM, same schedule, "
            "nats a character",
            lstm["nats"] - xlstm["nats"],
            0.1,
            strict=True,
            note=f"LSTM {lstm['nats']:.3f}",
        ),
        Claim.at_least(
            f"SMILES, masked, {scale.masked.steps} steps: causal less weight-tied bidirectional, "
            "nats a hidden character",
            causal - both,
            0.15,
            strict=True,
            note=f"bidirectional {both:.3f}, causal {causal:.3f}",
        ),
    ]


def _family_claims(measured: dict[tuple[str, str], Any], scale: Scale) -> list[Claim]:
    members = measured["families", XLSTM]["members"]
    steps = scale.families_xlstm.steps
    what = f"families in context, {steps} steps: nats a site of the"
    floor = scale.families.floor
    return [
        Claim.at_least(f"{what} first member, xLSTM", members[0], 2.0, strict=True),
        Claim.at_most(f"{what} second member, xLSTM", members[1], 1.3, strict=True),
        Claim.at_most(
            f"{what} last member, xLSTM",
            members[-1],
            0.85,
            strict=True,
            note=f"{floor:.3f} where the ancestor is known",
        ),
        Claim.at_least(
            f"families in context, {scale.families_lstm.steps} steps: nats a site of the last "
            "member, two-layer LSTM",
            measured["families", LSTM]["members"][-1],
            1.6,
            strict=True,
        ),
    ]


def _dna_claims(measured: dict[tuple[str, str], Any]) -> list[Claim]:
    result = measured["dna", XLSTM]
    return [
        Claim.at_least(
            "real DNA: order-0 entropy of the bases less xLSTM, nats a base",
            result["entropy"] - result["nats"],
            0.03,
            strict=True,
            note=f"xLSTM {result['nats']:.3f}, entropy {result['entropy']:.3f}",
        )
    ]


def _losses_table(measured: dict[tuple[str, str], Any]) -> Table:
    smiles, dna = measured["smiles", "n-gram"], measured["dna", XLSTM]
    rows: list[tuple[str, str, float]] = [
        ("SMILES", XLSTM, measured["smiles", XLSTM]["nats"]),
        ("SMILES", "two-layer LSTM", measured["smiles", LSTM]["nats"]),
        *(("SMILES", name, nats) for name, nats in smiles.items()),
        ("SMILES, masked", "xLSTM, bidirectional", measured["masked", BIDIRECTIONAL]["nats"]),
        ("SMILES, masked", "xLSTM, causal", measured["masked", CAUSAL]["nats"]),
        ("DNA", XLSTM, dna["nats"]),
        ("DNA", "entropy of the bases", dna["entropy"]),
        *(("DNA", f"Markov, order {order}", dna[f"order {order}"]) for order in MARKOV_ORDERS),
    ]
    return Table(
        title="Validation loss",
        columns=("data", "model", "nats a token"),
        rows=tuple(rows),
        note="n-gram and Markov models are interpolated by Witten-Bell.",
    )


def _families_table(measured: dict[tuple[str, str], Any], scale: Scale) -> Table:
    xlstm, lstm = (measured["families", kind]["members"] for kind in (XLSTM, LSTM))
    return Table(
        title="Families in context: loss of each member",
        columns=("member", "xLSTM, nats a site", "LSTM, nats a site"),
        rows=tuple(
            (index + 1, ours, theirs)
            for index, (ours, theirs) in enumerate(zip(xlstm, lstm, strict=True))
        ),
        note=f"A site whose ancestor is known costs {scale.families.floor:.3f} nats.",
    )


def _figure(scale: Scale, measured: dict[tuple[str, str], Any], errors: dict[str, float]) -> Figure:
    with panel("site, member after member", "nats", title="a family in context") as (
        families,
        axes,
    ):
        for kind in (XLSTM, LSTM):
            axes.plot(measured["families", kind]["places"], label=kind)
        axes.axhline(scale.families.floor, linestyle="--", color=MUTED, label="ancestor known")
        axes.legend()
    with panel("", "validation nats a character", title="SMILES") as (smiles, axes):
        bars = {
            XLSTM: measured["smiles", XLSTM]["nats"],
            LSTM: measured["smiles", LSTM]["nats"],
            **measured["smiles", "n-gram"],
        }
        axes.bar(list(bars), list(bars.values()))
    with panel("", "largest error", title="reverse complement") as (strands, axes):
        # Exact agreement has no place on a logarithmic axis: it is written out.
        for place, (kind, error) in enumerate(errors.items()):
            axes.bar(kind, error if error > 0 else _AXIS_START, color=SERIES[0])
            if error == 0:
                axes.text(place, 2 * _AXIS_START, "0", ha="center")
        axes.set_yscale("log")
        axes.set_ylim(_AXIS_START, 10)
    return Figure.render(
        "What the xLSTM reads from biological sequences",
        f"Left: loss of every site of {scale.families.members} related sequences, one after the "
        "other. Middle: molecules. Right: how far logits of the reverse complement are from those "
        f"of the strand, over {scale.equivariance_bases} real bases, float32.",
        families,
        smiles,
        strands,
    )
