"""`UserPosterior`: contract checks for every kind of observation, and serialisation to bytes."""

import struct
from collections.abc import Callable

import numpy as np
import pytest

from penchant.models.taste.items import Items
from penchant.models.taste.likelihood import LikelihoodError, compute_site, log_probability
from penchant.models.taste.observations import Observation, Pair, Ranking, Rating, RatingScale, Vote
from penchant.models.taste.population import Beliefs, Population
from penchant.models.taste.posterior import (
    CHANGE_THRESHOLD,
    RETAINED_SHARE,
    PosteriorError,
    UserPosterior,
    update_change_statistic,
)

SCALE = RatingScale(offset=-0.1, slope=0.5, noise=0.4)
SINGLE = ["pair", "vote", "rating", "choice", "ranking"]
KINDS = [*SINGLE, "mixed"]
DAY = 86_400.0


@pytest.fixture
def observe(make_items) -> Callable[..., Observation]:
    """Returns a function that makes a random observation of a kind."""

    def make(rng: np.random.Generator, kind: str, *, k: int = 2, size: float = 1.0) -> Observation:
        if kind == "mixed":
            kind = rng.choice(SINGLE)
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
            case "rating":
                return Rating(a, float(rng.uniform(-1, 1)), SCALE, weight)
            case _:
                items = make_items(rng, 4, k=k, directions=size * rng.normal(size=(4, k)))
                return Ranking(items, (1, 3) if kind == "choice" else (1, 2, 1), weight)

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
        np.testing.assert_allclose(learned.precision, learned.precision.T, rtol=1e-12)
        eigenvalues = np.linalg.eigvalsh(learned.precision)
        assert eigenvalues[0] >= -1e-12 * eigenvalues[-1]  # semidefinite
        changed = learned.changes > posterior.changes
        for c in range(0 if changed else archetypes):  # uncertainty along any φ never grows with evidence
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


@pytest.mark.parametrize("kind", SINGLE)
def test_a_repeated_judgement_moves_its_utility_in_one_direction(rng, make_population, observe, kind):
    """The predicted judgement moves steadily towards the stated one and never overshoots."""
    population = make_population(rng)
    observation = observe(rng, kind)
    posterior = UserPosterior.at_prior(population)

    def predict(p: UserPosterior) -> float:
        match observation:
            case Pair(winner, loser):
                return float(p.utility(winner).mean[0] - p.utility(loser).mean[0])
            case Vote(item, value):
                return value * float(p.utility(item).mean[0])
            case Rating(item, value, scale):
                return -abs(scale.offset + scale.slope * float(p.utility(item).mean[0]) - value)
            case Ranking():
                return log_probability(observation, p.beliefs)

    values = [predict(posterior)]
    for _ in range(15):
        posterior = posterior.learn(observation)
        values.append(predict(posterior))
    assert (np.diff(values) > 0).all()
    assert abs(values[-1]) < 20
    assert posterior.changes == 0


def test_a_user_without_judgements_equals_the_population(rng, make_items, make_population):
    population = make_population(rng, archetypes=2)
    posterior = UserPosterior.at_prior(population)
    assert posterior.judgements == 0
    assert posterior.beliefs is population.prior
    np.testing.assert_array_equal(posterior.archetype_weights, population.weights)
    items = make_items(rng, 4)
    expected = items.base + population.weights @ (population.means @ items.features.T)
    np.testing.assert_allclose(posterior.utility(items).mean, expected, rtol=1e-12)


def test_utility_agrees_with_sampled_users_and_residuals(rng, make_items, make_population):
    """Mean and standard deviation agree with 200,000 draws of archetype, user position and item residuals."""
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


def test_uncertainty_includes_that_of_the_text(rng, make_items, make_population):
    posterior = UserPosterior.at_prior(make_population(rng))
    certain = make_items(np.random.default_rng(5), residual=0.0)
    vague = make_items(np.random.default_rng(5), residual=1.0)
    np.testing.assert_array_equal(certain.base, vague.base)
    difference = posterior.utility(vague).std ** 2 - posterior.utility(certain).std ** 2
    second = posterior.beliefs.second_moments[0, 1:]
    np.testing.assert_allclose(difference, vague.base_variance + vague.direction_variance @ second)


