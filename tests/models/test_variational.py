"""Messages of the batch fit against plain loops, exact regression and numerical maxima."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from penchant.models import variational
from penchant.models.dataset import Dataset
from penchant.models.judgements import Judgement
from penchant.models.likelihood import Pair, Vote, site
from penchant.models.population import Beliefs
from penchant.models.reward import item_key
from penchant.models.variational import (
    RATING_NOISE,
    Factors,
    Messages,
    RatingScales,
    item_messages,
    user_messages,
    utilities,
)

K = 2  # directions; users are [1, t, z₁, z₂], items [b, 1, v₁, v₂]


def judgement(kind: str, user: str, *texts: str, value: float = 0.0, source: str = "a") -> Judgement:
    return Judgement(user, "", kind, texts, value, source=source)


@pytest.fixture
def data(rng) -> Dataset:
    """Seven users, six texts, every kind of judgement, two rating sources."""
    texts, rows = [f"t{i}" for i in range(6)], []
    for number in range(60):
        a, b, c = rng.choice(texts, 3, replace=False)
        user = f"u{rng.integers(7)}"
        match number % 4:
            case 0:
                rows.append(judgement("pair", user, a, b))
            case 1:
                rows.append(judgement("vote", user, a, value=float(rng.choice([-1, 1]))))
            case 2:
                source = str(rng.choice(["a", "b"]))
                rows.append(judgement("rating", user, a, value=float(rng.uniform(-1, 1)), source=source))
            case _:
                rows.append(judgement("ranking", user, a, b, c))
    return Dataset.of(rows, {("", t): np.zeros(3, np.float16) for t in texts})


def factors(rng, n: int, known: int, *, spread: float = 0.3) -> Factors:
    """Random beliefs with a one at the known coordinate."""
    width = 2 + K
    free = [c for c in range(width) if c != known]
    mean = rng.normal(size=(n, width))
    mean[:, known] = 1.0
    cov = np.zeros((n, width, width))
    roots = spread * rng.normal(size=(n, width - 1, width - 1))
    cov[np.ix_(range(n), free, free)] = roots @ roots.transpose(0, 2, 1)
    return Factors(torch.tensor(mean), torch.tensor(cov), free)


@pytest.fixture
def state(rng, data):
    scales = RatingScales(torch.tensor([0.1, -0.2]).double(), torch.tensor([0.4, 0.7]).double())
    return factors(rng, len(data.users), 0), factors(rng, len(data.keys), 1), scales


# ---------------------------------------------------------------- the data set


def test_a_dataset_indexes_what_was_said():
    rows = [
        judgement("ranking", "u", "best", "middle", "worst"),
        judgement("edit", "v", "after", "before"),
        judgement("pair", "u", "best", "best"),
        judgement("vote", "v", "best", value=-1.0),
        judgement("rating", "u", "best", value=0.25, source="stars"),
    ]
    texts = ["best", "middle", "worst", "after", "before"]
    data = Dataset.of(rows, {("", t): np.full(2, i, np.float16) for i, t in enumerate(texts)})
    assert data.users == ("u", "v")
    assert data.keys == tuple(item_key("", t) for t in texts)
    np.testing.assert_array_equal(data.vectors[:, 0], np.arange(5))
    assert data.compared.tolist() == [[0, 0, 1], [0, 1, 2], [1, 3, 4]]  # the text against itself says nothing
    assert data.voted.tolist() == [[1, 0]]
    assert data.votes.tolist() == [-1.0]
    assert data.rated.tolist() == [[0, 0]]
    assert data.ratings.tolist() == [0.25]
    assert data.sources == ("stars",)
    assert len(data) == 5


def test_the_same_text_in_two_contexts_is_two_items():
    rows = [Judgement("u", context, "pair", ("a", "b")) for context in ("x", "y")]
    data = Dataset.of(rows, {(c, t): np.zeros(1, np.float16) for c in "xy" for t in "ab"})
    assert len(set(data.keys)) == 4
    assert data.contexts.tolist() == [0, 0, 1, 1]


# ---------------------------------------------------------------- messages


def loops(data: Dataset, users: Factors, items: Factors, scales: RatingScales):
    """Every judgement one by one in numpy: natural parameters `[n, D, D]`, `[n, D]` of users and of items."""
    h, g = users.mean.numpy(), items.mean.numpy()
    hh = np.array([np.outer(m, m) + c for m, c in zip(h, users.cov.numpy(), strict=True)])
    gg = np.array([np.outer(m, m) + c for m, c in zip(g, items.cov.numpy(), strict=True)])
    user_p, user_l = np.zeros_like(hh), np.zeros_like(h)
    item_p, item_l = np.zeros_like(gg), np.zeros_like(g)

    def omega(second: float) -> float:
        return np.tanh(np.sqrt(second) / 2) / (2 * np.sqrt(second))

    for (u, x), r, s in zip(
        data.rated.tolist(), data.ratings.tolist(), data.rating_source.tolist(), strict=True
    ):
        target = (r - float(scales.offset[s])) / float(scales.slope[s])
        user_p[u] += gg[x] / RATING_NOISE
        user_l[u] += target * g[x] / RATING_NOISE
        item_p[x] += hh[u] / RATING_NOISE
        item_l[x] += target * h[u] / RATING_NOISE
    for (u, x), y in zip(data.voted.tolist(), data.votes.tolist(), strict=True):
        w = omega(np.trace(gg[x] @ hh[u]))
        user_p[u] += w * gg[x]
        user_l[u] += y / 2 * g[x]
        item_p[x] += w * hh[u]
        item_l[x] += y / 2 * h[u]
    for u, a, b in data.compared.tolist():
        d = g[a] - g[b]
        second = np.outer(d, d) + items.cov[a].numpy() + items.cov[b].numpy()
        w = omega(np.trace(second @ hh[u]))
        user_p[u] += w * second
        user_l[u] += d / 2
        item_p[a] += w * hh[u]
        item_p[b] += w * hh[u]
        item_l[a] += h[u] / 2 + w * hh[u] @ g[b]
        item_l[b] += -h[u] / 2 + w * hh[u] @ g[a]
    return (user_p, user_l), (item_p, item_l)


def conditioned(precision, linear, known: int) -> tuple[np.ndarray, np.ndarray]:
    """What is left for the free coordinates when the known one is 1."""
    free = [c for c in range(2 + K) if c != known]
    return precision[:, free][:, :, free], linear[:, free] - precision[:, free, known]


def test_messages_are_those_of_plain_loops(data, state):
    users, items, scales = state
    of_users, of_items = loops(data, users, items, scales)
    for found, (precision, linear) in [
        (user_messages(data, users, items, scales), conditioned(*of_users, known=0)),
        (item_messages(data, users, items, scales), conditioned(*of_items, known=1)),
    ]:
        np.testing.assert_allclose(found.precision.numpy(), precision, atol=1e-10)
        np.testing.assert_allclose(found.linear.numpy(), linear, atol=1e-10)


def test_chunks_change_nothing(data, state, monkeypatch):
    whole = [messages(data, *state) for messages in (user_messages, item_messages)]
    monkeypatch.setattr(variational, "CHUNK", 4)
    for before, messages in zip(whole, (user_messages, item_messages), strict=True):
        after = messages(data, *state)
        torch.testing.assert_close(after.precision, before.precision, rtol=0, atol=1e-12)
        torch.testing.assert_close(after.linear, before.linear, rtol=0, atol=1e-12)


def test_with_known_items_ratings_give_exact_regression(rng, data):
    """No item uncertainty: the user's posterior is the conditional of a joint Gaussian."""
    users, items = factors(rng, len(data.users), 0), factors(rng, len(data.keys), 1, spread=0.0)
    scales = RatingScales(torch.zeros(2).double(), torch.ones(2).double())
    ratings_only = Dataset(
        **{
            **data.__dict__,
            "voted": data.voted[:0],
            "votes": data.votes[:0],
            "compared": data.compared[:0],
        }
    )
    prior = np.diag([0.5, 1.0, 2.0])
    mean, cov = user_messages(ratings_only, users, items, scales).posterior(
        torch.tensor(np.linalg.inv(prior)), torch.zeros(3).double()
    )
    for u in range(len(data.users)):
        mine = data.rated[:, 0] == u
        g = items.mean[data.rated[mine, 1]].numpy()
        phi, target = g[:, 1:], data.ratings[mine].numpy() - g[:, 0]
        marginal = phi @ prior @ phi.T + RATING_NOISE * np.eye(len(phi))
        gain = prior @ phi.T @ np.linalg.inv(marginal)
        np.testing.assert_allclose(mean[u].numpy(), gain @ target, atol=1e-10)
        np.testing.assert_allclose(cov[u].numpy(), prior - gain @ phi @ prior, atol=1e-10)


