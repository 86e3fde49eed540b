"""Text → item of the user model: features described by the reward model, remembered for texts that come again."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penchant.models.items import Items
from penchant.models.reward import RewardModel, item_keys
from penchant.service.featurizer import Featurizer
from penchant.service.telemetry import Timings

_OVERHEAD_BYTES: Final = 400
_TOKENS, _TRUNCATED, _ITEM = range(3)
"""Columns of a remembered row: tokens read, whether the text was cut, and from there on the item."""
_UNKNOWN: Final = np.empty(0)


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
        self._rows: OrderedDict[tuple[str, bytes], NDArray[np.float64]] = OrderedDict()

    async def describe(
        self, tenant: str, texts: Sequence[str], prompts: Sequence[str], timings: Timings
    ) -> Described:
        """Items of n texts (n prompts).

        Cost: n hashes where all are remembered; otherwise features of the others and one `RewardModel.describe`.
        """
        keys = item_keys(prompts, texts)
        known, rows = self._rows, []
        missing: dict[bytes, int] = {}
        for i, key in enumerate(keys):
            place = (tenant, key)
            row = known.get(place)
            if row is None:
                missing[key], row = i, _UNKNOWN
            else:
                known.move_to_end(place)
            rows.append(row)
        self.featurizer.count_hits(len(keys) - len(missing))
        if missing:
            new = await self._described(tenant, missing, texts, prompts, timings)
            rows = [new[key] if row is _UNKNOWN else row for key, row in zip(keys, rows, strict=True)]
        numbers = np.concatenate(rows).reshape(len(rows), -1)
        items = Items.from_rows(numbers[:, _ITEM:], keys)
        return Described(items, int(numbers[:, _TOKENS].sum()), numbers[:, _TRUNCATED] != 0)

    async def _described(
        self,
        tenant: str,
        missing: Mapping[bytes, int],
        texts: Sequence[str],
        prompts: Sequence[str],
        timings: Timings,
    ) -> dict[bytes, NDArray[np.float64]]:
        """Rows of texts that are not remembered, by key; now they are."""
        chosen = list(missing.values())
        batch = await self.featurizer.features(
            tenant, [texts[i] for i in chosen], [prompts[i] for i in chosen], timings
        )
        described = self._reward.describe(batch.vectors, list(missing)).to_rows()
        packed = np.concatenate((batch.tokens[:, None], batch.truncated[:, None], described), axis=1)
        new = {key: packed[j].copy() for j, key in enumerate(missing)}
        for key, row in new.items():
            self._put(tenant, key, row)
        return new

    def forget(self, tenant: str, keys: Iterable[bytes]) -> None:
        """Drops these item keys of a tenant."""
        for key in keys:
            self._drop((tenant, key))

    def clear(self) -> None:
        """Drops everything."""
        self._rows.clear()
        self._bytes = 0

    def _put(self, tenant: str, key: bytes, row: NDArray[np.float64]) -> None:
        self._drop((tenant, key))
        self._rows[(tenant, key)] = row
        self._bytes += row.nbytes + _OVERHEAD_BYTES
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._rows)))

    def _drop(self, key: tuple[str, bytes]) -> None:
        row = self._rows.pop(key, None)
        if row is not None:
            self._bytes -= row.nbytes + _OVERHEAD_BYTES
