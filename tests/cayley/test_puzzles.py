"""Puzzles: stickers, generators and first layers, by formula and by geometry."""

import numpy as np
import pytest
from rankone.cayley import CayleyError, GapPuzzles, Puzzles, prepare_graph, puzzle_from_cuts
from rankone.cayley.permutation_utils import inverse_permutation
from rankone.cayley.puzzles.geometry import SOLIDS, cut_solid, parse_cuts, solid

from .graphs import growth

# Stickers, generators and colours of the puzzle files that the reference library ships.
SIZES = {
    "2x2x2": (24, 12, 24),
    "3x3x3": (48, 12, 48),
    "4x4x4": (96, 24, 78),
    "5x5x5": (144, 24, 108),
    "8x8x8": (384, 48, 222),
    "13x13x13": (1008, 72, 468),
    "2x2x2_+_dino": (48, 28, 48),
    "2x2x2_+_dino_+_little_chop": (48, 40, 12),
    "2x2x2_+_little_chop": (48, 24, 12),
    "Christopher's_jewel": (48, 12, 48),
    "Eitan's_star": (260, 40, 220),
    "FTO": (72, 16, 56),
    "Icosaminx": (140, 24, 140),
    "Jing_pyraminx": (28, 16, 28),
    "Redicosahedron": (120, 24, 120),
    "Redicosahedron_with_centers": (120, 24, 120),
    "Regular_Astrominx": (180, 24, 140),
    "Regular_Astrominx_+_Big_Chop": (360, 54, 120),
    "Trajber's_octahedron": (56, 12, 56),
    "big_chop": (120, 30, 24),
    "chopasaurus": (132, 40, 84),
    "compy_cube": (48, 16, 48),
    "dino": (24, 16, 24),
    "dino_+_little_chop": (24, 28, 6),
    "elite_pentultimate": (372, 48, 228),
    "emperor_pyraminx": (196, 48, 156),
    "emperor_tetraminx": (184, 48, 144),
    "gigaminx": (360, 48, 264),
    "icosamate": (80, 24, 80),
    "little_chop": (24, 12, 6),
    "master_FTO": (128, 32, 96),
    "master_pentultimate": (192, 24, 144),
    "master_pyraminx": (64, 32, 64),
    "master_pyramorphix": (36, 6, 36),
    "master_skewb": (78, 16, 66),
    "master_tetraminx": (48, 16, 48),
    "mastermorphix": (40, 6, 40),
    "megaminx": (120, 24, 120),
    "megaminx_+_chopasaurus": (132, 64, 84),
    "octastar": (48, 12, 48),
    "pentultimate": (72, 24, 72),
    "petaminx": (1200, 96, 624),
    "professor_pyraminx": (100, 32, 92),
    "professor_skewb": (150, 32, 114),
    "professor_tetraminx": (88, 32, 80),
    "pyraminx": (36, 16, 36),
    "pyraminx_crystal": (120, 24, 120),
    "pyramorphix": (16, 6, 16),
    "radio_chop": (200, 40, 200),
    "royal_pyraminx": (144, 48, 120),
    "royal_tetraminx": (132, 32, 108),
    "skewb": (30, 16, 30),
    "skewb_diamond": (32, 16, 32),
    "starminx": (120, 40, 120),
    "starminx_2": (132, 24, 84),
    "starminx_combo": (132, 64, 84),
    "teraminx": (720, 72, 432),
    "tetraminx": (24, 16, 24),
}


@pytest.mark.parametrize("name", SIZES)
def test_stickers_generators_and_colors(name):
    made = GapPuzzles.puzzle(name)
    colors = len(set(made.central_state))
    assert (made.state_size, made.n_generators, colors) == SIZES[name]
    assert sorted(set(made.central_state)) == list(range(colors))
    assert made.generators_inverse_closed


