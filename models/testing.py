"""A small model for tests, built in milliseconds without fitting or files."""

from dataclasses import replace

import numpy as np

from penchant.models.bundle import Bundle, EncoderCard, Manifest
from penchant.models.encoding.attributes import ATTRIBUTE_NAMES
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.match import BRIEF, COSINE, COVERAGE, MATCH_NAMES
from penchant.models.taste.gate import Gate
from penchant.models.taste.items import Items
from penchant.models.taste.match_basis import MatchBasis
from penchant.models.taste.observations import RatingScale
from penchant.models.taste.population import Population
from penchant.models.taste.reward import REFERENCE_KEY, ItemMemory, RewardModel
from penchant.models.taste.text_prior import LinearTextPrior, Standardiser


def tiny_bundle(
    extractor: FeatureExtractor, *, rank: int = 2, seed: int = 0, match: bool = False, gate: int = 0
) -> Bundle:
    """Make a seeded bundle with random shared taste, `rank` random directions, and one direction for text length.

    Args:
        extractor: Extractor of the features that the bundle reads.
        rank: Number of random directions.
        seed: Seed of all random weights.
        match: Whether the bundle reads prompts. All users then like texts that are similar to the prompt, and the random
            directions depend on the similarity as well.
        gate: Number of gate values, on which a user's taste for length depends. A gate needs `match`.
    """
    rng = np.random.default_rng(seed)
    basis = _make_match_basis() if match else None
    n_matched = len(basis) if basis else 0
    d, m = extractor.dim + n_matched + 1, 1 + rank
    length = extractor.encoder.dim + ATTRIBUTE_NAMES.index("length")
    centre, scale = np.zeros(extractor.dim), np.ones(extractor.dim)
    centre[length], scale[length] = 3.0, 1.0
    loadings = np.zeros((d, 1))
    loadings[length, 0] = 1.0
    weights = rng.normal(0, 0.5, (d, m))
    weights[extractor.encoder.dim :] = 0.0
    weights[extractor.dim : extractor.dim + n_matched, 0] = 3.0
    weights[extractor.dim : extractor.dim + n_matched, 1:] = rng.normal(0, 1.0, (n_matched, rank))
    text_prior = LinearTextPrior(
        Standardiser(centre, scale, match=basis),
        weights,
        np.full((d, m), 0.01),
        np.zeros((m, d, 1), np.float32),
        np.full(m, 0.05),
    )
    q = 1 + rank + 1
    reference = Items(
        np.zeros(1), np.zeros(1), np.zeros((1, rank + 1)), np.zeros((1, rank + 1)), (REFERENCE_KEY,)
    )
    reward = RewardModel(
        text_prior=text_prior,
        population=Population(np.ones(1), np.zeros((1, q)), np.eye(q)[None]),
        temperature=1.0,
        reference=reference,
        scales={"default": RatingScale(0.0, 0.4, 0.5)},
        loadings=loadings,
        memory=ItemMemory.empty(m),
    )
    if gate:
        projection = 5 * rng.normal(size=(extractor.encoder.dim, gate))
        reward = reward.with_gate(
            Gate(np.zeros(extractor.encoder.dim), projection, loadings), np.zeros(gate), np.ones(gate)
        )
    card = replace(EncoderCard.from_extractor(extractor), prompt_embedding=gate > 0)
    if not match:
        card = replace(card, match="")
    return Bundle(reward, Manifest(name="tiny", encoder=card, data=(), metrics={}))


def _make_match_basis() -> MatchBasis:
    """Cosine and coverage, linear for both kinds of prompts."""
    return MatchBasis(
        column=np.array([COSINE, COVERAGE, COSINE]),
        low=np.array([-1.0, 0.0, -1.0]),
        high=np.ones(3),
        anchor=np.array([0.25, 0.5, 0.5]),
        kind=np.array([0, 0, 1]),
        kind_column=BRIEF,
        width=len(MATCH_NAMES),
    )
