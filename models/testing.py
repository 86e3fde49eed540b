"""A small model for tests, built in milliseconds without fitting or files."""

import numpy as np

from penchant.models.bundle import Bundle, EncoderCard, Manifest
from penchant.models.encoding.attributes import ATTRIBUTE_NAMES
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.taste.items import Items
from penchant.models.taste.observations import RatingScale
from penchant.models.taste.population import Population
from penchant.models.taste.reward import REFERENCE_KEY, ItemMemory, RewardModel
from penchant.models.taste.text_prior import LinearTextPrior, Standardiser


def tiny_bundle(extractor: FeatureExtractor, *, rank: int = 2, seed: int = 0) -> Bundle:
    """Make a seeded bundle with random shared taste, `rank` random directions, and one direction for text length."""
    rng = np.random.default_rng(seed)
    d, m = extractor.dim + 1, 1 + rank
    length = extractor.encoder.dim + ATTRIBUTE_NAMES.index("length")
    centre, scale = np.zeros(extractor.dim), np.ones(extractor.dim)
    centre[length], scale[length] = 3.0, 1.0
    loadings = np.zeros((d, 1))
    loadings[length, 0] = 1.0
    weights = rng.normal(0, 0.5, (d, m))
    weights[extractor.encoder.dim :] = 0.0
    text_prior = LinearTextPrior(
        Standardiser(centre, scale),
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
    return Bundle(
        reward, Manifest(name="tiny", encoder=EncoderCard.from_extractor(extractor), data=(), metrics={})
    )
