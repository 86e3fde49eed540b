"""Reliability: responsibilities agree with a plain loop, planted errors are found, and influence is capped."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit

from penchant.models.fitting.dataset import Dataset
from penchant.models.fitting.em import Fit, FitOptions
from penchant.models.fitting.messages import compute_item_messages, compute_user_messages
from penchant.models.fitting.reliability import (
    ANNOTATOR_STRENGTH,
    HIGHEST_FLIP,
    INFLUENCE,
    LEAST_CAP,
    SOURCE_PRIOR,
    START,
    Reliability,
)
from penchant.models.fitting.variational import Factors, RatingScales, Trust
from penchant.models.judgements.judgement import Judgement

TEXTS = [f"t{i}" for i in range(20)]
VECTORS = {("", text): np.zeros(3, np.float16) for text in TEXTS}


def make_factors(rng: np.random.Generator, data: Dataset, *, spread: float = 1.0) -> tuple[Factors, Factors]:
    """Return users [1, t, z] and items [b, 1, v] without uncertainty."""
    n_users, n_items = len(data.users), len(data.keys)
    users, items = torch.tensor(rng.normal(size=(n_users, 3))), torch.tensor(rng.normal(size=(n_items, 3)))
    users *= spread
    items *= spread
    users[:, 0], items[:, 1] = 1.0, 1.0
    nothing = [torch.zeros(n, 3, 3).double() for n in (n_users, n_items)]
    return Factors(users, nothing[0], [1, 2]), Factors(items, nothing[1], [0, 2])


def draw_judgements(
    rng: np.random.Generator, n_users: int, per_user: int, kinds: Collection[str]
) -> list[Judgement]:
    rows = []
    for u in range(n_users):
        for _ in range(per_user):
            kind, (a, b) = str(rng.choice(list(kinds))), rng.choice(TEXTS, 2, replace=False)
            source = str(rng.choice(["app", "import"]))
            weight = float(rng.choice([1.0, 0.3]))
            texts = (str(a), str(b)) if kind == "pair" else (str(a),)
            value = float(rng.choice([-1.0, 1.0]))
            rows.append(Judgement(f"u{u}", "", kind, texts, value, source=source, weight=weight))
    return rows


def relabel(data: Dataset, users: Factors, items: Factors, rng: np.random.Generator) -> Dataset:
    """Return the same judgements with labels drawn from these users and items."""
    full = (users.mean @ items.mean.T).numpy()
    votes, pairs = data.votes, data.pairs
    value = np.where(rng.random(len(votes)) < expit(full[votes.user, votes.item]), 1.0, -1.0)
    gap = full[pairs.user, pairs.item] - full[pairs.user, pairs.other]
    is_unchanged = torch.tensor(rng.random(len(pairs)) < expit(gap))
    better, worse = (
        torch.where(is_unchanged, *sides) for sides in ((pairs.item, pairs.other), (pairs.other, pairs.item))
    )
    return replace(
        data,
        votes=replace(votes, value=torch.tensor(value)),
        pairs=replace(pairs, item=better, other=worse),
    )


def reverse(data: Dataset, wrong: torch.Tensor, kind: str) -> Dataset:
    """Return the dataset with the labels of these judgements reversed."""
    batch = getattr(data, kind)
    if kind == "votes":
        return replace(data, votes=replace(batch, value=torch.where(wrong, -batch.value, batch.value)))
    better, worse = torch.where(wrong, batch.other, batch.item), torch.where(wrong, batch.item, batch.other)
    return replace(data, pairs=replace(batch, item=better, other=worse))


# ---------------------------------------------------------------- the two steps


def test_both_steps_agree_with_a_plain_loop(rng):
    """The log odds of being right are E[yψ] + log((1 − ε)/ε). Rates are Beta means; the prior is the source's rate."""
    data = Dataset.from_judgements(draw_judgements(rng, 6, 12, ("pair", "vote", "rating")), VECTORS)
    users, items = make_factors(rng, data)
    full = (users.mean @ items.mean.T).numpy()
    reliability = Reliability(data)
    flips = {
        (u, s): START
        for batch in data.kinds
        for u, s in zip(batch.user.tolist(), batch.source.tolist(), strict=True)
    }
    for _ in range(3):
        reliability.update(users, items)
        wrong, count = dict.fromkeys(flips, 0.0), dict.fromkeys(flips, 0.0)
        for kind, batch in ((1, data.votes), (2, data.pairs)):
            for j in range(len(batch)):
                u, x, o, s = (
                    int(column[j]) for column in (batch.user, batch.item, batch.other, batch.source)
                )
                psi = float(batch.value[j]) * full[u, x] if kind == 1 else full[u, x] - full[u, o]
                flip = flips[u, s]
                # Bayes, of a label that is right with 1 − ε under exp(E[log σ(ψ)]), wrong under exp(E[log σ(−ψ)]).
                right = (1 - flip) / (1 + np.exp(-psi))
                right /= right + flip / (1 + np.exp(psi))
                assert float(reliability.trust.correct[kind][j]) == pytest.approx(right, abs=1e-12)
                wrong[u, s] += float(batch.weight[j]) * (1 - right)
                count[u, s] += float(batch.weight[j])
        a, b = SOURCE_PRIOR
        for s in range(2):
            of_source = [key for key in flips if key[1] == s]
            rate = (sum(wrong[key] for key in of_source) + a) / (sum(count[key] for key in of_source) + a + b)
            assert float(reliability.source_flips[s]) == pytest.approx(rate, abs=1e-12)
            for key in of_source:
                flips[key] = (wrong[key] + ANNOTATOR_STRENGTH * rate) / (count[key] + ANNOTATOR_STRENGTH)
        ordered = [flips[key] for key in sorted(flips)]
        np.testing.assert_allclose(reliability.flips.numpy(), ordered, atol=1e-12)
    assert (reliability.trust.correct[0] == 1).all()  # ratings are not doubted


