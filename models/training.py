"""From judgements to a bundle, and from judgements to a report: what the command line does."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.bundle import Bundle, BundleError, EncoderCard, Manifest, stored
from penchant.models.evaluation import Predictions, Report, Vectors, adapt, curve, predict
from penchant.models.features import FeatureExtractor
from penchant.models.fit import FitOptions
from penchant.models.judgements import Judgement
from penchant.models.progress import Progress, silent
from penchant.models.split import MIN_SUPPORT, MIN_TEST, Mode, Split, split
from penchant.models.tuning import RANKS, Tuned, fit_reward

EXTRACT_BATCH: Final = 256
REPETITIONS: Final = 5


class NothingToEvaluateError(ValueError):
    """No user has the 10 support judgements and 4 test pairs that an evaluation needs."""


def extract(
    judgements: Sequence[Judgement], extractor: FeatureExtractor, progress: Progress = silent
) -> dict[tuple[str, str], NDArray[np.float16]]:
    """Feature vector `[dim]` of every (context, text) that was judged; each distinct text is encoded once."""
    items = list(dict.fromkeys((j.context, text) for j in judgements for text in j.texts))
    by_key: dict[bytes, tuple[str, str]] = {}
    for context, text in items:
        by_key.setdefault(extractor.key(text, context), (context, text))
    todo = list(by_key.items())
    found: dict[bytes, NDArray[np.float16]] = {}
    for start in range(0, len(todo), EXTRACT_BATCH):
        batch = todo[start : start + EXTRACT_BATCH]
        vectors = extractor.extract(
            [text for _, (_, text) in batch], [context for _, (context, _) in batch]
        ).vectors
        found.update(zip((key for key, _ in batch), vectors, strict=True))
        progress("encode", min(start + EXTRACT_BATCH, len(todo)), len(todo))
    return {(context, text): found[extractor.key(text, context)] for context, text in items}


def fit_bundle(
    judgements: Sequence[Judgement],
    extractor: FeatureExtractor,
    *,
    name: str,
    mode: Mode = "cold",
    options: FitOptions | None = None,
    ranks: Sequence[int] = RANKS,
    data: Sequence[dict[str, Any]] = (),
    progress: Progress = silent,
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
    """
    vectors = extract(judgements, extractor, progress)
    tuned = fit_reward(
        [j for j in judgements if not j.own],
        vectors,
        mode=mode,
        options=options,
        ranks=ranks,
        progress=progress,
    )
    return Bundle(
        tuned.reward, Manifest(name, EncoderCard.of(extractor), tuple(data), {"fit": summary(tuned)})
    )


def summary(tuned: Tuned) -> dict[str, Any]:
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
    progress: Progress = silent,
) -> Report:
    """Few-shot learning curve on a set, mean of repetitions.

    Without a bundle, every repetition fits a model on its own train part. With one, that bundle is evaluated on the
    same users; a bundle that was fitted on the set has then seen the test judgements, which the caller must know.

    Raises:
        NothingToEvaluateError: A repetition has no user with enough judgements.
        BundleError: The bundle was fitted with another encoder.
    """
    if bundle is not None and bundle.manifest.encoder.features != extractor.identity:
        raise BundleError(f"bundle {bundle.version} was fitted with encoder {bundle.manifest.encoder.name!r}")
    vectors = extract(judgements, extractor, progress)
    found = [
        _predictions(
            split(judgements, mode, repetition),
            vectors,
            mode=mode,
            bundle=bundle,
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
    parts: Split, vectors: Vectors, *, mode: Mode, bundle: Bundle | None, progress: Progress
) -> Predictions:
    if not parts.test:
        raise NothingToEvaluateError(
            f"no unseen user has {MIN_SUPPORT} support judgements and {MIN_TEST} test pairs in split {mode!r}"
        )
    reward = (
        bundle.reward
        if bundle
        else stored(fit_reward(parts.train, vectors, mode=mode, progress=progress).reward)
    )
    return predict(reward, adapt(reward, vectors, parts.support, parts.test, progress=progress))


def _numbered(progress: Progress, repetition: int, repetitions: int) -> Progress:
    return lambda stage, done, total: progress(
        f"repetition {repetition + 1}/{repetitions}: {stage}", done, total
    )
