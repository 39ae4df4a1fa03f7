"""Models, their configurations, checkpoints that know their graph, and tokens of puzzles."""

import hashlib
import json

import pytest
import torch
from rankone.cayley import (
    CayleyError,
    CayleyGraph,
    GroupTokenizer,
    MatrixGroups,
    ModelConfig,
    PermutationGroups,
    Predictor,
    load_checkpoint,
    save_checkpoint,
)
from rankone.cayley.models import MlpModel, ResMlpModel, graph_hash, pretrained_path

LRX = PermutationGroups.lrx(5)
MLP = ModelConfig("MLP", 5, 5, [8, 6])
RESMLP = ModelConfig("RESMLP", 5, 5, [8, 8, 6], n_outputs=3)


class TestModels:
    def test_an_mlp_is_its_formula(self):
        """One-hot, then linear, layer norm and ReLU a hidden size, then linear."""
        model = MLP.build_model()
        states = torch.tensor([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]])
        x = torch.zeros(2, 25)
        for row, state in enumerate(states.tolist()):
            for position, value in enumerate(state):
                x[row, 5 * position + value] = 1
        weights = model.state_dict()
        for index in (0, 3):
            x = x @ weights[f"layers.{index}.weight"].T + weights[f"layers.{index}.bias"]
            variance = x.var(1, unbiased=False, keepdim=True)
            x = (x - x.mean(1, keepdim=True)) / (variance + 1e-5).sqrt()
            x = x.clamp_min(0)
        expected = (x @ weights["layers.6.weight"].T + weights["layers.6.bias"])[:, 0]
        torch.testing.assert_close(model(states), expected)

    def test_a_residual_mlp_skips_where_sizes_agree(self):
        model = RESMLP.build_model()
        assert [block.has_skip for block in model.blocks] == [False, True, False]
        with torch.no_grad():
            for parameter in model.blocks[1].parameters():
                parameter.zero_()
        x = torch.rand(4, 8)
        assert torch.equal(model.blocks[1](x), x)

    @pytest.mark.parametrize(("config", "shape"), [(MLP, (7,)), (RESMLP, (7, 3))])
    def test_outputs(self, config, shape):
        model = config.build_model()
        assert isinstance(model, {"MLP": MlpModel, "RESMLP": ResMlpModel}[config.model_type])
        assert model(torch.zeros(7, 5, dtype=torch.int64)).shape == shape
        assert model.n_outputs == config.n_outputs

    def test_matrix_states_are_flattened(self):
        model = ModelConfig("MLP", 9, 5, [4]).build_model()
        assert model(torch.zeros(2, 3, 3, dtype=torch.int64)).shape == (2,)

    @pytest.mark.parametrize("entry", [-1, 5])
    def test_entries_beyond_the_classes_are_named(self, entry):
        with pytest.raises(CayleyError, match=f"entries from 0 to 4, got {entry}"):
            MLP.build_model()(torch.tensor([[0, 1, 2, 3, entry]]))

    def test_configurations_are_plain_values(self):
        assert ModelConfig.from_dict(json.loads(json.dumps(RESMLP.to_dict()))) == RESMLP
        four = {
            "model_type": "MLP", "input_size": 5, "num_classes_for_one_hot": 5,
            "layers_sizes": [8, 6],
        }  # fmt: skip
        assert ModelConfig.from_dict(four) == MLP

    def test_plain_weights_load(self, tmp_path):
        model = MLP.build_model()
        torch.save(model.state_dict(), tmp_path / "weights.pt")
        loaded = ModelConfig("MLP", 5, 5, [8, 6], weights_path=str(tmp_path / "weights.pt")).load()
        states = torch.randint(5, (6, 5))
        assert torch.equal(loaded(states), model(states))

    def test_weights_are_never_downloaded(self):
        config = ModelConfig("MLP", 5, 5, [8], weights_kaggle_id="someone/model")
        with pytest.raises(CayleyError, match="weights are never downloaded"):
            config.load()

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (ModelConfig("CNN", 5, 5, [8]), "model_type must be one of MLP, RESMLP, got 'CNN'"),
            (ModelConfig("MLP", 0, 5, [8]), "input_size must be at least 1, got 0"),
            (ModelConfig("MLP", 5, 5, [0]), r"layers_sizes\[0\] must be at least 1, got 0"),
            (ModelConfig("MLP", 5, 5, [8], n_outputs=0), "n_outputs must be at least 1, got 0"),
            (ModelConfig("RESMLP", 5, 5, []), "layers_sizes must not be empty for RESMLP"),
        ],
    )
    def test_impossible_models_are_named(self, config, message):
        with pytest.raises(CayleyError, match=message):
            config.build_model()

    def test_unknown_and_missing_fields_are_named(self):
        with pytest.raises(CayleyError, match="unknown fields depth"):
            ModelConfig.from_dict({**MLP.to_dict(), "depth": 3})
        with pytest.raises(CayleyError, match="must have the fields layers_sizes"):
            ModelConfig.from_dict(
                {"model_type": "MLP", "input_size": 5, "num_classes_for_one_hot": 5}
            )