def test_batch_and_online_agree_on_one_logistic_judgement(rng, make_items):
    """Iterated to its fixed point, the batch user update is the site that `UserPosterior.learn` takes."""
    a, b = make_items(rng, residual=0.2), make_items(rng, residual=0.2)
    keys = [a.keys[0].hex(), b.keys[0].hex()]
    prior = np.linalg.inv(np.array([[1.0, 0.3, 0.0], [0.3, 1.5, 0.2], [0.0, 0.2, 0.8]]))
    beliefs = Beliefs(np.ones(1), np.zeros((1, 3)), np.linalg.inv(prior)[None])
    vectors = {("", key): np.zeros(1, np.float16) for key in keys}
    items = Factors(torch.zeros(2, 4).double(), torch.zeros(2, 4, 4).double(), [0, 2, 3])
    for i, item in enumerate((a, b)):
        items.mean[i] = torch.tensor([item.base[0], 1.0, *item.directions[0]])
    for observation, row in [
        (Pair(a, b), judgement("pair", "u", *keys)),
        (Vote(a, -1), judgement("vote", "u", keys[0], value=-1.0)),
    ]:
        data = Dataset.of([row], vectors)
        known = Factors(items.mean[: len(data.keys)], items.cov[: len(data.keys)], items.free)
        user = Factors(torch.tensor([[1.0, 0, 0, 0]]).double(), torch.zeros(1, 4, 4).double(), [1, 2, 3])
        for _ in range(200):
            messages = user_messages(data, user, known, RatingScales(torch.zeros(0), torch.zeros(0)))
            mean, cov = messages.posterior(torch.tensor(prior), torch.zeros(3).double())
            user.mean[:, 1:], user.cov[:, 1:, 1:] = mean, cov
        certain = type(a)(a.base, 0 * a.base, a.directions, 0 * a.directions, a.keys)
        other = type(b)(b.base, 0 * b.base, b.directions, 0 * b.directions, b.keys)
        online = Pair(certain, other) if isinstance(observation, Pair) else Vote(certain, -1)
        found = site(online, beliefs)
        np.testing.assert_allclose(messages.precision[0].numpy(), found.precision, atol=1e-7)
        np.testing.assert_allclose(messages.linear[0].numpy(), found.linear, atol=1e-7)


