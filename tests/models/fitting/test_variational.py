"""Messages of the batch fit agree with plain loops, exact regression and numerical maxima."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from penchant.models.fitting import messages as messages_module
from penchant.models.fitting.dataset import Dataset
from penchant.models.fitting.messages import Messages, compute_item_messages, compute_user_messages
from penchant.models.fitting.variational import (
    MIN_SLOPE,
    RATING_NOISE,
    Factors,
    RatingScales,
    Trust,
    compute_utilities,
    find_leading_directions,
    sum_by_source,
)
from penchant.models.judgements.judgement import Judgement
from penchant.models.taste.likelihood import compute_site
from penchant.models.taste.observations import Pair, Vote
from penchant.models.taste.population import Beliefs

K = 2  # directions; users are [1, t, z₁, z₂], items [b, 1, v₁, v₂]
DOUBLE = {"dtype": torch.float64}


def judgement(
    kind: str, user: str, *texts: str, value: float = 0.0, source: str = "a", weight: float = 1.0
) -> Judgement:
    return Judgement(user, "", kind, texts, value, source=source, weight=weight)


@pytest.fixture
def data(rng) -> Dataset:
    """Dataset of seven users and six texts with all kinds of judgements, two rating sources and some weights."""
    texts, rows = [f"t{i}" for i in range(6)], []
    for number in range(60):
        a, b, c = rng.choice(texts, 3, replace=False)
        user, weight = f"u{rng.integers(7)}", 1.0 if number % 3 else 0.4
        match number % 4:
            case 0:
                rows.append(judgement("pair", user, a, b, weight=weight))
            case 1:
                value = float(rng.choice([-1, 1]))
                rows.append(judgement("vote", user, a, value=value, weight=weight))
            case 2:
                source = str(rng.choice(["a", "b"]))
                value = float(rng.uniform(-1, 1))
                rows.append(judgement("rating", user, a, value=value, source=source, weight=weight))
            case _:
                rows.append(judgement("ranking", user, a, b, c, weight=weight))
    return Dataset.from_judgements(rows, {("", t): np.zeros(3, np.float16) for t in texts})


def factors(rng, n: int, known: int, *, spread: float = 0.3) -> Factors:
    """Return random beliefs with a 1 at the known coordinate."""
    width = 2 + K
    free = [c for c in range(width) if c != known]
    mean = rng.normal(size=(n, width))
    mean[:, known] = 1.0
    cov = np.zeros((n, width, width))
    roots = spread * rng.normal(size=(n, width - 1, width - 1))
    cov[np.ix_(range(n), free, free)] = roots @ roots.transpose(0, 2, 1)
    return Factors(torch.tensor(mean), torch.tensor(cov), free)


def full_trust(data: Dataset) -> Trust:
    """Return the trust in which every label is right and no account is capped."""
    ones = tuple(torch.ones(len(batch)).double() for batch in data.kinds)
    return Trust(ones, ones)


@pytest.fixture
def state(rng, data):
    """Random users, items, scales and trust."""
    scales = RatingScales(torch.tensor([0.1, -0.2], **DOUBLE), torch.tensor([0.4, 0.7], **DOUBLE))
    right, share = (
        tuple(torch.tensor(rng.uniform(low, 1, len(batch))) for batch in data.kinds) for low in (0.5, 0.1)
    )
    users, items = factors(rng, len(data.users), 0), factors(rng, len(data.keys), 1)
    return users, items, scales, Trust(right, share)


# ---------------------------------------------------------------- messages


def loops(data: Dataset, users: Factors, items: Factors, scales: RatingScales, trust: Trust):
    """Return natural parameters `[n, D, D]`, `[n, D]` of users and items, by a numpy loop over judgements."""
    h, g = users.mean.numpy(), items.mean.numpy()
    hh = np.array([np.outer(m, m) + c for m, c in zip(h, users.cov.numpy(), strict=True)])
    gg = np.array([np.outer(m, m) + c for m, c in zip(g, items.cov.numpy(), strict=True)])
    user_p, user_l = np.zeros_like(hh), np.zeros_like(h)
    item_p, item_l = np.zeros_like(gg), np.zeros_like(g)

    def omega(second: float) -> float:
        return np.tanh(np.sqrt(second) / 2) / (2 * np.sqrt(second))

    for kind, batch in enumerate(data.kinds):
        for j in range(len(batch)):
            u, x, o, s = (int(column[j]) for column in (batch.user, batch.item, batch.other, batch.source))
            value, weight = float(batch.value[j]), float(batch.weight[j])
            right, share = float(trust.correct[kind][j]), float(trust.share[kind][j])
            if kind == 0:
                target = (value - float(scales.offset[s])) / float(scales.slope[s])
                d, second, w = g[x], gg[x], 1 / RATING_NOISE
                pull = target * w
            elif kind == 1:
                d, second = g[x], gg[x]
                w, pull = omega(np.trace(second @ hh[u])), value * (right - 0.5)
            else:
                d = g[x] - g[o]
                second = np.outer(d, d) + items.cov[x].numpy() + items.cov[o].numpy()
                w, pull = omega(np.trace(second @ hh[u])), right - 0.5
            user_p[u] += weight * w * second
            user_l[u] += weight * pull * d
            power = weight * share  # the cap applies to the messages to items only
            item_p[x] += power * w * hh[u]
            item_l[x] += power * pull * h[u]
            if kind == 2:
                item_l[x] += power * w * hh[u] @ g[o]
                item_p[o] += power * w * hh[u]
                item_l[o] += power * (-pull * h[u] + w * hh[u] @ g[x])
    return (user_p, user_l), (item_p, item_l)


def conditioned(precision, linear, known: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the natural parameters of the free coordinates, given that the known one is 1."""
    free = [c for c in range(2 + K) if c != known]
    return precision[:, free][:, :, free], linear[:, free] - precision[:, free, known]


