"""What must be known of a transformer beside what computes it; light, so that it can be had without torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """A transformer's card.

    Attributes:
        weights: Hash of the weights.
        dim: Hidden size.
        positions: Longest sequence that it has positions for.
        pad: Number of the padding token.
        tokenizer: Its fast tokenizer as JSON.
    """

    weights: str
    dim: int
    positions: int
    pad: int
    tokenizer: str
