"""`UserPosterior`: contract checks that every kind of observation must pass, and its bytes."""

import struct
from collections.abc import Callable

import numpy as np
import pytest

from penchant.models.items import Items
from penchant.models.likelihood import LikelihoodError, Observation, Pair, Rating, RatingScale, Vote
from penchant.models.population import Population
from penchant.models.posterior import PosteriorError, UserPosterior

SCALE = RatingScale(offset=-0.1, slope=0.5, noise=0.4)
KINDS = ["pair", "vote", "rating", "mixed"]


@pytest.fixture
def observe(make_items) -> Callable[..., Observation]:
    """A random observation of a kind."""

    def make(rng: np.random.Generator, kind: str, *, k: int = 2, size: float = 1.0) -> Observation:
        if kind == "mixed":
            kind = rng.choice(KINDS[:3])
        a, b = (
            make_items(rng, k=k, base=size * rng.normal(size=1), directions=size * rng.normal(size=(1, k)))
            for _ in range(2)
        )
        weight = float(rng.uniform(0.1, 1))
        match kind:
            case "pair":
                return Pair(a, b, weight)
            case "vote":
                return Vote(a, int(rng.choice([-1, 1])), weight)
            case _:
                return Rating(a, float(rng.uniform(-1, 1)), SCALE, weight)

    return make


def evidence(posterior: UserPosterior) -> bytes:
    return posterior.precision.tobytes() + posterior.linear.tobytes()


# ---------------------------------------------------------------- the contract, for every kind of observation