def test_messages_agree_with_plain_loops(data, state):
    of_users, of_items = loops(data, *state)
    for found, (precision, linear) in [
        (compute_user_messages(data, *state), conditioned(*of_users, known=0)),
        (compute_item_messages(data, *state), conditioned(*of_items, known=1)),
    ]:
        np.testing.assert_allclose(found.precision.numpy(), precision, atol=1e-10)
        np.testing.assert_allclose(found.linear.numpy(), linear, atol=1e-10)


def test_chunks_change_nothing(data, state, monkeypatch):
    whole = [messages(data, *state) for messages in (compute_user_messages, compute_item_messages)]
    monkeypatch.setattr(messages_module, "CHUNK_NUMBERS", 4 * (2 + K) ** 2)  # four judgements
    for before, messages in zip(whole, (compute_user_messages, compute_item_messages), strict=True):
        after = messages(data, *state)
        torch.testing.assert_close(after.precision, before.precision, rtol=0, atol=1e-12)
        torch.testing.assert_close(after.linear, before.linear, rtol=0, atol=1e-12)


def test_with_known_items_ratings_give_exact_regression(rng, data):
    """Without item uncertainty, the user's posterior is the conditional of a joint Gaussian."""
    users, items = factors(rng, len(data.users), 0), factors(rng, len(data.keys), 1, spread=0.0)
    scales = RatingScales(torch.zeros(2).double(), torch.ones(2).double())
    ratings_only = replace(data, votes=data.votes[:0], pairs=data.pairs[:0])
    prior = np.diag([0.5, 1.0, 2.0])
    trust = full_trust(ratings_only)
    mean, cov = compute_user_messages(ratings_only, users, items, scales, trust).compute_posterior(
        torch.tensor(np.linalg.inv(prior)), torch.zeros(3).double()
    )
    for u in range(len(data.users)):
        ratings = data.ratings[data.ratings.user == u]
        g = items.mean[ratings.item].numpy()
        phi, target = g[:, 1:], ratings.value.numpy() - g[:, 0]
        marginal = phi @ prior @ phi.T + np.diag(RATING_NOISE / ratings.weight.numpy())
        gain = prior @ phi.T @ np.linalg.inv(marginal)
        np.testing.assert_allclose(mean[u].numpy(), gain @ target, atol=1e-10)
        np.testing.assert_allclose(cov[u].numpy(), prior - gain @ phi @ prior, atol=1e-10)


