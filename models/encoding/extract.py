"""Features of all texts of a data set. Each text is encoded once, and an interrupted run can be resumed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.checkpoint import NO_CHECKPOINT, Checkpoint, CheckpointError, Progress, ignore_progress
from penchant.models.encoding.attributes import ATTRIBUTE_NAMES
from penchant.models.encoding.features import FeatureExtractor, Features, blank_unknown
from penchant.models.encoding.match import compute_match
from penchant.models.judgements.judgement import Judgement

EXTRACT_BATCH: Final = 256
"""Number of texts in a call of the encoder."""

EXTRACT_PART: Final = 4 * EXTRACT_BATCH
"""Number of texts between two checkpoints, so that an interruption loses about ten seconds of two cores."""

Item = tuple[str, str]
"""A text in its context: (context, text)."""


class FeatureTable(Mapping[Item, NDArray[np.float16]]):
    """Feature vectors `[width]` of (context, text) pairs, match features included if the table reads prompts.

    It also finds the vector of a text with the prompt of another, without the encoder: see `cross`.

    Args:
        items: The pairs, which a loop over the table yields in this order.
        features: Features of the texts and prompts that `list_encoded` lists for the pairs, in its order.
        joint: Whether the encoder read prompt and text in one sequence.
        reads_prompts: Whether a text is compared with its prompt.
        reads_prompt_embedding: Whether vectors also hold the embedding of the prompt, for a model with a gate. It has no
            effect if prompts are not read.

    Attributes:
        dim: Width of the features of a text alone.
        reads_prompts: Whether the vectors hold match features, after those of the text.
        prompt_dim: Width of the prompt's embedding at the end of the vectors; 0 if they do not hold it.

    Raises:
        ValueError: If the number of features is not that of the texts and prompts.
    """

    def __init__(
        self,
        items: Sequence[Item],
        features: Features,
        *,
        joint: bool = False,
        reads_prompts: bool = True,
        reads_prompt_embedding: bool = False,
    ) -> None:
        self.dim = features.vectors.shape[1]
        self.reads_prompts = reads_prompts
        self.prompt_dim = self.dim - len(ATTRIBUTE_NAMES) if reads_prompts and reads_prompt_embedding else 0
        self._joint = joint
        self._features = features
        encoded = list_encoded(items, joint=joint, reads_prompts=reads_prompts)
        if len(encoded) != len(features.vectors):
            raise ValueError(f"{len(features.vectors)} features for {len(encoded)} texts and prompts")
        self._rows = {pair: row for row, pair in enumerate(encoded)}
        self._items = list(dict.fromkeys(items))
        self._vectors: dict[Item, NDArray[np.float16]] = {}
        # Contexts in order, so that the words of a prompt are found once.
        by_context = sorted(self._items)
        for start in range(0, len(by_context), EXTRACT_PART):
            part = by_context[start : start + EXTRACT_PART]
            self._vectors.update(zip(part, self.cross(part), strict=True))

    def __getitem__(self, item: Item) -> NDArray[np.float16]:
        return self._vectors[item]

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def subset(self, items: Iterable[Item]) -> "FeatureTable":
        """Return a table of some of the pairs. It can still pair them with all prompts and texts of this table.

        Raises:
            KeyError: If a pair does not occur in the table.
        """
        table = copy(self)
        table._items = list(dict.fromkeys(items))
        table._vectors = {item: self._vectors[item] for item in table._items}
        return table

    def cross(self, items: Sequence[Item]) -> NDArray[np.float16]:
        """Return the vectors `[n, width]` of texts with prompts that they may not answer.

        Args:
            items: Pairs of a prompt and a text, each of which occurs in the table.

        Raises:
            KeyError: If a prompt or a text does not occur in the table.
        """
        rows = [self._rows[context if self._joint else "", text] for context, text in items]
        vectors: NDArray[np.float16] = self._features.vectors[rows]
        if not self.reads_prompts:
            return vectors
        # A blank prompt has no features, and `compute_match` does not read them.
        prompt_rows = [self._rows["", context] if context.strip() else 0 for context, _ in items]
        contexts, prompts = [context for context, _ in items], self._get_embeddings(prompt_rows)
        match = compute_match(
            contexts, [text for _, text in items], prompts, [self._features.windows[row] for row in rows]
        )
        return np.concatenate(
            [vectors, match, blank_unknown(contexts, prompts[:, : self.prompt_dim])], axis=1
        )

    def has_prompt(self, context: str) -> bool:
        """Return whether a context is a prompt. A blank one is not."""
        return bool(context.strip())

    def get_prompt(self, context: str) -> NDArray[np.float16]:
        """Return the embedding of a prompt, `[encoder.dim]`.

        Raises:
            KeyError: If the prompt is blank or does not occur in the table.
        """
        return self._get_embeddings(self._rows["", context])

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays from which `from_arrays` restores the whole table, by name."""
        reads = np.array([self._joint, self.reads_prompts, self.prompt_dim > 0])
        return {**self._features.to_arrays(), "reads": reads}

    @classmethod
    def from_arrays(cls, items: Sequence[Item], arrays: Mapping[str, NDArray[Any]]) -> "FeatureTable":
        """Return the table of `items` whose arrays `to_arrays` returned, without an encoder.

        Args:
            items: The pairs of the whole table, in the same order.
            arrays: Arrays by name.

        Raises:
            ValueError: If the arrays are those of other pairs.
        """
        joint, reads_prompts, *further = map(bool, arrays["reads"])
        return cls(
            items,
            Features.from_arrays(arrays),
            joint=joint,
            reads_prompts=reads_prompts,
            reads_prompt_embedding=any(further),
        )

    def _get_embeddings(self, rows: int | Sequence[int]) -> NDArray[np.float16]:
        vectors: NDArray[np.float16] = self._features.vectors[rows]
        return vectors[..., : self.dim - len(ATTRIBUTE_NAMES)]


def list_encoded(items: Sequence[Item], *, joint: bool, reads_prompts: bool) -> list[Item]:
    """Return what is encoded for (context, text) pairs: texts, each in its contexts for a joint encoder, and prompts.

    Texts and prompts that are encoded on their own have the context "". A blank prompt is not encoded.
    """
    encoded = [(context if joint else "", text) for context, text in items]
    if reads_prompts:
        encoded += [("", context) for context, _ in items if context.strip()]
    return list(dict.fromkeys(encoded))


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
    reads = {"joint": extractor.encoder.joint, "reads_prompts": extractor.reads_prompts}
    todo = list_encoded(items, **reads)
    parts = []
    # Parts and batches always start at the same texts, so that every text has the same batch in a resumed run.
    for number, start in enumerate(range(0, len(todo), EXTRACT_PART)):
        stop = min(start + EXTRACT_PART, len(todo))
        saved = checkpoint.load(f"encode {number}")
        if saved is None:
            part = _encode_part(todo, start, stop, extractor, progress)
            checkpoint.save(f"encode {number}", part.to_arrays())
        else:
            if "windows" not in saved or saved["vectors"].shape != (stop - start, extractor.dim):
                raise CheckpointError(f"{checkpoint.folder} holds features of other texts")
            part = Features.from_arrays(saved)
            progress("encode", stop, len(todo))
        parts.append(part)
    features = Features.join(parts) if parts else extractor.extract([])
    return FeatureTable(items, features, **reads, reads_prompt_embedding=extractor.prompt_dim > 0)


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
