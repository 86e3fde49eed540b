"""Cuts the candidates of a task to a number of tokens that the request names (Cohere's `max_tokens_per_doc`)."""

import asyncio
from dataclasses import replace
from typing import Final

from penchant.models.encoding.encoder import Encoder
from penchant.service.ranking.results import Task, list_indices

INLINE_CHARS: Final = 1000
"""Largest number of characters that are tokenized on the event loop, which takes about two milliseconds."""


async def cut_texts(task: Task, encoder: Encoder, max_tokens: int) -> tuple[Task, tuple[str, ...]]:
    """Cut the texts of a task to the encoder's first `max_tokens` tokens. A cut text is a text of its own.

    Args:
        task: Task whose texts are cut.
        encoder: Encoder whose tokens are counted, without special tokens.
        max_tokens: Largest number of tokens of a text, at least 1.

    Returns:
        The task with the cut texts, and a warning that names them, if there are any.

    Cost: tokenizing the texts, about 2 µs a character. Long texts are tokenized in a thread.
    """
    if sum(map(len, task.texts)) <= INLINE_CHARS:
        texts = encoder.cut(task.texts, max_tokens)
    else:
        texts = await asyncio.to_thread(encoder.cut, task.texts, max_tokens)
    cut = [i for i, (text, own) in enumerate(zip(texts, task.texts, strict=True)) if len(text) < len(own)]
    if not cut:
        return task, ()
    unit = "token" if max_tokens == 1 else "tokens"
    warning = f"{len(cut)} of {len(texts)} {task.field} cut to {max_tokens} {unit}: {list_indices(cut)}"
    return replace(task, texts=tuple(texts)), (warning,)