class TestGraphHash:
    def test_it_is_the_hash_of_the_stated_json(self):
        text = json.dumps(
            {
                "central_state": [0, 1, 2],
                "generators": [[1, 2, 0], [2, 0, 1], [1, 0, 2]],
                "generators_type": "PERMUTATION",
            }
        )
        definition = PermutationGroups.lrx(3)
        assert graph_hash(definition) == hashlib.sha256(text.encode()).hexdigest()

    def test_matrices_stand_with_their_modulus(self):
        definition = MatrixGroups.unitriangular(2, 3)
        text = json.dumps(
            {
                "central_state": [1, 0, 0, 1],
                "generators": [[[[1, 1], [0, 1]], 3], [[[1, 2], [0, 1]], 3]],
                "generators_type": "MATRIX",
            }
        )
        assert graph_hash(definition) == hashlib.sha256(text.encode()).hexdigest()

    def test_names_do_not_count_and_everything_else_does(self):
        assert graph_hash(LRX) == graph_hash(LRX.with_name("other"))
        others = (
            PermutationGroups.lrx(6),
            PermutationGroups.lx(5),
            LRX.with_central_state("00011"),
            LRX.with_inverted_generators(),
        )
        assert len({graph_hash(LRX), *map(graph_hash, others)}) == 5


class TestCheckpoints:
    @pytest.mark.parametrize("config", [MLP, RESMLP])
    def test_a_model_comes_back(self, config, tmp_path):
        model = config.build_model()
        written = save_checkpoint(tmp_path / "new" / "model.pt", model, config, LRX)
        assert written.graph_hash == graph_hash(LRX)
        loaded, read = load_checkpoint(tmp_path / "new" / "model.pt", graph_def=LRX)
        assert read == written
        assert not loaded.training
        states = torch.randint(5, (6, 5))
        assert torch.equal(loaded(states), model.eval()(states))

    def test_a_model_of_another_graph_is_refused(self, tmp_path):
        save_checkpoint(tmp_path / "model.pt", MLP.build_model(), MLP, LRX)
        with pytest.raises(CayleyError, match="must be a model of the graph with hash"):
            load_checkpoint(tmp_path / "model.pt", graph_def=PermutationGroups.lx(5))
        load_checkpoint(tmp_path / "model.pt")

    def test_a_model_of_no_graph_serves_any(self, tmp_path):
        save_checkpoint(tmp_path / "model.pt", MLP.build_model(), MLP)
        _, config = load_checkpoint(tmp_path / "model.pt", graph_def=LRX)
        assert config.graph_hash is None

    def test_other_files_are_refused(self, tmp_path):
        torch.save(MLP.build_model().state_dict(), tmp_path / "weights.pt")
        with pytest.raises(CayleyError, match="must be a file that save_checkpoint wrote"):
            load_checkpoint(tmp_path / "weights.pt")
        torch.save(
            {"format_version": 99, "config": MLP.to_dict(), "state_dict": {}}, tmp_path / "new.pt"
        )
        with pytest.raises(CayleyError, match="format version 1 at most, got 99"):
            load_checkpoint(tmp_path / "new.pt")
        with pytest.raises(FileNotFoundError):
            load_checkpoint(tmp_path / "none.pt")

    def test_pretrained_models_come_from_the_local_folder_alone(self, tmp_path, monkeypatch):
        monkeypatch.setenv("RANKONE_MODEL_DIR", str(tmp_path))
        graph = CayleyGraph(LRX, device="cpu")
        with pytest.raises(KeyError, match="no model of this graph"):
            Predictor.pretrained(graph)
        model = MLP.build_model()
        save_checkpoint(pretrained_path(LRX), model, MLP, LRX)
        states = torch.randint(5, (6, 5))
        with torch.no_grad():
            expected = model.eval()(states)
        assert torch.equal(Predictor.pretrained(graph)(states), expected)

    def test_find_path_uses_a_pretrained_model(self, tmp_path, monkeypatch):
        """Too deep for the cached search: only the beam can find it."""
        from rankone.cayley import find_path

        monkeypatch.setenv("RANKONE_MODEL_DIR", str(tmp_path))
        definition = PermutationGroups.lrx(5)
        graph = CayleyGraph(definition, device="cpu")
        graph._partial_search = graph.with_inverted_generators.bfs(
            max_diameter=0, return_all_hashes=True
        )
        start = [1, 0, 4, 3, 2]
        assert find_path(graph, start) is None
        save_checkpoint(pretrained_path(definition), MLP.build_model(), MLP, definition)
        path = find_path(graph, start)
        graph.validate_path(start, path)
        assert len(path) == 10


