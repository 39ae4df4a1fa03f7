"""Projection on quadratic level sets: closed forms, a general solver, the reach and its bound."""

import numpy as np
import pytest
from rankone.control.attack_detection import level_set_reach, project_quadratic
from scipy.optimize import minimize

# Rounding of a well-scaled problem.
CLOSE = 1e-9


def random_problem(rng):
    """z, Q, level, c, weight; the level is attained by construction."""
    n = int(rng.integers(2, 5))
    root = rng.normal(size=(n, n))
    Q = root @ root.T if rng.random() < 0.4 else root + root.T
    c = rng.normal(size=n) * rng.integers(0, 2)
    x = rng.normal(size=n) * 1.5
    metric = rng.normal(size=(n, n))
    weight = metric @ metric.T + 0.3 * np.eye(n) if rng.random() < 0.4 else None
    return 2 * rng.normal(size=n), Q, float(x @ Q @ x + c @ x), c, weight


def test_circle_is_reached_along_the_ray():
    for z in (np.array([3.0, -1.0]), np.array([0.3, -0.1])):
        expected = 2 * z / np.linalg.norm(z)
        assert np.allclose(project_quadratic(z, np.eye(2), 4.0), expected, atol=CLOSE)


def test_plane_changes_one_coordinate():
    found = project_quadratic([1.0, 5.0], np.zeros((2, 2)), 3.0, c=[1.0, 0.0])
    assert np.allclose(found, [3.0, 5.0], atol=CLOSE)


@pytest.mark.parametrize("z", [(0.3, 2.0), (-2.0, 0.1), (0.0, -3.0), (5.0, 4.0)])
def test_hyperbola_agrees_with_a_fine_parametrisation(z):
    s = np.linspace(-4, 4, 800_001)
    branch = np.stack([np.cosh(s), np.sinh(s)], axis=1)
    points = np.vstack([branch, -branch])
    least = np.linalg.norm(points - z, axis=1).min()
    found = project_quadratic(z, np.diag([1.0, -1.0]), 1.0)
    assert abs(found[0] ** 2 - found[1] ** 2 - 1) < CLOSE
    assert np.isclose(np.linalg.norm(found - z), least, atol=1e-8)


def test_hard_case_takes_the_steep_axis_and_the_positive_root():
    Q = np.diag([1.0, 4.0])
    assert np.allclose(project_quadratic([0.0, 0.0], Q, 1.0), [0.0, 0.5], atol=CLOSE)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 2)))[0]
    found = project_quadratic([0.0, 0.0], turn @ Q @ turn.T, 1.0)
    assert np.isclose(np.linalg.norm(found), 0.5, atol=CLOSE)
    assert np.isclose(abs(found @ turn[:, 1]), 0.5, atol=CLOSE)


def test_hard_case_with_a_part_off_the_axis():
    # Near the centre of the long axis of an ellipse the nearest points are two, off the axis.
    s = np.linspace(0, 2 * np.pi, 2_000_001)
    ellipse = np.stack([3 * np.cos(s), np.sin(s)], axis=1)
    found = project_quadratic([1.0, 0.0], np.diag([1 / 9, 1.0]), 1.0)
    least = np.linalg.norm(ellipse - [1.0, 0.0], axis=1).min()
    assert found[1] > 0
    assert np.isclose(np.linalg.norm(found - [1.0, 0.0]), least, atol=1e-8)


@pytest.mark.parametrize("offset", [1e-3, 1e-8, 1e-12, 1e-15, -1e-12])
def test_beside_the_hard_case_the_level_is_still_met(offset):
    found = project_quadratic([1.0, offset], np.diag([1 / 9, 1.0]), 1.0)
    assert abs(found[0] ** 2 / 9 + found[1] ** 2 - 1) < CLOSE
    assert np.isclose(abs(found[1]), np.sqrt(1 - 9 / 64), atol=1e-2)
    assert found[1] * offset > 0 or abs(offset) < 1e-14


@pytest.mark.parametrize("offset", [0.0, 1e-16, -1e-15, 1e-12, -1e-12])
def test_cusp_where_the_hard_case_begins(offset):
    # Centre of curvature at the end of the long axis: the free component is 0.
    found = project_quadratic([8 / 3 + offset, 0.0], np.diag([1 / 9, 1.0]), 1.0)
    assert np.allclose(found, [3.0, 0.0], atol=1e-5)
    assert abs(found[0] ** 2 / 9 + found[1] ** 2 - 1) < CLOSE


