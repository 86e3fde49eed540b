"""A bundle: a trained model on disk, as safetensors + manifest. Its content hash is its version.

bundle/
  manifest.json      name, encoder, data and licences, metrics, hash of the weights
  model.safetensors  arrays of the reward model
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from penchant.models.encoding.features import KEY_BYTES, FeatureExtractor
from penchant.models.errors import ModelError
from penchant.models.files import write_atomically
from penchant.models.taste.items import Items
from penchant.models.taste.likelihood import RatingScale
from penchant.models.taste.population import Population
from penchant.models.taste.reward import REFERENCE_KEY, ItemMemory, RewardModel
from penchant.models.taste.text_prior import LinearTextPrior

FORMAT: Final = 2
DEFAULT_BUNDLE: Final = Path(__file__).parent / "default_bundle"
"""The bundle that ships with the package."""

_MANIFEST, _WEIGHTS = "manifest.json", "model.safetensors"


class BundleError(ModelError, RuntimeError):
    """A bundle is missing, damaged, or not for this version or encoder."""


@dataclass(frozen=True)
class EncoderCard:
    """The encoder a bundle was fitted with.

    Attributes:
        name: As for `load_encoder`.
        identity: `Encoder.identity` at fitting time; serving with another encoder is refused.
        pooling: `mean` or `last`.
        max_tokens: Longest sequence.
        joint: Whether prompt and text are read in one sequence.
        features: `FeatureExtractor.identity` at fitting time.
    """

    name: str
    identity: str
    pooling: str
    max_tokens: int
    joint: bool
    features: str

    @classmethod
    def from_extractor(cls, extractor: FeatureExtractor) -> "EncoderCard":
        """The card of the encoder behind an extractor."""
        e = extractor.encoder
        return cls(e.name, e.identity, e.pooling, e.max_tokens, e.joint, extractor.identity)


@dataclass(frozen=True)
class Manifest:
    """What a person wants to know of a bundle.

    Attributes:
        name: Short name.
        encoder: The encoder it needs.
        data: One entry a data set: name, licence, attribution, sha256, counts.
        metrics: Measured figures and how they were measured.
    """

    name: str
    encoder: EncoderCard
    data: tuple[dict[str, Any], ...]
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Bundle:
    """A reward model with its manifest.

    Attributes:
        reward: The model.
        manifest: Its description.
    """

    reward: RewardModel
    manifest: Manifest = field(repr=False)

    @cached_property
    def _weights(self) -> bytes:
        return _packed_arrays(self.reward)

    @cached_property
    def version(self) -> str:
        """`b-` and 16 hex digits of the content: equal weights and encoder, equal version."""
        digest = hashlib.sha256(self._weights)
        digest.update(self.manifest.encoder.features.encode())
        return f"b-{digest.hexdigest()[:16]}"

    def save(self, path: Path) -> None:
        """Writes the bundle to a folder, the manifest last and each file in one step.

        Raises:
            BundleError: The folder cannot be written.
        """
        manifest = {
            "format": FORMAT,
            "version": self.version,
            "weights_sha256": hashlib.sha256(self._weights).hexdigest(),
            **asdict(self.manifest),
        }
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_atomically(path / _WEIGHTS, self._weights)
            write_atomically(
                path / _MANIFEST, (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()
            )
        except OSError as error:
            raise BundleError(f"cannot write bundle {path}: {error}") from error

    @classmethod
    def load(cls, path: Path) -> "Bundle":
        """Reads and checks a bundle.

        Raises:
            BundleError: It is missing, its hash is wrong, or its format is not this version's.
        """
        try:
            manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
            weights = (path / _WEIGHTS).read_bytes()
        except (OSError, ValueError) as error:
            raise BundleError(f"cannot read bundle {path}: {error}") from error
        try:
            if manifest["format"] != FORMAT:
                raise BundleError(
                    f"bundle {path} has format {manifest['format']}, this version reads {FORMAT}"
                )
            found = hashlib.sha256(weights).hexdigest()
            if found != manifest["weights_sha256"]:
                raise BundleError(f"bundle {path}: weights have sha256 {found}, the manifest says otherwise")
            arrays = load_tensors(weights)
            _check(arrays)
            reward = _reward(arrays)
            described = Manifest(
                name=manifest["name"],
                encoder=EncoderCard(**manifest["encoder"]),
                data=tuple(manifest["data"]),
                metrics=manifest["metrics"],
            )
        except (KeyError, TypeError, ValueError, SafetensorError) as error:
            raise BundleError(f"bundle {path} is damaged: {error!r}") from error
        bundle = cls(reward, described)
        bundle.__dict__["_weights"] = weights  # the file's own bytes: the version is that of what was read
        if bundle.version != manifest["version"]:
            raise BundleError(
                f"bundle {path}: version is {bundle.version}, the manifest says {manifest['version']}"
            )
        return bundle


def round_trip(reward: RewardModel) -> RewardModel:
    """A reward model as it is after saving and loading: figures measured on it are those of the bundle."""
    return _reward(load_tensors(_packed_arrays(reward)))


def _packed_arrays(reward: RewardModel) -> bytes:
    # safetensors writes an array's memory as it lies: it must lie in C order.
    arrays = {name: np.array(array, order="C") for name, array in _arrays(reward).items()}
    return bytes(save_tensors(arrays, metadata={"format": str(FORMAT)}))


def _arrays(reward: RewardModel) -> dict[str, NDArray[Any]]:
    names, flipped = sorted(reward.scales), sorted(reward.flips)
    keys = sorted(reward.memory.rows, key=lambda key: reward.memory.rows[key])
    return {
        **reward.text_prior.arrays(),
        "population.weights": reward.population.weights,
        "population.means": reward.population.means,
        "population.precisions": reward.population.precisions,
        "temperature": np.array([reward.temperature]),
        "reference": np.concatenate([reward.reference.base, reward.reference.directions[0]]),
        "flips.names": np.frombuffer(_packed(flipped), np.uint8).copy(),
        "flips.values": np.array([reward.flips[name] for name in flipped]),
        "scales.names": np.frombuffer(_packed(names), np.uint8).copy(),
        "scales.values": np.array(
            [[s.offset, s.slope, s.noise] for s in map(reward.scales.__getitem__, names)]
        ),
        "loadings": reward.loadings.astype(np.float32),
        "memory.keys": np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), KEY_BYTES).copy(),
        "memory.means": reward.memory.means.astype(np.float32),
        "memory.variances": reward.memory.variances.astype(np.float32),
    }


def _packed(names: list[str]) -> bytes:
    """A name a line, ASCII: line ends and lone surrogates within a name are escaped."""
    return b"\n".join(name.encode("unicode_escape") for name in names)


def _unpacked(names: bytes) -> list[str]:
    return [name.decode("unicode_escape") for name in names.split(b"\n")]


def _check(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Do the shapes fit together, is every number finite, and can it be served with?"""
    d, m = arrays["text.weights"].shape
    k_archetypes, q = arrays["population.means"].shape
    n_items = len(arrays["memory.keys"])
    inducing, dim = len(arrays["text.inducing"]), len(arrays["text.centre"])
    if d != dim + inducing + 1:
        raise ValueError(f"{d} weights for {dim} features and {inducing} inducing texts")
    expected: dict[str, tuple[int, ...]] = {
        "text.centre": (dim,),
        "text.scale": (dim,),
        "text.inducing": (inducing, dim if inducing else 0),
        "text.basis_scale": (dim if inducing else 0,),
        "text.basis_length": (1 if inducing else 0,),
        "text.prior_variance": (d, m),
        "text.learned": (m, d, arrays["text.learned"].shape[-1]),
        "text.residual_variance": (m,),
        "population.weights": (k_archetypes,),
        "population.precisions": (k_archetypes, q, q),
        "temperature": (1,),
        "reference": (q,),
        "loadings": (d, q - m),
        "memory.keys": (n_items, KEY_BYTES),
        "memory.means": (n_items, m),
        "memory.variances": (n_items, m),
    }
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} is {arrays[name].shape}, must be {shape}")
    for name, array in arrays.items():
        if name != "text.scale" and not np.isfinite(array).all():  # an infinite scale drops a feature
            raise ValueError(f"{name} holds a number that is not finite")
    if not ((arrays["flips.values"] >= 0) & (arrays["flips.values"] <= 1)).all():
        raise ValueError("flips.values must be probabilities")
    if not (arrays["text.basis_length"] > 0).all():
        raise ValueError("text.basis_length must be positive")


def _reward(arrays: Mapping[str, NDArray[Any]]) -> RewardModel:
    population = Population(
        arrays["population.weights"], arrays["population.means"], arrays["population.precisions"]
    )
    reference, directions = arrays["reference"], population.q - 1
    names = _unpacked(arrays["scales.names"].tobytes())
    flipped = _unpacked(arrays["flips.names"].tobytes()) if len(arrays["flips.names"]) else []
    return RewardModel(
        text_prior=LinearTextPrior.from_arrays(arrays),
        population=population,
        temperature=float(arrays["temperature"][0]),
        reference=Items(
            reference[:1], np.zeros(1), reference[None, 1:], np.zeros((1, directions)), (REFERENCE_KEY,)
        ),
        scales={
            name: RatingScale(*map(float, row))
            for name, row in zip(names, arrays["scales.values"], strict=True)
        },
        loadings=arrays["loadings"].astype(np.float64),
        memory=ItemMemory(
            {row.tobytes(): i for i, row in enumerate(arrays["memory.keys"])},
            arrays["memory.means"].astype(np.float64),
            arrays["memory.variances"].astype(np.float64),
        ),
        flips=dict(zip(flipped, map(float, arrays["flips.values"]), strict=True)),
    )
