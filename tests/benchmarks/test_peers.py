"""Every peer finds a planted signal that it can model. Handwritten gradients agree with autograd."""

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid, softmax

from benchmarks.peers import simplex, tuning
from benchmarks.peers.bradley_terry import BradleyTerry, fit_consensus
from benchmarks.peers.comparisons import Catalogue, Comparisons
from benchmarks.peers.hebbian import HebbianLearner
from benchmarks.peers.lore import SCALE, LoRe, train_basis
from benchmarks.peers.pal import PAL
from benchmarks.peers.simplex import Padded
from penchant.models.evaluation.split import split
from penchant.models.judgements.judgement import Judgement

ITEMS, DIM = 120, 8


class World:
    """Users of two sides with u = x·(consensus ± taste), whose pairs are drawn with a little noise."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.x = torch.from_numpy(self.rng.normal(size=(ITEMS, DIM))).float()
        self.consensus = np.array([1.0, 0, 0, 0, 0, 0, 0, 0])
        self.taste = np.array([0, 2.0, -2.0, 0, 0, 0, 0, 0])

    def draw(self, n_users: int, pairs: int, items: range) -> Comparisons:
        """Draw pairs. Users with even numbers are on one side, users with odd numbers on the other."""
        users = np.repeat(np.arange(n_users), pairs)
        pairs_of_items = np.stack([self.rng.choice(items, 2, replace=False) for _ in users])
        side = np.where(users % 2 == 0, 1.0, -1.0)[:, None]
        utility = self.x.double().numpy() @ self.consensus, self.x.double().numpy() @ self.taste
        both = (
            utility[0][pairs_of_items]
            + side * utility[1][pairs_of_items]
            + 0.3 * self.rng.logistic(size=pairs_of_items.shape)
        )
        first = both[:, :1] > both[:, 1:]
        ordered = torch.from_numpy(np.where(first, pairs_of_items, pairs_of_items[:, ::-1]))
        return Comparisons(torch.from_numpy(users), ordered[:, 0], ordered[:, 1], n_users)


def accuracy(logits: torch.Tensor) -> float:
    return float((logits > 0).float().mean())


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def drawn(world) -> tuple[Comparisons, Comparisons, Comparisons, Comparisons]:
    """Training pairs; no support and 20 support pairs of new users; test pairs on texts that no user compared."""
    train = world.draw(60, 40, range(80))
    support = world.draw(40, 20, range(80))
    nothing = Comparisons(*(torch.zeros(0, dtype=torch.long) for _ in range(3)), 40)
    return train, nothing, support, world.draw(40, 20, range(80, ITEMS))


@pytest.mark.parametrize(
    ("peer", "setting", "reached"),
    [(LoRe(), (5, 0.5, 500), 0.85), (PAL(), (2, 300), 0.85), (HebbianLearner(), (10.0, 0.1), 0.72)],
    ids=["lore", "pal", "hebbian"],
)
def test_support_reveals_the_side_of_a_user(world, drawn, peer, setting, reached) -> None:
    train, nothing, support, test = drawn
    (model,) = peer.fit(world.x, train, [setting])
    with torch.no_grad():
        without, with_support = (accuracy(model.logits(world.x, s, test)) for s in (nothing, support))
    assert without < 0.7
    assert with_support > reached


def test_the_consensus_does_not_depend_on_support(world, drawn) -> None:
    train, nothing, support, test = drawn
    (model,) = BradleyTerry().fit(world.x, train, [(10.0, None)])
    # Its direction is the shared one, and the two sides cancel.
    assert float(model.weights[0]) > 3 * float(model.weights[1:].abs().max())
    assert torch.equal(model.logits(world.x, nothing, test), model.logits(world.x, support, test))


def test_the_consensus_is_a_minimum(world, drawn) -> None:
    train = drawn[0]
    result = torch.from_numpy(fit_consensus(world.x, train, 5.0, 2.0, None)).requires_grad_()
    utility = world.x.double() @ result[:DIM] + result[DIM:]
    loss = -logsigmoid(utility[train.winners] - utility[train.losers]).sum()
    loss = loss + 2.5 * (result[:DIM] ** 2).sum() + 1.0 * (result[DIM:] ** 2).sum()
    (gradient,) = torch.autograd.grad(loss, result)
    assert float(gradient.abs().max()) < 0.02 * len(train) ** 0.5


def test_text_effects_capture_what_features_miss(world) -> None:
    train = world.draw(2, 1, range(80))
    pair = Comparisons(torch.zeros(30, dtype=torch.long), torch.full((30,), 3), torch.full((30,), 7), 1)
    (with_effects,) = BradleyTerry().fit(torch.zeros_like(world.x), pair, [(10.0, 1.0)])
    assert float(with_effects.effects[3]) > 0.5
    assert float(with_effects.effects[7]) < -0.5
    (without,) = BradleyTerry().fit(torch.zeros_like(world.x), train, [(10.0, None)])
    assert not without.effects.any()


def test_lore_trains_by_the_gradient_of_its_loss(world, drawn) -> None:
    """One step of Adam with handwritten gradients equals the step with autograd."""
    train = drawn[0]
    (by_hand,) = train_basis(world.x, train, 3, 0.1, [1])
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(DIM, 3, generator=generator).requires_grad_()
    logits = torch.randn(train.n_users, 3, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([basis, logits], lr=0.1)
    difference = world.x[train.winners] - world.x[train.losers]
    margin = ((difference @ basis) * softmax(logits, dim=1)[train.users]).sum(1) / SCALE
    per_user = torch.bincount(train.users, minlength=train.n_users)
    (-(logsigmoid(margin) / per_user[train.users]).sum()).backward()
    optimizer.step()
    assert torch.allclose(by_hand.basis, basis.detach(), atol=1e-5)
    assert torch.allclose(by_hand.weights, logits.detach(), atol=1e-5)


def test_simplex_weights_move_by_the_gradient_of_the_loss(world, drawn) -> None:
    _, _, support, _ = drawn
    rewards = world.x[:, :3] / 2

    def prepare(padded: Padded) -> simplex.Margins:
        difference = rewards[padded.winners] - rewards[padded.losers]

        def margins(weights):
            margin = torch.bmm(difference, weights[:, :, None])[:, :, 0]
            return margin, lambda pull: torch.bmm(pull[:, None, :], difference)[:, 0]

        return margins

    start = torch.tensor([0.3, -0.2, 0.0])
    result = simplex.adapt(support, start, prepare, steps=1, rate=0.1)
    own = start.repeat(support.n_users, 1).requires_grad_()
    optimizer = torch.optim.Adam([own], lr=0.1)
    difference = rewards[support.winners] - rewards[support.losers]
    margin = (difference * softmax(own, dim=1)[support.users]).sum(1)
    per_user = torch.bincount(support.users, minlength=support.n_users)
    (-(logsigmoid(margin) / per_user[support.users]).sum()).backward()
    optimizer.step()
    assert torch.allclose(result, softmax(own.detach(), dim=1), atol=1e-6)


def test_pal_moves_by_the_gradient_of_its_distances(world, drawn, monkeypatch) -> None:
    train, _, support, test = drawn
    (model,) = PAL().fit(world.x, train, [(3, 50)])
    recorded = {}

    def record(pairs, start, prepare, **_):
        recorded["margins"] = prepare(Padded.of(pairs))
        return softmax(start.repeat(pairs.n_users, 1), dim=1)

    monkeypatch.setattr(simplex, "adapt", record)
    with torch.no_grad():
        model.logits(world.x, support, test)
    weights = torch.full((support.n_users, 3), 1 / 3).requires_grad_()
    margin, back = recorded["margins"](weights)
    pull = torch.linspace(-1, 1, margin.numel()).reshape(margin.shape)
    (automatic,) = torch.autograd.grad((margin * pull).sum(), weights)
    assert torch.allclose(back(pull), automatic, atol=1e-4)


def test_a_user_without_support_keeps_the_start(world, drawn) -> None:
    support = drawn[2]
    mask = support.users != 3
    others = Comparisons(support.users[mask], support.winners[mask], support.losers[mask], support.n_users)
    (model,) = LoRe().fit(world.x, drawn[0], [(5, 0.05, 50)])
    pair = Comparisons(torch.tensor([3]), torch.tensor([90]), torch.tensor([91]), support.n_users)
    nothing = Comparisons(*(torch.zeros(0, dtype=torch.long) for _ in range(3)), support.n_users)
    with torch.no_grad():
        assert torch.allclose(model.logits(world.x, others, pair), model.logits(world.x, nothing, pair))
        assert not torch.allclose(model.logits(world.x, support, pair), model.logits(world.x, nothing, pair))


def test_a_path_of_settings_equals_the_single_settings(world, drawn) -> None:
    train = drawn[0]
    path = {model.setting: model for model in LoRe(bases=(3,)).fit(world.x, train, None)}
    (single,) = LoRe().fit(world.x, train, [(3, 0.05, 20)])
    assert torch.equal(path[3, 0.05, 20].basis, single.basis)


def judgements() -> tuple[list[Judgement], dict]:
    """200 users rate 25 of 40 texts. They agree on the first feature and split into two sides on the second."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 5)).astype(np.float16)
    rows = []
    for user in range(200):
        side = 2.5 if user % 2 else -2.5
        for item in rng.choice(40, 25, replace=False):
            value = float(x[item, 0] + side * x[item, 1] + 0.5 * rng.normal())
            rows.append(Judgement(f"u{user}", "q", "rating", (f"t{item}",), value, (-12.0, 12.0)))
    return rows, {("q", f"t{item}"): x[item] for item in range(40)}


