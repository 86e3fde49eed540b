"""A fitted gate learns tastes and edits that depend on the kind of prompt. Prompts and texts are read by the encoder."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from penchant.models.bundle import EncoderCard
from penchant.models.checkpoint import Checkpoint
from penchant.models.encoding.extract import FeatureTable, extract_text_features
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.evaluation.few_shot import Catalogue, observe
from penchant.models.fitting import gates, relevance, tuning
from penchant.models.fitting.dataset import Dataset
from penchant.models.fitting.em import Fit, FitOptions
from penchant.models.fitting.gates import GateError, GateFitter, PromptDirections
from penchant.models.fitting.relevance import fit_relevance
from penchant.models.fitting.tuning import Choice, fit_reward
from penchant.models.judgements.judgement import Judgement
from penchant.models.ranking.selection import preference_logits
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel
from penchant.models.training import fit_bundle_to_features

CODE = [
    "How do I reverse a linked list in Python?",
    "Why does my SQL query return duplicate rows?",
    "What is the difference between a list and a tuple in Python?",
    "How can I merge two branches in git?",
    "How do I parse JSON in JavaScript?",
    "Why does this C++ template not compile?",
    "How do I write a unit test for an async function?",
    "What does a segmentation fault mean in C?",
    "How do I sort a dictionary by value in Python?",
    "How can I speed up a slow pandas loop?",
]
ADVICE = [
    "My best friend stopped talking to me. What should I do?",
    "How do I tell my parents that I want to move out?",
    "Should I forgive my sister after our quarrel?",
    "I feel lonely in a new city. How do I find friends?",
    "How can I ask my boss for a day off without guilt?",
    "My partner and I argue about money. How can we stop?",
    "How do I comfort a friend who lost her father?",
    "I am afraid of growing old alone. Is that normal?",
    "How do I say no to my neighbour without hurting him?",
    "Should I go to my ex-husband's wedding?",
]
KINDS = {"code": CODE, "advice": ADVICE}
SHORT = [
    "Try it step by step.",
    "Start with the simplest way.",
    "Ask someone who knows it well.",
    "Take a short break first.",
    "Write it down and look again.",
]
MORE = (
    " There is more than one way to go about it, and the right one depends on what you have tried so far, on how much"
    " time there is and on what you want in the end, so look at each of them with care before you decide."
)
LONG = [text + MORE * (2 + i % 2) for i, text in enumerate(SHORT)]
UNSEEN = 3
"""Number of prompts of each kind that no user of the fit judged."""

QUICK = FitOptions(rank=0, rounds=1)

MARKED = {
    "code": [f"Python code question about Python code: {prompt}" for prompt in CODE],
    "advice": [f"Advice on people, friends and family wanted: {prompt}" for prompt in ADVICE],
}
"""Prompts whose kinds even the encoder without weights tells apart. Fits to its few features are quick."""


@pytest.fixture(scope="module", autouse=True)
def few_mismatched_pairs():
    """Limits the pairs of the relevance fit, which is not tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relevance, "MAX_COMPARISONS", 100)
        yield


@pytest.fixture(scope="module")
def extractor(load_where_faithful) -> FeatureExtractor:
    return FeatureExtractor(load_where_faithful("float32"), reads_prompt_embedding=True)


@pytest.fixture(scope="module")
def vectors(extractor) -> FeatureTable:
    prompts = [*CODE, *ADVICE]
    return extract_text_features([(p, t) for p in prompts for t in (*SHORT, *LONG)], extractor)


@pytest.fixture(scope="module")
def hashed() -> FeatureTable:
    extractor = FeatureExtractor(HashingEncoder(), reads_prompt_embedding=True)
    prompts = [*MARKED["code"], *MARKED["advice"]]
    return extract_text_features([(p, t) for p in prompts for t in (*SHORT, *LONG)], extractor)


@pytest.fixture(scope="module")
def hashed_card() -> EncoderCard:
    return EncoderCard.from_extractor(FeatureExtractor(HashingEncoder(), reads_prompt_embedding=True))


