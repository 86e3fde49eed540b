"""Fitting a bundle to judgements, and evaluating a model on them."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np

from penchant.models.bundle import Bundle, BundleError, EncoderCard, Manifest, round_trip
from penchant.models.checkpoint import NO_CHECKPOINT, Checkpoint, Progress, ignore_progress
from penchant.models.encoding.extract import extract_features
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.errors import ModelError
from penchant.models.evaluation.few_shot import Predictions, Vectors, adapt, predict
from penchant.models.evaluation.report import Report, curve
from penchant.models.evaluation.split import MIN_SUPPORT, MIN_TEST, Mode, Split, split
from penchant.models.explain.inspection import inspect
from penchant.models.explain.tastes import Tastes
from penchant.models.explain.text_map import ExplanationError
from penchant.models.fitting.em import FitOptions
from penchant.models.fitting.gates import GateOption
from penchant.models.fitting.tuning import RANKS, TunedModel, fit_reward
from penchant.models.judgements.judgement import Judgement
from penchant.models.taste.items import item_key
from penchant.models.taste.reward import RewardModel

REPETITIONS: Final = 5
"""Default number of repetitions of an evaluation, each with its own split."""


class NothingToEvaluateError(ModelError, ValueError):
    """No unseen user has the support judgements and test pairs that an evaluation needs."""


def fit_bundle(
    judgements: Sequence[Judgement],
    extractor: FeatureExtractor,
    *,
    name: str,
    mode: Mode = "cold",
    options: FitOptions | None = None,
    ranks: Sequence[int] = RANKS,
    gate: GateOption = 0,
    data: Sequence[dict[str, Any]] = (),
    progress: Progress = ignore_progress,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> Bundle:
    """Fit a bundle to judgements.

    Args:
        judgements: All judgements. Votes of authors for their own texts are left out.
        extractor: Feature extractor, which the bundle also needs when it serves.
        name: Name of the bundle.
        mode: `cold` if the texts to rank will be new, `warm` if they recur.
        options: Options of the fit. Rank and archetypes are ignored, because they are chosen.
        ranks: Ranks to choose from, ascending.
        gate: Number of gate values, or `auto` to choose. The features must hold the embeddings of prompts.
        data: Description of the data sets, for the manifest.
        progress: Callback that reports progress.
        checkpoint: Checkpoint of this work. An interrupted fit resumes from it and leads to the same bundle.

    Raises:
        CheckpointError: If the checkpoint cannot be read or written.
        GateError: If a gate is wanted and the features do not hold the embeddings of prompts.
    """
    return fit_bundle_to_features(
        judgements,
        extract_features(judgements, extractor, progress, checkpoint),
        EncoderCard.from_extractor(extractor),
        name=name,
        mode=mode,
        options=options,
        ranks=ranks,
        gate=gate,
        data=data,
        progress=progress,
        checkpoint=checkpoint,
    )


def fit_bundle_to_features(
    judgements: Sequence[Judgement],
    vectors: Vectors,
    card: EncoderCard,
    *,
    name: str,
    mode: Mode = "cold",
    options: FitOptions | None = None,
    ranks: Sequence[int] = RANKS,
    gate: GateOption = 0,
    data: Sequence[dict[str, Any]] = (),
    progress: Progress = ignore_progress,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> Bundle:
    """Fit a bundle to judgements whose features are known, without an encoder.

    Args:
        judgements: All judgements. Votes of authors for their own texts are left out.
        vectors: Features of every judged (context, text).
        card: Card of the encoder that computed the features.
        name: Name of the bundle.
        mode: `cold` if the texts to rank will be new, `warm` if they recur.
        options: Options of the fit. Rank and archetypes are ignored, because they are chosen.
        ranks: Ranks to choose from, ascending.
        gate: Number of gate values, or `auto` to choose. The features must hold the embeddings of prompts.
        data: Description of the data sets, for the manifest.
        progress: Callback that reports progress.
        checkpoint: Checkpoint of this work. An interrupted fit resumes from it and leads to the same bundle.

    Raises:
        CheckpointError: If the checkpoint cannot be read or written.
        GateError: If a gate is wanted and the features do not hold the embeddings of prompts.
    """
    tuned = fit_reward(
        [j for j in judgements if not j.own],
        vectors,
        mode=mode,
        options=options,
        ranks=ranks,
        gate=gate,
        progress=progress,
        checkpoint=checkpoint,
    )
    card = replace(card, prompt_embedding=tuned.reward.gate is not None)
    metrics = {
        "fit": summarise_tuning(tuned),
        "inspection": inspect_reward_model(tuned.reward, judgements, vectors),
    }
    if tuned.reward.text_prior.standardiser.match is None:
        card = replace(card, match="")
    return Bundle(tuned.reward, Manifest(name, card, tuple(data), metrics))


def inspect_reward_model(
    reward: RewardModel,
    judgements: Sequence[Judgement],
    vectors: Vectors,
    *,
    axes: Tastes | None = None,
    examples: int = 0,
) -> dict[str, Any] | None:
    """Inspect a reward model on judged texts and return the result for a manifest.

    Args:
        reward: Reward model.
        judgements: Judgements whose texts the model is inspected on.
        vectors: Features of every judged (context, text).
        axes: Tastes to describe the model in. None finds them from the model.
        examples: Number of example texts at each end of a taste.

    Returns:
        The result of `inspect` as JSON values, with examples as texts. None if the text prior has no linear form.
    """
    counts = Counter((j.context, text) for j in judgements for text in j.texts)
    items = list(counts)
    try:
        inspection = inspect(
            round_trip(reward),
            np.stack([vectors[item] for item in items]),
            [item_key(context, text) for context, text in items],
            counts=np.array([counts[item] for item in items]),
            axes=axes,
            examples=examples,
        )
    except ExplanationError:
        return None
    plain: dict[str, Any] = json.loads(
        json.dumps(asdict(inspection))
    )  # lists, as in a manifest that was loaded
    for taste in (plain["consensus"], *plain["tastes"]):
        for end in ("highest", "lowest"):
            taste[end] = [items[row][1] for row in taste[end]]
    return plain


def summarise_tuning(tuned: TunedModel) -> dict[str, Any]:
    """Return the choice of hyperparameters and its trials, for a manifest."""
    return {
        "choice": asdict(tuned.choice),
        "held_out_users": tuned.held_out_users,
        "trials": [asdict(trial) for trial in tuned.trials],
    }


def evaluate(
    judgements: Sequence[Judgement],
    extractor: FeatureExtractor,
    *,
    name: str,
    mode: Mode,
    repetitions: int = REPETITIONS,
    bundle: Bundle | None = None,
    options: FitOptions | None = None,
    progress: Progress = ignore_progress,
) -> Report:
    """Return the few-shot learning curve on a data set, averaged over repetitions.

    Without a bundle, every repetition fits a model to its own train part. With a bundle, the bundle is evaluated on the
    same users. If it was fitted to the data set, it has seen the test judgements; the caller must check that.

    Args:
        judgements: Judgements of the data set.
        extractor: Feature extractor.
        name: Name of the data set.
        mode: `cold` to evaluate on unseen texts, `warm` on texts that recur.
        repetitions: Number of repetitions, each with its own split.
        bundle: Bundle to evaluate. None fits a model in each repetition.
        options: Options of the fits. Rank and archetypes are ignored, because they are chosen.
        progress: Callback that reports progress.

    Raises:
        NothingToEvaluateError: If a repetition has no user with enough judgements.
        BundleError: If the bundle was fitted with another encoder.
    """
    if bundle is not None and bundle.manifest.encoder.features != extractor.identity:
        raise BundleError(f"bundle {bundle.version} was fitted with encoder {bundle.manifest.encoder.name!r}")
    vectors = extract_features(judgements, extractor, progress)
    predictions = [
        _predict_repetition(
            split(judgements, mode, repetition),
            vectors,
            mode=mode,
            bundle=bundle,
            options=options,
            progress=_number_stages(progress, repetition, repetitions),
        )
        for repetition in range(repetitions)
    ]
    return Report(
        set=name,
        split=mode,
        repetitions=repetitions,
        users=sum(int(p.users.max()) + 1 for p in predictions),
        bundle=bundle.version if bundle else "fitted on the train part of each repetition",
        curve=curve(predictions),
    )


def _predict_repetition(
    parts: Split,
    vectors: Vectors,
    *,
    mode: Mode,
    bundle: Bundle | None,
    options: FitOptions | None,
    progress: Progress,
) -> Predictions:
    if not parts.test:
        raise NothingToEvaluateError(
            f"no unseen user has {MIN_SUPPORT} support judgements and {MIN_TEST} test pairs in split {mode!r}"
        )
    if bundle:
        reward = bundle.reward
    else:
        tuned = fit_reward(parts.train, vectors, mode=mode, options=options, progress=progress)
        reward = round_trip(tuned.reward)
    return predict(reward, adapt(reward, vectors, parts.support, parts.test, progress=progress))


def _number_stages(progress: Progress, repetition: int, repetitions: int) -> Progress:
    return lambda stage, done, total: progress(
        f"repetition {repetition + 1}/{repetitions}: {stage}", done, total
    )
