"""The reproduction of DeltaNet at a tiny scale: every claim, table and figure."""

import pytest
import torch
from rankone.catalog import method
from rankone.datasets import recall_with_overwrite
from rankone.reproduce import Settings, run_one
from rankone.reproduce import deltanet as module
from rankone.reproduce._recall import (
    ExchangedOp,
    RecallTraining,
    recall_accuracy,
    recall_model,
    train_recall,
)

TRAINING = RecallTraining(steps=4, batch_size=4, score_every=2)
TINY = {
    "exact_time": 40,
    "head_dim": 16,
    "draws": 40,
    "pairs": (4, 8, 16),
    "hidden_size": 8,
    "vocab_size": 20,
    "seq_len": 16,
    "num_keys": 2,
    "training": TRAINING,
    "test_examples": 8,
    "mqar": (module.Mqar(16, 2, 20), module.Mqar(16, 4, 20)),
    "mqar_sizes": (8,),
    "mqar_rates": (1e-3, 1e-2),
    "mqar_training": TRAINING,
    "mqar_test_examples": 8,
}


@pytest.fixture(scope="module")
def reproduction():
    return run_one(method("deltanet"), Settings(overrides=TINY, progress=False))


def only(reproduction, words):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    return claim


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("float64, no gate", "< 1e-12"),
        ("float64, scalar gate", "< 1e-12"),
        ("float64, channel gate", "< 1e-12"),
        ("chunks of 16", "< 1e-06"),
        ("chunks of 32", "< 1e-06"),
        ("chunks of 64", "< 1e-06"),
        ("QR decomposition", "< 1e-12"),
        ("K = 16, 4 pairs", "± 3 %"),
        ("K = 16, 8 pairs", "± 3 %"),
        ("K = 16, 16 pairs", "± 3 %"),
        ("one pass over 4 pairs", "≤ 0.65"),
        ("one pass over 8 pairs", "≤ 0.65"),
        ("one pass over 16 pairs", "≤ 0.65"),
        ("20 passes over 4 pairs", "< 1e-08"),
        ("can only add", "± 0.1"),
        ("overwrite recall, DeltaNet", "≥ 0.97"),
        ("overwrite recall, GatedDeltaNet", "≥ 0.97"),
        ("MQAR, 4 pairs in 16 tokens, width 8: accuracy", "≥ 0.95"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    assert only(reproduction, words).tolerance == tolerance


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 18


@pytest.mark.parametrize("words", ["float64", "chunks of", "QR"])
def test_claims_of_exactness_hold_at_any_scale(reproduction, words):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    assert claims
    assert all(claim.passed for claim in claims), claims


def test_untrained_models_do_not_pass(reproduction):
    assert not only(reproduction, "overwrite recall, DeltaNet").passed
    assert not reproduction.passed


def test_full_memories_interfere_and_repetition_mends_it(reproduction):
    errors = module._retrieval_errors(Settings(progress=False), module.Scale(**TINY))
    for count in (4, 8, 16):
        assert errors["many passes"][count] < errors["one pass"][count]
        assert errors["one pass"][count] < errors[module.LINEAR][count]


def test_one_setting_of_mqar_compares_the_ops():
    settings = Settings(progress=False)
    scale = module.Scale(**{**TINY, "mqar": TINY["mqar"][:1]})
    claims, table = module._mqar(settings, scale)
    assert [claim.tolerance for claim in claims] == ["≥ 0.95", "≥ 0.02"]
    assert len(table.rows) == 1


def test_tables_and_figure(reproduction):
    recall, mqar, anchors = reproduction.tables
    assert [row[0] for row in recall.rows] == [
        module.SOFTMAX, module.LINEAR, module.DECAYED, module.DELTA, module.GATED
    ]  # fmt: skip
    assert [row[:3] for row in mqar.rows] == [(16, 2, 8), (16, 4, 8)]
    assert anchors.published
    assert not recall.published
    (figure,) = reproduction.figures
    assert len(figure.panels) == 2
    assert "GatedDeltaNet" in figure.panels[0]
    assert "(N - 1) / K" in figure.panels[1]


def test_modes_have_the_published_scale():
    quick, full, cuda = module.QUICK, module.FULL_CPU, module.FULL_CUDA
    assert (quick.seq_len, quick.num_keys, quick.rounds, quick.vocab_size) == (64, 8, 2, 128)
    assert (quick.training.steps, quick.training.batch_size) == (400, 64)
    assert (quick.training.learning_rate, quick.training.weight_decay) == (1e-2, 0.1)
    assert quick.mqar == ()
    assert full.mqar == (module.Mqar(128, 32, 256),)
    assert [(entry.seq_len, entry.num_kv_pairs) for entry in cuda.mqar] == [
        (64, 4), (128, 8), (256, 16), (512, 64)
    ]  # fmt: skip
    assert cuda.mqar_sizes == (64, 128, 256, 512)
    assert cuda.mqar_training.steps * cuda.mqar_training.batch_size == 64 * 100_000


class TestRecallTraining:
    def draw(self, count, seed):
        return recall_with_overwrite(count, 16, 2, 12, seed)

    @pytest.mark.parametrize(
        "op", ["linear_attention", "decayed_linear_attention", "softmax_attention"]
    )
    def test_exchanged_ops_are_what_they_are_called(self, op):
        layer = ExchangedOp(8, 2, op=op).double()
        x = torch.randn(1, 6, 8, dtype=torch.float64)
        q, k, v = (
            conv(projection(x))[0].unflatten(-1, (2, 4))
            for projection, conv in (
                (layer.q_proj, layer.q_conv),
                (layer.k_proj, layer.k_conv),
                (layer.v_proj, layer.v_conv),
            )
        )
        scores = torch.einsum("bthk,bshk->bhts", q, k) / 2
        future = torch.ones(6, 6, dtype=torch.bool).triu(1)
        if op == "softmax_attention":
            weights = scores.masked_fill(future, -torch.inf).softmax(-1)
        else:
            weights = scores.masked_fill(future, 0)
        if op == "decayed_linear_attention":
            total = torch.nn.functional.logsigmoid(layer.a_proj(x)).cumsum(1).transpose(1, 2) / 16
            weights = weights * (total[..., :, None] - total[..., None, :]).exp()
        o = torch.einsum("bhts,bshv->bthv", weights, v)
        expected = layer.o_proj(layer.o_norm(o).flatten(-2))
        torch.testing.assert_close(layer(x), expected, rtol=1e-6, atol=1e-6)
        with pytest.raises(RuntimeError, match="no decoding step"):
            layer.step(x[:, 0])
        with pytest.raises(RuntimeError, match="reads whole sequences only"):
            layer(x, return_state=True)

    def test_a_model_that_knows_the_answers_scores_one(self):
        examples = self.draw(20, 0)

        class Knows(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.zeros(1))

            def forward(self, tokens):
                rows = [examples.tokens.tolist().index(row) for row in tokens.tolist()]
                labels = torch.from_numpy(examples.labels)[rows].clamp(min=0)
                Output = type("Output", (), {})
                output = Output()
                output.logits = torch.nn.functional.one_hot(labels, 12).float()
                return output

        assert recall_accuracy(Knows(), examples) == 1

    def test_a_small_task_is_learnt_from_its_labels(self):
        """One key among two: the answer is the last value written, never a value of filler."""
        model = recall_model("delta_net", vocab_size=12, hidden_size=16, random_state=0)
        training = RecallTraining(steps=150, batch_size=32, examples=2000, score_every=50)
        result = train_recall(model, self.draw, training, test_examples=200, progress=False)
        assert result.steps == (50, 100, 150)
        assert result.accuracy > 0.8
        assert result.accuracy == recall_accuracy(model, self.draw(200, int(module_seed(0))))


def module_seed(random_state):
    import numpy as np

    return np.random.SeedSequence(random_state).generate_state(2)[0]