def judge(
    rng: np.random.Generator, user: str, long_for: str, prompts: dict[str, list[str]], number: int, kind: str
) -> list[Judgement]:
    """Judgements of a user who likes long texts for one kind of prompt and short ones for the other, in turns."""
    judgements = []
    for i in range(number):
        about = list(prompts)[i % 2]
        short, long = rng.choice(SHORT), rng.choice(LONG)
        if kind == "edit":  # of one text, which becomes longer or shorter
            short = SHORT[LONG.index(long)]
        texts = (str(long), str(short)) if about == long_for else (str(short), str(long))
        weight = 0.6 if kind == "edit" else 1.0
        judgements.append(Judgement(user, str(rng.choice(prompts[about])), kind, texts, weight=weight))
    return judgements


def plant_flipping(
    kind: str, users: int = 60, number: int = 16, kinds: dict[str, list[str]] = KINDS
) -> list[Judgement]:
    rng = np.random.default_rng(3)
    seen = {name: prompts[UNSEEN:] for name, prompts in kinds.items()}
    return [
        judgement
        for u in range(users)
        for judgement in judge(rng, f"user {u}", ("code", "advice")[u % 2], seen, number, kind)
    ]


@dataclass(frozen=True)
class Models:
    gated: RewardModel
    ungated: RewardModel


@pytest.fixture(scope="module", params=["pair", "edit"])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def models(kind, vectors) -> Models:
    judgements = plant_flipping(kind)
    data = Dataset.from_judgements(judgements, vectors, fit_relevance(judgements, vectors))
    fit = Fit(data, QUICK).run()
    reward = Choice(tastes="length", taste_variance=1.0).apply(fit.build_reward_model(), fit)
    return Models(GateFitter(judgements, vectors).add(reward, fit, "length", 2), reward)


def measure(reward: RewardModel, vectors: FeatureTable, kind: str, users: int = 20) -> dict[str, float]:
    """Share of comparisons right after 10 judgements, by kind of prompt, on prompts that the fit did not see."""
    rng = np.random.default_rng(4)
    unseen = {name: prompts[:UNSEEN] for name, prompts in KINDS.items()}
    seen = {name: prompts[UNSEEN:] for name, prompts in KINDS.items()}
    catalogue = Catalogue(reward, vectors)
    right: dict[str, list[float]] = {name: [] for name in KINDS}
    for u in range(users):
        long_for = ("code", "advice")[u % 2]
        observations = [
            observe(j, reward, catalogue) for j in judge(rng, f"new {u}", long_for, seen, 10, kind)
        ]
        posterior = UserPosterior.at_prior(reward.population).fold(filter(None, observations))
        for name, prompts in unseen.items():
            for j in judge(rng, f"new {u}", long_for, {name: prompts, "": prompts}, 10, "pair"):
                wants_long = name == long_for
                better, worse = sorted(j.texts, key=len, reverse=wants_long)
                a, b = (catalogue.select([(j.context, text)]) for text in (better, worse))
                logits = posterior.beliefs.weights @ preference_logits(posterior.beliefs, a, b)
                right[name].append(0.5 if logits[0] == 0 else float(logits[0] > 0))
    return {name: float(np.mean(hits)) for name, hits in right.items()}


def test_tastes_and_edits_that_depend_on_the_prompt_are_learned(models, vectors, kind):
    """After 10 labels or 10 edits both kinds of prompt are right, which one utility cannot achieve."""
    gated, ungated = (measure(reward, vectors, kind) for reward in (models.gated, models.ungated))
    assert min(gated.values()) >= 0.9
    assert np.mean(list(ungated.values())) == pytest.approx(0.5, abs=0.1)


def test_the_prior_of_a_product_follows_the_users(models):
    """The first component tells both kinds apart, and users' weights on it spread widely around 0."""
    means, covariance = models.gated.population.prior.mean[-2:], models.gated.population.prior.covariance
    first, second = covariance.diagonal()[-2:]
    assert first > 4 * second
    assert abs(means[0]) < first**0.5


