"""Features of all texts of a data set. Each text is encoded once, and an interrupted run can be resumed."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.checkpoint import NO_CHECKPOINT, Checkpoint, CheckpointError, Progress, ignore_progress
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.judgements.judgement import Judgement

EXTRACT_BATCH: Final = 256
"""Number of texts in a call of the encoder."""

EXTRACT_PART: Final = 4 * EXTRACT_BATCH
"""Number of texts between two checkpoints, so that an interruption loses about ten seconds of two cores."""


def extract_features(
    judgements: Sequence[Judgement],
    extractor: FeatureExtractor,
    progress: Progress = ignore_progress,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> dict[tuple[str, str], NDArray[np.float16]]:
    """Return the feature vector `[dim]` of every judged (context, text). Each distinct text is encoded once.

    Args:
        judgements: Judgements whose texts are encoded.
        extractor: Extractor that computes the features.
        progress: Callback that reports progress.
        checkpoint: Checkpoint of this work on these judgements. Features in it are not computed again.

    Raises:
        CheckpointError: If saved features cannot be read or do not fit the texts, or if features cannot be saved.
    """
    items = list(dict.fromkeys((j.context, text) for j in judgements for text in j.texts))
    return extract_text_features(items, extractor, progress, checkpoint)


def extract_text_features(
    items: Sequence[tuple[str, str]],
    extractor: FeatureExtractor,
    progress: Progress = ignore_progress,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> dict[tuple[str, str], NDArray[np.float16]]:
    """Return the feature vector `[dim]` of each (context, text). Each distinct text is encoded once.

    Args:
        items: Distinct (context, text) pairs.
        extractor: Extractor that computes the features.
        progress: Callback that reports progress.
        checkpoint: Checkpoint of this work on these texts. Features in it are not computed again.

    Raises:
        CheckpointError: If saved features cannot be read or do not fit the texts, or if features cannot be saved.
    """
    by_key: dict[bytes, tuple[str, str]] = {}
    for context, text in items:
        by_key.setdefault(extractor.key(text, context), (context, text))
    todo = list(by_key.values())
    vectors = np.empty((len(todo), extractor.dim), np.float16)
    # Parts and batches always start at the same texts, so that every text has the same batch in a resumed run.
    for number, start in enumerate(range(0, len(todo), EXTRACT_PART)):
        part = slice(start, start + EXTRACT_PART)
        saved = checkpoint.load(f"encode {number}")
        if saved is None:
            vectors[part] = _encode_part(todo, part, extractor, progress)
            checkpoint.save(f"encode {number}", {"vectors": vectors[part]})
        elif saved["vectors"].shape == vectors[part].shape:
            vectors[part] = saved["vectors"]
            progress("encode", min(part.stop, len(todo)), len(todo))
        else:
            raise CheckpointError(f"{checkpoint.folder} holds features of other texts")
    rows = dict(zip(by_key, vectors, strict=True))
    return {(context, text): rows[extractor.key(text, context)] for context, text in items}


def _encode_part(
    todo: Sequence[tuple[str, str]], part: slice, extractor: FeatureExtractor, progress: Progress
) -> NDArray[np.float16]:
    """Return the feature vectors of a part of the (context, text) pairs in `todo`, encoded batch by batch."""
    stop = min(part.stop, len(todo))
    batches = []
    for start in range(part.start, stop, EXTRACT_BATCH):
        batch = todo[start : min(start + EXTRACT_BATCH, stop)]
        batches.append(
            extractor.extract([text for _, text in batch], [context for context, _ in batch]).vectors
        )
        progress("encode", start + len(batch), len(todo))
    return np.concatenate(batches)