@pytest.mark.parametrize("kind", ["pair", "vote"])
def test_a_planted_share_of_reversed_labels_is_recovered(rng, kind):
    """Two of ten annotators reverse 30 % of their labels. With known users, their rate is found and the others' is 0."""
    data = Dataset.from_judgements(
        [replace(j, source="app", weight=1.0) for j in draw_judgements(rng, 10, 400, (kind,))], VECTORS
    )
    users, items = make_factors(rng, data, spread=2.0)
    data = relabel(data, users, items, rng)
    batch = data.pairs if kind == "pair" else data.votes
    wrong = (batch.user < 2) & (torch.tensor(rng.random(len(batch))) < 0.3)
    data = reverse(data, wrong, f"{kind}s")
    reliability = Reliability(data)
    for _ in range(100):
        reliability.update(users, items)
    found = reliability.flips.numpy()
    np.testing.assert_allclose(found[:2], 0.3, atol=0.06)
    assert found[2:].max() < 0.04
    # The reversed labels themselves are found if their users were sure of the contrary.
    right = reliability.trust.correct[2 if kind == "pair" else 1].numpy()
    of_reversers = (batch.user < 2).numpy()
    assert right[of_reversers & ~wrong.numpy()].mean() > right[wrong.numpy()].mean() + 0.4
    assert right[~of_reversers].mean() > 0.97


def test_an_annotator_is_a_user_in_one_source(rng):
    """A user who clicks carelessly in one source is still trusted in another."""
    rows = [replace(j, weight=1.0) for j in draw_judgements(rng, 4, 500, ("pair",))]
    data = Dataset.from_judgements(rows, VECTORS)
    users, items = make_factors(rng, data, spread=2.0)
    data = relabel(data, users, items, rng)
    app = data.sources.index("app")
    wrong = (data.pairs.user == 0) & (data.pairs.source == app)
    data = reverse(data, wrong & torch.tensor(rng.random(len(data.pairs)) < 0.4), "pairs")
    reliability = Reliability(data)
    for _ in range(100):
        reliability.update(users, items)
    found = reliability.flips.reshape(4, 2)  # by user, then source
    assert float(found[0, app]) == pytest.approx(0.4, abs=0.08)
    assert float(found[0, 1 - app]) < 0.1
    assert float(reliability.source_flips[app]) > 4 * float(reliability.source_flips[1 - app])