def test_face_pieces_of_different_orbits_have_different_colors():
    for name, size in (("helicopter", (48, 12, 48)), ("curvy_copter", (72, 12, 72))):
        made = GapPuzzles.puzzle(name)
        assert (made.state_size, made.n_generators, len(set(made.central_state))) == size


@pytest.mark.parametrize("layers", range(2, 8))
def test_large_dodecahedra_follow_the_formula(layers):
    name = ["gigaminx", "teraminx", "petaminx", "examinx", "zetaminx", "yottaminx"][layers - 2]
    if layers < 5:
        assert GapPuzzles.puzzle(name).state_size == 60 * layers * (layers + 1)
    else:
        assert name in GapPuzzles.list_puzzles()


def test_the_list_has_every_name_of_the_table():
    names = GapPuzzles.list_puzzles()
    assert set(SIZES) < set(names)
    assert {f"{n}x{n}x{n}" for n in (*range(2, 14), 20, 30, 40)} < set(names)
    assert len(names) == len(set(names)) == 72


FIRST_LAYERS = [
    ("2x2x2 fixed HTM", lambda: Puzzles.rubik_cube(2, "fixed_HTM"), [1, 9, 54, 321, 1847, 9992]),
    ("3x3x3 QTM", lambda: Puzzles.rubik_cube(3, "QTM"), [1, 12, 114, 1068, 10011, 93840]),
    ("3x3x3 HTM", lambda: Puzzles.rubik_cube(3, "HTM"), [1, 18, 243, 3240, 43239]),
    ("3x3x3 QSTM", lambda: Puzzles.rubik_cube(3, "QSTM"), [1, 18, 261, 3732, 52220]),
    ("3x3x3 ATM", lambda: Puzzles.rubik_cube(3, "ATM"), [1, 78, 3863]),
    ("4x4x4 QTM", lambda: Puzzles.rubik_cube(4, "QTM"), [1, 24, 468, 9000]),
    ("picture cube", Puzzles.picture_cube333, [1, 18, 261, 3732, 52620]),
    ("dino", lambda: GapPuzzles.puzzle("dino"), [1, 16, 160, 1408, 11712, 90912]),
    ("megaminx", Puzzles.megaminx, [1, 24, 408, 6208, 90144]),
    ("megaminx cuts", lambda: GapPuzzles.puzzle("megaminx"), [1, 24, 408, 6208]),
    ("FTO", lambda: GapPuzzles.puzzle("FTO"), [1, 16, 208, 2688]),
    ("pyraminx", Puzzles.pyraminx, growth(GapPuzzles.puzzle("pyraminx"), max_diameter=4)),
]


@pytest.mark.parametrize(
    ("make", "layers"), [case[1:] for case in FIRST_LAYERS], ids=[case[0] for case in FIRST_LAYERS]
)
def test_first_layers(make, layers):
    assert growth(make(), max_diameter=len(layers) - 1) == layers


def test_cubes_by_formula_and_by_geometry_agree():
    cut = puzzle_from_cuts("c f 1/3", colors="faces")
    assert growth(cut, max_diameter=4) == growth(Puzzles.rubik_cube(3, "QTM"), max_diameter=4)
    cut = puzzle_from_cuts("c f 1/2 f 0", colors="faces")
    assert growth(cut, max_diameter=2) == growth(Puzzles.rubik_cube(4, "QTM"), max_diameter=2)


def test_small_puzzles_whole():
    assert growth(Puzzles.mini_pyramorphix()) == [1, 17, 54, 84, 92, 40]
    diamond = puzzle_from_cuts("o f 0", moves="fixed")
    expected = [1, 8, 48, 288, 1632, 8568, 36114, 74799, 16547, 220, 15]
    assert growth(diamond) == expected
    globes = {(1, 1): 4, (1, 2): 14, (2, 1): 5, (2, 2): 16, (3, 1): 7}
    for (a, b), diameter in globes.items():
        assert len(growth(Puzzles.globe_puzzle(a, b))) - 1 == diameter
    for arguments, order, diameter in (((4, 1, 4, 2), 720, 9), ((5, 1, 5, 2), 20160, 13)):
        sizes = growth(Puzzles.hungarian_rings(*arguments))
        assert (sum(sizes), len(sizes) - 1) == (order, diameter)


