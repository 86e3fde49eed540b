"""The utility of a text does not depend on the batch, the order or the other texts with which it is encoded."""

import asyncio
import random

import numpy as np
import pytest

from penchant.models.bundle import DEFAULT_BUNDLE, Bundle
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.taste.posterior import UserPosterior
from penchant.service.encoding.batching import MicroBatcher
from penchant.service.settings import Settings
from penchant.service.telemetry.metrics import Telemetry

BOUNDS = {"float32": 1e-5, "bfloat16": 1e-3}
WORDS = "the harbour was quiet and nobody had left a lamp burning in the office over the market".split()  # noqa: SIM905


@pytest.fixture(scope="module", params=BOUNDS)
def encoder(request, load_where_faithful):
    return load_where_faithful(request.param)


@pytest.mark.slow
@pytest.mark.parametrize("max_batch_tokens", [64, 65_536])
def test_utilities_do_not_depend_on_the_batch(encoder, max_batch_tokens):
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 150))) for _ in range(24)]
    extractor = FeatureExtractor(encoder)
    reward = Bundle.load(DEFAULT_BUNDLE).reward
    user = UserPosterior.at_prior(reward.population)

    def utilities(vectors):
        return user.utility(reward.describe(vectors)).mean

    expected = utilities(np.concatenate([extractor.extract([text]).vectors for text in texts]))

    async def extract_in_batches():
        settings = Settings(max_batch_tokens=max_batch_tokens)
        batcher = MicroBatcher(extractor, settings, Telemetry())
        batcher.start()
        rows = list(range(len(texts)))
        draw.shuffle(rows)
        requests = [rows[:1], rows[1:4], rows[4:12], rows[12:], rows[::2]]
        try:
            results = await asyncio.gather(
                *(batcher.extract([texts[i] for i in rows], [""] * len(rows)) for rows in requests)
            )
        finally:
            await batcher.stop()
        return requests, results

    for rows, result in zip(*asyncio.run(extract_in_batches()), strict=True):
        np.testing.assert_allclose(
            utilities(result.features.vectors), expected[rows], rtol=0, atol=BOUNDS[encoder.precision]
        )