def test_rounded_flat_directions_stay_flat():
    direction = np.array([0.6, 0.8, 0.0])
    found = project_quadratic([1.0, 2.0, 7.0], np.outer(direction, direction), 4.0)
    assert np.isclose(found @ direction, 2.0, atol=CLOSE)
    assert np.isclose(found[2], 7.0, atol=CLOSE)


def test_vertex_of_a_definite_quadratic_is_attained():
    assert np.allclose(project_quadratic([3.0, 1.0], np.eye(2), 0.0), 0.0, atol=CLOSE)
    found = project_quadratic([3.0, 1.0], np.eye(2), -1.0, c=[2.0, 0.0])
    assert np.allclose(found, [-1.0, 0.0], atol=1e-6)


def test_never_worse_than_a_general_solver_from_several_starts():
    rng = np.random.default_rng(1)
    for _ in range(100):
        z, Q, level, c, weight = random_problem(rng)
        M = np.eye(len(z)) if weight is None else weight
        found = project_quadratic(z, Q, level, c, weight=weight)
        assert abs(found @ Q @ found + c @ found - level) < 1e-7
        best = np.inf
        for _ in range(3):
            other = minimize(
                lambda x, M=M, z=z: (x - z) @ M @ (x - z),
                z + rng.normal(size=len(z)),
                jac=lambda x, M=M, z=z: 2 * M @ (x - z),
                constraints={
                    "type": "eq",
                    "fun": lambda x, Q=Q, c=c, level=level: x @ Q @ x + c @ x - level,
                    "jac": lambda x, Q=Q, c=c: 2 * Q @ x + c,
                },
                method="SLSQP",
            )
            if abs(other.x @ Q @ other.x + c @ other.x - level) < 1e-6:
                best = min(best, other.fun)
        assert (found - z) @ M @ (found - z) <= best + 1e-5


def test_repeated_eigenvalues_and_vanishing_parts_never_lose_to_a_feasible_point():
    rng = np.random.default_rng(4)
    for case in range(400):
        n = int(rng.integers(1, 5))
        turn = np.linalg.qr(rng.normal(size=(n, n)))[0] if case % 2 else np.eye(n)
        Q = turn @ np.diag(rng.choice([-2.0, -1, 0, 1, 1, 3], size=n)) @ turn.T
        c, z, x = (turn @ rng.choice([-1.0, 0, 0, 0.5, 1, 2], size=n) for _ in range(3))
        level = float(x @ Q @ x + c @ x)
        level = 0.0 if abs(level) < 1e-12 else level  # rounding may have left the attained range
        found = project_quadratic(z, Q, level, c)
        assert abs(found @ Q @ found + c @ found - level) < 1e-11
        assert np.linalg.norm(found - z) <= np.linalg.norm(x - z) + 1e-7


def test_idempotent_and_unmoved_by_the_scale_of_the_weight():
    rng = np.random.default_rng(2)
    for _ in range(50):
        z, Q, level, c, weight = random_problem(rng)
        once = project_quadratic(z, Q, level, c, weight=weight)
        assert np.allclose(project_quadratic(once, Q, level, c, weight=weight), once, atol=1e-8)
        M = np.eye(len(z)) if weight is None else weight
        assert np.allclose(project_quadratic(z, Q, level, c, weight=7 * M), once, atol=1e-8)


def test_feasible_points_stay_and_others_stop_at_the_near_side():
    z = np.array([1.05, 0.0])
    kept = project_quadratic(z, np.eye(2), 1.0, tol=0.2)
    assert np.array_equal(kept, z)
    assert kept is not z
    for start, level in ((2.0, 1.2), (0.5, 0.8)):
        found = project_quadratic([start, 0.0], np.eye(2), 1.0, tol=0.2)
        assert np.allclose(found, [np.sqrt(level), 0.0], atol=CLOSE)


def test_a_ray_would_miss_the_nearest_point():
    z, Q = np.array([2.0, 2.0]), np.diag([1.0, 9.0])
    found = project_quadratic(z, Q, 1.0)
    along = z / np.sqrt(z @ Q @ z)
    assert np.linalg.norm(found - z) < np.linalg.norm(along - z) - 0.1


