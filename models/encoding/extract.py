"""Features of every text of a data set. Each text is encoded once, and an interrupted run resumes."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.checkpoint import NO_CHECKPOINT, Checkpoint, CheckpointError, Progress, ignore_progress
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.judgements.judgement import Judgement

EXTRACT_BATCH: Final = 256
"""Texts that the encoder gets at once."""

EXTRACT_PART: Final = 4 * EXTRACT_BATCH
"""Texts saved at once: what an interruption loses is some ten seconds of two cores."""


def extract(
    judgements: Sequence[Judgement],
    extractor: FeatureExtractor,
    progress: Progress = ignore_progress,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> dict[tuple[str, str], NDArray[np.float16]]:
    """Feature vector `[dim]` of every (context, text) that was judged; each distinct text is encoded once.

    Args:
        judgements: Whose texts.
        extractor: Computes the features.
        progress: Called with stage, done, total.
        checkpoint: Of this work on these judgements: what it has is not encoded again.

    Raises:
        CheckpointError: What was saved cannot be read, or does not fit these texts.
    """
    items = list(dict.fromkeys((j.context, text) for j in judgements for text in j.texts))
    return extract_texts(items, extractor, progress, checkpoint)


def extract_texts(
    items: Sequence[tuple[str, str]],
    extractor: FeatureExtractor,
    progress: Progress = ignore_progress,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> dict[tuple[str, str], NDArray[np.float16]]:
    """The same of distinct (context, text)."""
    by_key: dict[bytes, tuple[str, str]] = {}
    for context, text in items:
        by_key.setdefault(extractor.key(text, context), (context, text))
    todo = list(by_key.values())
    vectors = np.empty((len(todo), extractor.dim), np.float16)
    # Parts and batches are always cut at the same texts: a text's batch, too, is the same in a resumed run.
    for number, start in enumerate(range(0, len(todo), EXTRACT_PART)):
        part = slice(start, start + EXTRACT_PART)
        saved = checkpoint.load(f"encode {number}")
        if saved is None:
            vectors[part] = _encoded(todo, part, extractor, progress)
            checkpoint.save(f"encode {number}", {"vectors": vectors[part]})
        elif saved["vectors"].shape == vectors[part].shape:
            vectors[part] = saved["vectors"]
            progress("encode", min(part.stop, len(todo)), len(todo))
        else:
            raise CheckpointError(f"{checkpoint.folder} holds features of other texts")
    rows = dict(zip(by_key, vectors, strict=True))
    return {(context, text): rows[extractor.key(text, context)] for context, text in items}


def _encoded(
    todo: Sequence[tuple[str, str]], part: slice, extractor: FeatureExtractor, progress: Progress
) -> NDArray[np.float16]:
    """Feature vectors of some of the (context, text) in `todo`, batch by batch."""
    stop = min(part.stop, len(todo))
    batches = []
    for start in range(part.start, stop, EXTRACT_BATCH):
        batch = todo[start : min(start + EXTRACT_BATCH, stop)]
        batches.append(
            extractor.extract([text for _, text in batch], [context for context, _ in batch]).vectors
        )
        progress("encode", start + len(batch), len(todo))
    return np.concatenate(batches)