def test_batch_and_online_agree_on_one_logistic_judgement(rng, make_items):
    """At its fixed point, the batch user update equals the site of `UserPosterior.learn`."""
    a, b = make_items(rng, residual=0.2), make_items(rng, residual=0.2)
    keys = [a.keys[0].hex(), b.keys[0].hex()]
    prior = np.linalg.inv(np.array([[1.0, 0.3, 0.0], [0.3, 1.5, 0.2], [0.0, 0.2, 0.8]]))
    beliefs = Beliefs(np.ones(1), np.zeros((1, 3)), np.linalg.inv(prior)[None])
    vectors = {("", key): np.zeros(1, np.float16) for key in keys}
    items = Factors(torch.zeros(2, 4).double(), torch.zeros(2, 4, 4).double(), [0, 2, 3])
    for i, item in enumerate((a, b)):
        items.mean[i] = torch.tensor([item.base[0], 1.0, *item.directions[0]])
    nothing_rated = RatingScales(torch.zeros(1).double(), torch.ones(1).double())
    for observation, row in [
        (Pair(a, b), judgement("pair", "u", *keys)),
        (Vote(a, -1), judgement("vote", "u", keys[0], value=-1.0)),
        (Pair(a, b, weight=0.3), judgement("pair", "u", *keys, weight=0.3)),
    ]:
        data = Dataset.from_judgements([row], vectors)
        known = Factors(items.mean[: len(data.keys)], items.cov[: len(data.keys)], items.free)
        user = Factors(torch.tensor([[1.0, 0, 0, 0]]).double(), torch.zeros(1, 4, 4).double(), [1, 2, 3])
        for _ in range(200):
            messages = compute_user_messages(data, user, known, nothing_rated, full_trust(data))
            mean, cov = messages.compute_posterior(torch.tensor(prior), torch.zeros(3).double())
            user.mean[:, 1:], user.cov[:, 1:, 1:] = mean, cov
        certain = type(a)(a.base, 0 * a.base, a.directions, 0 * a.directions, a.keys)
        other = type(b)(b.base, 0 * b.base, b.directions, 0 * b.directions, b.keys)
        online = (
            replace(observation, winner=certain, loser=other)
            if isinstance(observation, Pair)
            else replace(observation, item=certain)
        )
        found = compute_site(online, beliefs, beliefs)
        np.testing.assert_allclose(messages.precision[0].numpy(), found.precision, atol=1e-7)
        np.testing.assert_allclose(messages.linear[0].numpy(), found.linear, atol=1e-7)


def test_posterior_of_messages(rng):
    precision = torch.tensor(rng.normal(size=(3, 2, 2)))
    messages = Messages(precision @ precision.transpose(1, 2), torch.tensor(rng.normal(size=(3, 2))))
    prior, linear = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double(), torch.tensor([0.3, -0.1]).double()
    mean, cov = messages.compute_posterior(prior, linear)
    for i in range(3):
        total = messages.precision[i] + prior
        torch.testing.assert_close(total @ mean[i], messages.linear[i] + linear)
        torch.testing.assert_close(total @ cov[i], torch.eye(2).double())


def test_utilities_of_judgements(data, state):
    """The utility of a pair is the difference of its texts."""
    users, items, _, _ = state
    full = (users.mean @ items.mean.T).numpy()
    for batch in (data.ratings, data.votes):
        np.testing.assert_allclose(
            compute_utilities(users, items, batch).numpy(), full[batch.user, batch.item]
        )
    pairs = data.pairs
    np.testing.assert_allclose(
        compute_utilities(users, items, pairs).numpy(),
        full[pairs.user, pairs.item] - full[pairs.user, pairs.other],
    )
    assert len(compute_utilities(users, items, pairs[:0])) == 0


def test_sums_by_source(data):
    ratings = data.ratings
    found = sum_by_source(data, ratings, ratings.value)
    sources = ratings.source.numpy()
    np.testing.assert_allclose(found.numpy(), [ratings.value.numpy()[sources == s].sum() for s in range(2)])


def test_a_label_wrong_half_of_the_time_carries_no_direction(data, state):
    """r = ½ leaves precision alone; r = 0 is the reverse of r = 1."""
    users, items, scales, trust = state

    def messages_with(r: float) -> Messages:
        right = tuple(torch.full_like(correct, r) for correct in trust.correct)
        none_rated = replace(data, ratings=data.ratings[:0])
        return compute_user_messages(none_rated, users, items, scales, Trust(right, trust.share))

    half, sure, reversed_ = messages_with(0.5), messages_with(1.0), messages_with(0.0)
    torch.testing.assert_close(half.precision, sure.precision)
    torch.testing.assert_close(sure.linear - half.linear, half.linear - reversed_.linear)


