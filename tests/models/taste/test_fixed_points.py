"""Fixed points agree with closed forms, and iterations that do not converge are counted."""

import logging

import numpy as np
import pytest

from penchant.models.taste.fixed_points import ConvergenceFailures, find_fixed_point


def test_a_linear_map_is_solved_though_plain_iteration_diverges(rng):
    matrix, shift = rng.normal(0, 1, (4, 4)), rng.normal(0, 1, 4)
    assert np.abs(np.linalg.eigvals(matrix)).max() > 1
    solution = find_fixed_point(lambda x: matrix @ x + shift, np.zeros(4), tolerance=1e-12)
    np.testing.assert_allclose(solution.x, np.linalg.solve(np.eye(4) - matrix, shift), rtol=1e-8)
    assert solution.converged
    assert solution.residual <= 1e-12


def test_an_elementwise_map_is_solved(rng):
    solution = find_fixed_point(np.cos, rng.uniform(0, 1, 6), tolerance=1e-13)
    np.testing.assert_allclose(solution.x, np.full(6, 0.7390851332151607), atol=1e-12)  # Dottie's number
    assert solution.converged
    assert solution.residual <= 1e-13


def test_the_start_may_be_the_solution_and_the_problem_may_be_empty():
    calls = []

    def identity(x):
        calls.append(1)
        return x

    solution = find_fixed_point(identity, np.arange(3.0), tolerance=1e-9)
    np.testing.assert_array_equal(solution.x, np.arange(3.0))
    assert (solution.residual, solution.steps, len(calls), solution.converged) == (0.0, 1, 1, True)
    empty = find_fixed_point(identity, np.zeros(0), tolerance=1e-9)
    assert (len(empty.x), empty.residual, empty.converged) == (0, 0.0, True)


def test_invalid_extrapolations_are_not_evaluated():
    evaluated = []

    def root(x):
        evaluated.append(float(x[0]))
        return np.sqrt(x + 0.0) / 2  # not defined below 0; its fixed point is 1/4

    solution = find_fixed_point(root, np.array([4.0]), tolerance=1e-12, is_allowed=lambda x: bool(x[0] >= 0))
    assert solution.x[0] == pytest.approx(0.25, abs=1e-10)
    assert min(evaluated) >= 0


def test_without_a_solution_the_closest_approximation_is_returned():
    solution = find_fixed_point(lambda x: x + 1 + x**2, np.array([3.0]), tolerance=1e-9, max_steps=40)
    assert not solution.converged
    assert solution.steps == 40
    assert solution.residual >= 0.5
    assert abs(1 + solution.x[0] ** 2) / max(1.0, abs(solution.x[0])) == pytest.approx(solution.residual)


def test_the_log_is_not_flooded(caplog):
    failures = ConvergenceFailures()
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            failures.add("sum", residual=0.5, tolerance=1e-6, steps=60)
        failures.add("product", residual=0.5, tolerance=1e-6, steps=60, number=9)
    assert failures.counts() == {"sum": 100, "product": 9}
    messages = [record.getMessage() for record in caplog.records]
    assert [message.rpartition("(")[2] for message in messages] == [
        *(f"{2**n} so far)" for n in range(7)),
        "9 so far)",
    ]
    assert messages[0] == (
        "the sum did not converge: the residual is 0.5 after 60 steps, the tolerance 1e-06; the best approximation is "
        "used (1 so far)"
    )
