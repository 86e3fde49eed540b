"""From the state of a fit to the reward model that serves."""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from penchant.models.fitting.mixture import Mixture
from penchant.models.fitting.state import FitState
from penchant.models.fitting.text_fit import Regression, regress
from penchant.models.fitting.variational import RATING_NOISE
from penchant.models.judgements.judgement import DEFAULT_SOURCE
from penchant.models.taste.items import Items
from penchant.models.taste.observations import RatingScale
from penchant.models.taste.population import Population
from penchant.models.taste.reward import REFERENCE_KEY, ItemMemory, RewardModel
from penchant.models.taste.text_prior import LinearTextPrior

UNCERTAINTY_RANK: Final = 64
"""Directions kept of what is known about the text prior's weights: with 64 of 425 the mean variance of a new text's base
utility is 4 % too large, and log-loss the same to 1e-4."""


def assemble(
    fit: FitState,
    *,
    temperature: float = 1.0,
    remember: bool = True,
    without: NDArray[np.bool_] | None = None,
) -> RewardModel:
    """The reward model of the current beliefs.

    Args:
        fit: The state.
        temperature: Of probabilities.
        remember: Keep an item memory.
        without: `[n_items]` items that the text prior and the memory must not know, for cross-validation over texts.
    """
    kept = np.ones(len(fit.data.keys), np.bool_) if without is None else ~without
    mask = torch.from_numpy(kept).to(fit.told)
    found = [
        regress(fit.x, fit.blocks, fit.told[0, j], fit.told[1, j] * mask, fit.hyper[j])
        for j in range(1 + fit.k)
    ]
    text_prior = LinearTextPrior(
        fit.standardiser,
        torch.stack([r.mean for r in found], 1).cpu().numpy(),
        torch.stack([r.prior_variance for r in found], 1).cpu().numpy(),
        np.stack([_learned(r) for r in found]),
        fit.residual.cpu().numpy().copy(),
    )
    free = fit.items.free
    means = fit.items.mean[:, free].cpu().numpy()
    variances = fit.items.cov.diagonal(dim1=1, dim2=2)[:, free].cpu().numpy()
    reference = np.concatenate([[np.median(means[:, 0])], means[:, 1:].mean(0)])
    memory = ItemMemory.empty(1 + fit.k)
    if remember:
        keys = [key for key, keep in zip(fit.data.keys, kept, strict=True) if keep]
        memory = ItemMemory({key: i for i, key in enumerate(keys)}, means[kept], variances[kept])
    return RewardModel(
        text_prior=text_prior,
        population=population(fit.mixture),
        temperature=temperature,
        reference=Items(
            reference[:1],
            np.zeros(1),
            reference[None, 1:],
            np.zeros((1, len(reference) - 1)),
            (REFERENCE_KEY,),
        ),
        scales=_rating_scales(fit),
        loadings=np.zeros((fit.x.shape[1], 0)),
        memory=memory,
        flips=_flips(fit),
    )


def population(mixture: Mixture) -> Population:
    """The fitted mixture as the prior that users are served with."""
    return Population(
        mixture.weights.cpu().numpy(),
        mixture.means.cpu().numpy(),
        torch.linalg.inv(mixture.covs).cpu().numpy(),
    )


def _rating_scales(fit: FitState) -> dict[str, RatingScale]:
    rated = set(fit.data.ratings.source.tolist())
    scales = {
        name: RatingScale(float(o), float(b), float(b) * RATING_NOISE**0.5)
        for s, (name, o, b) in enumerate(
            zip(fit.data.sources, fit.scales.offset, fit.scales.slope, strict=True)
        )
        if s in rated
    }
    return {**scales, DEFAULT_SOURCE: _default_scale(list(scales.values()))}


def _flips(fit: FitState) -> dict[str, float]:
    """By source of votes and pairs; `default` is the mean, for one that nobody fitted."""
    doubted = set(torch.cat([fit.data.votes.source, fit.data.pairs.source]).tolist())
    rates = fit.reliability.source_flips.tolist()
    flips = {name: rates[s] for s, name in enumerate(fit.data.sources) if s in doubted}
    return {DEFAULT_SOURCE: float(np.mean(list(flips.values()))), **flips} if flips else {}


def _learned(regression: Regression) -> NDArray[np.float32]:
    """L `[d, r]` with S ≈ diag(prior) − LLᵀ, the r largest directions of what was learned."""
    taken = torch.diag(regression.prior_variance) - regression.cov
    values, vectors = torch.linalg.eigh(taken)
    values, vectors = values[-UNCERTAINTY_RANK:].clamp_min(0), vectors[:, -UNCERTAINTY_RANK:]
    root: NDArray[np.float32] = (vectors * values.sqrt()).float().cpu().numpy()
    return root


def _default_scale(known: list[RatingScale]) -> RatingScale:
    """For a source nobody fitted: the average of those that were, else a slope that spans the scale in ±2 logits."""
    if not known:
        return RatingScale(0.0, 0.5, 0.5 * RATING_NOISE**0.5)
    offset, slope = (float(np.mean([getattr(s, a) for s in known])) for a in ("offset", "slope"))
    return RatingScale(offset, slope, slope * RATING_NOISE**0.5)