@pytest.mark.parametrize("mode", ["cold", "warm"])
def test_tuning_chooses_within_the_train_part(mode) -> None:
    rows, vectors = judgements()
    parts = split(rows, mode, 0)
    result = tuning.predict(HebbianLearner(), vectors, parts, mode, (0, 20))
    assert result.validation_users > 10
    assert result.setting in {eval(name) for name in result.trials}
    assert result.trials[repr(result.setting)] == min(result.trials.values())
    right = {k: float((p > 0.5).mean()) for k, p in result.better.items()}
    assert right[20] > right[0] + 0.1
    # Test judgements do not affect the choice.
    unlike = type(parts)(parts.train, parts.support, {u: pairs[::-1] for u, pairs in parts.test.items()})
    again = tuning.predict(HebbianLearner(), vectors, unlike, mode, (0, 20))
    assert (again.setting, again.temperature) == (result.setting, result.temperature)


def test_too_little_data_selects_the_published_setting() -> None:
    rows, vectors = judgements()
    parts = split(rows, "warm", 0)
    few = type(parts)(parts.train[:40], parts.support, parts.test)
    result = tuning.predict(BradleyTerry(), vectors, few, "warm", (0,))
    assert (result.setting, result.temperature, result.trials) == (BradleyTerry.published, 1.0, {})


