"""Events without their texts, where a tenant keeps none. Pure."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import orjson

TEXT_FIELDS: Final = frozenset(
    {
        "prompt",
        "text",
        "chosen",
        "rejected",
        "candidates",
        "others",
        "order",
        "original",
        "edited",
        "metadata",
    }
)
"""Of an event: what users and apps wrote. The caller's metadata may quote it."""


def without_texts(payload: str) -> str:
    """A logged event, JSON, without texts; a hash stands for its prompt, so that equal prompts stay equal."""
    sent = orjson.loads(payload)
    kept = {name: value for name, value in sent.items() if name not in TEXT_FIELDS}
    return orjson.dumps(kept | {"context": context_of(sent)}).decode()


def has_no_texts(sent: Mapping[str, Any]) -> bool:
    """Whether a logged event is one of those."""
    return "context" in sent


def context_of(sent: Mapping[str, Any]) -> str:
    """What stands for the prompt of a logged event, whether or not the prompt was kept."""
    known = sent.get("context")
    if isinstance(known, str):
        return known
    prompt: str = sent.get("prompt", "")
    return hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
