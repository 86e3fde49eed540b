"""Loading bundles and their encoders from disk, and checking that they match."""

from typing import Final

from penchant.models.bundle import DEFAULT_BUNDLE, Bundle, BundleError
from penchant.models.encoding.encoder import EncoderError
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.loading import load_encoder
from penchant.service.claims import StartError
from penchant.service.settings import Settings

_WARM_UP: Final = ("A first text, so that the first request does not pay for it.", "Another.")


def load_bundle(settings: Settings) -> Bundle:
    """Load the bundle that the settings name, or the shipped one.

    Raises:
        StartError: If it is missing or damaged.
    """
    try:
        return Bundle.load(settings.bundle or DEFAULT_BUNDLE)
    except BundleError as error:
        raise StartError(f"The bundle cannot be loaded: {error}") from error


def load_extractor(settings: Settings, bundle: Bundle) -> FeatureExtractor:
    """Load the feature extractor that a bundle needs.

    If the settings name an encoder that does not match, and no bundle, this loads the bundle's own encoder. Such a
    bundle came with an upgrade after the encoder was configured.

    Raises:
        StartError: If the encoder cannot be loaded.
    """
    named = bundle.manifest.encoder.name
    extractor = _load(settings, bundle, settings.encoder or named)
    differs = extractor.identity != bundle.manifest.encoder.features
    if differs and settings.bundle is None and settings.encoder not in (None, named):
        return _load(settings, bundle, named)
    return extractor


def _load(settings: Settings, bundle: Bundle, name: str) -> FeatureExtractor:
    card = bundle.manifest.encoder
    try:
        encoder = load_encoder(
            name,
            pooling="last" if card.pooling == "last" else "mean",
            max_tokens=card.max_tokens,
            max_windows=card.max_windows,
            joint=card.joint,
            backend=settings.encoder_backend,
            precision=settings.encoder_precision,
            device=settings.encoder_device,
            threads=settings.encoder_threads,
        )
    except EncoderError as error:
        raise StartError(f"The encoder cannot be loaded: {error}") from error
    return FeatureExtractor(
        encoder, reads_prompts=card.reads_prompts, reads_prompt_embedding=card.prompt_embedding
    )


def check_match(bundle: Bundle, extractor: FeatureExtractor) -> None:
    """Check that a bundle was fitted on the features of an extractor.

    Raises:
        StartError: If it was fitted on others.
    """
    if extractor.identity != bundle.manifest.encoder.features:
        raise StartError(
            f"The bundle {bundle.manifest.name} was fitted with the encoder {bundle.manifest.encoder.name} "
            f"({bundle.manifest.encoder.features}); the loaded one is another ({extractor.identity})."
        )


def warm_up(extractor: FeatureExtractor) -> None:
    """Encode two texts, so that the encoder's one-time work does not delay the first request."""
    extractor.extract(_WARM_UP, [""] * len(_WARM_UP))
