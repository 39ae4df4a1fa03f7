"""Results: numbering, matrices, networkx, spectra, statistics, files."""

import matplotlib
import networkx
import numpy as np
import pytest
import torch
from rankone.cayley import (
    BfsResult,
    CayleyError,
    CayleyGraphDef,
    MatrixGenerator,
    MatrixGroups,
    PermutationGroups,
)

from .graphs import graph, neighbors, plain_layers

matplotlib.use("Agg")
EVERYTHING = {
    "max_layer_size_to_store": None,
    "return_all_edges": True,
    "return_all_hashes": True,
}
DEFINITIONS = {
    "lrx": PermutationGroups.lrx(5),
    "directed": PermutationGroups.lx(5),
    "coset": PermutationGroups.coxeter(5).with_central_state("00112"),
    "matrices": MatrixGroups.heisenberg(modulo=3),
    "three words": PermutationGroups.torus(18, 2),
}


@pytest.fixture(params=DEFINITIONS)
def definition(request):
    return DEFINITIONS[request.param]


def test_vertices_are_numbered_by_distance_and_then_in_order(definition):
    result = graph(definition).bfs(**EVERYTHING)
    rows = [tuple(row) for row in result.all_states.reshape(result.num_vertices, -1).tolist()]
    assert rows == [state for layer in plain_layers(definition) for state in sorted(layer)]
    hashes = torch.cat(result.layers_hashes).tolist()
    assert [result.hashes_to_indices_dict[value] for value in hashes] == list(range(len(rows)))


def test_edges_are_those_of_the_generators(definition):
    result = graph(definition).bfs(**EVERYTHING)
    rows = [tuple(row) for row in result.all_states.reshape(result.num_vertices, -1).tolist()]
    number = {row: i for i, row in enumerate(rows)}
    expected = sorted(
        (i, number[n]) for i, row in enumerate(rows) for n in neighbors(definition, row)
    )
    assert result.edges_list.shape == (len(expected), 2)
    assert sorted(map(tuple, result.edges_list.tolist())) == expected


def test_matrices_agree_with_networkx(definition):
    result = graph(definition).bfs(**EVERYTHING)
    directed = result.to_networkx_graph(directed=True)
    assert list(directed.nodes) == result.vertex_names
    adjacency = networkx.to_numpy_array(directed)
    assert result.adjacency_matrix().dtype == np.int8
    assert np.array_equal(result.adjacency_matrix(), adjacency)
    assert np.array_equal(result.adjacency_matrix_sparse().toarray(), adjacency)
    laplacian = np.diag(adjacency.sum(axis=1)) - adjacency
    assert np.array_equal(result.laplacian_matrix(), laplacian)


def test_layers_are_distances_in_networkx(definition):
    result = graph(definition).bfs(**EVERYTHING)
    directed = result.to_networkx_graph(directed=True, with_labels=False)
    lengths = networkx.single_source_shortest_path_length(directed, result.vertex_names[0])
    assert np.bincount(list(lengths.values())).tolist() == result.layer_sizes


def test_edges_carry_the_names_of_generators():
    result = graph(DEFINITIONS["lrx"]).bfs(**EVERYTHING)
    made = result.to_networkx_graph(directed=True)
    assert made.edges["01234", "12340"]["label"] == "L"
    assert made.edges["01234", "10234"]["label"] == "X"
    index = result.vertex_names.index("40123")
    assert result.get_edge_name(0, index) == "R"
    assert ("01234", "40123") in result.named_undirected_edges()
    with pytest.raises(CayleyError, match="no generator leads from vertex 0 to vertex 0"):
        result.get_edge_name(0, 0)


def test_a_directed_graph_is_not_drawn_without_directions():
    result = graph(DEFINITIONS["directed"]).bfs(**EVERYTHING)
    with pytest.raises(CayleyError, match="directed must be True"):
        result.to_networkx_graph()


def test_a_part_of_an_undirected_graph_has_both_directions_of_its_edges():
    result = graph(PermutationGroups.lrx(6)).bfs(**EVERYTHING, max_diameter=4)
    whole = graph(PermutationGroups.lrx(6)).bfs(**EVERYTHING).adjacency_matrix()
    count = result.num_vertices
    inner = count - result.layer_sizes[-1]
    expected = whole[:count, :count].copy()
    # Edges inside the last layer are not seen before it is explored.
    expected[inner:, inner:] = 0
    assert np.array_equal(result.adjacency_matrix(), expected)


def test_names_of_vertices():
    assert BfsResult.vertex_name(np.array([1, 0, 2])) == "102"
    assert BfsResult.vertex_name(np.array([10, 0, 2])) == "10,0,2"
    assert BfsResult.vertex_name(torch.tensor([[1, 0], [0, 1]])) == "[[1 0]\n [0 1]]"


