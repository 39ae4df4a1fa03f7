"""An argument of the wrong kind is named in the error, at the function that was called.

One case a function, of a kind that its own field's tests do not have: the wrong type where an
object, a tensor or a number is meant.
"""

import inspect

import numpy as np
import pytest
import torch
from rankone import catalog, cayley, linear_model, nn, ops
from rankone.cayley.models import graph_hash
from rankone.datasets import SeriesDataset
from rankone.forecast import SeriesWindows, TrainingHistory
from rankone.nn import bio, convert
from rankone.ops import decay_slopes, fla

q, k, v, beta = torch.randn(1, 4, 2, 3), torch.randn(1, 4, 2, 3), torch.randn(1, 4, 2, 3), None
gate = -torch.rand(1, 4, 2)
channel_gate = -torch.rand(1, 4, 2, 3)
listed = [[1.0, 2.0]]
X, y = np.random.default_rng(0).standard_normal((2, 20)).reshape(20, 2), np.arange(20.0)
groups = np.arange(20) % 4


def deferred(module, name):
    """A function of a field's package, imported when the case runs."""
    return lambda *args, **options: getattr(pytest.importorskip(module), name)(*args, **options)


causal, rl = "rankone.causal.approximate_invariance", "rankone.rl"
icl, imaging, interpret = (
    "rankone.icl.linear_self_attention",
    "rankone.imaging",
    "rankone.interpret",
)
dpp, diffusion = "rankone.linear_model.dpp_least_squares", "rankone.stats.concentration"
gaussian = "rankone.stats.q_gaussian"
extrapolation = "rankone.causal.intervention_extrapolation"
connectivity, numbers = "rankone.interpret.mode_connectivity", torch.ones(2, 2, dtype=torch.int64)
model_config = nn.LanguageModelConfig(vocab_size=8, hidden_size=8, num_layers=1, num_heads=2)
linear_network = torch.nn.Sequential(torch.nn.Linear(2, 2))
SIZED_MIXERS = {
    nn.DeltaNet: (),
    nn.DiagAttention: (),
    nn.GatedDeltaNet: ("head_dim", "num_v_heads"),
    nn.HedgehogAttention: ("num_kv_heads", "head_dim"),
    nn.LigerMixer: ("num_kv_heads", "head_dim"),
    nn.LightningAttention: ("num_kv_heads", "head_dim", "gate_rank", "layer_idx", "num_layers"),
    nn.MLSTM: ("layer_idx", "num_layers"),
    nn.MixtureOfMemories: ("head_dim", "num_memories"),
    nn.NormAttention: (),
    nn.SLSTM: ("layer_idx", "num_layers"),
    nn.SoftmaxAttention: ("num_kv_heads", "head_dim", "window_size"),
    nn.TokenFormerAttention: ("num_tokens", "window_size", "num_layers"),
}


def lost_learner():
    """An in-context learner whose predictions are NaN."""
    learner = type("Learner", (), {})()
    learner.predict = lambda X, y, X_query: X_query[..., 0] * torch.nan
    return learner


