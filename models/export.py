"""A bundle for use without penchant: the model as documented arrays, users and texts as rows.

u(user, text) = threshold + base + Σ_j score_j taste_j. The scores are those of `Tastes`: they have mean 0 and variance 1
over the population, are uncorrelated, and are sorted by their share in personal taste, largest first.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as save_tensors

from penchant.models.bundle import Bundle
from penchant.models.checkpoint import Progress, ignore_progress
from penchant.models.encoding.attributes import ATTRIBUTE_NAMES
from penchant.models.encoding.match import MATCH_NAMES
from penchant.models.evaluation.few_shot import Catalogue, Vectors, observe
from penchant.models.explain.tastes import Tastes
from penchant.models.explain.text_map import TextMap
from penchant.models.files import open_atomically, write_atomically
from penchant.models.judgements.judgement import Judgement
from penchant.models.ranking.selection import relevance
from penchant.models.taste.gate import LARGEST_GATE
from penchant.models.taste.items import item_key
from penchant.models.taste.match_basis import MatchBasis
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.text_prior import CLIP, JITTER

FORMULAS: Final = {
    "features": "[unit-length embedding, attributes]",
    "wide": "clip((features - centre) / scale, -clip, clip)",
    "kernel": "k(a, b) = exp(-sum((basis_scale * (a - b))**2) / (2 * basis_length**2))",
    "basis": "k(wide, basis_texts) @ inv(cholesky(k(basis_texts, basis_texts) + basis_jitter * identity)).T",
    "match": "where match[:, match_column] is known and match_kind is -1 or match[:, kind_column]: clip(match[:, "
    "match_column], match_low, match_high) - clip(match_anchor, match_low, match_high); 0 elsewhere",
    "x": "[wide, match, basis, 1]",
    "gates": "clip((prompt_embedding - gate_centre) @ gate_projection, -gate_clip, gate_clip); zeros without a prompt",
    "base, tastes": "x @ weights + sum over c of gates[c] * (x @ gated_weights[c]); the first "
    "column is the base utility for the mean user, then one column a taste",
    "utility": "threshold + base + tastes @ scores",
    "population": "[threshold, scores] of a user nobody has heard from: a mixture of Gaussians",
    "preference": "P(a over b) = sigmoid(temperature * difference / sqrt(1 + pi * variance / 8)), the difference of "
    "their utilities and its variance being those of one archetype; averaged over the user's archetypes",
    "rating": "moved to [-1, 1], a rating is offset + slope * utility + noise, a standard deviation",
}


def find_tastes(bundle: Bundle) -> Tastes:
    """Return the tastes that were found at fitting time, or else whitened axes of the fit, in no order."""
    prior = bundle.reward.population.prior
    found = bundle.manifest.metrics.get("inspection")
    if found is None:
        return Tastes.principal_axes(prior, np.eye(len(prior.mean) - 1))
    return Tastes.from_positions(prior, [taste["position"] for taste in found["tastes"]])


@dataclass(frozen=True)
class ExportedModel:
    """A model as plain arrays.

    Attributes:
        arrays: Arrays by name, which `manifest["arrays"]` documents.
        manifest: Formulas, settings and descriptions that a program needs to use the arrays.
    """

    arrays: dict[str, NDArray[np.float64]]
    manifest: dict[str, Any]


def export_model(bundle: Bundle) -> ExportedModel:
    """Export the model that all users share.

    Raises:
        ExplanationError: If the text prior has no linear form.
    """
    reward, manifest = bundle.reward, bundle.manifest
    axes, prior = find_tastes(bundle), reward.population.prior
    dim = len(reward.text_prior.standardiser.centre)
    text = TextMap.from_reward(reward)
    weights, gate = text.weights, reward.gate
    means, covariances = axes.users(prior.means, prior.covariances)
    standardiser = reward.text_prior.standardiser
    basis = standardiser.basis
    arrays = {
        "centre": (standardiser.centre, "[features] mean over the fitted texts"),
        "scale": (standardiser.scale, "[features] standard deviation; infinite where one never varied"),
        "basis_texts": (
            basis.inducing if basis else np.zeros((0, dim)),
            "[basis, features] wide features of some fitted texts",
        ),
        **_describe_match(standardiser.match),
        "basis_scale": (basis.scale if basis else np.ones(dim), "[features]"),
        "weights": (
            _to_tastes(weights, axes),
            "[x, 1 + tastes]",
        ),
        "gate_centre": (
            gate.centre if gate else np.zeros(0),
            "[prompt embedding] empty if taste does not depend on the prompt",
        ),
        "gate_projection": (gate.projection if gate else np.zeros((0, 0)), "[prompt embedding, gates]"),
        "gated_weights": (
            np.array([_to_tastes(part, axes) for part in text.split_gated()]).reshape(
                gate.size if gate else 0, len(weights), weights.shape[1]
            ),
            "[gates, x, 1 + tastes]",
        ),
        "population_weights": (prior.weights, "[archetypes] share of users"),
        "population_means": (means, "[archetypes, 1 + tastes] mean of [threshold, scores]"),
        "population_covariances": (covariances, "[archetypes, 1 + tastes, 1 + tastes]"),
    }
    described = {
        name: {"shape": list(array.shape), "holds": meaning} for name, (array, meaning) in arrays.items()
    }
    return ExportedModel(
        {name: np.ascontiguousarray(array, np.float64) for name, (array, _) in arrays.items()},
        {
            "bundle": {"name": manifest.name, "version": bundle.version},
            "formulas": FORMULAS,
            "arrays": described,
            "features": {
                "embedding": {
                    "encoder": manifest.encoder.name,
                    "pooling": manifest.encoder.pooling,
                    "max_tokens": manifest.encoder.max_tokens,
                    "max_windows": manifest.encoder.max_windows,
                    "reads": "prompt and text" if manifest.encoder.joint else "the text alone",
                    "columns": dim - len(ATTRIBUTE_NAMES),
                },
                "attributes": list(ATTRIBUTE_NAMES),
                "match": {
                    "reads": "prompt and text, compared; unknown without a prompt",
                    "columns": list(MATCH_NAMES[: standardiser.match.width]) if standardiser.match else [],
                    "kind_column": standardiser.match.kind_column if standardiser.match else 0,
                    "version": manifest.encoder.match if standardiser.match else "",
                },
                "clip": CLIP,
                "gate_clip": LARGEST_GATE,
                "basis_length": basis.length if basis else 1.0,
                "basis_jitter": JITTER,
            },
            "temperature": reward.temperature,
            "rating_scales": {
                name: {"offset": scale.offset, "slope": scale.slope, "noise": scale.noise}
                for name, scale in sorted(reward.scales.items())
            },
            "flips": {name: reward.flip(name) for name in sorted(reward.flips)},
            "data": list(manifest.data),
            "metrics": manifest.metrics,
        },
    )


def _to_tastes(weights: NDArray[np.float64], axes: Tastes) -> NDArray[np.float64]:
    """Return coefficients `[d, q]` of x for [b; v] as coefficients for the base utility and the tastes."""
    return np.column_stack([weights[:, 0] + weights[:, 1:] @ axes.centre, weights[:, 1:] @ axes.positions.T])


def _describe_match(match: MatchBasis | None) -> dict[str, tuple[NDArray[Any], str]]:
    """Return the functions of the match and their meaning. They are empty for a model that reads no prompts."""
    nothing = np.zeros(0)
    return {
        "match_column": (match.column if match else nothing, "[match] column of the match features, from 0"),
        "match_low": (match.low if match else nothing, "[match] lower end of the segment"),
        "match_high": (match.high if match else nothing, "[match] upper end of the segment"),
        "match_anchor": (match.anchor if match else nothing, "[match] value at which the function is 0"),
        "match_kind": (match.kind if match else nothing, "[match] kind of prompt it applies to; -1 for all"),
    }


def export_users(
    bundle: Bundle, judgements: Iterable[Judgement], vectors: Vectors, progress: Progress = ignore_progress
) -> Iterator[dict[str, Any]]:
    """Export the posterior of every user after their judgements, in order of first appearance.

    Args:
        bundle: Bundle to learn with.
        judgements: Judgements of the users. Votes of authors for their own texts are left out, as in a fit.
        vectors: Features of every judged (context, text).
        progress: Callback that reports progress.

    Yields:
        `user`, `judgements`, `mean` and `std` of [threshold, scores], and the weights of the `archetypes`.
    """
    by_user: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        if not judgement.own:
            by_user[judgement.user].append(judgement)
    reward, axes = bundle.reward, find_tastes(bundle)
    catalogue = Catalogue(reward, vectors)
    for number, (user, rows) in enumerate(by_user.items()):
        observations = [observe(row, reward, catalogue) for row in rows]
        posterior = UserPosterior.at_prior(reward.population).fold(
            observation for observation in observations if observation is not None
        )
        beliefs = posterior.beliefs
        mean, covariance = axes.users(beliefs.mean, beliefs.covariance)
        yield {
            "user": user,
            "judgements": len(rows),
            "mean": mean.tolist(),
            "std": np.sqrt(np.maximum(np.diagonal(covariance), 0.0)).tolist(),
            "archetypes": beliefs.weights.tolist(),
        }
        progress("users", number + 1, len(by_user))


def export_texts(
    bundle: Bundle, texts: Sequence[tuple[str, str]], vectors: Vectors
) -> Iterator[dict[str, Any]]:
    """Export the coordinates of texts.

    Args:
        bundle: Bundle to describe the texts with.
        texts: (context, text) pairs.
        vectors: Features of the texts.

    Yields:
        `context`, `text`, `base`, `tastes`, `std` of the utility for the mean user, `known` (whether the item memory
        holds the text) and `relevance` to a user without judgements.
    """
    reward, axes = bundle.reward, find_tastes(bundle)
    keys = [item_key(context, text) for context, text in texts]
    items = reward.describe(np.stack([vectors[item] for item in texts]), keys)
    base, positions = axes.texts(items)
    prior = UserPosterior.at_prior(reward.population)
    chances = relevance(reward, prior, items)
    open_variance = items.base_variance + items.direction_variance @ axes.centre**2
    for i, (context, text) in enumerate(texts):
        yield {
            "context": context,
            "text": text,
            "base": float(base[i]),
            "tastes": positions[i].tolist(),
            "std": float(open_variance[i] ** 0.5),
            "known": keys[i] in reward.memory.rows,
            "relevance": float(chances[i]),
        }


def save_model(
    model: ExportedModel, folder: Path, *, kind: Literal["npz", "safetensors"] = "npz"
) -> list[Path]:
    """Write a model to manifest.json and model.npz or model.safetensors.

    Args:
        model: Exported model.
        folder: Folder to write to, which is created if it does not exist.
        kind: Format of the arrays.

    Returns:
        Paths of the files.

    Raises:
        OSError: If a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "npz":
        buffer = BytesIO()
        np.savez(buffer, **model.arrays)  # type: ignore[arg-type] # its `allow_pickle` is not among the names
        content = buffer.getvalue()
    else:
        content = save_tensors(model.arrays)
    manifest = json.dumps(model.manifest, indent=2, ensure_ascii=False) + "\n"
    files = {folder / f"model.{kind}": content, folder / "manifest.json": manifest.encode()}
    for path, data in files.items():
        write_atomically(path, data)
    return list(files)


def save_rows(rows: Iterable[Mapping[str, Any]], path: Path) -> Path:
    """Write rows as JSON Lines, with numbers rounded to six significant digits, and return the path.

    Raises:
        OSError: If the file cannot be written.
    """
    with open_atomically(path) as file:
        for row in rows:
            file.write((json.dumps(_round_numbers(row)) + "\n").encode())
    return path


def _round_numbers(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list):
        return [_round_numbers(item) for item in value]
    return {key: _round_numbers(item) for key, item in value.items()} if isinstance(value, Mapping) else value