def test_order_hardly_matters_and_a_refused_judgement_changes_nothing(rng, make_population, observe):
    population = make_population(rng)
    observations = [observe(rng, "mixed") for _ in range(12)]
    forth = back = UserPosterior.at_prior(population)
    for a, b in zip(observations, reversed(observations), strict=True):
        forth, back = forth.learn(a), back.learn(b)
    # Each logistic site is computed online at its own fixed point, so the order matters slightly.
    spread = np.sqrt(np.diag(forth.beliefs.covariances[0]))
    assert (np.abs(forth.beliefs.means[0] - back.beliefs.means[0]) < 0.2 * spread).all()
    before = evidence(forth)
    with pytest.raises(LikelihoodError):
        forth.learn(
            Vote(observations[0].winner if isinstance(observations[0], Pair) else observations[0].item, 0)
        )
    assert evidence(forth) == before


def test_thousands_of_judgements_stay_stable(rng, make_items, make_population):
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


# ---------------------------------------------------------------- folding, forgetting


@pytest.mark.parametrize("archetypes", [1, 3])
def test_a_fold_does_not_depend_on_where_it_was_interrupted(rng, make_population, observe, archetypes):
    """Saving and reading after any judgement gives the same bits."""
    population = make_population(rng, archetypes=archetypes)
    history = [observe(rng, "mixed") for _ in range(12)]
    whole = UserPosterior.at_prior(population).fold(history)
    assert whole.judgements == 12
    for number in range(13):
        saved = UserPosterior.at_prior(population).fold(history[:number]).to_bytes()
        resumed = UserPosterior.from_bytes(saved, population).fold(history[number:])
        assert resumed.to_bytes() == whole.to_bytes()
        assert evidence(resumed) == evidence(whole)


def invert(population: Population, precision: np.ndarray, linear: np.ndarray) -> Beliefs:
    """Return the beliefs given evidence, by inversion and determinants instead of factors."""
    totals = population.precisions + precision
    covariances = np.linalg.inv(totals)
    targets = np.einsum("cij,cj->ci", population.precisions, population.means) + linear
    means = np.einsum("cij,cj->ci", covariances, targets)
    own = np.einsum("ci,cij,cj->c", population.means, population.precisions, population.means)
    logs = np.log(population.weights) + 0.5 * (
        np.linalg.slogdet(population.precisions)[1]
        - np.linalg.slogdet(totals)[1]
        + np.einsum("ci,ci->c", targets, means)
        - own
    )
    weights = np.exp(logs - logs.max())
    return Beliefs(weights / weights.sum(), means, covariances)