def test_labels_of_a_user_who_reverses_all_of_them_count_as_opposites(rng):
    """If all labels are reversed, the rate stays below one and the labels count as their opposites."""
    data = Dataset.from_judgements(
        [replace(j, source="app", weight=1.0) for j in draw_judgements(rng, 8, 400, ("pair",))], VECTORS
    )
    users, items = make_factors(rng, data, spread=2.0)
    data = relabel(data, users, items, rng)
    data = reverse(data, data.pairs.user == 0, "pairs")
    reliability = Reliability(data)
    for _ in range(200):
        reliability.update(users, items)
    assert 0.85 < float(reliability.flips[0]) <= HIGHEST_FLIP
    assert float(reliability.trust.correct[2][data.pairs.user == 0].mean()) < 0.1


def test_without_labels_the_initial_rates_remain():
    ratings = [Judgement("u", "", "rating", (text,), 0.1) for text in TEXTS]
    data = Dataset.from_judgements(ratings, VECTORS)
    reliability = Reliability(data)
    users, items = make_factors(np.random.default_rng(0), data)
    reliability.update(users, items)
    a, b = SOURCE_PRIOR
    assert reliability.source_flips.tolist() == pytest.approx([a / (a + b)])
    assert reliability.flips.tolist() == pytest.approx([a / (a + b)])
    empty = Reliability(Dataset.from_judgements([], {}))
    assert [len(right) for right in empty.trust.correct] == [0, 0, 0]


def test_learned_rates_are_continued_from(rng):
    data = Dataset.from_judgements(draw_judgements(rng, 5, 20, ("pair", "vote", "rating")), VECTORS)
    users, items = make_factors(rng, data)
    original, restored = Reliability(data), Reliability(data)
    for _ in range(4):
        original.update(users, items)
    restored.restore({name: tensor.clone() for name, tensor in original.collect_state().items()})
    for reliability in (original, restored):
        reliability.update(users, items)
    assert torch.equal(original.flips, restored.flips)
    for actual, expected in zip(
        (*original.trust.correct, *original.trust.share),
        (*restored.trust.correct, *restored.trust.share),
        strict=True,
    ):
        assert torch.equal(actual, expected)


# ---------------------------------------------------------------- in a fit


@pytest.fixture(scope="module")
def planted(plant):
    return plant(kinds=("pair",), n_users=80, per_user=60, n_texts=60, seed=5)


def test_a_fit_finds_annotators_with_reversed_labels(planted):
    """The fit starts without knowledge of users and shrinks. Annotators with 30 % reversed labels all stand out."""
    rng, careless = np.random.default_rng(1), set(planted.users[:16])
    rows = [
        replace(j, texts=j.texts[::-1]) if j.user in careless and rng.random() < 0.3 else j
        for j in planted.judgements
    ]
    fit = Fit(Dataset.from_judgements(rows, planted.vectors), FitOptions(rank=2)).run()
    found = fit.reliability.flips.numpy()
    bad = np.array([user in careless for user in fit.data.users])
    assert found[bad].mean() > 0.1
    assert found[~bad].max() < 0.06
    assert (found[bad][:, None] > found[~bad]).mean() > 0.97
    flips = fit.build_reward_model().flips
    assert 0.02 < flips["default"] < 0.1


def test_a_fit_trusts_reliable_annotators(planted):
    fit = Fit(Dataset.from_judgements(planted.judgements, planted.vectors), FitOptions(rank=2)).run()
    assert fit.reliability.flips.max() < 0.04
    assert fit.build_reward_model().flip("default") < 0.02


# ---------------------------------------------------------------- influence


