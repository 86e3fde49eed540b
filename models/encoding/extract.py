"""Features of all texts of a data set. Each text is encoded once, and an interrupted run can be resumed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.checkpoint import NO_CHECKPOINT, Checkpoint, CheckpointError, Progress, ignore_progress
from penchant.models.encoding.features import FeatureExtractor, Features
from penchant.models.judgements.judgement import Judgement

EXTRACT_BATCH: Final = 256
"""Number of texts in a call of the encoder."""

EXTRACT_PART: Final = 4 * EXTRACT_BATCH
"""Number of texts between two checkpoints, so that an interruption loses about ten seconds of two cores."""

Item = tuple[str, str]
"""A text in its context: (context, text)."""


class FeatureTable(Mapping[Item, NDArray[np.float16]]):
    """Feature vectors `[width]` of (context, text) pairs, match features included if the extractor reads prompts.

    It also finds the vector of a text with the prompt of another, without the encoder: see `cross`.

    Args:
        extractor: Extractor that computed the features.
        items: The pairs, which a loop over the table yields in this order.
        keys: Content keys of the encoded texts and prompts.
        features: Features of the encoded texts and prompts.
    """

    def __init__(
        self, extractor: FeatureExtractor, items: Sequence[Item], keys: Sequence[bytes], features: Features
    ) -> None:
        self._extractor = extractor
        self._features = features
        self._rows = {key: row for row, key in enumerate(keys)}
        self._vectors: dict[Item, NDArray[np.float16]] = {}
        # Contexts in order, so that the words of a prompt are found once.
        by_context = sorted(dict.fromkeys(items))
        for start in range(0, len(by_context), EXTRACT_PART):
            part = by_context[start : start + EXTRACT_PART]
            self._vectors.update(zip(part, self._compute(part), strict=True))
        self._items = list(dict.fromkeys(items))

    def __getitem__(self, item: Item) -> NDArray[np.float16]:
        return self._vectors[item]

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def reads_prompts(self) -> bool:
        """Whether the vectors hold match features."""
        return self._extractor.reads_prompts

    @property
    def prompt_dim(self) -> int:
        """Width of the prompt's embedding at the end of the vectors; 0 if they do not hold it."""
        return self._extractor.prompt_dim

    def cross(self, items: Sequence[Item]) -> NDArray[np.float16]:
        """Return the vectors `[n, width]` of texts with prompts that they may not answer.

        Args:
            items: Pairs of a prompt and a text, each of which occurs in the table.

        Raises:
            KeyError: If a prompt or a text does not occur in the table.
        """
        return self._compute(items)

    def get_prompt(self, context: str) -> NDArray[np.float16]:
        """Return the embedding of a prompt, `[encoder.dim]`."""
        vector: NDArray[np.float16] = self._features.vectors[self._rows[self._extractor.key(context)]]
        return vector[: self._extractor.encoder.dim]

    def _compute(self, items: Sequence[Item]) -> NDArray[np.float16]:
        key = self._extractor.key
        rows = [self._rows[key(text, context)] for context, text in items]
        vectors: NDArray[np.float16] = self._features.vectors[rows]
        if not self.reads_prompts:
            return vectors
        # A blank prompt has no features, and `add_match` does not read them.
        prompt_rows = [self._rows[key(context)] if context.strip() else 0 for context, _ in items]
        prompts = self._features.vectors[prompt_rows]
        return self._extractor.add_match(
            vectors,
            [context for context, _ in items],
            [text for _, text in items],
            prompts,
            [self._features.windows[row] for row in rows],
        )


def extract_features(
    judgements: Sequence[Judgement],
    extractor: FeatureExtractor,
    progress: Progress = ignore_progress,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> FeatureTable:
    """Return the feature vector `[width]` of every judged (context, text). Each distinct text is encoded once.

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
    items: Sequence[Item],
    extractor: FeatureExtractor,
    progress: Progress = ignore_progress,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> FeatureTable:
    """Return the feature vector `[width]` of each (context, text). Each distinct text and prompt is encoded once.

    Args:
        items: Distinct (context, text) pairs.
        extractor: Extractor that computes the features.
        progress: Callback that reports progress.
        checkpoint: Checkpoint of this work on these texts. Features in it are not computed again.

    Raises:
        CheckpointError: If saved features cannot be read or do not fit the texts, or if features cannot be saved.
    """
    by_key: dict[bytes, Item] = {}
    for context, text in items:
        by_key.setdefault(extractor.key(text, context), (context, text))
    if extractor.reads_prompts:
        for context in (context for context, _ in items if context.strip()):
            by_key.setdefault(extractor.key(context), ("", context))
    todo = list(by_key.values())
    parts = []
    # Parts and batches always start at the same texts, so that every text has the same batch in a resumed run.
    for number, start in enumerate(range(0, len(todo), EXTRACT_PART)):
        stop = min(start + EXTRACT_PART, len(todo))
        saved = checkpoint.load(f"encode {number}")
        if saved is None:
            part = _encode_part(todo, start, stop, extractor, progress)
            checkpoint.save(f"encode {number}", part.to_arrays())
        else:
            part = Features.from_arrays(saved)
            if part.vectors.shape != (stop - start, extractor.dim):
                raise CheckpointError(f"{checkpoint.folder} holds features of other texts")
            progress("encode", stop, len(todo))
        parts.append(part)
    features = Features.join(parts) if parts else extractor.extract([])
    return FeatureTable(extractor, items, list(by_key), features)


def _encode_part(
    todo: Sequence[Item], start: int, stop: int, extractor: FeatureExtractor, progress: Progress
) -> Features:
    """Return the features of the texts `todo[start:stop]`, encoded batch by batch."""
    batches = []
    for first in range(start, stop, EXTRACT_BATCH):
        batch = todo[first : min(first + EXTRACT_BATCH, stop)]
        batches.append(extractor.extract([text for _, text in batch], [context for context, _ in batch]))
        progress("encode", first + len(batch), len(todo))
    return Features.join(batches)
