"""The service as its own process, told by `PENCHANT_*`, with an encoder that has no weights. Run by the tests here."""

import sys

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.testing import tiny_bundle
from penchant.service.claims import StartError
from penchant.service.server import run
from penchant.service.settings import Settings

if __name__ == "__main__":
    extractor = FeatureExtractor(HashingEncoder())
    try:
        run(Settings(), bundle=tiny_bundle(extractor), extractor=extractor)
    except StartError as error:
        sys.exit(f"penchant: {error}")