def test_the_pocket_cube_is_fixed_by_dropping_the_slabs_of_a_corner():
    cube = puzzle_from_cuts("c f 0", moves="fixed")
    assert cube.group_order() == 3674160
    everything = puzzle_from_cuts("c f 0", moves="all")
    # Whole rotations of the cube count as different states: 24 of them.
    assert everything.group_order() == 24 * 3674160


def test_hungarian_rings_cross_where_they_should():
    once = Puzzles.hungarian_rings(3, 0, 4, 0)
    assert once.state_size == 6
    assert once.generator_names == ["L", "R", "-L", "-R"]
    twice = Puzzles.hungarian_rings(4, 1, 4, 2)
    assert twice.generators[:2] == [[1, 2, 3, 0, 4, 5], [4, 5, 2, 3, 1, 0]]
    # A ring of two is its own inverse.
    assert Puzzles.hungarian_rings(2, 0, 3, 0).generator_names == ["L", "R", "-R"]


def test_slices_of_a_cube_are_quarter_turns():
    made = Puzzles.rubik_cube(4, "QSTM")
    for p in made.generators_permutations:
        square = [p[i] for i in p]
        assert [square[i] for i in square] == list(range(96))
        assert square != list(range(96))
    assert made.generators[1] == inverse_permutation(made.generators[0])


@pytest.mark.parametrize("letter", SOLIDS)
def test_solids_have_inradius_one_and_their_euler_number(letter):
    body = solid(letter)
    assert np.allclose((body.faces @ body.vertices.T).max(axis=1), 1)
    assert len(body.vertices) - len(body.edges) + len(body.faces) == 2
    corners = [len(body.polygon(face)) for face in range(len(body.faces))]
    assert sum(corners) == 2 * len(body.edges)


def test_stickers_cover_the_faces():
    cut = cut_solid("d f 0.7 v 0")
    # Every sticker lies on its face, and no two have one centroid.
    body = solid("d")
    heights = np.einsum("ij,ij->i", cut.centroids, body.faces[cut.faces])
    assert np.allclose(heights, 1)
    distance = np.linalg.norm(cut.centroids[:, None] - cut.centroids[None], axis=2)
    np.fill_diagonal(distance, 1)
    assert distance.min() > 1e-3


def test_colors_of_cut_puzzles():
    assert len(set(puzzle_from_cuts("c f 1/3", colors="faces").central_state)) == 6
    assert len(set(puzzle_from_cuts("c f 1/2 f 0", colors="stickers").central_state)) == 96


def test_a_puzzle_may_be_left_without_inverses():
    made = GapPuzzles.puzzle("dino", make_inverse_closed=False)
    assert made.n_generators == 8
    assert made.make_inverse_closed() == GapPuzzles.puzzle("dino")


def test_puzzles_are_found_by_name():
    for name in ("dino", "2x2x2_+_dino", "Christopher's_jewel"):
        assert prepare_graph(name) == GapPuzzles.puzzle(name)
    for made in (
        GapPuzzles.puzzle("skewb"),
        GapPuzzles.puzzle("skewb", make_inverse_closed=False),
        GapPuzzles.puzzle("little_chop"),
        Puzzles.rubik_cube(2, "fixed_HTM"),
        Puzzles.rubik_cube(3, "ATM"),
        Puzzles.globe_puzzle(2, 3),
        Puzzles.hungarian_rings(6, 2, 5, 1),
        Puzzles.mini_pyramorphix(),
        Puzzles.picture_cube333(),
        Puzzles.pyraminx(),
        Puzzles.megaminx(),
        Puzzles.starminx(),
        Puzzles.starminx_2(),
    ):
        assert prepare_graph(made.name) == made


