"""A bundle: a trained model on disk, as safetensors and a manifest. A hash of its content is its version.

bundle/
  manifest.json      name, encoder, data and licences, metrics, hash of the weights
  model.safetensors  arrays of the reward model
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from penchant.models.encoding.attributes import ATTRIBUTE_NAMES
from penchant.models.encoding.features import KEY_BYTES, FeatureExtractor
from penchant.models.encoding.match import MATCH_VERSION
from penchant.models.errors import ModelError
from penchant.models.files import write_atomically
from penchant.models.taste.gate import Gate
from penchant.models.taste.items import Items
from penchant.models.taste.observations import RatingScale
from penchant.models.taste.population import Population
from penchant.models.taste.reward import REFERENCE_KEY, ItemMemory, RewardModel
from penchant.models.taste.text_prior import LinearTextPrior

FORMATS: Final = (2, 3, 4)
"""Formats of a bundle. Format 3 reads prompts, which format 2 does not. Format 4 also has a gate."""

DEFAULT_BUNDLE: Final = Path(__file__).parent / "default_bundle"
"""Folder of the bundle that ships with the package."""

_MANIFEST, _WEIGHTS = "manifest.json", "model.safetensors"


class BundleError(ModelError, RuntimeError):
    """A bundle is missing, damaged, for another format or encoder, or cannot be written."""


@dataclass(frozen=True)
class EncoderCard:
    """The encoder that a bundle was fitted with.

    Attributes:
        name: Name of the model, as in `load_encoder`.
        identity: `Encoder.identity` at fitting time. Another encoder cannot serve the bundle.
        pooling: `mean` or `last`.
        max_tokens: Longest sequence, in tokens.
        joint: Whether prompt and text are read in one sequence.
        features: `FeatureExtractor.identity` at fitting time.
        max_windows: Largest number of sequences in which a text is read.
        match: Version of the match features that the bundle reads. Empty if it does not read prompts.
        window_features: `FeatureExtractor.window_identity` at fitting time. Empty if it is not known.
        prompt_embedding: Whether the bundle also reads the embedding of the prompt, as one with a gate does.
    """

    name: str
    identity: str
    pooling: str
    max_tokens: int
    joint: bool
    features: str
    max_windows: int = 1
    match: str = ""
    window_features: str = ""
    prompt_embedding: bool = False

    @property
    def reads_prompts(self) -> bool:
        """Whether the bundle reads match features."""
        return bool(self.match)

    @classmethod
    def from_extractor(cls, extractor: FeatureExtractor) -> "EncoderCard":
        """Make the card of the encoder of an extractor."""
        encoder = extractor.encoder
        return cls(
            encoder.name,
            encoder.identity,
            encoder.pooling,
            encoder.max_tokens,
            encoder.joint,
            extractor.identity,
            encoder.max_windows,
            extractor.match_version,
            extractor.window_identity,
            extractor.prompt_dim > 0,
        )


@dataclass(frozen=True)
class Manifest:
    """Description of a bundle.

    Attributes:
        name: Short name.
        encoder: Encoder that the bundle needs.
        data: One entry for each data set: name, licence, attribution, sha256 and counts.
        metrics: Measured figures, and how they were measured.
    """

    name: str
    encoder: EncoderCard
    data: tuple[dict[str, Any], ...]
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Bundle:
    """A reward model with its manifest.

    Attributes:
        reward: Reward model.
        manifest: Description of the bundle.
    """

    reward: RewardModel
    manifest: Manifest = field(repr=False)

    @cached_property
    def _weights(self) -> bytes:
        return _pack_arrays(self.reward)

    @cached_property
    def version(self) -> str:
        """`b-` and 16 hex digits of the hash of weights and encoder."""
        digest = hashlib.sha256(self._weights)
        digest.update(self.manifest.encoder.features.encode())
        return f"b-{digest.hexdigest()[:16]}"

    def with_signal(self, column: int, *, mean: float, std: float, weight: float) -> "Bundle":
        """Return this bundle with a declared signal, as in `RewardModel.with_signal`.

        A signal is part of how a bundle is served. The version, and the weights that `save` writes, are still those of
        the bundle without it.

        Raises:
            SignalError: If the reward model cannot take the signal.
        """
        bundle = replace(self, reward=self.reward.with_signal(column, mean=mean, std=std, weight=weight))
        bundle.__dict__["_weights"] = self._weights
        return bundle

    def save(self, path: Path) -> None:
        """Write the bundle to a folder. Each file is written atomically, the manifest last.

        Args:
            path: Folder, which is created if it does not exist.

        Raises:
            BundleError: If the folder cannot be written.
        """
        manifest = {
            "format": find_format(self.reward),
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
        """Load and check a bundle.

        Args:
            path: Folder of the bundle.

        Raises:
            BundleError: If the bundle is missing or damaged, its hash is wrong, or this version cannot read its format
                or its match features.
        """
        try:
            manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
            weights = (path / _WEIGHTS).read_bytes()
        except (OSError, ValueError) as error:
            raise BundleError(f"cannot read bundle {path}: {error}") from error
        try:
            if manifest["format"] not in FORMATS:
                readable = ", ".join(map(str, FORMATS))
                raise BundleError(
                    f"bundle {path} has format {manifest['format']}, this version reads {readable}"
                )
            actual = hashlib.sha256(weights).hexdigest()
            if actual != manifest["weights_sha256"]:
                raise BundleError(f"bundle {path}: weights have sha256 {actual}, the manifest says otherwise")
            arrays = load_tensors(weights)
            _check_arrays(arrays)
            reward = _build_reward_model(arrays)
            described = Manifest(
                name=manifest["name"],
                encoder=EncoderCard(**manifest["encoder"]),
                data=tuple(manifest["data"]),
                metrics=manifest["metrics"],
            )
        except (KeyError, TypeError, ValueError, SafetensorError) as error:
            raise BundleError(f"bundle {path} is damaged: {error!r}") from error
        if described.encoder.match not in ("", MATCH_VERSION):
            raise BundleError(
                f"bundle {path} reads match features of version {described.encoder.match!r}, "
                f"this version computes those of version {MATCH_VERSION!r}"
            )
        if reward.gate is not None and not described.encoder.prompt_embedding:
            raise BundleError(
                f"bundle {path} is damaged: it has a gate, but its card reads no embedding of prompts"
            )
        bundle = cls(reward, described)
        bundle.__dict__["_weights"] = weights  # the version is computed from the bytes of the file
        if bundle.version != manifest["version"]:
            raise BundleError(
                f"bundle {path}: version is {bundle.version}, the manifest says {manifest['version']}"
            )
        return bundle


def round_trip(reward: RewardModel) -> RewardModel:
    """Return a reward model as it is after saving and loading, with the rounding of a bundle."""
    return _build_reward_model(load_tensors(_pack_arrays(reward)))


def _pack_arrays(reward: RewardModel) -> bytes:
    # safetensors writes the memory of an array as it is, so it must be in C order.
    arrays = {name: np.array(array, order="C") for name, array in _collect_arrays(reward).items()}
    return bytes(save_tensors(arrays, metadata={"format": str(find_format(reward))}))


def find_format(reward: RewardModel) -> int:
    """Return the format in which a reward model is saved."""
    if reward.gate is not None:
        return FORMATS[2]
    return FORMATS[0] if reward.text_prior.standardiser.match is None else FORMATS[1]


def _collect_arrays(reward: RewardModel) -> dict[str, NDArray[Any]]:
    names, flipped = sorted(reward.scales), sorted(reward.flips)
    keys = sorted(reward.memory.rows, key=lambda key: reward.memory.rows[key])
    return {
        **reward.text_prior.arrays(),
        **(reward.gate.arrays() if reward.gate else {}),
        "population.weights": reward.population.weights,
        "population.means": reward.population.means,
        "population.precisions": reward.population.precisions,
        "temperature": np.array([reward.temperature]),
        "reference": np.concatenate([reward.reference.base, reward.reference.directions[0]]),
        "flips.names": np.frombuffer(_pack_names(flipped), np.uint8).copy(),
        "flips.values": np.array([reward.flips[name] for name in flipped]),
        "scales.names": np.frombuffer(_pack_names(names), np.uint8).copy(),
        "scales.values": np.array(
            [[s.offset, s.slope, s.noise] for s in map(reward.scales.__getitem__, names)]
        ),
        "loadings": reward.loadings.astype(np.float32),
        "memory.keys": np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), KEY_BYTES).copy(),
        "memory.means": reward.memory.means.astype(np.float32),
        "memory.variances": reward.memory.variances.astype(np.float32),
    }


def _pack_names(names: list[str]) -> bytes:
    """Write one name per line in ASCII. Line ends and lone surrogates within a name are escaped."""
    return b"\n".join(name.encode("unicode_escape") for name in names)


def _unpack_names(names: bytes) -> list[str]:
    return [name.decode("unicode_escape") for name in names.split(b"\n")]


def _check_arrays(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise ValueError unless the shapes fit together and the numbers are finite and in range."""
    d, m = arrays["text.weights"].shape
    k_archetypes, q = arrays["population.means"].shape
    n_items = len(arrays["memory.keys"])
    inducing, dim = len(arrays["text.inducing"]), len(arrays["text.centre"])
    match = len(arrays["match.column"]) if "match.layout" in arrays else 0
    if d != dim + match + inducing + 1:
        raise ValueError(
            f"there are {d} weights for {dim} features, {match} functions of the match and {inducing} inducing texts"
        )
    gated, products = _describe_gate_shapes(arrays, d)
    expected: dict[str, tuple[int, ...]] = {
        **(_describe_match_shapes(arrays) if "match.layout" in arrays else {}),
        **gated,
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
        "loadings": (d, q - m - products),
        "memory.keys": (n_items, KEY_BYTES),
        "memory.means": (n_items, m),
        "memory.variances": (n_items, m),
    }
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has shape {arrays[name].shape}, must be {shape}")
    if "match.layout" in arrays:
        _check_match(arrays)
    for name, array in arrays.items():
        if name != "text.scale" and not np.isfinite(array).all():  # an infinite scale drops a feature
            raise ValueError(f"{name} holds a number that is not finite")
    if not ((arrays["flips.values"] >= 0) & (arrays["flips.values"] <= 1)).all():
        raise ValueError("flips.values must be probabilities")
    if not (arrays["text.basis_length"] > 0).all():
        raise ValueError("text.basis_length must be positive")


