"""Probes, corrupted labels and the semi-synthetic control: how they change judgements, and their verdicts."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.personalization import control, probes, robustness, targets
from benchmarks.personalization.cells import Cell, Result
from benchmarks.personalization.task import Answer, Asked, reversed_judgement
from penchant.models.encoding.attributes import ATTRIBUTE_NAMES
from penchant.models.evaluation.split import TestPair
from penchant.models.judgements.judgement import Judgement


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_a_reversed_judgement_states_the_opposite() -> None:
    rating = Judgement("u", "q", "rating", ("a",), 4.0, (1.0, 5.0))
    assert reversed_judgement(rating).value == 2.0
    assert reversed_judgement(Judgement("u", "q", "vote", ("a",), 1.0)).value == -1.0
    ranking = Judgement("u", "q", "ranking", ("a", "b", "c"), groups=(1, 2))
    assert reversed_judgement(ranking) == replace(ranking, texts=("c", "b", "a"), groups=(2, 1))
    assert reversed_judgement(reversed_judgement(rating)) == rating


def results(rng: np.random.Generator, shares: dict[str, tuple[float, float]]) -> dict[str, Result]:
    """Return probe results whose predictions are right in a given share of pairs, at 0 and at 30 labels."""
    test = {
        f"user {u}": [
            TestPair("q", *(f"text {t}" for t in rng.choice(40, 2, replace=False))) for _ in range(20)
        ]
        for u in range(80)
    }
    pairs = Asked.of(test)
    n = len(pairs.users)

    def predict(share: float) -> np.ndarray:
        return np.where(rng.random(n) < share, 0.8, 0.2)

    return {
        name: Result(
            Cell("probes", "votes", "warm", 0, name),
            pairs,
            Answer({0: predict(without), 10: predict(with_labels), 30: predict(with_labels)}),
            0.0,
        )
        for name, (without, with_labels) in shares.items()
    }


HONEST = {
    "own": (0.6, 0.75),
    "flip": (0.6, 0.45),
    "swap": (0.6, 0.6),
    "nobody": (0.6, 0.6),
    "format": (0.55, 0.55),
}


def test_an_honest_model_passes_every_probe(rng) -> None:
    assert all(check.passed for check in probes.check(results(rng, HONEST)))


@pytest.mark.parametrize(
    ("probe", "shares"),
    [
        ("own", (0.6, 0.6)),  # labels teach nothing
        ("flip", (0.6, 0.75)),  # reversed labels help as well, so the content of labels does not matter
        ("swap", (0.6, 0.75)),  # labels of any user help
        ("nobody", (0.75, 0.75)),  # a model without users is as good
        ("format", (0.75, 0.75)),  # the label is in the format
    ],
)
def test_a_dishonest_model_fails_its_probe(rng, probe, shares) -> None:
    failed = {
        check.probe for check in probes.check(results(rng, HONEST | {probe: shares})) if not check.passed
    }
    assert probe in failed


def test_swapped_support_comes_from_another_user_of_the_same_context() -> None:
    support = {f"u{i}": [Judgement(f"u{i}", f"context {i % 2}", "rating", ("a",), 1.0)] for i in range(10)}
    swapped = probes.swapped(support)
    assert swapped.keys() == support.keys()
    assert all(swapped[user][0].user != user for user in support)
    assert {rows[0].user for rows in swapped.values()} == set(support)
    same = sum(swapped[user][0].context == support[user][0].context for user in support)
    assert same == 8  # all but the last user of each context


def test_format_features_depend_on_length_and_first_characters_only() -> None:
    assert (probes.format_features("abc one two") == probes.format_features("abc six ten")).all()
    assert (probes.format_features("abc one two") != probes.format_features("xbc one two")).any()
    assert (probes.format_features("abc one two") != probes.format_features("abc one")).any()


def rated(n_users: int = 40, n_texts: int = 30) -> list[Judgement]:
    """Return votes in which texts with odd numbers are liked and the others are not."""
    return [
        Judgement(f"u{u}", "q", "rating", (f"t{t}",), 1.0 if t % 2 else -1.0)
        for u in range(n_users)
        for t in range(n_texts)
    ]


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_a_share_of_labels_is_flipped(share) -> None:
    train = rated()
    spoilt = robustness.flipped(train, share)
    changed = sum(a.value != b.value for a, b in zip(train, spoilt, strict=True))
    assert changed / len(train) == pytest.approx(share, abs=0.03)
    assert robustness.flipped(train, share) == spoilt
    remaining = robustness.thinned(train, share)
    assert len(remaining) / len(train) == pytest.approx((1 - 2 * share) ** 2, abs=0.03)
    assert set(map(id, remaining)) <= set(map(id, train))


def test_the_poisoned_account_judges_against_the_consensus() -> None:
    poisoned = robustness.poison(rated())
    assert len(poisoned) == 1000
    assert {j.user for j in poisoned} == {robustness.ACCOUNT}
    assert all(j.value == (-1.0 if int(j.texts[0][1:]) % 2 else 1.0) for j in poisoned)
    pairs = [Judgement(f"u{i}", "q", "pair", ("a", "b") if i < 8 else ("b", "a")) for i in range(10)]
    assert Counter(j.texts for j in robustness.poison(pairs)) == {("b", "a"): 1000}


def test_effects_are_measured_against_the_clean_fit(rng) -> None:
    shares = dict.fromkeys(robustness.VARIANTS, (0.7, 0.7)) | {"flip30": (0.5, 0.7), "poison": (0.7, 0.5)}
    effects = {(e.variant, e.k): e.change for e in robustness.effects(results(rng, shares))}
    assert effects["flip30", 0].high < -0.05
    assert effects["poison", 10].high < -0.05
    assert effects["flip10", 0].low < 0.02
    assert len(effects) == 2 * (len(shares) - 1)


def test_the_control_tests_users_of_known_taste_on_new_texts(rng) -> None:
    n, d = 1600, 6
    vectors = rng.normal(size=(n, d + len(ATTRIBUTE_NAMES))).astype(np.float16)
    by_text = {f"text {i}": row for i, row in enumerate(vectors)}
    task = control.draw(by_text, rng, seen=30, unseen=20)
    assert len(task.parts.train) == 30 * control.SEEN_PAIRS
    assert [len(rows) for rows in task.parts.support.values()] == [45] * 30 + [20] * 20
    support_texts = {t for rows in task.parts.support.values() for j in rows for t in j.texts}
    test_texts = {t for pairs in task.parts.test.values() for p in pairs for t in (p.better, p.worse)}
    assert not support_texts & test_texts
    assert {j.user for j in task.parts.train} == {f"seen {u}" for u in range(30)}
    # The attributes behind the rewards are hidden; the embedding is unchanged.
    hidden = np.stack(list(task.vectors.values()))
    assert not hidden[:, d:].any()
    assert (hidden[:, :d] == vectors[:, :d]).all()
    # A Dirichlet(0.1) user weighs few attributes, so one of them nearly predicts the utility.
    columns = [d + ATTRIBUTE_NAMES.index(name) for name in control.REWARDS]
    best = []
    for rows in task.parts.support.values():
        difference = np.stack([by_text[j.texts[0]] - by_text[j.texts[1]] for j in rows])[:, columns]
        best.append((difference > 0).mean(0).max())
    assert np.mean(best) > 0.85


def test_targets_require_both_figures() -> None:
    def place(accuracy: float, log_loss: float) -> dict:
        curve = [
            {"k": k, "accuracy": [accuracy, 0, 1], "log_loss": [log_loss, 0, 1]} for k in (0, 3, 10, 30, 100)
        ]
        return {"set": "ukp_convarg1", "split": "cold", "systems": {"penchant": {"curve": curve}}}

    assert [cell["reached"] for cell in targets.floor(place(0.726, 0.526))] == [True] * 4
    assert not any(cell["reached"] for cell in targets.floor(place(0.725, 0.5)))
    assert not any(cell["reached"] for cell in targets.floor(place(0.8, 0.527)))
    assert targets.floor(place(0.8, 0.4) | {"set": "unknown"}) == []
