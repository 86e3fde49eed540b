"""All judgements at once: against exact conditioning, a sampler, `learn`, and every order."""

import numpy as np
import pytest
from scipy.special import expit

from penchant.models.taste.blocks import Blocks
from penchant.models.taste.items import Items
from penchant.models.taste.likelihood import LikelihoodError, Pair, Ranking, Rating, RatingScale, Vote, site
from penchant.models.taste.moments import joint_without, without
from penchant.models.taste.population import Population
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.refit import sweep

SCALE = RatingScale(offset=-0.1, slope=0.5, noise=0.4)
KINDS = ["pair", "vote", "rating", "choice", "ranking"]


def told_of(rng, items: Items, kind: str, *, flip: float = 0.0, weight: float = 1.0):
    """A random judgement of a kind about some of the items."""
    some = items[[int(i) for i in rng.choice(len(items), 4, replace=False)]]
    match kind:
        case "pair":
            return Pair(some[0], some[1], weight, flip)
        case "vote":
            return Vote(some[0], int(rng.choice([-1, 1])), weight, flip)
        case "rating":
            return Rating(some[0], float(rng.uniform(-1, 1)), SCALE, weight, flip)
        case "choice":
            return Ranking(some, (1, 3), weight, flip)
        case _:
            return Ranking(some, (1, 2, 1), weight, flip)


def certain(items: Items) -> Items:
    """The same texts without residuals."""
    return Items(items.base, 0 * items.base, items.directions, 0 * items.directions, items.keys)


# ---------------------------------------------------------------- against other ways to the same


@pytest.mark.parametrize("archetypes", [1, 3])
def test_repeated_ratings_of_a_text_share_its_residual(rng, make_items, make_population, archetypes):
    """The joint Gaussian of y, residuals and ratings, conditioned by Schur complement."""
    population = make_population(rng, archetypes=archetypes)
    items = make_items(rng, 3, residual=0.5)
    items = Items(items.base, items.base_variance, items.directions, 0 * items.directions, items.keys)
    rated, values = [0, 0, 1, 2, 0], rng.uniform(-1, 1, 5)
    found = UserPosterior.refit(
        population, [Rating(items[i], float(v), SCALE) for i, v in zip(rated, values, strict=True)]
    ).beliefs
    select = np.eye(3)[rated]
    phi = np.column_stack([np.ones(3), items.directions])
    evidence = []
    for c in range(archetypes):
        mean, cov = population.means[c], np.linalg.inv(population.precisions[c])
        utility = phi @ cov @ phi.T + np.diag(items.base_variance)
        spread = SCALE.slope**2 * select @ utility @ select.T + SCALE.noise**2 * np.eye(5)
        cross = SCALE.slope * cov @ phi.T @ select.T
        miss = values - SCALE.offset - SCALE.slope * select @ (items.base + phi @ mean)
        np.testing.assert_allclose(found.means[c], mean + cross @ np.linalg.solve(spread, miss), atol=1e-9)
        np.testing.assert_allclose(
            found.covariances[c], cov - cross @ np.linalg.solve(spread, cross.T), atol=1e-9
        )
        evidence.append(
            np.log(population.weights[c])
            - 0.5 * (miss @ np.linalg.solve(spread, miss) + np.linalg.slogdet(spread)[1])
        )
    weights = np.exp(np.array(evidence) - max(evidence))
    np.testing.assert_allclose(found.weights, weights / weights.sum(), rtol=1e-7)