def _check_match(arrays: Mapping[str, NDArray[Any]]) -> None:
    columns = np.append(arrays["match.column"], arrays["match.layout"][0])
    if not ((columns >= 0) & (columns < arrays["match.layout"][1])).all():
        raise ValueError("match.column or match.layout names a match feature that does not exist")
    if not (arrays["match.low"] <= arrays["match.high"]).all():
        raise ValueError("match.low must not be above match.high")


def _describe_match_shapes(arrays: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    width = len(arrays["match.column"])
    names = ("column", "low", "high", "anchor", "kind")
    return {"match.layout": (2,), **{f"match.{name}": (width,) for name in names}}


def _describe_gate_shapes(
    arrays: Mapping[str, NDArray[Any]], d: int
) -> tuple[dict[str, tuple[int, ...]], int]:
    """Return the shapes of the arrays of a gate, and the number of its products."""
    if not any(name.startswith("gate.") for name in arrays):
        return {}, 0
    size, directions = arrays["gate.projection"].shape[1], arrays["gate.loadings"].shape[1]
    width = len(arrays["text.centre"]) - len(ATTRIBUTE_NAMES)
    if "match.layout" not in arrays:
        raise ValueError("there is a gate, but no match with the prompt")
    shapes = {
        "gate.centre": (width,),
        "gate.projection": (width, size),
        "gate.loadings": (d, directions),
    }
    return shapes, size * directions


def _build_reward_model(arrays: Mapping[str, NDArray[Any]]) -> RewardModel:
    population = Population(
        arrays["population.weights"], arrays["population.means"], arrays["population.precisions"]
    )
    reference, directions = arrays["reference"], population.q - 1
    names = _unpack_names(arrays["scales.names"].tobytes())
    flipped = _unpack_names(arrays["flips.names"].tobytes()) if len(arrays["flips.names"]) else []
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
        gate=Gate.from_arrays(arrays),
    )
