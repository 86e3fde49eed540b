"""Fitting a new bundle to the store's feedback, and comparing it with the active one before it serves anyone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.bundle import Bundle, round_trip
from penchant.models.checkpoint import Checkpoint, Progress
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
from penchant.models.fitting.gates import GateOption
from penchant.models.taste.reward import RewardModel
from penchant.models.training import fit_bundle_to_features
from penchant.service.log.judgements import StoredJudgements, replace_item_keys
from penchant.service.log.stored_features import Item

MIN_COMPARED: Final = 10
"""Smallest number of held-out users on which two bundles are compared."""


class TooLittleError(ValueError):
    """The store holds too little feedback to fit a bundle and to compare it."""


def fit_new(
    feedback: StoredJudgements,
    current: Bundle,
    *,
    name: str,
    mode: Mode,
    options: FitOptions,
    gate: GateOption = 0,
    progress: Progress,
    checkpoint: Checkpoint,
) -> tuple[Bundle, Comparison]:
    """Fit a bundle to four fifths of the users, and compare it with the current one on the others.

    Args:
        feedback: Judgements in the store, with their features by the current bundle's extractor.
        current: The active bundle.
        name: Name of the new bundle.
        mode: `cold` if the texts to rank will be new, `warm` if they recur.
        options: Options of the fit.
        gate: Number of gate values, or `auto` to choose.
        progress: Function called with stage, done and total.
        checkpoint: Checkpoint of this fit.

    Returns:
        The new bundle, whose manifest contains the comparison, and the comparison.

    Raises:
        TooLittleError: If there is too little feedback.
        CheckpointError: If the checkpoint cannot be read or written.
        GateError: If a gate is wanted and the features do not hold the embeddings of prompts.
    """
    split = hold_out_users(feedback.judgements)
    _check_enough(feedback, split)
    fitted = fit_bundle_to_features(
        split.train,
        feedback.vectors,
        current.manifest.encoder,
        name=name,
        mode=mode,
        options=options,
        gate=gate,
        data=[describe_feedback(feedback, split)],
        progress=progress,
        checkpoint=checkpoint,
    )
    by_name = {stored_key: key for key, stored_key in feedback.item_keys.items()}
    new = _predict(round_trip(fitted.reward), split, feedback.vectors, progress)
    old = _predict(replace_item_keys(current.reward, by_name), split, feedback.vectors, progress)
    comparison = compare(new, old)
    entry = {"with": current.version, **comparison.to_json()}
    manifest = replace(fitted.manifest, metrics=fitted.manifest.metrics | {"comparison": entry})
    return Bundle(replace_item_keys(fitted.reward, feedback.item_keys), manifest), comparison


def describe_feedback(feedback: StoredJudgements, split: HeldOutUsers) -> dict[str, Any]:
    """Return the manifest's entry of the feedback. It names no user."""
    return {
        "name": "feedback",
        "judgements": len(split.train),
        "users": feedback.users - split.held_out,
        "held_out_users": split.held_out,
        "left_out": dict(feedback.left_out),
        "unmatched": feedback.unmatched,
        "sha256": feedback.sha256,
    }


def _check_enough(feedback: StoredJudgements, split: HeldOutUsers) -> None:
    compared = len(split.test)
    if compared < MIN_COMPARED:
        raise TooLittleError(
            f"{len(feedback.judgements)} judgements of {feedback.users} users are too few: of {split.held_out} users "
            f"held out for the comparison, {compared} have {MIN_SUPPORT} judgements to learn from and {MIN_TEST} "
            f"comparisons to predict, but {MIN_COMPARED} are needed"
        )


def _predict(
    reward: RewardModel, split: HeldOutUsers, vectors: Mapping[Item, NDArray[np.float16]], progress: Progress
) -> Predictions:
    items = {
        (pair.context, text)
        for pairs in split.test.values()
        for pair in pairs
        for text in (pair.better, pair.worse)
    }
    items |= {
        (judgement.context, text)
        for judgements in split.support.values()
        for judgement in judgements[: max(COMPARED_SHOTS)]
        for text in judgement.texts
    }
    needed = {item: vectors[item] for item in sorted(items)}
    adapted = adapt(reward, needed, split.support, split.test, shots=COMPARED_SHOTS, progress=progress)
    return predict(reward, adapted)
