"""The shipped tables: complete, as computed now, and equal to what is known in closed form."""

import json
import math

import pytest
from rankone.cayley import CayleyError, load_dataset
from rankone.cayley.datasets import __main__ as command_line
from rankone.cayley.datasets import dataset_names, generate_datasets
from rankone.cayley.datasets.tables import FOLDER, _tables

CAYLEY = [name for name in dataset_names() if name.endswith("_cayley_growth")]
OF_ALL_PERMUTATIONS = [
    f"{name}_cayley_growth"
    for name in (
        "lrx", "all_transpositions", "coxeter", "transposons", "pancake", "full_reversals",
        "cyclic_coxeter", "rapaport_m1", "down_cycles", "prefix_cycles", "stars", "lx",
    )
]  # fmt: skip


def from_(first, *diameters):
    """n -> diameter for consecutive n."""
    return dict(enumerate(diameters, start=first))


def product(factors):
    """Coefficients of the product of 1 + q + ... + q^(length-1)."""
    sizes = [1]
    for length in factors:
        sizes = [
            sum(sizes[i - j] for j in range(length) if 0 <= i - j < len(sizes))
            for i in range(len(sizes) + length - 1)
        ]
    return sizes


def test_every_table_is_shipped_and_no_other():
    assert {path.stem for path in FOLDER.glob("*")} == set(dataset_names())
    assert len(dataset_names()) == 35


@pytest.mark.parametrize("name", dataset_names())
def test_tables_hold_growth_functions_under_their_own_keys(name):
    table = load_dataset(name)
    assert set(table) <= set(_tables()[name].keys)
    assert len(table) >= 4
    for sizes in table.values():
        assert sizes[0] == 1
        assert all(isinstance(size, int) and size > 0 for size in sizes)
    key, sizes = list(table.items())[-1]
    assert sizes[1] <= _tables()[name].graph(key).n_generators


@pytest.mark.parametrize("name", OF_ALL_PERMUTATIONS)
def test_layers_add_up_to_all_permutations(name):
    for key, sizes in load_dataset(name).items():
        if name != "lx_cayley_growth" or int(key) > 2:
            assert sum(sizes) == math.factorial(int(key))


@pytest.mark.parametrize("name", ["lrx_coset_growth", "top_spin_coset_growth"])
def test_layers_add_up_to_all_words(name):
    for key, sizes in load_dataset(name).items():
        words = math.comb(len(key), key.count("1"))
        assert sum(sizes) == words or (name.startswith("top_spin") and len(key) < 6)


def test_coxeter_counts_inversions():
    for key, sizes in load_dataset("coxeter_cayley_growth").items():
        assert sizes == product(range(1, int(key) + 1))


def test_transpositions_count_cycles():
    for key, sizes in load_dataset("all_transpositions_cayley_growth").items():
        stirling = [1]
        for k in range(1, int(key)):
            stirling = [
                (stirling[i] if i < len(stirling) else 0) + (k * stirling[i - 1] if i else 0)
                for i in range(len(stirling) + 1)
            ]
        assert sizes == stirling


@pytest.mark.parametrize(
    ("name", "key", "sizes"),
    [
        ("lrx_cayley_growth", "6",
         [1, 3, 6, 11, 20, 35, 55, 81, 109, 128, 126, 95, 40, 6, 3, 1]),
        ("lx_cayley_growth", "6",
         [1, 2, 3, 5, 8, 13, 20, 30, 42, 56, 73, 87, 98, 101, 85, 59, 29, 7, 1]),
        ("stars_cayley_growth", "7", [1, 6, 30, 135, 460, 1110, 1689, 1254, 340, 15]),
        ("pancake_cayley_growth", "8", [1, 7, 42, 251, 1191, 4281, 10561, 15011, 8520, 455]),
        ("burnt_pancake_cayley_growth", "5",
         [1, 5, 20, 80, 280, 680, 1214, 1127, 389, 40, 4]),
        ("heisenberg_growth", "3,5", [1, 4, 12, 32, 62, 12, 2]),
        ("sl_2_fund_roots_growth", "5", [1, 4, 12, 26, 48, 26, 3]),
        ("puzzles_growth", "cube_222_fixed_htm",
         [1, 9, 54, 321, 1847, 9992, 50136, 227536, 870072, 1887748, 623800, 2644]),
        ("puzzles_growth", "mini_pyramorphix", [1, 17, 54, 84, 92, 40]),
    ],
)  # fmt: skip
def test_published_growths(name, key, sizes):
    assert load_dataset(name)[key] == sizes