GAP_TEXT = """
# a comment
M_R:=(1,2,3)(4,5);
M_U := ( 1 , 4 )
  (2,6);
Gen:=[M_R,M_U];
ip:=[[1,2],[5]];
"""


def test_gap_files_are_read(tmp_path):
    path = tmp_path / "small.gap"
    path.write_text(GAP_TEXT)
    made = GapPuzzles.load_puzzle_from_file(path)
    assert made.generator_names == ["R", "U"]
    assert made.generators_permutations == [[1, 2, 0, 4, 3, 5], [3, 5, 2, 0, 4, 1]]
    assert made.central_state == [0, 0, 1, 2, 3, 4]
    assert made.name == "small.gap"


def test_gap_files_round_trip(tmp_path, monkeypatch):
    monkeypatch.setenv("RANKONE_GAP_DIR", str(tmp_path))
    assert GapPuzzles.get_gaps_dir() == tmp_path
    made = GapPuzzles.puzzle("4x4x4", make_inverse_closed=False)
    GapPuzzles.save_puzzle_to_file(made, tmp_path / "mine.gap")
    again = GapPuzzles.puzzle("mine", make_inverse_closed=False)
    assert again == made.with_name("mine.gap")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Puzzles.rubik_cube(3, "XTM"), "metric must be one of .* got 'XTM'"),
        (lambda: Puzzles.rubik_cube(1, "QTM"), "cube_size must be at least 2, got 1"),
        (lambda: Puzzles.rubik_cube(3, "fixed_QTM"), "2x2x2 cube, got cube_size 3"),
        (lambda: Puzzles.globe_puzzle(0, 1), "a must be at least 1, got 0"),
        (lambda: Puzzles.hungarian_rings(4, 1, 5, 0), "both be 0 or both be positive"),
        (lambda: Puzzles.hungarian_rings(4, 3, 5, 1), "left_index must be between 0 and 2"),
        (lambda: GapPuzzles.puzzle("no_such"), "list_puzzles.*'no_such'"),
        (lambda: puzzle_from_cuts("c"), "pairs of kind and distance"),
        (lambda: puzzle_from_cuts("x f 0"), "solid must be one of t, c, o, d, i, got 'x'"),
        (lambda: puzzle_from_cuts("c g 0"), "must be f, v or e, got 'g'"),
        (lambda: puzzle_from_cuts("c f one"), "must be a number, got 'one'"),
        (lambda: puzzle_from_cuts("c f 2"), "no slab of 'c f 2' moves a sticker"),
        (lambda: puzzle_from_cuts("c f 0", moves="some"), "moves must be 'all' or 'fixed'"),
        (lambda: puzzle_from_cuts("c f 0", colors="red"), "colors must be"),
    ],
)
def test_bad_input_names_the_argument(call, message):
    with pytest.raises(CayleyError, match=message):
        call()


def test_a_slab_that_does_not_fall_on_itself_jumbles(monkeypatch):
    # Cuts in all directions of a kind share the symmetry of the solid; only a turn that is no
    # symmetry can fail.
    monkeypatch.setattr("rankone.cayley.puzzles.geometry._rotation_order", lambda *_: 8)
    cut_solid.cache_clear()
    with pytest.raises(CayleyError, match="'c f 1/3' jumbles: turned by 45 degrees"):
        puzzle_from_cuts("c f 1/3")
    cut_solid.cache_clear()


def test_gap_files_without_moves_are_refused(tmp_path):
    path = tmp_path / "empty.gap"
    path.write_text("nothing\n")
    with pytest.raises(CayleyError, match="M_name"):
        GapPuzzles.load_puzzle_from_file(path)
    path.write_text("M_A:=(1,2)(2,3);")
    with pytest.raises(CayleyError, match="twice"):
        GapPuzzles.load_puzzle_from_file(path)


def test_cuts_are_parsed_exactly():
    assert parse_cuts("c f 1/3 v 0.5") == ("c", [("f", 1 / 3), ("v", 0.5)])
