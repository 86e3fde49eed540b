"""Bundles and their encoders, from disk; whether they fit."""

from typing import Final

from penchant.models.bundle import DEFAULT_BUNDLE, Bundle, BundleError
from penchant.models.encoding.encoder import EncoderError
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.loading import load_encoder
from penchant.service.settings import Settings

_WARM_UP: Final = ("A first text, so that the first request does not pay for it.", "Another.")


class StartError(RuntimeError):
    """The server cannot start, for a reason that its operator can change."""


def load_bundle(settings: Settings) -> Bundle:
    """The bundle that the settings name.

    Raises:
        StartError: It is missing or damaged.
    """
    try:
        return Bundle.load(settings.bundle or DEFAULT_BUNDLE)
    except BundleError as error:
        raise StartError(f"The bundle cannot be loaded: {error}") from error


def load_extractor(settings: Settings, bundle: Bundle) -> FeatureExtractor:
    """The feature extractor that the bundle was fitted with.

    Raises:
        StartError: The encoder is missing, or is another one.
    """
    named = bundle.manifest.encoder.name
    extractor = _extractor(settings, bundle, settings.encoder or named)
    differs = extractor.identity != bundle.manifest.encoder.features
    if differs and settings.bundle is None and settings.encoder not in (None, named):
        # The setting is for the bundle that the server was set up with; this one has come by an upgrade since.
        return _extractor(settings, bundle, named)
    return extractor


def _extractor(settings: Settings, bundle: Bundle, name: str) -> FeatureExtractor:
    card = bundle.manifest.encoder
    try:
        encoder = load_encoder(
            name,
            pooling="last" if card.pooling == "last" else "mean",
            max_tokens=card.max_tokens,
            joint=card.joint,
            backend=settings.encoder_backend,
            precision=settings.encoder_precision,
            device=settings.encoder_device,
            threads=settings.encoder_threads,
        )
    except EncoderError as error:
        raise StartError(f"The encoder cannot be loaded: {error}") from error
    return FeatureExtractor(encoder)


def check_match(bundle: Bundle, extractor: FeatureExtractor) -> None:
    """Refuses features that the bundle was not fitted on.

    Raises:
        StartError: They differ.
    """
    if extractor.identity != bundle.manifest.encoder.features:
        raise StartError(
            f"The bundle {bundle.manifest.name} was fitted with the encoder {bundle.manifest.encoder.name} "
            f"({bundle.manifest.encoder.features}); the loaded one is another ({extractor.identity})."
        )


def warm_up(extractor: FeatureExtractor) -> None:
    """Encodes something, so that the first request does not pay for what an encoder does once."""
    extractor.extract(_WARM_UP, [""] * len(_WARM_UP))
