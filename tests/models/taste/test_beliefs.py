"""Beliefs carried forward by rank-one updates against those that inverting gives."""

from dataclasses import replace

import numpy as np
import pytest

from penchant.models.taste.beliefs import Portrait, Projection
from penchant.models.taste.contrast import Contrast, chance
from penchant.models.taste.items import Items
from penchant.models.taste.population import Beliefs, Population


def contrast_of(direction) -> Contrast:
    """φ and nothing else."""
    contrast = Contrast(
        Items(
            np.zeros(1),
            np.zeros(1),
            np.zeros((1, len(direction) - 1)),
            np.zeros((1, len(direction) - 1)),
            (b"a",),
        )
    )
    contrast.direction = np.asarray(direction, float)
    return contrast


def assert_equal(found: Beliefs, expected: Beliefs) -> None:
    np.testing.assert_allclose(found.means, expected.means, atol=1e-9)
    np.testing.assert_allclose(found.covariances, expected.covariances, atol=1e-10)
    np.testing.assert_allclose(found.weights, expected.weights, atol=1e-9)


@pytest.mark.parametrize("archetypes", [1, 4])
@pytest.mark.parametrize("q", [1, 2, 17])
def test_carrying_forward_is_inverting_anew(rng, make_population, archetypes, q):
    """Sherman–Morrison and Woodbury against `update`, which inverts."""
    population, stranger = (
        make_population(rng, q=q, archetypes=archetypes),
        make_population(rng, q=q, archetypes=2).prior,
    )
    precision, linear, portrait = np.zeros((q, q)), np.zeros(q), Portrait.of(population.prior, stranger)
    for number in range(60):
        if number % 3:
            direction, curvature, push = rng.normal(0, 1, q), rng.uniform(0, 2), rng.normal()
            portrait = portrait.after(Projection(contrast_of(direction), portrait), curvature, push)
            precision = precision + curvature * np.outer(direction, direction)
            linear = linear + push * direction
        else:
            r = int(rng.integers(1, 5))
            factors, root, push = rng.normal(0, 1, (r, q)), rng.normal(0, 1, (r, r - 1)), rng.normal(0, 1, r)
            core = root @ root.T  # singular, as that of a ranking is
            portrait = Portrait.of(portrait.beliefs.after(factors, core, push), stranger)
            precision = precision + factors.T @ core @ factors
            linear = linear + factors.T @ push
        expected = population.update(precision, linear)
        assert_equal(portrait.beliefs, expected)
        np.testing.assert_allclose(portrait.squares[0], expected.expected_squares[1:], rtol=1e-9)
    assert_equal(
        Portrait(portrait.rows, portrait.squares, portrait.weights, portrait.stranger_weights).stranger,
        stranger,
    )
    np.testing.assert_array_equal(portrait.squares[1], stranger.expected_squares[1:])


def test_carrying_forward_leaves_what_was_believed(rng, make_population):
    before = Portrait.of(make_population(rng, archetypes=2).prior, make_population(rng).prior)
    kept = before.rows.copy(), before.squares.copy(), list(before.weights)
    before.after(Projection(contrast_of([1.0, -1.0, 0.5]), before), 0.7, 2.0)
    before.beliefs.after(rng.normal(size=(2, 3)), np.eye(2), np.ones(2))
    np.testing.assert_array_equal(before.rows, kept[0])
    np.testing.assert_array_equal(before.squares, kept[1])
    assert before.weights == kept[2]


def test_a_projection_is_of_both(rng, make_items, make_population):
    """Against the definition, archetype by archetype: ψ = b + φ·y + e."""
    user, stranger = make_population(rng, archetypes=3).prior, make_population(rng, archetypes=2).prior
    a, b = make_items(rng), make_items(rng)
    found = Projection(Contrast(a, b), Portrait.of(user, stranger))
    phi = np.array([0.0, *(a.directions - b.directions)[0]])
    for beliefs, parts in ((user, found.parts), (stranger, found.stranger)):
        residual = float(
            (a.base_variance + b.base_variance)[0]
            + (a.direction_variance + b.direction_variance)[0] @ beliefs.expected_squares[1:]
        )
        for c, (weight, mean, variance) in enumerate(parts):
            assert weight == beliefs.weights[c]
            assert mean == pytest.approx(float((a.base - b.base)[0] + beliefs.means[c] @ phi))
            assert variance == pytest.approx(float(phi @ beliefs.covariances[c] @ phi) + residual)
        assert len(parts) == len(beliefs.weights)
    assert 0 < chance(found.parts) < 1
    for sign in (1.0, -1.0):
        alone = Projection(Contrast(a, sign=sign), Portrait.of(user, user))
        phi = sign * np.array([1.0, *a.directions[0]])
        assert alone.parts[0][1] == pytest.approx(float(sign * a.base[0] + user.means[0] @ phi))
        assert alone.parts == alone.stranger


def test_one_text_against_itself_is_certain(rng, make_items, make_population):
    a = make_items(rng)
    noisy = replace(a, base=a.base + 1, directions=a.directions + 1)
    found = Projection(Contrast(a, noisy), Portrait.of(*[make_population(rng, archetypes=2).prior] * 2))
    assert [part[1:] for part in found.parts] == [(0.0, 0.0)] * 2
    assert found.residual == 0.0


def test_an_archetype_that_was_ruled_out_can_come_back():
    population = Population(np.array([0.5, 0.5]), np.array([[-40.0], [40.0]]), np.array([[[4.0]], [[4.0]]]))
    portrait = Portrait.of(population.prior, population.prior)
    for _ in range(3):
        portrait = portrait.after(Projection(contrast_of([1.0]), portrait), 5.0, 200.0)  # y = 40
    assert portrait.weights[0] < 1e-290
    for _ in range(9):
        portrait = portrait.after(Projection(contrast_of([1.0]), portrait), 5.0, -200.0)  # y = -40
    assert np.isfinite(portrait.weights).all()
    assert portrait.weights[0] > 0.999