class TestTokenizer:
    def test_tokens_of_a_known_layout(self):
        """Two pieces of three stickers, then two of two."""
        tokenizer = GroupTokenizer([[3, 2], [2, 2]])
        assert (tokenizer.state_size, tokenizer.n_tokens, tokenizer.vocab_size) == (10, 4, 6)
        assert tokenizer.token_type_ids.tolist() == [0, 0, 1, 1]
        state = torch.tensor([4, 5, 3, 0, 1, 2, 8, 9, 7, 6])
        assert tokenizer(state).tolist() == [4, 0, 2, 1]
        assert tokenizer(torch.stack([state, state])).shape == (2, 4)

    def test_tokens_of_a_graph_tell_its_states_apart(self):
        definition = PermutationGroups.burnt_pancake(3)
        paired = [0, 3, 1, 4, 2, 5]  # both sides of a pancake side by side
        place = [paired.index(i) for i in range(6)]
        generators = [[place[p[i]] for i in paired] for p in definition.generators_permutations]
        definition = type(definition).create(generators)
        tokenizer = GroupTokenizer([[2, 3]])
        tokenizer.verify(definition)
        states = CayleyGraph(definition, device="cpu").bfs(max_layer_size_to_store=None).all_states
        assert len(tokenizer(states).unique(dim=0)) == len(states) == 48

    def test_groups_that_generators_break_are_refused(self):
        with pytest.raises(CayleyError, match="generator 'L' must hold"):
            GroupTokenizer([[2, 3]]).verify(PermutationGroups.lrx(6))
        with pytest.raises(CayleyError, match="keep sections apart"):
            GroupTokenizer([[1, 3], [1, 3]]).verify(PermutationGroups.lrx(6))
        with pytest.raises(CayleyError, match="the central state must"):
            GroupTokenizer([[1, 6]]).verify(
                PermutationGroups.coxeter(6).with_central_state([9, 0, 0, 0, 0, 0])
            )

    def test_graphs_of_another_kind_or_size_are_refused(self):
        with pytest.raises(CayleyError, match="must have permutation generators"):
            GroupTokenizer([[3, 3]]).verify(MatrixGroups.heisenberg(modulo=3))
        with pytest.raises(CayleyError, match="must have states of 6 entries, got 5"):
            GroupTokenizer([[2, 3]]).verify(LRX)

    def test_from_a_configuration(self):
        config = ModelConfig("MLP", 6, 6, [4], tokenizer_groups=[[2, 3]])
        assert GroupTokenizer.from_config(config).groups == [[2, 3]]
        with pytest.raises(CayleyError, match="must have tokenizer_groups"):
            GroupTokenizer.from_config(MLP)
        with pytest.raises(CayleyError, match="of input_size = 5 entries, got 6"):
            GroupTokenizer.from_config(ModelConfig("MLP", 5, 5, [4], tokenizer_groups=[[2, 3]]))

    @pytest.mark.parametrize(
        ("groups", "message"),
        [
            ([], "groups must not be empty"),
            ([[2]], r"groups\[0\] must be \[size, count\], got \[2\]"),
            ([[0, 3]], r"size of groups\[0\] must be at least 1, got 0"),
            ([[2, 0]], r"count of groups\[0\] must be at least 1, got 0"),
        ],
    )
    def test_bad_groups_are_named(self, groups, message):
        with pytest.raises(CayleyError, match=message):
            GroupTokenizer(groups)

    def test_states_of_another_size_are_refused(self):
        with pytest.raises(CayleyError, match="must have 6 entries in the last axis"):
            GroupTokenizer([[2, 3]])(torch.zeros(4, 5))