# The reach.


def test_reach_of_a_sphere_is_its_radius_and_of_a_plane_infinite():
    points = 2.5 * np.array([[1.0, 0.0], [0.6, 0.8]])
    assert np.isclose(level_set_reach(np.eye(2), None, points), 2.5, rtol=1e-12)
    assert level_set_reach(np.zeros((2, 2)), [1.0, 0.0], points) == np.inf


def test_reach_of_an_ellipse_is_its_smallest_radius_of_curvature():
    s = np.linspace(0, 2 * np.pi, 1001)
    ellipse = np.stack([3 * np.cos(s), np.sin(s)], axis=1)
    assert np.isclose(level_set_reach(np.diag([1 / 9, 1.0]), None, ellipse), 1 / 3, rtol=1e-9)


def test_error_is_bounded_within_the_reach():
    """||p - x||^2 <= (||z - x||^2 - dist^2) / (1 - dist / rho)."""
    rng = np.random.default_rng(3)
    tested = 0
    for _ in range(200):
        e = rng.uniform(0.5, 2, size=3)
        Q, rho = np.diag(e), np.sqrt(e.min()) / e.max()
        on, x = (v / np.sqrt(v @ Q @ v) for v in rng.normal(size=(2, 3)))
        z = on + rng.uniform(0, 0.5) * rho * rng.normal(size=3)
        p = project_quadratic(z, Q, 1.0)
        dist = np.linalg.norm(z - p)
        if dist < 0.99 * rho:
            tested += 1
            bound = (np.sum((z - x) ** 2) - dist**2) / (1 - dist / rho)
            assert np.sum((p - x) ** 2) <= bound + CLOSE
            if np.sum((p - x) ** 2) <= rho * dist or z @ Q @ z > 1:
                assert np.linalg.norm(p - x) <= np.linalg.norm(z - x) + CLOSE
    assert tested > 100


def test_error_can_grow_outside_the_reach():
    z, x = np.array([0.5, 0.0]), np.array([0.0, 1.0])
    p = project_quadratic(z, np.eye(2), 1.0)
    assert np.isclose(np.linalg.norm(z - x), 1.118, atol=5e-4)
    assert np.isclose(np.linalg.norm(p - x), 1.414, atol=5e-4)


# Bad input.


@pytest.mark.parametrize(
    ("level", "Q", "c"),
    [
        (-1.0, np.eye(2), None),
        (1.0, -np.eye(2), None),
        (-1.1, np.eye(2), [2.0, 0.0]),
        (1.0, np.zeros((2, 2)), None),
        (-1.0, np.diag([1.0, 0.0]), None),
    ],
)
def test_levels_that_nothing_attains_are_named(level, Q, c):
    with pytest.raises(ValueError, match="no point attains the measured utility"):
        project_quadratic([1.0, 2.0], Q, level, c)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"z": [[1.0, 2.0]]}, ValueError, "z must have 1 dimensions"),
        ({"z": []}, ValueError, "z must have at least one entry"),
        ({"z": [1.0, np.nan]}, ValueError, "z must be finite"),
        ({"z": "ab"}, TypeError, "z must be real numbers, got str"),
        ({"Q": np.eye(3)}, ValueError, r"Q must have shape \(2, 2\), got \(3, 3\)"),
        ({"Q": [[1.0, 1.0], [0.0, 1.0]]}, ValueError, "Q must be symmetric"),
        ({"c": [1.0]}, ValueError, r"c must have shape \(2,\), got \(1,\)"),
        ({"level": np.inf}, ValueError, "level must be finite"),
        ({"tol": -1.0}, ValueError, "tol must be at least 0"),
        ({"weight": -np.eye(2)}, ValueError, "weight must be positive definite"),
        ({"weight": np.eye(3)}, ValueError, r"weight must have shape \(2, 2\)"),
    ],
)
def test_bad_input_is_named(change, error, message):
    arguments = {"z": [1.0, 2.0], "Q": np.eye(2), "level": 1.0} | change
    with pytest.raises(error, match=message):
        project_quadratic(**arguments)


def test_reach_needs_points_of_the_right_size():
    with pytest.raises(ValueError, match=r"points must have shape \(N, 2\)"):
        level_set_reach(np.eye(2), None, np.zeros((0, 2)))
