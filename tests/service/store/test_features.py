"""Stored features: the vector, and the windows of long texts after it."""

import numpy as np
import pytest

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.testing import tiny_bundle
from penchant.service.log.judgements import read_judgements
from penchant.service.store.features import find_features
from penchant.service.users.fold import Fold
from penchant.service.users.states import Forgetting
from penchant.service.users.verify import replay

SHORT = "three short words"
LONG = " ".join(f"word{i}" for i in range(11))
ENDLESS = " ".join(f"word{i}" for i in range(40))


@pytest.fixture
def windowed():
    return HashingEncoder(max_tokens=4, max_windows=3)


def test_judged_texts_keep_their_windows(serve, windowed):
    """Vectors and windows are the same after a restart, with an empty cache, and nothing is encoded again."""
    extractor = FeatureExtractor(windowed)
    texts = [SHORT, LONG, ENDLESS]
    expected = extractor.extract(texts)
    client = serve(using=windowed)
    event = {"type": "ranking", "user": "u", "prompt": "p", "order": [[text] for text in texts]}
    assert client.post("/v1/feedback", json=event).json()["accepted"] == 1
    before = client.post("/v1/rerank", json={"query": "p", "documents": texts, "user": "u"}).json()

    served = serve(using=windowed).app.state.runtime
    keys = [extractor.key(text) for text in texts]
    with served.store.reading() as connection:
        stored = find_features(connection, "default", extractor.identity, keys)
    for i, key in enumerate(keys):
        np.testing.assert_array_equal(stored[key].vector, expected.vectors[i])
        assert (stored[key].tokens, stored[key].truncated) == (expected.tokens[i], expected.truncated[i])
        if i == 0:
            assert stored[key].several is None
        else:
            np.testing.assert_array_equal(stored[key].several, expected.windows[i])
    client = serve(using=windowed, item_cache_bytes=0)
    after = client.post("/v1/rerank", json={"query": "p", "documents": texts, "user": "u"}).json()
    assert after["results"] == before["results"]
    assert after["meta"]["warnings"] == ["1 of 3 documents truncated to 12 tokens: 2"]
    assert client.get("/v1/users/u", params={"explain": True}).status_code == 200


def test_replays_and_fits_read_the_vectors_alone(serve, windowed):
    extractor = FeatureExtractor(windowed)
    bundle = tiny_bundle(extractor)
    client = serve(using=windowed)
    for chosen, rejected in ((LONG, SHORT), (ENDLESS, LONG), (SHORT, ENDLESS)):
        event = {"type": "preference", "user": "u", "chosen": chosen, "rejected": rejected}
        assert client.post("/v1/feedback", json=event).json()["accepted"] == 1
    store = client.app.state.runtime.store
    with store.reading() as connection:
        log = read_judgements(connection, ["default"], extractor.identity)
    assert len(log.judgements) == 3
    vectors = {text: vector for (_, text), vector in log.vectors.items()}
    for text in (SHORT, LONG, ENDLESS):
        np.testing.assert_array_equal(
            vectors[extractor.key(text).hex()], extractor.extract([text]).vectors[0]
        )
    fold = Fold(bundle.reward, Forgetting(None), bundle.version, extractor.identity)
    report = replay(store, fold, now=store.clock())
    assert (report.users, report.equal, report.lacking) == (1, 1, 0)