@pytest.mark.parametrize("flip", [0.0, 0.2])
@pytest.mark.parametrize("kind", KINDS)
def test_one_judgement_of_certain_texts_is_what_learning_it_gives(
    rng, make_items, make_population, kind, flip
):
    for _ in range(4):
        population, items = make_population(rng), certain(make_items(rng, 5))
        told = told_of(rng, items, kind, flip=flip, weight=float(rng.uniform(0.2, 1)))
        at_once, learned = UserPosterior.refit(population, [told]), site(told, population.prior)
        np.testing.assert_allclose(at_once.precision, learned.precision, atol=1e-5)
        np.testing.assert_allclose(at_once.linear, learned.linear, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flip", [0.0, 0.2])
def test_one_judgement_by_a_mixture_is_nearly_what_learning_it_gives(
    rng, make_items, make_population, kind, flip
):
    """Learning it averages over archetypes as they were believed in before it, this as they are after it."""
    population, items = make_population(rng, archetypes=3), certain(make_items(rng, 5))
    told = told_of(rng, items, kind, flip=flip)
    at_once, learned = (
        UserPosterior.refit(population, [told]).beliefs,
        site(told, population.prior).after().beliefs,
    )
    std = np.sqrt(np.diag(learned.covariance))
    assert (np.abs(at_once.mean - learned.mean) < 0.03 * std).all()
    np.testing.assert_allclose(np.sqrt(np.diag(at_once.covariance)), std, rtol=0.02)
    np.testing.assert_allclose(at_once.weights, learned.weights, atol=0.02)


@pytest.mark.parametrize("kinds", [("pair",), ("vote", "pair"), ("choice", "pair"), ("ranking",)], ids=str)
def test_several_judgements_against_importance_sampling(rng, make_items, make_population, kinds):
    """Six judgements about four texts with residuals of their own: mean within 0.2 posterior standard deviations of
    the truth, standard deviations within 22 % (the bound of a pair or vote is on the confident side)."""
    population, items, n = make_population(rng), make_items(rng, 4, residual=0.4), 400_000
    items = Items(items.base, items.base_variance, items.directions, 0 * items.directions, items.keys)
    told = [told_of(rng, items, kinds[i % len(kinds)]) for i in range(6)]
    cov = np.linalg.inv(population.precisions[0])
    y = rng.multivariate_normal(population.means[0], cov, n, method="cholesky")
    error = np.sqrt(items.base_variance) * rng.normal(size=(n, 4))
    u = items.base + y @ np.column_stack([np.ones(4), items.directions]).T + error
    row = {key: i for i, key in enumerate(items.keys)}
    weight = np.ones(n)
    for one in told:
        match one:
            case Pair(winner, loser):
                weight *= expit(u[:, row[winner.keys[0]]] - u[:, row[loser.keys[0]]])
            case Vote(item, value):
                weight *= expit(value * u[:, row[item.keys[0]]])
            case Ranking(some, groups):
                powers, start = np.exp(u[:, [row[key] for key in some.keys]]), 0
                for size in groups[:-1]:
                    tied, behind = powers[:, start : start + size].sum(1), powers[:, start + size :].sum(1)
                    for j in range(size):
                        weight *= powers[:, start + j] / (behind + (1 - j / size) * tied)
                    start += size
    weight /= weight.sum()
    mean = weight @ y
    std = np.sqrt(weight @ (y - mean) ** 2)
    found = UserPosterior.refit(population, told).beliefs
    assert (np.abs(found.means[0] - mean) / std).max() < 0.2
    np.testing.assert_allclose(np.sqrt(np.diag(found.covariances[0])), std, rtol=0.22)


def test_in_the_end_learning_one_by_one_comes_close(rng, make_items, make_population):
    population, items = make_population(rng), certain(make_items(rng, 40))
    utility = items.base + items.features @ rng.normal(size=3)

    def agreed(told) -> bool:
        u = dict(zip(items.keys, utility, strict=True))
        match told:
            case Pair(winner, loser):
                return u[winner.keys[0]] > u[loser.keys[0]]
            case Vote(item, value):
                return value * u[item.keys[0]] > 0
            case Ranking(some, groups):
                return max(u[key] for key in some.keys[groups[0] :]) < u[some.keys[0]]
            case Rating(item, value):
                return abs(value - SCALE.offset - SCALE.slope * u[item.keys[0]]) < 0.5

    told: list = []
    while len(told) < 100:
        one = told_of(rng, items, KINDS[len(told) % 5])
        told += [one] if agreed(one) else []
    posterior = UserPosterior.at_prior(population)
    for one in told:
        posterior = posterior.learn(one)
    assert posterior.changes == 0
    at_once = UserPosterior.refit(population, told)
    std = np.sqrt(np.diag(at_once.beliefs.covariances[0]))
    assert (np.abs(at_once.beliefs.means[0] - posterior.beliefs.means[0]) < 0.6 * std).all()
    np.testing.assert_allclose(np.sqrt(np.diag(posterior.beliefs.covariances[0])), std, rtol=0.1)
    assert (at_once.judgements, at_once.surprise, at_once.changes) == (100, 0.0, 0)


# ---------------------------------------------------------------- order, powers, and what says nothing


@pytest.mark.parametrize("archetypes", [1, 3])
@pytest.mark.parametrize("flip", [0.0, 0.15])
def test_the_order_of_judgements_does_not_matter(rng, make_items, make_population, archetypes, flip):
    population, items = make_population(rng, archetypes=archetypes), make_items(rng, 9, residual=0.3)
    told = [told_of(rng, items, KINDS[i % 5], flip=flip) for i in range(30)]
    discounts = rng.uniform(0.1, 1, 30)
    found = UserPosterior.refit(population, told, discounts)
    for _ in range(3):
        order = rng.permutation(30)
        again = UserPosterior.refit(population, [told[i] for i in order], discounts[order])
        np.testing.assert_allclose(again.precision, found.precision, atol=1e-8)
        np.testing.assert_allclose(again.linear, found.linear, atol=1e-8)


def test_a_discount_is_a_power_like_a_weight(rng, make_items, make_population):
    population, items = make_population(rng), make_items(rng, 6)
    told = [told_of(rng, items, kind) for kind in KINDS]
    weighted = [type(one)(**{**one.__dict__, "weight": 0.3}) for one in told]
    by_discount = UserPosterior.refit(population, told, [0.3] * 5)
    by_weight = UserPosterior.refit(population, weighted)
    np.testing.assert_allclose(by_discount.precision, by_weight.precision, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(by_discount.linear, by_weight.linear, rtol=1e-9, atol=1e-12)
    without_last = UserPosterior.refit(population, told, [1.0, 1.0, 1.0, 1.0, 0.0])
    np.testing.assert_allclose(without_last.precision, UserPosterior.refit(population, told[:4]).precision)
    assert without_last.judgements == 5


def test_nothing_said_is_the_population(rng, make_items, make_population):
    population, item = make_population(rng), make_items(rng)
    assert UserPosterior.refit(population, []).beliefs is population.prior
    for told in (Pair(item, item), Ranking(item[[0, 0, 0]], (1, 2)), Ranking(make_items(rng, 3), (3,))):
        precision, linear = sweep(population, [told])
        np.testing.assert_allclose(precision, np.zeros((3, 3)), atol=1e-12)
        np.testing.assert_allclose(linear, np.zeros(3), atol=1e-12)
    forgotten = UserPosterior.refit(population, [Vote(item, 1)], [0.0])
    assert forgotten.beliefs is population.prior


def test_a_text_against_itself_changes_nothing(rng, make_items, make_population):
    population, items = make_population(rng), make_items(rng, 3)
    told = [Vote(items[0], 1), Pair(items[1], items[2])]
    found = UserPosterior.refit(population, [*told, Pair(items[0], items[0])])
    np.testing.assert_allclose(found.precision, UserPosterior.refit(population, told).precision, rtol=1e-9)


def test_a_thousand_repetitions_of_one_vote_are_one_residual(rng, make_items):
    """However often a text is approved, its residual stays unknown: the user's taste is not."""
    population = Population(np.ones(1), np.zeros((1, 3)), np.eye(3)[None])
    item = make_items(rng, base=[0.0], residual=1.0)
    often = UserPosterior.refit(population, [Vote(item, 1)] * 1000)
    direction = item.features[0]
    variance = float(direction @ often.beliefs.covariances[0] @ direction)
    prior = float(direction @ direction)
    residual = float(item.base_variance[0] + item.direction_variance[0] @ often.beliefs.expected_squares[1:])
    # All that can be known of φ·y through φ·y + e.
    assert variance >= prior * residual / (prior + residual) * 0.999


@pytest.mark.parametrize("discount", [-0.1, 1.1, float("nan")])
def test_bad_discounts_are_refused(rng, make_items, make_population, discount):
    with pytest.raises(LikelihoodError, match="a discount must be in"):
        UserPosterior.refit(make_population(rng), [Vote(make_items(rng), 1)], [discount])


def test_bad_judgements_are_refused(rng, make_items, make_population):
    population, items = make_population(rng), make_items(rng, 3)
    with pytest.raises(LikelihoodError, match="a vote is"):
        UserPosterior.refit(population, [Vote(items[0], 2)])
    with pytest.raises(ValueError, match="zip"):
        UserPosterior.refit(population, [Vote(items[0], 1)], [1.0, 1.0])


@pytest.mark.parametrize("base", [-700.0, 700.0])
def test_extreme_utilities_stay_finite(rng, make_items, make_population, base):
    population = make_population(rng, archetypes=2)
    a, b, c = (make_items(rng, base=[value]) for value in (base, 0.0, 1.0))
    three = Items(
        *(
            np.concatenate(p)
            for p in zip(
                *((i.base, i.base_variance, i.directions, i.direction_variance) for i in (a, b, c)),
                strict=True,
            )
        ),
        a.keys + b.keys + c.keys,
    )
    told = [
        Pair(a, b, 1.0, 0.1),
        Vote(a, 1, 1.0, 0.1),
        Rating(a, 0.5, SCALE, 1.0, 0.1),
        Ranking(three, (1, 2), 1.0, 0.1),
    ]
    found = UserPosterior.refit(population, told)
    assert np.isfinite(found.precision).all()
    assert np.isfinite(found.linear).all()


# ---------------------------------------------------------------- the parts


def test_blocks_are_a_dense_matrix(rng):
    edges = np.array([[0, 3], [3, 5], [1, 1], [2, 6], [4, 4]])
    blocks = Blocks(7, edges)
    assert blocks.numbers == 3**2 + 2**2 + 1 + 1
    sets = [[0, 3, 5], [2, 6], [1], [4]]
    dense, stored = np.zeros((7, 7)), np.zeros(blocks.numbers)
    for items in sets:
        root = rng.normal(size=(len(items), len(items)))
        dense[np.ix_(items, items)] = root @ root.T
        rows = np.array(items)
        stored[blocks.at(rows[:, None], rows)] = root @ root.T
    residual, values = rng.uniform(0, 2, 7), rng.normal(size=(7, 2))
    residual[1] = 0.0
    inverse = np.linalg.inv(np.eye(7) + residual[:, None] * dense)
    carried, rest = blocks.damped(stored, residual, values)
    np.testing.assert_allclose(carried, inverse @ values, atol=1e-12)
    np.testing.assert_allclose(blocks.times(stored, values), dense @ values, atol=1e-12)
    for items in sets:
        rows = np.array(items)
        expected = (inverse * residual)[np.ix_(items, items)]
        np.testing.assert_allclose(rest[blocks.at(rows[:, None], rows)], expected, atol=1e-12)


@pytest.mark.parametrize("archetypes", [1, 3])
def test_taking_out_a_site_undoes_it(rng, make_population, archetypes):
    population = make_population(rng, archetypes=archetypes)
    before = population.prior
    factors, root, push = rng.normal(size=(2, 3)), rng.normal(size=(2, 1)), rng.normal(size=2)
    after = before.after(factors, root @ root.T, push)
    found = joint_without(
        after.weights,
        after.means @ factors.T,
        factors @ after.covariances @ factors.T,
        root @ root.T,
        push,
    )
    np.testing.assert_allclose(found[0], before.weights, rtol=1e-9)
    np.testing.assert_allclose(found[1], before.means @ factors.T, atol=1e-9)
    np.testing.assert_allclose(found[2], factors @ before.covariances @ factors.T, atol=1e-9)
    direction, precision, linear = rng.normal(size=3), 0.8, -1.3
    root = np.sqrt(precision) * np.ones((1, 1))
    after = before.after(direction[None], root @ root.T, np.array([linear]))
    weights, means, variances = without(
        after.weights,
        (after.means @ direction)[:, None],
        (after.covariances @ direction @ direction)[:, None],
        np.array([precision]),
        np.array([linear]),
    )
    np.testing.assert_allclose(weights[:, 0], before.weights, rtol=1e-9)
    np.testing.assert_allclose(means[:, 0], before.means @ direction, atol=1e-9)
    np.testing.assert_allclose(variances[:, 0], before.covariances @ direction @ direction, atol=1e-9)
