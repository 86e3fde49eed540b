"""The encoder of a bundle is loaded with the settings of its card."""

import pytest

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.testing import tiny_bundle
from penchant.service.bundles import loading
from penchant.service.settings import Settings


@pytest.mark.parametrize("max_windows", [1, 8])
def test_a_bundle_decides_in_how_many_windows_texts_are_read(monkeypatch, max_windows):
    monkeypatch.setattr(
        loading,
        "load_encoder",
        lambda _name, *, max_tokens, max_windows, joint, **_: HashingEncoder(
            max_tokens=max_tokens, max_windows=max_windows, joint=joint
        ),
    )
    bundle = tiny_bundle(FeatureExtractor(HashingEncoder(max_tokens=100, max_windows=max_windows)))
    extractor = loading.load_extractor(Settings(), bundle)
    assert (extractor.encoder.max_tokens, extractor.encoder.max_windows) == (100, max_windows)
    loading.check_match(bundle, extractor)