@pytest.mark.parametrize(
    ("name", "diameters"),
    [
        ("lrx_cayley_growth", {n: n * (n - 1) // 2 for n in range(4, 12)}),
        ("lx_cayley_growth", from_(3, 2, 6, 11, 18, 25, 35, 45, 58, 71)),
        ("top_spin_cayley_growth", from_(4, 3, 3, 12, 17, 22, 23, 28, 32)),
        ("cyclic_coxeter_cayley_growth", {n: n * n // 4 for n in range(3, 12)}),
        ("stars_cayley_growth", {n: 3 * (n - 1) // 2 for n in range(3, 12)}),
        ("rapaport_m1_cayley_growth",
         from_(2, 1, 3, 4, 6, 8, 9, 11, 13, 15, 16)),
        ("rapaport_m2_cayley_growth",
         from_(2, 1, 3, 4, 8, 16, 22, 30, 40, 49, 62)),
        ("pancake_cayley_growth", from_(2, 1, 3, 4, 5, 7, 8, 9, 10, 11, 13)),
        ("lrx_coset_growth", {"00001111": 12, "0000011111": 18, "000000111111": 26,
                              "0000000011111111": 46, "00000000001111111111": 72,
                              "01010101": 12, "010101010101": 27, "0101010101010101": 48,
                              "01010101010101010101": 75}),
    ],
)  # fmt: skip
def test_published_diameters(name, diameters):
    table = load_dataset(name)
    assert {key: len(table[str(key)]) - 1 for key in diameters} == diameters


def test_full_reversals_end_in_two():
    table = load_dataset("full_reversals_cayley_growth")
    assert {sizes[-1] for key, sizes in table.items() if int(key) >= 3} == {2}


def test_puzzles_have_as_many_states_as_is_said():
    for key, sizes in load_dataset("puzzles_growth").items():
        assert sum(sizes) == _tables()["puzzles_growth"].states[key]


@pytest.mark.parametrize("name", dataset_names())
def test_small_entries_are_as_computed_now(name):
    (table,) = generate_datasets([name], 800, max_edges=6000).values()
    shipped = load_dataset(name)
    assert table
    assert table == {key: sizes for key, sizes in shipped.items() if key in table}


def test_a_loaded_table_is_ones_own():
    load_dataset("lrx_cayley_growth")["4"].append(7)
    assert load_dataset("lrx_cayley_growth")["4"] == [1, 3, 5, 6, 5, 3, 1]


def test_bounds_leave_graphs_out():
    (table,) = generate_datasets(["coxeter_cayley_growth"], 24).values()
    assert list(table) == ["2", "3", "4"]
    (table,) = generate_datasets(["coxeter_cayley_growth"], 24, max_edges=6 * 2).values()
    assert list(table) == ["2", "3"]


def test_files_say_how_they_were_made(tmp_path, capsys):
    status = command_line.main(
        ["stars_cayley_growth", "--out", str(tmp_path / "new"), "--max-states", "24"]
    )
    assert status == 0
    assert capsys.readouterr().out == "stars_cayley_growth: 2 growth functions\n"
    contents = json.loads((tmp_path / "new" / "stars_cayley_growth.json").read_text())
    assert contents["growth"] == {"3": [1, 2, 2, 1], "4": [1, 3, 6, 9, 5]}
    assert "python -m rankone.cayley.datasets stars_cayley_growth" in contents["made by"]
    assert "--max-states 24" in contents["made by"]


def test_bad_names_and_bounds_are_named(tmp_path, capsys):
    with pytest.raises(KeyError, match="no dataset is called 'lrx'"):
        load_dataset("lrx")
    with pytest.raises(CayleyError, match=r"names must be of dataset_names\(\), got 'lrx'"):
        generate_datasets(["lrx"])
    with pytest.raises(CayleyError, match="max_states must be positive, got 0"):
        generate_datasets([], 0)
    with pytest.raises(CayleyError, match="max_edges must be positive, got -1"):
        generate_datasets([], max_edges=-1)
    with pytest.raises(SystemExit):
        command_line.main(["lrx", "--out", str(tmp_path)])
    assert "no table is called lrx" in capsys.readouterr().err