def test_ratings_become_the_pairs_that_differ() -> None:
    vectors = {("q", t): np.array([i, 1.0], np.float16) for i, t in enumerate("abcd")}
    values = {"a": 3.0, "b": 1.0, "c": 3.0, "d": 2.0}
    rows = [Judgement("u", "q", "rating", (t,), v, (1.0, 5.0)) for t, v in values.items()]
    rows.append(Judgement("u", "q", "ranking", ("b", "a", "c")))
    result = Catalogue(vectors, rows).comparisons({"nobody": [], "u": rows}, most=100)
    pairs = {(int(w), int(lo)) for w, lo in zip(result.winners, result.losers, strict=True)}
    assert pairs == {(0, 1), (0, 3), (2, 1), (2, 3), (3, 1), (1, 0), (0, 2)}
    assert set(result.users.tolist()) == {1}
    assert result.n_users == 2
    assert len(Catalogue(vectors, rows).comparisons({"u": rows}, most=3)) == 3


def test_features_are_standardised_on_train_texts_only() -> None:
    vectors = {("q", t): np.array([i, 1.0], np.float16) for i, t in enumerate("abcd")}
    train = [Judgement("u", "q", "pair", ("a", "b")), Judgement("u", "q", "pair", ("b", "c"))]
    x = Catalogue(vectors, train).x
    assert x[:3, 0].mean() == pytest.approx(0, abs=1e-6)
    assert x[:3, 0].std(correction=0) == pytest.approx(1, abs=1e-5)
    assert x[3, 0] > 2
    assert not x[:, 1].any()  # constant: nothing to learn from


def test_an_unknown_match_counts_as_the_mean_of_the_known_ones() -> None:
    numbers = {"a": (0.0, np.nan, np.nan), "b": (1.0, 0.2, np.nan), "c": (3.0, 0.6, np.nan)}
    vectors = {("q", t): np.array(row, np.float16) for t, row in numbers.items()}
    train = [Judgement("u", "q", "pair", ("a", "b")), Judgement("u", "q", "pair", ("b", "c"))]
    x = Catalogue(vectors, train).x
    assert bool(x.isfinite().all())
    assert x[0, 1] == pytest.approx(0, abs=1e-6)
    assert x[2, 1] == pytest.approx(-float(x[1, 1]), abs=1e-3)
    assert not x[:, 2].any()