def test_an_account_of_a_thousand_judgements_is_capped(rng):
    """It informs items like `LEAST_CAP` judgements, but its own user in full."""
    crowd, loud = (
        draw_judgements(rng, 30, 20, ("pair", "vote", "rating")),
        draw_judgements(rng, 1, 1000, ("pair", "vote", "rating")),
    )
    rows = [replace(j, weight=1.0, source="app") for j in crowd]
    rows += [replace(j, weight=1.0, source="app", user="loud") for j in loud]
    data = Dataset.from_judgements(rows, VECTORS)
    users, items = make_factors(rng, data)
    reliability = Reliability(data)
    number = data.users.index("loud")
    for batch, share in zip(data.kinds, reliability.trust.share, strict=True):
        of_account = batch.user == number
        torch.testing.assert_close(share[of_account], torch.full_like(share[of_account], LEAST_CAP / 1000))
        assert (share[~of_account] == 1).all()

    scales = RatingScales(torch.zeros(1).double(), torch.ones(1).double())
    ones = tuple(torch.ones_like(share) for share in reliability.trust.share)
    free = Trust(reliability.trust.correct, ones)

    def compute_messages(user: int | None, trust: Trust):
        """Return the messages to items of one user, or of all other users."""
        keep = [(batch.user == user) if user is not None else (batch.user != number) for batch in data.kinds]
        some = replace(
            data,
            **{
                name: batch[k]
                for name, batch, k in zip(("ratings", "votes", "pairs"), data.kinds, keep, strict=True)
            },
        )
        cut = [
            tuple(column[k] for column, k in zip(side, keep, strict=True))
            for side in (trust.correct, trust.share)
        ]
        return compute_item_messages(some, users, items, scales, Trust(*cut))

    capped, uncapped = compute_messages(number, reliability.trust), compute_messages(number, free)
    torch.testing.assert_close(capped.precision, 0.3 * uncapped.precision)
    torch.testing.assert_close(capped.linear, 0.3 * uncapped.linear)
    others = compute_messages(None, reliability.trust)
    whole = compute_item_messages(data, users, items, scales, reliability.trust)
    torch.testing.assert_close(whole.precision, others.precision + capped.precision)
    of_itself = (
        compute_user_messages(data, users, items, scales, trust) for trust in (reliability.trust, free)
    )
    for column in zip(*((m.precision, m.linear) for m in of_itself), strict=True):
        torch.testing.assert_close(*column)


def test_the_cap_grows_with_the_average_account(rng):
    """If all accounts judge much, the cap is four times the average. It counts weights, not lines."""
    rows = [
        Judgement(f"u{u}", "", "vote", (TEXTS[i % 20],), 1.0, weight=0.5)
        for u in range(20)
        for i in range(8000 if u == 0 else 400)
    ]
    data = Dataset.from_judgements(rows, VECTORS)
    (_, share, _) = Reliability(data).trust.share
    average = 0.5 * (8000 + 19 * 400) / 20
    cap = INFLUENCE * average
    assert cap > LEAST_CAP
    expected = np.where(data.votes.user.numpy() == 0, cap / 4000, 1.0)
    np.testing.assert_allclose(share.numpy(), expected)


def test_sources_are_capped_separately(rng):
    """A user's judgements in one source do not reduce their influence in another."""
    rows = [Judgement("u", "", "vote", (TEXTS[i % 20],), 1.0, source="bulk") for i in range(1000)]
    rows += [Judgement("u", "", "vote", (TEXTS[i % 20],), 1.0, source="app") for i in range(10)]
    rows += [Judgement(f"v{u}", "", "vote", (TEXTS[u],), 1.0, source="app") for u in range(20)]
    data = Dataset.from_judgements(rows, VECTORS)
    (_, share, _) = Reliability(data).trust.share
    of_app = (data.votes.source == data.sources.index("app")).numpy()
    assert (share.numpy()[of_app] == 1).all()
    np.testing.assert_allclose(share.numpy()[~of_app], LEAST_CAP / 1000)