@pytest.mark.parametrize("archetypes", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_learning_keeps_the_contract(rng, make_items, make_population, observe, kind, archetypes):
    population = make_population(rng, archetypes=archetypes)
    directions = rng.normal(0, 1, (20, 3))
    items = make_items(rng, 7)
    posterior = UserPosterior.at_prior(population)
    for number in range(40):
        before = evidence(posterior)
        beliefs_before = posterior.beliefs
        learned = posterior.learn(observe(rng, kind, size=10.0 if number % 5 == 0 else 1.0))
        assert evidence(posterior) == before  # immutable
        assert posterior.beliefs is beliefs_before
        assert learned is not posterior
        assert learned.judgements == posterior.judgements + 1 == number + 1
        np.testing.assert_array_equal(learned.precision, learned.precision.T)
        eigenvalues = np.linalg.eigvalsh(learned.precision.astype(np.float64))
        assert eigenvalues[0] >= -1e-6 * eigenvalues[-1]  # semidefinite up to float32
        for c in range(archetypes):  # uncertainty along any φ never grows with evidence
            spread = ((directions @ learned.beliefs.covariances[c]) * directions).sum(1)
            spread_before = ((directions @ beliefs_before.covariances[c]) * directions).sum(1)
            assert (spread <= spread_before * (1 + 1e-6)).all()
            assert np.linalg.eigvalsh(learned.beliefs.covariances[c])[0] > 0
        assert learned.archetype_weights.sum() == pytest.approx(1.0, abs=1e-12)
        assert (learned.archetype_weights >= 0).all()
        utility = learned.utility(items)
        assert np.isfinite(utility.mean).all()
        assert (utility.std > 0).all()
        posterior = learned


@pytest.mark.parametrize("kind", ["pair", "vote", "rating"])
def test_a_repeated_judgement_pulls_its_utility_one_way(rng, make_population, observe, kind):
    """What was said becomes more and more true of the user, and never overshoots into nonsense."""
    population = make_population(rng)
    observation = observe(rng, kind)
    posterior = UserPosterior.at_prior(population)

    def said(p: UserPosterior) -> float:
        match observation:
            case Pair(winner, loser):
                return float(p.utility(winner).mean[0] - p.utility(loser).mean[0])
            case Vote(item, value):
                return value * float(p.utility(item).mean[0])
            case Rating(item, value, scale):
                return -abs(scale.offset + scale.slope * float(p.utility(item).mean[0]) - value)

    values = [said(posterior)]
    for _ in range(15):
        posterior = posterior.learn(observation)
        values.append(said(posterior))
    assert (np.diff(values) > 0).all()
    assert abs(values[-1]) < 20


def test_a_user_nobody_has_heard_from_is_the_population(rng, make_items, make_population):
    population = make_population(rng, archetypes=2)
    posterior = UserPosterior.at_prior(population)
    assert posterior.judgements == 0
    assert posterior.beliefs is population.prior
    np.testing.assert_array_equal(posterior.archetype_weights, population.weights)
    items = make_items(rng, 4)
    expected = items.base + population.weights @ (population.means @ items.features.T)
    np.testing.assert_allclose(posterior.utility(items).mean, expected, rtol=1e-12)


def test_utility_is_that_of_sampled_users_and_residuals(rng, make_items, make_population):
    """Mean and std against 200,000 draws of archetype, user position and item residuals."""
    population = make_population(rng, archetypes=2)
    posterior = UserPosterior.at_prior(population).learn(Vote(make_items(rng), 1))
    items = make_items(rng, 3, residual=0.5)
    beliefs, n = posterior.beliefs, 200_000
    archetype = rng.choice(2, n, p=beliefs.weights)
    roots = np.linalg.cholesky(beliefs.covariances)
    y = beliefs.means[archetype] + np.einsum("nij,nj->ni", roots[archetype], rng.normal(size=(n, 3)))
    for i in range(3):
        base = items.base[i] + np.sqrt(items.base_variance[i]) * rng.normal(size=n)
        directions = items.directions[i] + np.sqrt(items.direction_variance[i]) * rng.normal(size=(n, 2))
        draws = base + y[:, 0] + (y[:, 1:] * directions).sum(1)
        utility = posterior.utility(items[i])
        assert utility.mean[0] == pytest.approx(draws.mean(), abs=4 * draws.std() / np.sqrt(n))
        assert utility.std[0] == pytest.approx(draws.std(), rel=0.01)


def test_uncertainty_of_the_text_is_part_of_the_uncertainty(rng, make_items, make_population):
    posterior = UserPosterior.at_prior(make_population(rng))
    known = make_items(np.random.default_rng(5), residual=0.0)
    vague = make_items(np.random.default_rng(5), residual=1.0)
    np.testing.assert_array_equal(known.base, vague.base)
    difference = posterior.utility(vague).std ** 2 - posterior.utility(known).std ** 2
    second = posterior.beliefs.second_moments[0, 1:]
    np.testing.assert_allclose(difference, vague.base_variance + vague.direction_variance @ second)


def test_order_hardly_matters_and_a_refused_judgement_changes_nothing(rng, make_population, observe):
    population = make_population(rng)
    observations = [observe(rng, "mixed") for _ in range(12)]
    forth = back = UserPosterior.at_prior(population)
    for a, b in zip(observations, reversed(observations), strict=True):
        forth, back = forth.learn(a), back.learn(b)
    # Logistic sites are taken online, each at its own fixed point: not exactly commutative, but close.
    spread = np.sqrt(np.diag(forth.beliefs.covariances[0]))
    assert (np.abs(forth.beliefs.means[0] - back.beliefs.means[0]) < 0.2 * spread).all()
    before = evidence(forth)
    with pytest.raises(LikelihoodError):
        forth.learn(
            Vote(observations[0].winner if isinstance(observations[0], Pair) else observations[0].item, 0)
        )
    assert evidence(forth) == before


def test_thousands_of_judgements_stay_sane(rng, make_items, make_population):
    posterior = UserPosterior.at_prior(make_population(rng))
    a, b = make_items(rng), make_items(rng)
    for _ in range(2000):
        posterior = posterior.learn(Pair(a, b)).learn(Rating(a, 1.0, SCALE))
    assert posterior.judgements == 4000
    items = Items(
        np.concatenate([a.base, b.base]),
        np.concatenate([a.base_variance, b.base_variance]),
        np.concatenate([a.directions, b.directions]),
        np.concatenate([a.direction_variance, b.direction_variance]),
        a.keys + b.keys,
    )
    utility = posterior.utility(items)
    assert np.isfinite(utility.mean).all()
    assert utility.mean[0] > utility.mean[1]
    assert UserPosterior.from_bytes(posterior.to_bytes(), posterior.population).judgements == 4000


# ---------------------------------------------------------------- bytes


@pytest.mark.parametrize("q", [1, 2, 5, 17])
def test_bytes_round_trip_bit_for_bit(rng, make_items, make_population, observe, q):
    population = make_population(rng, q=q, archetypes=2)
    posterior = UserPosterior.at_prior(population)
    for _ in range(10):
        posterior = posterior.learn(observe(rng, "mixed", k=q - 1))
    again = UserPosterior.from_bytes(posterior.to_bytes(), population)
    assert evidence(again) == evidence(posterior)
    assert again.judgements == 10
    assert again.to_bytes() == posterior.to_bytes()
    items = make_items(rng, 6, k=q - 1)
    np.testing.assert_array_equal(again.utility(items).mean, posterior.utility(items).mean)
    np.testing.assert_array_equal(again.utility(items).std, posterior.utility(items).std)
    # And what it learns next is the same too: saving between two judgements changes nothing.
    more = observe(rng, "vote", k=q - 1)
    assert again.learn(more).to_bytes() == posterior.learn(more).to_bytes()


def test_a_user_with_sixteen_directions_fits_into_a_kilobyte(rng, make_population, observe):
    population = make_population(rng, q=17, archetypes=4)
    posterior = UserPosterior.at_prior(population).learn(observe(rng, "pair", k=16))
    assert len(posterior.to_bytes()) == 12 + 4 * (17 + 17 * 18 // 2) == 692


def test_the_prior_survives_its_bytes(rng, make_population):
    population = make_population(rng, archetypes=2)
    again = UserPosterior.from_bytes(UserPosterior.at_prior(population).to_bytes(), population)
    assert again.judgements == 0
    assert again.beliefs is population.prior


def test_damaged_bytes_are_refused(rng, make_population, observe):
    population = make_population(rng, archetypes=2)
    blob = UserPosterior.at_prior(population).learn(observe(rng, "vote")).to_bytes()
    damaged = {
        "empty": b"",
        "header only": blob[:12],
        "cut": blob[:-1],
        "too long": blob + b"\0",
        "other magic": b"nope" + blob[4:],
        "other size, same length": blob[:4] + struct.pack("<H", 2) + blob[6:],
        "other archetypes": blob[:6] + struct.pack("<H", 3) + blob[8:],
    }
    for what, content in damaged.items():
        with pytest.raises(PosteriorError):
            pytest.fail(f"{what}: {UserPosterior.from_bytes(content, population)}")


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_damage(rng, make_population, number):
    population = make_population(rng)
    blob = UserPosterior.at_prior(population).to_bytes()
    for offset in (12, len(blob) - 4):
        damaged = blob[:offset] + struct.pack("<f", number) + blob[offset + 4 :]
        with pytest.raises(PosteriorError, match="finite"):
            UserPosterior.from_bytes(damaged, population)


def test_bytes_of_another_population_are_refused(rng, make_population):
    blob = UserPosterior.at_prior(make_population(rng, q=3)).to_bytes()
    with pytest.raises(PosteriorError, match="48 bytes, a posterior of 4 coordinates has 68"):
        UserPosterior.from_bytes(blob, make_population(rng, q=4))
    with pytest.raises(PosteriorError, match="does not fit this population"):
        UserPosterior.from_bytes(blob, make_population(rng, q=3, archetypes=2))


def test_one_dimension_is_enough(rng, make_items):
    """A model without directions of taste: only the threshold is the user's own."""
    population = Population(np.ones(1), np.zeros((1, 1)), np.ones((1, 1, 1)))
    item = make_items(rng, k=0)
    posterior = UserPosterior.at_prior(population).learn(Vote(item, -1))
    assert posterior.beliefs.means[0, 0] < 0
    pair = UserPosterior.at_prior(population).learn(Pair(item, make_items(rng, k=0)))
    assert pair.beliefs.means[0, 0] == 0  # pairs say nothing of a threshold
