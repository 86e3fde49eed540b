"""Judgements of users whose tastes are known.

The utility is u_i(x) = b_x + z_i·v_x, where b and v are linear in the features, apart from a residual. Everything
follows from a seed, so the process that writes the judgements and the one that checks what was learned need not share
a file.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

CONTEXT: Final = "Which do you like better?"
COMMON: Final = 64
UTILITY_STD: Final = 1.0
"""Standard deviation of the shared part of a utility over texts."""

TASTE_STD: Final = 1.5
"""Standard deviation of the personal part."""

EXPLAINED: Final = 0.8
"""Share of the variance of b and v that the features explain."""


@dataclass(frozen=True)
class World:
    """Users, texts and their true tastes.

    Attributes:
        vectors: `[n_texts, dim]` float16 features.
        base: `[n_texts]` b.
        directions: `[n_texts, k]` v.
        users: `[n_users, k]` z.
    """

    vectors: NDArray[np.float16]
    base: Vector
    directions: Vector
    users: Vector

    @classmethod
    def of(cls, n_users: int, n_texts: int, *, rank: int, dim: int, seed: int) -> "World":
        """Draw a world. As with a real encoder, half of the variance of its features lies in 64 dimensions."""
        rng = np.random.default_rng([seed, 0])
        common = rng.normal(size=(n_texts, COMMON)) @ rng.normal(size=(COMMON, dim)) / COMMON**0.5
        vectors = ((common + rng.normal(size=(n_texts, dim))) / 2**0.5).astype(np.float16)
        explained = vectors.astype(np.float64) @ rng.normal(size=(dim, 1 + rank))
        rest = rng.normal(size=(n_texts, 1 + rank))
        coordinates = EXPLAINED**0.5 * explained / explained.std(axis=0) + (1 - EXPLAINED) ** 0.5 * rest
        return cls(
            vectors,
            UTILITY_STD * coordinates[:, 0],
            TASTE_STD / rank**0.5 * coordinates[:, 1:],
            rng.normal(size=(n_users, rank)),
        )

    def difference(self, user: NDArray[np.int64], a: NDArray[np.int64], b: NDArray[np.int64]) -> Vector:
        """Return how much more user `[n]` likes text a than text b, `[n]`."""
        apart = ((self.directions[a] - self.directions[b]) * self.users[user]).sum(axis=1)
        return np.asarray(self.base[a] - self.base[b] + apart)

    def compared(self, n: int, *, texts: slice, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return users `[n]` and texts `[n, 2]` (winner, loser) of comparisons with logistic noise, by users in turn."""
        rng = np.random.default_rng([seed, 1])
        user = np.arange(n) % len(self.users)
        first, last, _ = texts.indices(len(self.base))
        a = rng.integers(first, last, n)
        b = first + (a - first + rng.integers(1, last - first, n)) % (last - first)
        wins = rng.logistic(size=n) < self.difference(user, a, b)
        return user, np.where(wins[:, None], np.stack([a, b], 1), np.stack([b, a], 1))


def text_name(number: int) -> str:
    """Return the string that represents a text."""
    return f"text {number}"


def user_name(number: int) -> str:
    """Return the name of a user."""
    return f"user {number}"


def write(world: World, path: Path, n: int, *, texts: slice, seed: int) -> None:
    """Write comparisons as a judgement file."""
    user, texts_of = world.compared(n, texts=texts, seed=seed)
    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            winner, loser = texts_of[i]
            line = {
                "user": user_name(user[i]),
                "context": CONTEXT,
                "chosen": text_name(winner),
                "rejected": text_name(loser),
            }
            file.write(json.dumps(line) + "\n")
