"""The signal `relevance` that the settings declare, and the states that belong to it."""

import hashlib
from dataclasses import dataclass

from penchant.models.bundle import Bundle
from penchant.models.encoding.cross_encoder import CrossEncoder, identify_cross_encoder, load_cross_encoder
from penchant.models.encoding.encoder import EncoderError
from penchant.models.encoding.match import RELEVANCE, name_version
from penchant.models.taste.reward import SignalError
from penchant.service.claims import StartError
from penchant.service.settings import Settings
from penchant.service.users.fold import Fold
from penchant.service.users.states import Forgetting


@dataclass(frozen=True)
class Signal:
    """A cross-encoder's score as a declared part of utility.

    Attributes:
        model: Identity of the cross-encoder.
        mean: Score that adds nothing.
        std: Standard deviation of the scores.
        weight: Utility (logits) of one standard deviation.
    """

    model: str
    mean: float
    std: float
    weight: float

    @property
    def tag(self) -> str:
        """Hash of the signal, 8 hex digits. States of users that were learned under different signals differ."""
        content = "\x1f".join((self.model, *(number.hex() for number in (self.mean, self.std, self.weight))))
        return hashlib.blake2b(content.encode(), digest_size=4).hexdigest()

    def add_to(self, bundle: Bundle) -> Bundle:
        """Return a bundle with this signal in every text's utility.

        Raises:
            StartError: If the bundle does not read prompts.
        """
        try:
            return bundle.with_signal(RELEVANCE, mean=self.mean, std=self.std, weight=self.weight)
        except SignalError as error:
            raise StartError(
                f"PENCHANT_RELEVANCE_MODEL needs a bundle that reads prompts, and {bundle.manifest.name} "
                f"({bundle.version}) does not. Choose another bundle, or unset it."
            ) from error


def find_signal(settings: Settings) -> Signal | None:
    """Return the signal that the settings declare. Cost: the model's files are read once.

    Raises:
        StartError: If the model does not exist.
    """
    if settings.relevance_model is None:
        return None
    try:
        model = identify_cross_encoder(settings.relevance_model)
    except EncoderError as error:
        raise _explain(error) from error
    return Signal(model, settings.relevance_mean, settings.relevance_std, settings.relevance_weight)


def load_relevance_model(settings: Settings) -> CrossEncoder | None:
    """Load the cross-encoder that the settings name. Return None if they name none.

    Raises:
        StartError: If it cannot be loaded.
    """
    if settings.relevance_model is None:
        return None
    try:
        return load_cross_encoder(
            settings.relevance_model, device=settings.encoder_device, threads=settings.encoder_threads
        )
    except EncoderError as error:
        raise _explain(error) from error


def build_fold(bundle: Bundle, settings: Settings, signal: Signal | None) -> Fold:
    """Return the fold that computes users' states under a bundle and the declared signal.

    Args:
        bundle: Bundle, with the signal if there is one.
        settings: Settings of the server.
        signal: The signal. Without one, states are saved under the bundle's version alone.
    """
    card = bundle.manifest.encoder
    return Fold(
        bundle.reward,
        Forgetting(settings.forgetting_half_life_days),
        bundle.version if signal is None else f"{bundle.version}+{signal.tag}",
        card.features,
        name_version(card.match, None if signal is None else signal.model),
    )


def _explain(error: EncoderError) -> StartError:
    return StartError(f"The relevance model cannot be loaded: {error}")
