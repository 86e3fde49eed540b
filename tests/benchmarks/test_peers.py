"""Every peer finds a planted signal of the kind it is made for; gradients by hand against automatic ones."""

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
    """Users of two sides: u = x·(consensus ± taste); pairs drawn with a little noise."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.x = torch.from_numpy(self.rng.normal(size=(ITEMS, DIM))).float()
        self.consensus = np.array([1.0, 0, 0, 0, 0, 0, 0, 0])
        self.taste = np.array([0, 2.0, -2.0, 0, 0, 0, 0, 0])

    def draw(self, n_users: int, pairs: int, items: range) -> Comparisons:
        """Even users are of one side, odd ones of the other."""
        users = np.repeat(np.arange(n_users), pairs)
        shown = np.stack([self.rng.choice(items, 2, replace=False) for _ in users])
        side = np.where(users % 2 == 0, 1.0, -1.0)[:, None]
        utility = self.x.double().numpy() @ self.consensus, self.x.double().numpy() @ self.taste
        both = utility[0][shown] + side * utility[1][shown] + 0.3 * self.rng.logistic(size=shown.shape)
        first = both[:, :1] > both[:, 1:]
        ordered = torch.from_numpy(np.where(first, shown, shown[:, ::-1]))
        return Comparisons(torch.from_numpy(users), ordered[:, 0], ordered[:, 1], n_users)


def accuracy(logits: torch.Tensor) -> float:
    return float((logits > 0).float().mean())


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def drawn(world) -> tuple[Comparisons, Comparisons, Comparisons, Comparisons]:
    """Train; nothing, and 20 pairs, of new users; what they are asked, on texts that nobody compared."""
    train = world.draw(60, 40, range(80))
    support = world.draw(40, 20, range(80))
    nothing = Comparisons(*(torch.zeros(0, dtype=torch.long) for _ in range(3)), 40)
    return train, nothing, support, world.draw(40, 20, range(80, ITEMS))


@pytest.mark.parametrize(
    ("peer", "setting", "reached"),
    [(LoRe(), (5, 0.5, 500), 0.85), (PAL(), (2, 300), 0.85), (HebbianLearner(), (10.0, 0.1), 0.72)],
    ids=["lore", "pal", "hebbian"],
)
def test_what_a_user_said_tells_their_side(world, drawn, peer, setting, reached) -> None:
    train, nothing, support, asked = drawn
    (model,) = peer.fit(world.x, train, [setting])
    with torch.no_grad():
        without, with_support = (accuracy(model.logits(world.x, s, asked)) for s in (nothing, support))
    assert without < 0.7
    assert with_support > reached


def test_the_consensus_is_found_whatever_users_say(world, drawn) -> None:
    train, nothing, support, asked = drawn
    (model,) = BradleyTerry().fit(world.x, train, [(10.0, None)])
    # Its direction is the shared one, and the two sides cancel.
    assert float(model.weights[0]) > 3 * float(model.weights[1:].abs().max())
    assert torch.equal(model.logits(world.x, nothing, asked), model.logits(world.x, support, asked))


def test_the_consensus_is_a_minimum(world, drawn) -> None:
    train = drawn[0]
    found = torch.from_numpy(fit_consensus(world.x, train, 5.0, 2.0, None)).requires_grad_()
    utility = world.x.double() @ found[:DIM] + found[DIM:]
    loss = -logsigmoid(utility[train.winners] - utility[train.losers]).sum()
    loss = loss + 2.5 * (found[:DIM] ** 2).sum() + 1.0 * (found[DIM:] ** 2).sum()
    (gradient,) = torch.autograd.grad(loss, found)
    assert float(gradient.abs().max()) < 0.02 * len(train) ** 0.5


def test_effects_of_texts_take_what_features_do_not_say(world) -> None:
    train = world.draw(2, 1, range(80))
    pair = Comparisons(torch.zeros(30, dtype=torch.long), torch.full((30,), 3), torch.full((30,), 7), 1)
    (with_effects,) = BradleyTerry().fit(torch.zeros_like(world.x), pair, [(10.0, 1.0)])
    assert float(with_effects.effects[3]) > 0.5
    assert float(with_effects.effects[7]) < -0.5
    (without,) = BradleyTerry().fit(torch.zeros_like(world.x), train, [(10.0, None)])
    assert not without.effects.any()


def test_lore_trains_by_the_gradient_of_its_loss(world, drawn) -> None:
    """One step of Adam with gradients by hand is the step with automatic ones."""
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
    found = simplex.adapt(support, start, prepare, steps=1, rate=0.1)
    own = start.repeat(support.n_users, 1).requires_grad_()
    optimizer = torch.optim.Adam([own], lr=0.1)
    difference = rewards[support.winners] - rewards[support.losers]
    margin = (difference * softmax(own, dim=1)[support.users]).sum(1)
    per_user = torch.bincount(support.users, minlength=support.n_users)
    (-(logsigmoid(margin) / per_user[support.users]).sum()).backward()
    optimizer.step()
    assert torch.allclose(found, softmax(own.detach(), dim=1), atol=1e-6)


def test_pal_pulls_by_the_gradient_of_its_distances(world, drawn, monkeypatch) -> None:
    train, _, support, asked = drawn
    (model,) = PAL().fit(world.x, train, [(3, 50)])
    seen = {}

    def record(pairs, start, prepare, **_):
        seen["margins"] = prepare(Padded.of(pairs))
        return softmax(start.repeat(pairs.n_users, 1), dim=1)

    monkeypatch.setattr(simplex, "adapt", record)
    with torch.no_grad():
        model.logits(world.x, support, asked)
    weights = torch.full((support.n_users, 3), 1 / 3).requires_grad_()
    margin, back = seen["margins"](weights)
    pull = torch.linspace(-1, 1, margin.numel()).reshape(margin.shape)
    (automatic,) = torch.autograd.grad((margin * pull).sum(), weights)
    assert torch.allclose(back(pull), automatic, atol=1e-4)


def test_who_said_nothing_keeps_the_start(world, drawn) -> None:
    support = drawn[2]
    kept = support.users != 3
    others = Comparisons(support.users[kept], support.winners[kept], support.losers[kept], support.n_users)
    (model,) = LoRe().fit(world.x, drawn[0], [(5, 0.05, 50)])
    one = Comparisons(torch.tensor([3]), torch.tensor([90]), torch.tensor([91]), support.n_users)
    nothing = Comparisons(*(torch.zeros(0, dtype=torch.long) for _ in range(3)), support.n_users)
    with torch.no_grad():
        assert torch.allclose(model.logits(world.x, others, one), model.logits(world.x, nothing, one))
        assert not torch.allclose(model.logits(world.x, support, one), model.logits(world.x, nothing, one))


def test_a_path_stops_where_single_settings_stop(world, drawn) -> None:
    train = drawn[0]
    path = {model.setting: model for model in LoRe(bases=(3,)).fit(world.x, train, None)}
    (alone,) = LoRe().fit(world.x, train, [(3, 0.05, 20)])
    assert torch.equal(path[3, 0.05, 20].basis, alone.basis)


def judgements() -> tuple[list[Judgement], dict]:
    """200 users rate 25 of 40 texts: a consensus on the first feature, two sides on the second."""
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
    found = tuning.predict(HebbianLearner(), vectors, parts, mode, (0, 20))
    assert found.validation_users > 10
    assert found.setting in {eval(name) for name in found.trials}
    assert found.trials[repr(found.setting)] == min(found.trials.values())
    right = {k: float((p > 0.5).mean()) for k, p in found.better.items()}
    assert right[20] > right[0] + 0.1
    # Test judgements may be anything: the choice does not see them.
    unlike = type(parts)(parts.train, parts.support, {u: pairs[::-1] for u, pairs in parts.test.items()})
    again = tuning.predict(HebbianLearner(), vectors, unlike, mode, (0, 20))
    assert (again.setting, again.temperature) == (found.setting, found.temperature)


def test_with_too_little_to_ask_the_published_setting_is_taken() -> None:
    rows, vectors = judgements()
    parts = split(rows, "warm", 0)
    few = type(parts)(parts.train[:40], parts.support, parts.test)
    found = tuning.predict(BradleyTerry(), vectors, few, "warm", (0,))
    assert (found.setting, found.temperature, found.trials) == (BradleyTerry.published, 1.0, {})


def test_ratings_become_the_pairs_that_differ() -> None:
    vectors = {("q", t): np.array([i, 1.0], np.float16) for i, t in enumerate("abcd")}
    values = {"a": 3.0, "b": 1.0, "c": 3.0, "d": 2.0}
    rows = [Judgement("u", "q", "rating", (t,), v, (1.0, 5.0)) for t, v in values.items()]
    rows.append(Judgement("u", "q", "ranking", ("b", "a", "c")))
    found = Catalogue(vectors, rows).comparisons({"nobody": [], "u": rows}, most=100)
    pairs = {(int(w), int(lo)) for w, lo in zip(found.winners, found.losers, strict=True)}
    assert pairs == {(0, 1), (0, 3), (2, 1), (2, 3), (3, 1), (1, 0), (0, 2)}
    assert set(found.users.tolist()) == {1}
    assert found.n_users == 2
    assert len(Catalogue(vectors, rows).comparisons({"u": rows}, most=3)) == 3


def test_features_are_standardised_on_train_texts_alone() -> None:
    vectors = {("q", t): np.array([i, 1.0], np.float16) for i, t in enumerate("abcd")}
    train = [Judgement("u", "q", "pair", ("a", "b")), Judgement("u", "q", "pair", ("b", "c"))]
    x = Catalogue(vectors, train).x
    assert x[:3, 0].mean() == pytest.approx(0, abs=1e-6)
    assert x[:3, 0].std(correction=0) == pytest.approx(1, abs=1e-5)
    assert x[3, 0] > 2
    assert not x[:, 1].any()  # constant: nothing to learn from