def test_posterior_of_messages(rng):
    precision = torch.tensor(rng.normal(size=(3, 2, 2)))
    messages = Messages(precision @ precision.transpose(1, 2), torch.tensor(rng.normal(size=(3, 2))))
    prior, linear = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double(), torch.tensor([0.3, -0.1]).double()
    mean, cov = messages.posterior(prior, linear)
    for i in range(3):
        total = messages.precision[i] + prior
        torch.testing.assert_close(total @ mean[i], messages.linear[i] + linear)
        torch.testing.assert_close(total @ cov[i], torch.eye(2).double())


def test_utilities_of_cells(data, state):
    users, items, _ = state
    cells = data.rated
    expected = [float(users.mean[u] @ items.mean[x]) for u, x in cells.tolist()]
    np.testing.assert_allclose(utilities(users, items, cells).numpy(), expected, rtol=1e-12)


# ---------------------------------------------------------------- rating scales


def test_offset_and_slope_are_numerical_maxima(rng, data):
    """−N log β − Σ((r−o)/β − u)²/2s, offset for the old slope and slope for the new offset, by source."""
    utility = torch.tensor(rng.normal(size=len(data.rated)))
    scales = RatingScales(torch.tensor([0.0, 0.3]).double(), torch.tensor([0.5, 0.2]).double())
    before = scales.slope.clone()
    scales.update(data, utility)
    for s in range(2):
        mine = (data.rating_source == s).numpy()
        r, u = data.ratings.numpy()[mine], utility.numpy()[mine]

        def loss(offset: float, slope: float, r=r, u=u) -> float:
            return len(r) * np.log(slope) + (((r - offset) / slope - u) ** 2).sum() / (2 * RATING_NOISE)

        offset = minimize_scalar(
            lambda o, f=loss, b=float(before[s]): f(o, b), bounds=(-3, 3), method="bounded"
        )
        assert float(scales.offset[s]) == pytest.approx(offset.x, abs=1e-4)
        slope = minimize_scalar(
            lambda b, f=loss, o=float(scales.offset[s]): f(o, b), bounds=(1e-3, 5), method="bounded"
        )
        assert float(scales.slope[s]) == pytest.approx(slope.x, abs=1e-4)


def test_targets_undo_the_scale(data):
    scales = RatingScales(torch.tensor([0.1, -0.2]).double(), torch.tensor([0.4, 0.7]).double())
    source = data.rating_source.numpy()
    expected = (data.ratings.numpy() - np.array([0.1, -0.2])[source]) / np.array([0.4, 0.7])[source]
    np.testing.assert_allclose(scales.targets(data).numpy(), expected)