@pytest.mark.parametrize("archetypes", [1, 3])
def test_a_fold_agrees_with_inversion_after_every_judgement(rng, make_population, observe, archetypes):
    """The reference inverts the precision and rounds the evidence to float32 after every judgement."""
    population = make_population(rng, q=9, archetypes=archetypes)
    history = [observe(rng, "mixed" if n % 5 == 0 else "pair", k=8, size=0.5) for n in range(150)]
    precision, linear, statistic, changes = np.zeros((9, 9)), np.zeros(9), 0.0, 0
    for observation in history:
        site = compute_site(observation, invert(population, precision, linear), population.prior)
        statistic = update_change_statistic(statistic, observation.weight * site.log_likelihood_ratio)
        if statistic > CHANGE_THRESHOLD:
            precision, linear, statistic = RETAINED_SHARE * precision, RETAINED_SHARE * linear, 0.0
            changes += 1
            site = compute_site(observation, invert(population, precision, linear), population.prior)
            statistic = update_change_statistic(0.0, observation.weight * site.log_likelihood_ratio)
        precision = (precision + site.precision).astype(np.float32).astype(np.float64)
        linear = (linear + site.linear).astype(np.float32).astype(np.float64)
    folded = UserPosterior.at_prior(population).fold(history)
    assert folded.changes == changes
    np.testing.assert_allclose(folded.precision, precision, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(folded.linear, linear, rtol=1e-5, atol=1e-5)
    assert folded.change_statistic == pytest.approx(statistic, abs=1e-4)
    expected = invert(population, folded.precision, folded.linear)
    np.testing.assert_allclose(folded.beliefs.means, expected.means, atol=1e-9)
    np.testing.assert_allclose(folded.beliefs.covariances, expected.covariances, atol=1e-11)
    np.testing.assert_allclose(folded.archetype_weights, expected.weights, atol=1e-9)


def test_forgetting_is_a_power_prior(rng, make_population, observe):
    population = make_population(rng, archetypes=2)
    posterior = UserPosterior.at_prior(population)
    for _ in range(6):
        posterior = posterior.learn(observe(rng, "mixed"))
    half = posterior.forget(30 * DAY, 30 * DAY)
    np.testing.assert_allclose(half.precision, posterior.precision / 2, rtol=1e-12)
    np.testing.assert_allclose(half.linear, posterior.linear / 2, rtol=1e-12)
    expected = population.update(posterior.precision / 2, posterior.linear / 2)
    np.testing.assert_allclose(half.beliefs.means, expected.means, rtol=1e-12)
    assert half.judgements == 6
    # Uncertainty grows again, towards the population's.
    spread = [np.trace(p.beliefs.covariance) for p in (posterior, half, UserPosterior.at_prior(population))]
    assert spread[0] < spread[1]


def test_forgetting_composes(rng, make_population, observe):
    posterior = UserPosterior.at_prior(make_population(rng)).learn(observe(rng, "pair"))
    at_once = posterior.forget(50 * DAY, 7 * DAY)
    step_by_step = posterior
    for _ in range(50):
        step_by_step = step_by_step.forget(DAY, 7 * DAY)
    np.testing.assert_allclose(step_by_step.precision, at_once.precision, rtol=1e-12)
    np.testing.assert_allclose(step_by_step.linear, at_once.linear, rtol=1e-12)
    assert posterior.forget(0.0, DAY) is posterior
    assert posterior.forget(DAY, float("inf")) is posterior


def test_an_idle_user_becomes_the_population_exactly(rng, make_items, make_population, observe):
    population = make_population(rng, archetypes=2)
    posterior = UserPosterior.at_prior(population)
    for _ in range(20):
        posterior = posterior.learn(observe(rng, "mixed"))
    idle, years = posterior, 0
    while idle.beliefs is not population.prior:
        idle, years = idle.forget(365 * DAY, 90 * DAY), years + 1
        assert years < 20
    np.testing.assert_array_equal(
        idle.utility(items := make_items(rng, 3)).mean, UserPosterior.at_prior(population).utility(items).mean
    )
    assert posterior.forget(1e12 * DAY, DAY).beliefs is population.prior
    assert UserPosterior.from_bytes(idle.to_bytes(), population).beliefs is population.prior


@pytest.mark.parametrize(
    ("elapsed", "half_life"), [(-1.0, 1.0), (1.0, 0.0), (1.0, -1.0), (float("nan"), 1.0), (1.0, float("nan"))]
)
def test_time_must_run_forwards(rng, make_population, elapsed, half_life):
    with pytest.raises(ValueError, match="cannot forget"):
        UserPosterior.at_prior(make_population(rng)).forget(elapsed, half_life)


# ---------------------------------------------------------------- detected changes


def test_a_change_discounts_the_evidence_once(rng, make_items):
    population = Population(np.ones(1), np.zeros((1, 3)), np.eye(3)[None])
    a, b = make_items(rng, base=[0.0]), make_items(rng, base=[0.0])
    posterior = UserPosterior.at_prior(population)
    for _ in range(30):
        posterior = posterior.learn(Pair(a, b))
    assert posterior.changes == 0
    assert posterior.change_statistic < 1.0
    steps = [posterior]
    while steps[-1].changes == 0:
        steps.append(steps[-1].learn(Pair(b, a)))
    before, after = steps[-2], steps[-1]
    assert 6 <= len(steps) - 1 <= 12  # no single judgement decides
    assert (np.diff([p.change_statistic for p in steps[:-1]]) > 0).all()
    # A quarter of the old evidence remains, plus the judgement that revealed the change.
    expected = UserPosterior(
        population, RETAINED_SHARE * before.precision, RETAINED_SHARE * before.linear
    ).learn(Pair(b, a))
    np.testing.assert_allclose(after.precision, expected.precision, rtol=1e-12)
    np.testing.assert_allclose(after.linear, expected.linear, rtol=1e-12)
    assert (after.judgements, after.changes) == (before.judgements + 1, 1)
    assert after.change_statistic == expected.change_statistic <= 1.0
    # The new opinion is soon learned.
    settled = after
    for _ in range(12):
        settled = settled.learn(Pair(b, a))
    assert settled.utility(b).mean[0] > settled.utility(a).mean[0]
    assert settled.changes == 1


# ---------------------------------------------------------------- bytes


@pytest.mark.parametrize("q", [1, 2, 5, 17])
def test_bytes_round_trip(rng, make_items, make_population, observe, q):
    population = make_population(rng, q=q, archetypes=2)
    posterior = UserPosterior.at_prior(population)
    for _ in range(10):
        posterior = posterior.learn(observe(rng, "mixed", k=q - 1))
    again = UserPosterior.from_bytes(posterior.to_bytes(), population)
    assert again.judgements == 10
    assert (again.change_statistic, again.changes) == (posterior.change_statistic, posterior.changes)
    assert again.to_bytes() == posterior.to_bytes()
    items = make_items(rng, 6, k=q - 1)
    np.testing.assert_allclose(again.utility(items).mean, posterior.utility(items).mean, atol=1e-6)
    np.testing.assert_allclose(again.utility(items).std, posterior.utility(items).std, rtol=1e-6)
    np.testing.assert_allclose(again.archetype_weights, posterior.archetype_weights, atol=1e-6)
    # What it learns next is also nearly the same.
    more = observe(rng, "vote", k=q - 1)
    np.testing.assert_allclose(again.learn(more).precision, posterior.learn(more).precision, atol=2e-6)
    np.testing.assert_allclose(again.learn(more).linear, posterior.learn(more).linear, atol=2e-6)


@pytest.mark.parametrize("q", [1, 2, 17])
def test_a_rounded_posterior_equals_the_read_one_to_the_bit(rng, make_population, observe, q):
    population = make_population(rng, q=q, archetypes=2)
    posterior = UserPosterior.at_prior(population)
    for _ in range(20):
        posterior = posterior.learn(observe(rng, "mixed", k=q - 1))
        read, rounded = (
            UserPosterior.from_bytes(posterior.to_bytes(), population),
            posterior.round_to_stored(),
        )
        for actual, expected in (
            (read, rounded),
            (read.learn(observation := observe(rng, "vote", k=q - 1)), rounded.learn(observation)),
        ):
            assert actual.precision.tobytes() == expected.precision.tobytes()
            assert actual.linear.tobytes() == expected.linear.tobytes()
            assert actual.to_bytes() == expected.to_bytes()


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", ["precision", "linear"])
def test_numbers_that_are_not_finite_cannot_be_stored(rng, make_population, number, field):
    posterior = UserPosterior.at_prior(make_population(rng, q=3))
    getattr(posterior, field)[-1] = number
    with pytest.raises(PosteriorError, match="not finite"):
        posterior.round_to_stored()


def test_saving_after_every_judgement_changes_hardly_anything(rng, make_items, make_population, observe):
    population = make_population(rng, q=17)
    live = stored = UserPosterior.at_prior(population)
    for _ in range(300):
        observation = observe(rng, "mixed", k=16, size=0.5)
        live = live.learn(observation)
        stored = UserPosterior.from_bytes(stored.learn(observation).to_bytes(), population)
    assert stored.judgements == live.judgements
    assert (stored.change_statistic, stored.changes) == (
        pytest.approx(live.change_statistic, abs=1e-4),
        live.changes,
    )
    items = make_items(rng, 50, k=16)
    np.testing.assert_allclose(stored.utility(items).mean, live.utility(items).mean, atol=1e-4)
    np.testing.assert_allclose(stored.utility(items).std, live.utility(items).std, rtol=1e-5)


def test_a_user_with_sixteen_directions_fits_into_a_kilobyte(rng, make_population, observe):
    population = make_population(rng, q=17, archetypes=4)
    posterior = UserPosterior.at_prior(population).learn(observe(rng, "pair", k=16))
    assert len(posterior.to_bytes()) == 24 + 4 * (17 + 17 * 18 // 2) == 704


def test_the_prior_survives_a_round_trip(rng, make_population):
    population = make_population(rng, archetypes=2)
    again = UserPosterior.from_bytes(UserPosterior.at_prior(population).to_bytes(), population)
    assert again.judgements == 0
    assert again.beliefs is population.prior


def test_damaged_bytes_are_refused(rng, make_population, observe):
    population = make_population(rng, archetypes=2)
    blob = UserPosterior.at_prior(population).learn(observe(rng, "vote")).to_bytes()
    damaged = {
        "empty": b"",
        "header only": blob[:24],
        "the format before": b"pup1" + struct.pack("<HHI", 3, 2, 1) + blob[24:],
        "cut": blob[:-1],
        "too long": blob + b"\0",
        "other magic": b"nope" + blob[4:],
        "other size, same length": blob[:4] + struct.pack("<H", 2) + blob[6:],
        "other archetypes": blob[:6] + struct.pack("<H", 3) + blob[8:],
    }
    for damage, content in damaged.items():
        with pytest.raises(PosteriorError):
            pytest.fail(f"{damage}: {UserPosterior.from_bytes(content, population)}")


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_damage(rng, make_population, number):
    population = make_population(rng)
    blob = UserPosterior.at_prior(population).to_bytes()
    for offset in (24, len(blob) - 4):
        damaged = blob[:offset] + struct.pack("<f", number) + blob[offset + 4 :]
        with pytest.raises(PosteriorError, match="finite"):
            UserPosterior.from_bytes(damaged, population)


@pytest.mark.parametrize("statistic", [-1e-9, CHANGE_THRESHOLD + 1e-9, float("nan"), float("inf")])
def test_an_impossible_change_statistic_is_damage(rng, make_population, statistic):
    population = make_population(rng)
    blob = UserPosterior.at_prior(population).to_bytes()
    with pytest.raises(PosteriorError, match="out of bounds"):
        UserPosterior.from_bytes(blob[:12] + struct.pack("<d", statistic) + blob[20:], population)


def test_bytes_of_another_population_are_refused(rng, make_population):
    blob = UserPosterior.at_prior(make_population(rng, q=3)).to_bytes()
    with pytest.raises(PosteriorError, match="60 bytes, a posterior of 4 coordinates has 80"):
        UserPosterior.from_bytes(blob, make_population(rng, q=4))
    with pytest.raises(PosteriorError, match="do not fit this population"):
        UserPosterior.from_bytes(blob, make_population(rng, q=3, archetypes=2))


def test_one_dimension_is_supported(rng, make_items):
    """In a model without directions of taste, only the threshold is personal."""
    population = Population(np.ones(1), np.zeros((1, 1)), np.ones((1, 1, 1)))
    item = make_items(rng, k=0)
    posterior = UserPosterior.at_prior(population).learn(Vote(item, -1))
    assert posterior.beliefs.means[0, 0] < 0
    pair = UserPosterior.at_prior(population).learn(Pair(item, make_items(rng, k=0)))
    assert pair.beliefs.means[0, 0] == 0  # pairs carry no information about the threshold