CASES = {
    "catalog.resolve": (lambda: catalog.resolve(3), "entry_point"),
    "ops.decay_slopes": (lambda: decay_slopes(2.5), "num_heads"),
    "fla.chunk_linear_attn": (lambda: fla.chunk_linear_attn(listed, k, v), "q"),
    "fla.chunk_simple_gla": (lambda: fla.chunk_simple_gla(q, k, v, "gate"), "g"),
    "fla.chunk_gla": (lambda: fla.chunk_gla(q, k, v, listed), "g"),
    "fla.chunk_lightning_attn": (lambda: fla.chunk_lightning_attn(q, listed, v, 0, 2), "k"),
    "fla.fused_recurrent_simple_gla": (
        lambda: fla.fused_recurrent_simple_gla(q, k, listed, gate, reverse=True),
        "v",
    ),
    "fla.fused_recurrent_delta_rule": (
        lambda: fla.fused_recurrent_delta_rule(q, k, listed),
        "v",
    ),
    "fla.chunk_gated_delta_rule": (
        lambda: fla.chunk_gated_delta_rule(q, k, listed, gate, gate.exp()),
        "v",
    ),
    "fla.chunk_kda": (lambda: fla.chunk_kda(q, listed, v, channel_gate, gate.exp()), "k"),
    "ops.linear_attention output_final_state": (
        lambda: ops.linear_attention(q, k, v, output_final_state="yes"),
        "output_final_state",
    ),
    "ops.linear_attention normalize": (
        lambda: ops.linear_attention(q, k, v, normalize=1.5),
        "normalize",
    ),
    "ops.linear_attention causal": (
        lambda: ops.linear_attention(q, k, v, causal="no"),
        "causal",
    ),
    "ops.delta_rule": (
        lambda: ops.delta_rule(q, k, v, gate.exp(), use_qk_l2norm=None),
        "use_qk_l2norm",
    ),
    "ops.delta_rule_reference": (
        lambda: ops.delta_rule_reference(q, k, v, gate.exp(), output_final_state="no"),
        "output_final_state",
    ),
    "ops.mlstm": (
        lambda: ops.mlstm(q, k, v, gate, gate, output_final_state="no"),
        "output_final_state",
    ),
    "ops.causal_conv1d": (
        lambda: ops.causal_conv1d(torch.ones(1, 4, 2), torch.ones(2, 3), output_final_state="no"),
        "output_final_state",
    ),
    "ops.selective_scan": (
        lambda: ops.selective_scan(
            torch.ones(1, 2, 4), None, None, None, None, delta_softplus="yes"
        ),
        "delta_softplus",
    ),
    "ops.selective_scan_2d": (
        lambda: ops.selective_scan_2d(*[None] * 12, reverse_rows="yes"),
        "reverse_rows",
    ),
    "ops.permutation_bfs_reference": (
        lambda: ops.permutation_bfs_reference(torch.tensor([[0, 0]]), torch.tensor([[0, 1]])),
        r"generators\[0\]",
    ),
    "ops.permutation_bfs_reference matrices": (
        lambda: ops.permutation_bfs_reference(torch.ones(1, 2, 3).long(), torch.ones(1, 4).long()),
        "generators",
    ),
    "ops.permutation_bfs_reference modulus": (
        lambda: ops.permutation_bfs_reference(
            torch.ones(1, 2, 2).long(), torch.ones(1, 4).long(), modulus=1
        ),
        "modulus",
    ),
    "ops.permutation_bfs_reference start": (
        lambda: ops.permutation_bfs_reference(torch.tensor([[1, 0]]), torch.tensor([[0, 1, 2]])),
        "start_states",
    ),
    "ops.permutation_bfs_reference floats": (
        lambda: ops.permutation_bfs_reference(torch.tensor([[1, 0]]), torch.ones(1, 2)),
        "start_states",
    ),
    "ops.permutation_bfs_reference list": (
        lambda: ops.permutation_bfs_reference([[1, 0]], torch.tensor([[0, 1]])),
        "generators",
    ),
    "nn.LanguageModel": (lambda: nn.LanguageModel(64), "config"),
    "nn.LanguageModel.forward": (lambda: nn.LanguageModel(model_config)([[1, 2]]), "tokens"),
    "nn.LanguageModel.forward labels": (
        lambda: nn.LanguageModel(model_config)(numbers, labels=[[1, 2], [3, 4]]),
        "labels",
    ),
    "nn.LanguageModel.step": (lambda: nn.LanguageModel(model_config).step([1]), "tokens"),
    "nn.LanguageModel.generate": (
        lambda: nn.LanguageModel(model_config).generate([[1]], 2),
        "prompt",
    ),
    "nn.LanguageModelConfig": (lambda: nn.LanguageModelConfig(vocab_size="64"), "vocab_size"),
    "nn.LanguageModelConfig dropout": (
        lambda: nn.LanguageModelConfig(vocab_size=64, dropout="0.1"),
        "dropout",
    ),
    "nn.ShortConvolution": (lambda: nn.ShortConvolution(2)(listed), "x"),
    "nn.ShortConvolution.step": (lambda: nn.ShortConvolution(2).step(listed, None), "x"),
    "nn.ShortConvolution sizes": (lambda: nn.ShortConvolution(2, "4"), "kernel_size"),
    "nn.SRMSNorm dim": (lambda: nn.SRMSNorm("2"), "dim"),
    "nn.RMSNorm.forward": (lambda: nn.RMSNorm(2)(numbers), "x"),
    "nn.SwiGLU": (lambda: nn.SwiGLU("2"), "dim"),
    "nn.GLU dim": (lambda: nn.GLU("2"), "dim"),
    "nn.LRPE": (lambda: nn.LRPE("2"), "head_dim"),
    "nn.Pattention": (lambda: nn.Pattention(2, "2", 4), "out_features"),
    "nn.SelectiveScan2d": (lambda: nn.SelectiveScan2d("8"), "d_model"),
    "nn.SelectiveScan2d expand": (lambda: nn.SelectiveScan2d(8, expand="2"), "expand"),
    "nn.SeriesDecomposition": (lambda: nn.SeriesDecomposition("3"), "kernel_size"),
    "nn.SeriesDecomposition.forward": (
        lambda: nn.SeriesDecomposition(3)(numbers[None]),
        "x",
    ),
    "nn.HedgehogFeatureMap": (lambda: nn.HedgehogFeatureMap(4, "2"), "num_heads"),
    "nn.Chimera sizes": (lambda: nn.Chimera(2, "4", 1), "lookback"),
    "nn.TransNormer": (lambda: nn.TransNormer(8, "2", 2), "num_layers"),
    "nn.LinearForecast": (lambda: nn.LinearForecast(2, 1)(numbers[..., None]), "x"),
    "nn.LoRALinear": (lambda: nn.LoRALinear(torch.nn.Linear(2, 2))(numbers), "x"),
    "cayley.find_path": (lambda: cayley.find_path("lrx", [0, 1]), "graph"),
    "cayley.find_path definition": (
        lambda: cayley.find_path(cayley.PermutationGroups.lrx(4), [1, 2, 3, 0]),
        "graph",
    ),
    "cayley.bfs_numpy": (lambda: cayley.bfs_numpy("lrx"), "graph"),
    "cayley.bfs_bitmask": (lambda: cayley.bfs_bitmask(None), "graph"),
    "cayley.InteractiveBfs": (lambda: cayley.algo.InteractiveBfs("lrx", [0, 1]), "graph"),
    "cayley.BfsAlgorithm": (lambda: cayley.algo.BfsAlgorithm.bfs("lrx"), "graph"),
    "cayley.BfsDistributed": (lambda: cayley.algo.BfsDistributed.bfs("lrx"), "graph"),
    "cayley.MeetInTheMiddle": (
        lambda: cayley.algo.MeetInTheMiddle.find_path_to("lrx", [0, 1], None),
        "graph",
    ),
    "cayley.BeamSearchAlgorithm": (lambda: cayley.algo.BeamSearchAlgorithm("lrx"), "graph"),
    "cayley.RandomWalksGenerator": (lambda: cayley.algo.RandomWalksGenerator("lrx"), "graph"),
    "causal.LinearInvarianceAutoencoder": (
        lambda: deferred(
            "rankone.causal.intervention_extrapolation", "LinearInvarianceAutoencoder"
        )(2, 1)(numbers),
        "x",
    ),
    "interpret.EqualityMLP": (
        lambda: deferred("rankone.interpret.causal_abstraction", "EqualityMLP")(2)(numbers),
        "x",
    ),
    "interpret.linear_path": (
        lambda: deferred(connectivity, "linear_path")(
            linear_network,
            *[dict(linear_network.named_parameters())] * 2,
            numbers,
            numbers[:, 0],
        ),
        "X",
    ),
    "interpret.recalibrate_batchnorm": (
        lambda: deferred(connectivity, "recalibrate_batchnorm")(
            linear_network, dict(linear_network.named_parameters()), numbers
        ),
        "X",
    ),
    "icl.implicit_weights": (
        lambda: deferred("rankone.icl", "implicit_weights")(
            lost_learner(), torch.ones(1, 3, 2), torch.ones(1, 3)
        ),
        "model.predict",
    ),
    "nn.SRMSNorm": (lambda: nn.SRMSNorm(2)(listed), "x"),
    "nn.RMSNorm": (lambda: nn.RMSNorm(-2), "dim"),
    "nn.apply_rotary": (lambda: nn.apply_rotary(q, listed), "positions"),
    "nn.GLU": (lambda: nn.GLU(2)(torch.ones(1, 2, dtype=torch.int64)), "x"),
    "nn.GroupedLinear": (lambda: nn.GroupedLinear(-1, 2, 3), "groups"),
    "nn.GroupedLinear.forward": (lambda: nn.GroupedLinear(1, 2, 3)(listed, [1]), "rows"),
    "nn.DirichletEncoder": (lambda: nn.DirichletEncoder(2, 3, width=4)(listed), "x"),
    "nn.Chimera": (
        lambda: nn.Chimera(2, 4, 1, d_model=8)(torch.ones(1, 4, 2, dtype=torch.int64)),
        "x",
    ),
    "nn.sample_logits": (lambda: nn.sample_logits(listed), "logits"),
    "nn.generate": (lambda: nn.generate(torch.nn.Identity(), [[1, 2]], 3), "prompt"),
    "nn.evaluate": (lambda: nn.evaluate(torch.nn.Identity(), [1, 2, 3], length=2), "tokens"),
    "nn.parameter_groups": (lambda: nn.parameter_groups(3, 0.1), "model"),
    "nn.learning_rate_factor": (lambda: nn.learning_rate_factor(0, 0.5, {}), "config"),
    "nn.attention_gradient_bound": (
        lambda: nn.attention_gradient_bound(torch.ones(0, 4), torch.ones(3, 4), 1.0),
        "v and grad_out",
    ),
    "bio.strip_salts": (lambda: bio.strip_salts(3), "smiles"),
    "bio.join_molecules": (lambda: bio.join_molecules(["C"], "smiles"), "tokenizer"),
    "bio.reverse_complement": (
        lambda: bio.reverse_complement(torch.tensor([[1]]), "dna"),
        "tokenizer",
    ),
    "convert.find_attention": (lambda: convert.find_attention(3), "model"),
    "convert.add_lora": (lambda: convert.add_lora(torch.nn.Linear(2, 2), "all"), "config"),
    "convert.merge_lora": (lambda: convert.merge_lora(3), "model"),
    "convert.lora_parameters": (lambda: convert.lora_parameters(3), "model"),
    "convert.attention_distillation_loss": (
        lambda: convert.attention_distillation_loss(listed, k, None, None),
        "q",
    ),
    "convert.attention_metrics": (lambda: convert.attention_metrics(listed, q), "teacher"),
    "cayley.graph_hash": (lambda: graph_hash("lrx"), "graph_def"),
    "cayley.save_checkpoint": (
        lambda: cayley.save_checkpoint("a.pt", 3, cayley.ModelConfig("MLP", 4, 4, [8])),
        "model",
    ),
    "cayley.MlpModel": (lambda: cayley.models.MlpModel("MLP"), "config"),
    "forecast.SeriesWindows": (lambda: SeriesWindows(torch.ones(9, 1), -4, 2), "lookback"),
    "linear_model.NonconvexRegression": (
        lambda: linear_model.NonconvexRegression(tol="small").fit(X, y),
        "tol",
    ),
    "linear_model.NonconvexRegression alpha": (
        lambda: linear_model.NonconvexRegression(alpha="auto").fit(X, y),
        "alpha",
    ),
    "linear_model.TsallisMixedEffects": (
        lambda: linear_model.TsallisMixedEffects(nu=[3]).fit(X, y, groups=groups),
        "nu",
    ),
    "linear_model.sample_design": (lambda: linear_model.sample_design("legendre", 9), "basis"),
    "dpp.sample_iid": (lambda: deferred(dpp, "sample_iid")("legendre", 9), "basis"),
    "dpp.christoffel_weights": (lambda: deferred(dpp, "christoffel_weights")(None, X), "basis"),
    "stats.q_from_nu": (lambda: deferred(gaussian, "q_from_nu")("3", 2), "nu"),
    "stats.edm_sample": (lambda: deferred(diffusion, "edm_sample")(None, listed), "noise"),
    "stats.edm_schedule": (lambda: deferred(diffusion, "edm_schedule")(2.5), "n_steps"),
    "stats.SGDLinearClassifier": (
        lambda: deferred(diffusion, "SGDLinearClassifier")(lr=-1.0).fit(X, y > 9),
        "lr",
    ),
    "causal.InterventionFamily": (
        lambda: deferred(causal, "InterventionFamily")("chain", [0]),
        "sem",
    ),
    "causal.debiased_ate": (
        lambda: deferred("rankone.causal", "debiased_ate")("tweedie", y, groups % 2),
        "debiaser",
    ),
    "icl.one_step_gd": (
        lambda: deferred(icl, "one_step_gd")(
            torch.ones(1, 2, 1), torch.ones(1, 2), torch.ones(1, 1).long(), 0.1
        ),
        "X_query",
    ),
    "icl.empirical_step_size": (lambda: deferred(icl, "empirical_step_size")(3), "tasks"),
    "imaging.jensen_shannon_information": (
        lambda: deferred(imaging, "jensen_shannon_information")(listed, listed),
        "joint_scores",
    ),
    "imaging.MutualInformationCritic": (
        lambda: deferred(imaging, "MutualInformationCritic")(2, -1),
        "n_bases",
    ),
    "interpret.LinearAlignment": (
        lambda: deferred(interpret, "LinearAlignment")(2)(listed),
        "h",
    ),
    "interpret.untrained_copy": (lambda: deferred(interpret, "untrained_copy")(3), "network"),
    "linear_model.RandomPivotLasso": (
        lambda: linear_model.RandomPivotLasso(n_nonzero=1, rank_tol="small").fit(X, y),
        "rank_tol",
    ),
    "linear_model.NonconvexRegressionCV": (
        lambda: linear_model.NonconvexRegressionCV(eps="small").fit(X, y),
        "eps",
    ),
    "linear_model.LinearGaussianNB": (
        lambda: linear_model.LinearGaussianNB(var_smoothing="small").fit(X, y > 9),
        "var_smoothing",
    ),
    "dpp.sample_design": (
        lambda: deferred(dpp, "sample_design")(deferred(dpp, "LegendreBasis")(2), 9, delta="0.5"),
        "delta",
    ),
    "stats.mutual_info_kde": (
        lambda: deferred("rankone.stats.mutual_info", "mutual_info_kde")(y, y, bw_multiplier="2"),
        "bw_multiplier",
    ),
    "stats.SGDLinearClassifier batch_size": (
        lambda: deferred(diffusion, "SGDLinearClassifier")(batch_size="9").fit(X, y > 9),
        "batch_size",
    ),
    "stats.SGDLinearClassifier text": (
        lambda: deferred(diffusion, "SGDLinearClassifier")(lr="small").fit(X, y > 9),
        "lr",
    ),
    "stats.DiffusionGenerator": (
        lambda: deferred(diffusion, "DiffusionGenerator")(n_steps_train="9").fit(X),
        "n_steps_train",
    ),
    "stats.DiffusionGenerator ema": (
        lambda: deferred(diffusion, "DiffusionGenerator")(ema="0.9").fit(X),
        "ema",
    ),
    "stats.DenoiserMLP": (lambda: deferred(diffusion, "DenoiserMLP")(2, hidden="9"), "hidden"),
    "stats.APGWRegressor": (
        lambda: deferred("rankone.stats.survival", "APGWRegressor")(tol="small").fit(X, y),
        "tol",
    ),
    "causal.ApproximateInvariantRegressor": (
        lambda: deferred(causal, "ApproximateInvariantRegressor")(epsilon="0.1").fit(X, y, groups),
        "epsilon",
    ),
    "causal.ApproximateInvariantRegressor size": (
        lambda: deferred(causal, "ApproximateInvariantRegressor")(max_subset_size="1").fit(
            X, y, groups
        ),
        "max_subset_size",
    ),
    "causal.TweedieDebiaser": (
        lambda: deferred("rankone.causal", "TweedieDebiaser")(n_grid="9").fit(X[:, 0], y),
        "n_grid",
    ),
    "causal.TweedieDebiaser tail": (
        lambda: deferred("rankone.causal", "TweedieDebiaser")(tail="0.1").fit(X[:, 0], y),
        "tail",
    ),
    "rl.SparseElimination": (
        lambda: deferred(rl, "SparseElimination")(2, 0.1).fit(X),
        "bandit",
    ),
    "rl.FiniteHorizonEnv": (
        lambda: deferred("rankone.rl.envs", "FiniteHorizonEnv")(listed, np.ones((1, 1, 1)), 0),
        "transitions",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_error_names_the_argument(name):
    call, argument = CASES[name]
    with pytest.raises((TypeError, ValueError), match=rf"^{argument} must"):
        call()


def sizes_of_mixers():
    return [
        pytest.param(mixer, name, id=f"{mixer.__name__}-{name}")
        for mixer, others in SIZED_MIXERS.items()
        for name in (*list(inspect.signature(mixer).parameters)[:2], *others)
    ]


@pytest.mark.parametrize(("mixer", "name"), sizes_of_mixers())
def test_a_mixer_names_the_size_that_is_text(mixer, name):
    width, heads = list(inspect.signature(mixer).parameters)[:2]
    with pytest.raises(TypeError, match=rf"^{name} must be an integer, got "):
        mixer(**{width: 8, heads: 2, name: "4"})


@pytest.mark.parametrize("mixer", SIZED_MIXERS)
def test_a_mixer_names_the_input_that_is_a_list(mixer):
    layer = mixer(8, 2)
    with pytest.raises(TypeError, match=r"^x must be a torch\.Tensor, got list"):
        layer([[1.0] * 8])


def test_a_network_with_an_embedding_takes_integers():
    functions = pytest.importorskip(connectivity)
    network = torch.nn.Sequential(
        torch.nn.Embedding(3, 4), torch.nn.Flatten(), torch.nn.Linear(8, 2)
    )
    params = functions.parameters_of(network)
    profile = functions.linear_path(network, params, params, numbers, numbers[:, 0])
    assert profile.barrier < 1e-6  # rounding of the losses


def test_results_with_arrays_fit_a_terminal():
    series = SeriesDataset(**series_fields())
    assert "<5000 x 3 float64>" in repr(series)
    history = TrainingHistory([0.5] * 500, [0.5] * 500)
    assert len(repr(history)) < 300
    assert "500 entries" in repr(history)
    assert "array(" not in repr(series)


def test_a_search_result_fits_a_terminal():
    graph = cayley.CayleyGraph(cayley.PermutationGroups.lrx(7), device="cpu")
    result = graph.bfs(return_all_hashes=True, return_all_edges=True)
    shown = repr(result)
    assert shown.startswith("BfsResult(bfs_completed=True, layer_sizes=[1, 3, 6, ")
    assert f"{len(result.layer_sizes)} entries" in shown
    assert "tensor" not in shown
    assert len(shown) < 400


def series_fields():
    names = SeriesDataset.__dataclass_fields__
    return {name: np.zeros((5000, 3)) if name == "values" else "text" for name in names}
