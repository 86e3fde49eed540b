"""Text → item of the user model: features described by the reward model, remembered for texts that come again."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from penchant.models.taste.items import Items, item_keys
from penchant.models.taste.reward import RewardModel
from penchant.service.cache import BoundedCache
from penchant.service.encoding.featurizer import Featurizer
from penchant.service.telemetry.metrics import Telemetry, Timings

_OVERHEAD_BYTES: Final = 400


class Described(NamedTuple):
    """n texts, ready to be ranked.

    Attributes:
        items: n items.
        tokens: Tokens read of all texts together.
        truncated: Which texts the encoder saw only the beginning of, by index.
    """

    items: Items
    tokens: int
    truncated: tuple[int, ...]


class _Known(NamedTuple):
    """What is remembered of a text.

    Attributes:
        row: Of `Items.rows`, its bytes: they are put together several times faster than arrays are.
        tokens: Tokens read.
        truncated: Whether there were more.
    """

    row: bytes
    tokens: int
    truncated: bool


class Describer:
    """Describes texts; belongs to the event loop.

    Args:
        reward: Describes features.
        featurizer: Gives features of texts that are new here.
        max_bytes: Bound of what is remembered.
        telemetry: Counts texts that are remembered.
    """

    def __init__(
        self, reward: RewardModel, featurizer: Featurizer, max_bytes: int, telemetry: Telemetry
    ) -> None:
        self.featurizer = featurizer
        self._reward = reward
        self._telemetry = telemetry
        self._known: BoundedCache[tuple[str, bytes], _Known] = BoundedCache(max_bytes, size=_memory_of)

    async def describe(
        self, tenant: str, texts: Sequence[str], prompts: Sequence[str], timings: Timings
    ) -> Described:
        """Items of n texts (n prompts).

        Cost: n hashes where all are remembered; otherwise features of the others and one `RewardModel.describe`.
        """
        keys = item_keys(prompts, texts)
        find, found = self._known.get, []
        missing: dict[bytes, int] = {}
        for i, key in enumerate(keys):
            known = find((tenant, key))
            if known is None:
                missing[key] = i
            else:
                found.append(known)
        self._telemetry.cache_hits.inc(len(keys) - len(missing))
        if missing:
            new = await self._described(tenant, missing, texts, prompts, timings)
            old = iter(found)
            found = [new[key] if key in missing else next(old) for key in keys]
        rows = np.frombuffer(b"".join([known.row for known in found]))
        return Described(
            Items.from_rows(rows.reshape(len(keys), -1), keys),
            sum([known.tokens for known in found]),
            tuple([i for i, known in enumerate(found) if known.truncated]),
        )

    async def _described(
        self,
        tenant: str,
        missing: Mapping[bytes, int],
        texts: Sequence[str],
        prompts: Sequence[str],
        timings: Timings,
    ) -> dict[bytes, _Known]:
        """Rows of texts that are not remembered, by key; now they are."""
        chosen = list(missing.values())
        batch = await self.featurizer.features(
            tenant, [texts[i] for i in chosen], [prompts[i] for i in chosen], timings
        )
        rows = self._reward.describe(batch.vectors, list(missing)).rows
        new = {
            key: _Known(row.tobytes(), int(tokens), bool(truncated))
            for key, row, tokens, truncated in zip(missing, rows, batch.tokens, batch.truncated, strict=True)
        }
        for key, known in new.items():
            self._known.put((tenant, key), known)
        return new

    def forget(self, tenant: str, keys: Iterable[bytes]) -> None:
        """Drops these item keys of a tenant."""
        for key in keys:
            self._known.remove((tenant, key))

    def clear(self) -> None:
        """Drops everything."""
        self._known.clear()


def _memory_of(known: _Known) -> int:
    return len(known.row) + _OVERHEAD_BYTES