def test_directions_start_from_the_leading_singular_vectors(data, state):
    """The reference is a dense SVD of the user-by-item residuals of the consensus."""
    users, items, scales, _ = state
    full = (users.mean @ items.mean.T).numpy()
    residuals = np.zeros_like(full)
    count = np.zeros(len(data.keys))
    for u, x, target, w in zip(
        data.ratings.user,
        data.ratings.item,
        scales.compute_targets(data.ratings),
        data.ratings.weight,
        strict=True,
    ):
        residuals[u, x] += float(w) * (float(target) - full[u, x])
        count[x] += 1
    for u, x, y, w in zip(data.votes.user, data.votes.item, data.votes.value, data.votes.weight, strict=True):
        residuals[u, x] += 4 * float(w) * ((float(y) + 1) / 2 - 1 / (1 + np.exp(-full[u, x])))
        count[x] += 1
    base = items.mean[:, 0].numpy()
    for u, a, b, w in zip(data.pairs.user, data.pairs.item, data.pairs.other, data.pairs.weight, strict=True):
        gradient = 2 * float(w) / (1 + np.exp(base[a] - base[b]))
        residuals[u, a] += gradient
        residuals[u, b] -= gradient
        count[a] += 1
        count[b] += 1
    z, v = find_leading_directions(data, users, items, scales, rank=2, seed=0)
    u, s, vt = np.linalg.svd(residuals, full_matrices=False)
    n = len(data.users)
    np.testing.assert_allclose((z.numpy().T @ z.numpy()) / n, np.eye(2), atol=1e-9)
    found = z.numpy() @ (v.numpy() * (count[:, None] + 10)).T / n
    np.testing.assert_allclose(found, (u[:, :2] * s[:2]) @ vt[:2], atol=1e-6)
    again = find_leading_directions(data, users, items, scales, rank=2, seed=0)
    torch.testing.assert_close(again[0], z, rtol=0, atol=0)
    wide, _ = find_leading_directions(data, users, items, scales, rank=50, seed=0)
    assert wide.shape == (n, 6)  # limited by the number of items


# ---------------------------------------------------------------- rating scales


def test_offset_and_slope_are_numerical_maxima(rng, data):
    """−Σw log β − Σw((r−o)/β − u)²/2s, offset for the old slope and slope for the new offset, by source."""
    utility = torch.tensor(rng.normal(size=len(data.ratings)))
    scales = RatingScales(torch.tensor([0.0, 0.3], **DOUBLE), torch.tensor([0.5, 0.2], **DOUBLE))
    before = scales.slope.clone()
    scales.update(data, utility)
    for s in range(2):
        of_source = (data.ratings.source == s).numpy()
        r, u, w = (
            data.ratings.value.numpy()[of_source],
            utility.numpy()[of_source],
            data.ratings.weight.numpy()[of_source],
        )

        def loss(offset: float, slope: float, r=r, u=u, w=w) -> float:
            misses = (w * ((r - offset) / slope - u) ** 2).sum()
            return w.sum() * np.log(slope) + misses / (2 * RATING_NOISE)

        offset = minimize_scalar(
            lambda o, f=loss, b=float(before[s]): f(o, b), bounds=(-3, 3), method="bounded"
        )
        assert float(scales.offset[s]) == pytest.approx(offset.x, abs=1e-4)
        slope = minimize_scalar(
            lambda b, f=loss, o=float(scales.offset[s]): f(o, b), bounds=(1e-3, 5), method="bounded"
        )
        assert float(scales.slope[s]) == pytest.approx(slope.x, abs=1e-4)


def test_targets_invert_the_scale(data):
    scales = RatingScales(torch.tensor([0.1, -0.2], **DOUBLE), torch.tensor([0.4, 0.7], **DOUBLE))
    source = data.ratings.source.numpy()
    expected = (data.ratings.value.numpy() - np.array([0.1, -0.2])[source]) / np.array([0.4, 0.7])[source]
    np.testing.assert_allclose(scales.compute_targets(data.ratings).numpy(), expected)


def test_the_initial_scale_is_the_mean_and_half_the_variance(data):
    scales = RatingScales.from_ratings(data)
    for s in range(2):
        values = data.ratings.value[data.ratings.source == s].numpy()
        assert float(scales.offset[s]) == pytest.approx(values.mean())
        assert float(scales.slope[s]) == pytest.approx(np.sqrt(values.var() / 2 / RATING_NOISE))


def test_ratings_that_never_differ_have_the_least_slope(data):
    equal = replace(data, ratings=replace(data.ratings, value=torch.full_like(data.ratings.value, 0.4)))
    scales = RatingScales.from_ratings(equal)
    assert scales.slope.tolist() == [MIN_SLOPE] * 2
    scales.update(equal, torch.zeros_like(equal.ratings.value))
    assert scales.slope.tolist() == [MIN_SLOPE] * 2
    assert scales.offset.tolist() == pytest.approx([0.4] * 2)