def test_the_spectrum_of_a_cube_is_known():
    result = graph(PermutationGroups.hypercube(4)).bfs(**EVERYTHING)
    expected = sorted(4 - 2 * bin(i).count("1") for i in range(16))
    assert np.allclose(result.spectrum(), expected)
    assert np.allclose(result.spectrum(3), expected[-3:])
    assert np.allclose(result.spectrum(which="laplacian"), sorted(4 - v for v in expected))


def test_large_spectra_are_found_sparsely(monkeypatch):
    result = graph(PermutationGroups.lrx(5)).bfs(**EVERYTHING)
    dense = result.spectrum(which="laplacian")
    monkeypatch.setattr("rankone.cayley.algo.bfs_result._DENSE_SPECTRUM", 100)
    assert np.allclose(result.spectrum(4, which="laplacian"), dense[-4:])
    assert len(result.spectrum()) == 6
    with pytest.raises(CayleyError, match="k must be between 1 and 120, got 0"):
        result.spectrum(0)
    with pytest.raises(CayleyError, match="which must be"):
        result.spectrum(which="both")


def test_statistics_are_moments_of_the_distance():
    from scipy import stats

    result = graph(PermutationGroups.lrx(7)).bfs()
    distances = np.repeat(np.arange(len(result.layer_sizes)), result.layer_sizes)
    found = result.statistics()
    assert found["n_states"] == 5040
    assert found["diameter"] == 21
    assert found["mean"] == pytest.approx(distances.mean())
    assert found["std"] == pytest.approx(distances.std())
    assert found["skewness"] == pytest.approx(stats.skew(distances))
    assert found["excess_kurtosis"] == pytest.approx(stats.kurtosis(distances))
    assert result.layer_sizes[found["mode"]] == max(result.layer_sizes)


def test_a_plot_shows_every_layer():
    result = graph(PermutationGroups.lrx(5)).bfs()
    axes = result.plot()
    assert [bar.get_height() for bar in axes.patches] == result.layer_sizes
    assert "diameter 10" in axes.get_title()


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
def test_files_round_trip(definition, options, tmp_path):
    made = graph(definition)
    result = made.bfs(**options)
    path = tmp_path / "result.h5"
    result.save(path)
    again = BfsResult.load(path)
    assert again == result
    assert again.engine_info == result.engine_info
    assert isinstance(again.layers[0], torch.Tensor)
    assert np.array_equal(again.get_layer(1), result.get_layer(1))
    assert np.array_equal(again.last_layer(), result.last_layer())
    assert list(tmp_path.iterdir()) == [path]


def test_files_of_other_encodings_round_trip(tmp_path):
    integers = CayleyGraphDef.for_matrix_group(
        generators=[
            MatrixGenerator.create([[2, 1], [1, 1]]),
            MatrixGenerator.create([[1, -1], [-1, 2]]),
        ]
    )
    for made in (graph(integers), graph(PermutationGroups.lrx(5), bit_encoding_width=None)):
        result = made.bfs(max_diameter=5, **EVERYTHING)
        result.save(tmp_path / "result.h5")
        assert BfsResult.load(tmp_path / "result.h5") == result


def test_results_differ_where_anything_differs():
    made = graph(PermutationGroups.lrx(5))
    result = made.bfs(**EVERYTHING)
    assert result != made.bfs(return_all_hashes=True)
    assert result != made.bfs(max_layer_size_to_store=None)
    assert result != graph(PermutationGroups.lrx(5).with_name("x")).bfs(**EVERYTHING)
    assert result == result.to_device("cpu")
    assert result != "result"


def test_another_file_is_refused(tmp_path):
    import h5py

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1]
    with pytest.raises(CayleyError, match=r"BfsResult.save wrote.*other.h5"):
        BfsResult.load(tmp_path / "other.h5")


def test_what_was_not_asked_for_is_named():
    result = graph(PermutationGroups.lrx(6)).bfs(max_layer_size_to_store=10)
    assert not result.has_edges_list_hashes()
    with pytest.raises(CayleyError, match="return_all_hashes=True"):
        result.check_has_layer_hashes()
    with pytest.raises(CayleyError, match="return_all_edges=True"):
        _ = result.edges_list
    with pytest.raises(CayleyError, match="layer 7 with 81 states was not stored"):
        result.get_layer(7)
    with pytest.raises(CayleyError, match="layer_id must be between 0 and 15, got 16"):
        result.get_layer(16)
    with pytest.raises(CayleyError, match="max_layer_size_to_store=None"):
        _ = result.all_states
    with pytest.raises(CayleyError, match="inverse-closed"):
        graph(PermutationGroups.lx(4)).bfs(**EVERYTHING).spectrum()


def test_stored_layers_stay_packed():
    result = graph(PermutationGroups.lrx(8)).bfs(max_layer_size_to_store=None)
    packed = sum(states.nbytes for states in result.layers.packed.values())
    assert packed == 8 * 40320
