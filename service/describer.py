"""Text → item of the user model: features described by the reward model, remembered for texts that come again."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.items import Items
from penchant.models.reward import RewardModel, item_key
from penchant.service.featurizer import Featurizer
from penchant.service.telemetry import Timings

_OVERHEAD_BYTES: Final = 400


@dataclass(frozen=True, slots=True)
class _Row:
    """One described text: base, its variance, directions, their variances, in one array `[2 + 2k]`."""

    numbers: NDArray[np.float64]
    tokens: int
    truncated: bool

    @property
    def size(self) -> int:
        return self.numbers.nbytes + _OVERHEAD_BYTES


@dataclass(frozen=True)
class Described:
    """n texts, ready to be ranked.

    Attributes:
        items: n items.
        tokens: Tokens read of all texts together.
        truncated: `[n]` whether the encoder saw only the beginning.
    """

    items: Items
    tokens: int
    truncated: NDArray[np.bool_]


class Describer:
    """Describes texts; belongs to the event loop.

    Args:
        reward: Describes features.
        featurizer: Gives features of texts that are new here.
        max_bytes: Bound of what is remembered.
    """

    def __init__(self, reward: RewardModel, featurizer: Featurizer, max_bytes: int) -> None:
        self.featurizer = featurizer
        self._reward = reward
        self._max_bytes = max_bytes
        self._bytes = 0
        self._rows: OrderedDict[tuple[str, bytes], _Row] = OrderedDict()

    async def describe(
        self, tenant: str, texts: Sequence[str], prompts: Sequence[str], timings: Timings
    ) -> Described:
        """Items of n texts (n prompts).

        Cost: n hashes where all are remembered; otherwise features of the others and one `RewardModel.describe`.
        """
        keys = tuple(item_key(prompt, text) for prompt, text in zip(prompts, texts, strict=True))
        found = {key: row for key in keys if (row := self._get(tenant, key)) is not None}
        missing = {key: i for i, key in enumerate(keys) if key not in found}
        self.featurizer.count_hits(len(keys) - len(missing))
        if missing:
            places = list(missing.values())
            batch = await self.featurizer.features(
                tenant, [texts[i] for i in places], [prompts[i] for i in places], timings
            )
            numbers = _packed(self._reward.describe(batch.vectors, list(missing)))
            for j, key in enumerate(missing):
                row = _Row(numbers[j].copy(), int(batch.tokens[j]), bool(batch.truncated[j]))
                found[key] = row
                self._put(tenant, key, row)
        rows = [found[key] for key in keys]
        return Described(
            _unpacked(np.stack([row.numbers for row in rows]), keys),
            sum(row.tokens for row in rows),
            np.array([row.truncated for row in rows], np.bool_),
        )

    def forget(self, tenant: str, keys: Iterable[bytes]) -> None:
        """Drops these item keys of a tenant."""
        for key in keys:
            self._drop((tenant, key))

    def clear(self) -> None:
        """Drops everything."""
        self._rows.clear()
        self._bytes = 0

    def _get(self, tenant: str, key: bytes) -> _Row | None:
        row = self._rows.get((tenant, key))
        if row is not None:
            self._rows.move_to_end((tenant, key))
        return row

    def _put(self, tenant: str, key: bytes, row: _Row) -> None:
        self._drop((tenant, key))
        self._rows[(tenant, key)] = row
        self._bytes += row.size
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._rows)))

    def _drop(self, key: tuple[str, bytes]) -> None:
        row = self._rows.pop(key, None)
        if row is not None:
            self._bytes -= row.size


def _packed(items: Items) -> NDArray[np.float64]:
    """`[n, 2 + 2k]` of n items."""
    columns = (items.base[:, None], items.base_variance[:, None], items.directions, items.direction_variance)
    return np.concatenate(columns, axis=1)


def _unpacked(numbers: NDArray[np.float64], keys: tuple[bytes, ...]) -> Items:
    """The items of `_packed`."""
    k = (numbers.shape[1] - 2) // 2
    return Items(numbers[:, 0], numbers[:, 1], numbers[:, 2 : 2 + k], numbers[:, 2 + k :], keys)
