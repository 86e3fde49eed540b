"""From judgements to a bundle, and from judgements to a report: what the command line does."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
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
from penchant.models.fitting.tuning import RANKS, TunedModel, fit_reward
from penchant.models.judgements.judgement import Judgement
from penchant.models.taste.reward import RewardModel, item_key

REPETITIONS: Final = 5


class NothingToEvaluateError(ModelError, ValueError):
    """No user has the 10 support judgements and 4 test pairs that an evaluation needs."""


def fit_bundle(
    judgements: Sequence[Judgement],
    extractor: FeatureExtractor,
    *,
    name: str,
    mode: Mode = "cold",
    options: FitOptions | None = None,
    ranks: Sequence[int] = RANKS,
    data: Sequence[dict[str, Any]] = (),
    progress: Progress = ignore_progress,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> Bundle:
    """Fits a bundle.

    Args:
        judgements: All judgements; authors' own automatic votes are left out.
        extractor: The encoder to use, in serving too.
        name: Of the bundle.
        mode: `cold` if the texts to be ranked will be new, `warm` if they recur.
        options: Everything but the rank.
        ranks: Ranks to choose from.
        data: Description of the sets, for the manifest.
        progress: Called with stage, done, total.
        checkpoint: Of this work: an interrupted fit goes on from there, to the same bundle.

    Raises:
        CheckpointError: What was saved cannot be read, or more cannot be saved.
    """
    return fit_bundle_to_features(
        judgements,
        extract_features(judgements, extractor, progress, checkpoint),
        EncoderCard.from_extractor(extractor),
        name=name,
        mode=mode,
        options=options,
        ranks=ranks,
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
    data: Sequence[dict[str, Any]] = (),
    progress: Progress = ignore_progress,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> Bundle:
    """`fit_bundle` where the features are known: no encoder is needed.

    Args:
        judgements: As there.
        vectors: Features of every (context, text) in them.
        card: The encoder they come from.
        name: As there, and so is what follows.
        mode: As there.
        options: As there.
        ranks: As there.
        data: As there.
        progress: As there.
        checkpoint: As there.

    Raises:
        CheckpointError: As there.
    """
    tuned = fit_reward(
        [j for j in judgements if not j.own],
        vectors,
        mode=mode,
        options=options,
        ranks=ranks,
        progress=progress,
        checkpoint=checkpoint,
    )
    metrics = {
        "fit": summarise_tuning(tuned),
        "inspection": inspect_reward_model(tuned.reward, judgements, vectors),
    }
    return Bundle(tuned.reward, Manifest(name, card, tuple(data), metrics))


def inspect_reward_model(
    reward: RewardModel,
    judgements: Sequence[Judgement],
    vectors: Vectors,
    *,
    axes: Tastes | None = None,
    examples: int = 0,
) -> dict[str, Any] | None:
    """What a model holds, seen on judged texts, for a manifest; None where its text prior has no linear form.

    As of `inspect`; examples stand as texts.
    """
    counts = Counter((j.context, text) for j in judgements for text in j.texts)
    items = list(counts)
    try:
        found = inspect(
            round_trip(reward),
            np.stack([vectors[item] for item in items]),
            [item_key(context, text) for context, text in items],
            counts=np.array([counts[item] for item in items]),
            axes=axes,
            examples=examples,
        )
    except ExplanationError:
        return None
    plain: dict[str, Any] = json.loads(json.dumps(asdict(found)))  # lists, as a manifest gives them back
    for taste in (plain["consensus"], *plain["tastes"]):
        for end in ("highest", "lowest"):
            taste[end] = [items[row][1] for row in taste[end]]
    return plain


def summarise_tuning(tuned: TunedModel) -> dict[str, Any]:
    """How a model was chosen, for a manifest."""
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
    """Few-shot learning curve on a set, mean of repetitions.

    Without a bundle, every repetition fits a model (`options`) on its own train part. With one, that bundle is evaluated
    on the same users; a bundle that was fitted on the set has then seen the test judgements, which the caller must know.

    Raises:
        NothingToEvaluateError: A repetition has no user with enough judgements.
        BundleError: The bundle was fitted with another encoder.
    """
    if bundle is not None and bundle.manifest.encoder.features != extractor.identity:
        raise BundleError(f"bundle {bundle.version} was fitted with encoder {bundle.manifest.encoder.name!r}")
    vectors = extract_features(judgements, extractor, progress)
    found = [
        _predictions(
            split(judgements, mode, repetition),
            vectors,
            mode=mode,
            bundle=bundle,
            options=options,
            progress=_numbered(progress, repetition, repetitions),
        )
        for repetition in range(repetitions)
    ]
    return Report(
        set=name,
        split=mode,
        repetitions=repetitions,
        users=sum(int(p.users.max()) + 1 for p in found),
        bundle=bundle.version if bundle else "fitted on the train part of each repetition",
        curve=curve(found),
    )


def _predictions(
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


def _numbered(progress: Progress, repetition: int, repetitions: int) -> Progress:
    return lambda stage, done, total: progress(
        f"repetition {repetition + 1}/{repetitions}: {stage}", done, total
    )