def test_the_components_of_prompts_tell_kinds_apart(vectors):
    directions = PromptDirections.fit(plant_flipping("pair"), vectors)
    values = {
        name: (np.stack([vectors.get_prompt(p) for p in prompts]).astype(float) - directions.centre)
        @ directions.projection[:, 0]
        for name, prompts in KINDS.items()
    }
    low, high = sorted(values.values(), key=np.mean)
    threshold = (low.mean() + high.mean()) / 2
    assert np.mean([*(low < threshold), *(high > threshold)]) >= 0.8  # 16 of 20 prompts
    judged = [j.context for j in plant_flipping("pair")]
    all_values = (
        np.stack([vectors.get_prompt(p) for p in judged]) - directions.centre
    ) @ directions.projection
    np.testing.assert_allclose(all_values.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(all_values.var(axis=0), 1, rtol=1e-2)


def test_one_prompt_has_no_components(vectors):
    alone = [j for j in plant_flipping("pair") if j.context == CODE[-1]]
    assert PromptDirections.fit(alone, vectors).projection.shape[1] == 0
    assert PromptDirections.fit([], vectors).projection.shape[1] == 0


@pytest.fixture
def cheap(monkeypatch) -> None:
    """Limits the trials to one taste and one gate."""
    monkeypatch.setattr(tuning, "FAMILIES", {"length": (0.1,)})
    monkeypatch.setattr(tuning, "GATED_FAMILIES", ("length",))
    monkeypatch.setattr(tuning, "GATE_SIZES", (1,))


def fit_planted(judgements: Sequence[Judgement], vectors: FeatureTable, **arguments):
    return fit_reward(judgements, vectors, mode="warm", options=QUICK, ranks=(0,), **arguments)


def test_a_gate_is_chosen_where_it_pays(hashed, cheap):
    found = fit_planted(plant_flipping("pair", users=140, number=30, kinds=MARKED), hashed, gate="auto")
    assert (found.choice.gate, found.choice.gated) == (1, "length")
    assert found.reward.gate is not None
    ungated, gated = (next(t for t in found.trials if t.choice.gate == size) for size in (0, 1))
    assert gated.gain - ungated.gain > 0.2


def test_a_gate_is_not_chosen_for_users_whose_taste_does_not_depend_on_it(hashed, cheap):
    rng = np.random.default_rng(5)
    judgements = []
    for u in range(140):
        likes_long = u % 2
        for _ in range(30):
            pair = [str(rng.choice(SHORT)), str(rng.choice(LONG))][:: -1 if likes_long else 1]
            judgements.append(
                Judgement(
                    f"user {u}", str(rng.choice(MARKED["code"] + MARKED["advice"])), "pair", tuple(pair)
                )
            )
    found = fit_planted(judgements, hashed, gate="auto")
    assert found.choice.gate == 0
    assert found.reward.gate is None
    assert [t.choice.gate for t in found.trials][-1] == 1


def test_without_a_gate_the_prompts_embedding_changes_nothing(hashed, hashed_card, cheap):
    judgements = plant_flipping("pair", users=12, kinds=MARKED)
    restored = {**hashed.to_arrays(), "reads": np.array([False, True, False])}
    narrow = FeatureTable.from_arrays(list(hashed), restored)
    assert next(iter(narrow.values())).shape == (FeatureExtractor(HashingEncoder()).width,)
    bundles = [
        fit_bundle_to_features(judgements, table, hashed_card, name="x", options=QUICK, ranks=(0,))
        for table in (hashed, narrow)
    ]
    assert bundles[0].version == bundles[1].version
    assert not bundles[0].manifest.encoder.prompt_embedding


def test_a_forced_gate_is_fitted_without_held_out_users(hashed, hashed_card, tmp_path):
    bundle = fit_bundle_to_features(
        plant_flipping("pair", users=12, kinds=MARKED),
        hashed,
        hashed_card,
        name="x",
        options=QUICK,
        ranks=(0,),
        gate=2,
        checkpoint=Checkpoint(tmp_path / "work", "same"),
    )
    assert bundle.reward.gate is not None
    assert bundle.reward.gate.size == 2
    assert bundle.manifest.encoder.prompt_embedding
    assert bundle.manifest.metrics["fit"]["choice"]["gate"] == 2


def test_a_gate_needs_the_embeddings_of_prompts(plant):
    planted = plant(n_users=5)
    with pytest.raises(GateError, match="embeddings of prompts"):
        fit_reward(planted.judgements, planted.vectors, gate=1)


def test_judgements_of_many_texts_are_learned_as_comparisons(vectors):
    ranking = Judgement("u", CODE[0], "ranking", (LONG[0], LONG[1], SHORT[0]))
    choice = Judgement("u", CODE[0], "choice", (LONG[0], LONG[1], SHORT[0]), groups=(1, 2))
    assert [j.texts for j in gates._split_pairs(ranking)] == [(LONG[0], LONG[1]), (LONG[1], SHORT[0])]
    assert [j.texts for j in gates._split_pairs(choice)] == [(LONG[0], LONG[1]), (LONG[0], SHORT[0])]
