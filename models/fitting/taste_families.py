"""Families of fixed directions of taste beside the learned ones: a user has weights w_i ~ N(0, γ·shares) on them.

The directions are named attributes or principal components of the embedding. The components add a Gaussian process to
the utility of each user: a judgement about one text carries over to the texts near it, independently of other users.
This helps with new texts, whose learned directions are only predicted from their features.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.encoding.attributes import ATTRIBUTE_NAMES
from penchant.models.fitting.em import Fit

ATTRIBUTES: Final[Mapping[str, Mapping[str, float]]] = {
    "length": {"length": 1.0},
    "style": {
        "length": 3.0,
        "sentence_length": 1.0,
        "word_length": 1.0,
        "bullets": 1.0,
        "courtesy": 1.0,
        "questions": 1.0,
        "exclamations": 1.0,
        "digits": 1.0,
        "first_person_singular": 1.0,
        "second_person": 1.0,
    },
    "answer-style": {
        "length": 4.9,
        "sentence_length": 4.0,
        "long_words": 4.0,
        "function_words": 6.3,
        "digits": 6.3,
        "bullets": 0.12,
        "questions": 8.7,
        "exclamations": 0.5,
        "first_person_singular": 4.5,
        "second_person": 7.7,
        "courtesy": 11.0,
        "hedging": 7.7,
    },
}
"""Relative prior variance of each attribute, by family.

Those of `answer-style` are the inverse variances of the attributes among texts for one prompt, as a mean over
CrowdRAG-25, ExpertQA and UKPConvArg1, in the units of the default bundle: a user may care as much for the digits in an
answer as for its length, although answers to one question differ less in digits.
"""

COMPONENTS: Final[Mapping[str, int]] = {"content-8": 8, "content-32": 32, "content-64": 64}
"""Number of principal components of the embedding, by family. Their prior variances are proportional to their own."""

RELEVANCE: Final = "relevance"
"""Family of one direction: how much more than others a user wants an answer to the question."""

FAMILIES: Final[Mapping[str, tuple[float, ...]]] = {
    "length": (0.1,),
    "style": (0.03,),
    "content-32": (0.1, 0.3),
    "content-64": (0.3, 1.0),
}
"""Prior variances that `tuning` tries, by family."""


def compute_directions(tastes: str, fit: Fit) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return directions `[d, p]` of x and the share of each in the prior variance, `[p]`.

    Args:
        tastes: A family, several families joined by `+`, or `none`, for which p = 0. `family*number` multiplies the
            family's shares.
        fit: Fit that holds the standardised features.
    """
    parts = []
    for term in tastes.split("+"):
        name, _, factor = term.partition("*")
        loadings, shares = _compute_family(name, fit)
        parts.append((loadings, shares * float(factor or 1)))
    return np.concatenate([p[0] for p in parts], axis=1), np.concatenate([p[1] for p in parts])


def _find_relevance(fit: Fit) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the shared worth of an answer as a direction: a user's weight on it is relative to the others'."""
    relevance = fit.data.relevance
    p = int(relevance is not None and bool(relevance.weights.any()))
    loadings = np.zeros((fit.standardiser.width, p))
    if relevance is not None and p:
        loadings[fit.standardiser.matched, 0] = relevance.weights
    return loadings, np.ones(p)


def _compute_family(name: str, fit: Fit) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if name in COMPONENTS:
        return fit.compute_content_directions(COMPONENTS[name])
    if name == RELEVANCE:
        return _find_relevance(fit)
    relative = {} if name == "none" else ATTRIBUTES[name]
    width, dim = fit.standardiser.width, len(fit.standardiser.centre)
    first = dim - len(ATTRIBUTE_NAMES)
    loadings = np.zeros((width, len(relative)))
    loadings[[first + ATTRIBUTE_NAMES.index(name) for name in relative], range(len(relative))] = 1.0
    return loadings, np.array(list(relative.values()))
