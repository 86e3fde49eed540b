"""A new bundle from what the store's users said, measured against the one in use before anybody is served by it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.bundle import Bundle, stored
from penchant.models.checkpoint import Checkpoint
from penchant.models.evaluation.comparison import (
    COMPARED_SHOTS,
    Comparison,
    HeldOutUsers,
    compare,
    hold_out_users,
)
from penchant.models.evaluation.few_shot import Predictions, adapt, predict
from penchant.models.evaluation.split import MIN_SUPPORT, MIN_TEST, Mode
from penchant.models.fitting.em import FitOptions
from penchant.models.progress import Progress
from penchant.models.taste.reward import RewardModel
from penchant.models.training import fit_vectors
from penchant.service.log.judgements import Item, StoredJudgements, with_item_keys

MIN_COMPARED: Final = 10
"""Held-out users without whom no difference could be told."""


class TooLittleError(ValueError):
    """The store does not hold enough to fit a bundle and to tell whether it is better."""


def fit_new(
    found: StoredJudgements,
    current: Bundle,
    *,
    name: str,
    mode: Mode,
    options: FitOptions,
    progress: Progress,
    checkpoint: Checkpoint,
) -> tuple[Bundle, Comparison]:
    """Fits a bundle to four fifths of the users, and compares it with the current one on the others.

    Args:
        found: What the store holds, with the features that the current bundle's extractor gave.
        current: The bundle in use.
        name: Of the new one.
        mode: Whether the texts to be ranked will be new.
        options: Of the fit.
        progress: Called with stage, done, total.
        checkpoint: Of this work.

    Returns:
        The new bundle, its manifest holding the comparison, and the comparison.

    Raises:
        TooLittleError: With the numbers.
        CheckpointError: As `fit_vectors`.
    """
    apart = hold_out_users(found.judgements)
    _check_enough(found, apart)
    fitted = fit_vectors(
        apart.train,
        found.vectors,
        current.manifest.encoder,
        name=name,
        mode=mode,
        options=options,
        data=[description(found, apart)],
        progress=progress,
        checkpoint=checkpoint,
    )
    by_name = {real: named for named, real in found.item_keys.items()}
    mine = _predictions(stored(fitted.reward), apart, found.vectors, progress)
    theirs = _predictions(with_item_keys(current.reward, by_name), apart, found.vectors, progress)
    comparison = compare(mine, theirs)
    told = {"with": current.version, **comparison.to_json()}
    manifest = replace(fitted.manifest, metrics=fitted.manifest.metrics | {"comparison": told})
    return Bundle(with_item_keys(fitted.reward, found.item_keys), manifest), comparison


def description(found: StoredJudgements, apart: HeldOutUsers) -> dict[str, Any]:
    """The judgements as a manifest names them; nobody's name is in it."""
    return {
        "name": "feedback",
        "judgements": len(apart.train),
        "users": found.users - apart.held_out,
        "held_out_users": apart.held_out,
        "left_out": dict(found.left_out),
        "sha256": found.sha256,
    }


def _check_enough(found: StoredJudgements, apart: HeldOutUsers) -> None:
    compared = len(apart.test)
    if compared < MIN_COMPARED:
        raise TooLittleError(
            f"{len(found.judgements)} judgements of {found.users} users are too few: {apart.held_out} users were held "
            f"out to compare on, {compared} of them with {MIN_SUPPORT} judgements to learn from and {MIN_TEST} "
            f"comparisons to predict; it takes {MIN_COMPARED}"
        )


def _predictions(
    reward: RewardModel, apart: HeldOutUsers, vectors: Mapping[Item, NDArray[np.float16]], progress: Progress
) -> Predictions:
    asked = {(p.context, t) for pairs in apart.test.values() for p in pairs for t in (p.better, p.worse)}
    asked |= {
        (j.context, t)
        for rows in apart.support.values()
        for j in rows[: max(COMPARED_SHOTS)]
        for t in j.texts
    }
    needed = {item: vectors[item] for item in sorted(asked)}
    adapted = adapt(reward, needed, apart.support, apart.test, shots=COMPARED_SHOTS, progress=progress)
    return predict(reward, adapted)
