"""The fold that computes a user's state from the user's log.

New feedback is one step of the fold. After a retraction, or under another bundle, the log is replayed from its start.
Both take the same steps in the same order, so they reach the same state.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from penchant.models.judgements import kinds
from penchant.models.taste.items import Items
from penchant.models.taste.observing import build_judgement
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel
from penchant.service.log.reading import in_force
from penchant.service.store.judgements import LoggedJudgement
from penchant.service.users.states import Evidence, Forgetting

_BATCH_TEXTS: Final = 128
"""Number of texts that are described at a time: what is computed on the way fits the processor's cache."""


class Fold:
    """Learns from the events of users under one bundle. A state depends on nothing but this and the log.

    Args:
        reward: Reward model that describes judged texts.
        forgetting: How judgements lose weight over time.
        bundle_version: Version of the bundle, under which states are saved.
        extractor: Identity of the feature extractor that the bundle uses.
        match_version: Version of the match features that the bundle reads. Empty if it does not read prompts.

    Attributes:
        reads_prompt_embedding: Whether the bundle reads the embedding of the prompt, because it has a gate.
    """

    def __init__(
        self,
        reward: RewardModel,
        forgetting: Forgetting,
        bundle_version: str,
        extractor: str,
        match_version: str = "",
    ) -> None:
        self.reward = reward
        self.forgetting = forgetting
        self.bundle_version = bundle_version
        self.extractor = extractor
        self.match_version = match_version
        self.reads_prompt_embedding = reward.gate is not None
        self.start = Evidence(UserPosterior.at_prior(reward.population))

    def learn(self, evidence: Evidence, event: LoggedJudgement) -> Evidence:
        """Return the evidence after one more event.

        If the event happened after all that was learned, the evidence is first decayed to its time. Otherwise its own
        weight is decayed to the time of the evidence. So the weights do not depend on the order of arrival.

        A retraction, or a judgement that carries no information, leaves the evidence as it is.

        Raises:
            ValueError: If the event has no features, if this version does not know its kind, or if the posterior is not
                finite.

        Cost: `RewardModel.describe` of the judged texts and one `UserPosterior.fold`; with the default bundle about
            0.45 ms for a pair.
        """
        return self.extend(evidence, [event])

    def replay(self, log: Iterable[LoggedJudgement]) -> Evidence:
        """Return the evidence of a user's whole log, without the events that are retracted.

        Raises:
            ValueError: If `learn` raises it for an event.
        """
        return self.extend(self.start, log)

    def extend(self, evidence: Evidence, log: Iterable[LoggedJudgement]) -> Evidence:
        """Return `evidence` after the events that follow it. The events that they retract must be among them.

        Texts are described many at a time, which takes a fraction of the time of `learn` for each event. The result is
        the same, to the bit.

        Raises:
            ValueError: If `learn` raises it for an event.

        Cost: with the default bundle about 0.22 ms for a pair.
        """
        events = list(log)
        if any(event.target is not None for event in events):
            events = in_force(events)
        for batch in _split([event for event in events if _compares(event)]):
            items = self._describe(batch)
            start = 0
            for event in batch:
                end = start + len(event.item_keys)
                evidence = self._learn(evidence, event, items, start, end)
                start = end
        return evidence

    def _describe(self, events: Sequence[LoggedJudgement]) -> Items:
        """Return the judged texts of events. Those of each event are the same, to the bit, in any batch."""
        vectors = [event.vectors for event in events if event.vectors is not None]
        keys = [key for event in events for key in event.item_keys]
        return self.reward.describe(vectors[0] if len(vectors) == 1 else np.concatenate(vectors), keys)

    def _learn(
        self, evidence: Evidence, event: LoggedJudgement, items: Items, start: int, end: int
    ) -> Evidence:
        """Return the evidence after one more judgement, of `items[start:end]`."""
        has_evidence = evidence.posterior.judgements > 0
        learned_at = evidence.learned_at if has_evidence else event.happened_at
        # If a clock was set back, the event arrived before `learned_at`. It is as old as it was on arrival.
        age = min(learned_at, event.received_at) - event.happened_at
        observation = build_judgement(
            self.reward,
            items,
            start,
            end,
            kind=kinds.BY_TYPE[event.type].name,
            value=event.value or 0.0,
            weight=event.weight * event.discount * self.forgetting.compute_share(age),
            source=event.source,
            groups=event.groups,
        )
        if observation is None:
            return evidence
        posterior = self.forgetting.decay(evidence, event.happened_at).fold([observation])
        return Evidence(posterior, max(learned_at, event.happened_at))


def _compares(event: LoggedJudgement) -> bool:
    """Return whether an event is a judgement that compares something.

    Raises:
        ValueError: If it is, and has no features or is of an unknown kind.
    """
    if event.target is not None or len(event.groups) == 1:  # a single group compares nothing
        return False
    if event.vectors is None or event.type not in kinds.BY_TYPE:
        raise ValueError(f"event {event.seq} of type {event.type!r} has no features or is of an unknown kind")
    return True


def _split(events: Iterable[LoggedJudgement]) -> Iterator[list[LoggedJudgement]]:
    """Yield events in batches of vectors of one width, with at most `_BATCH_TEXTS` texts unless one event has more."""
    batch: list[LoggedJudgement] = []
    texts, width = 0, 0
    for event in events:
        rows, columns = event.vectors.shape if event.vectors is not None else (0, 0)
        if batch and (columns != width or texts + rows > _BATCH_TEXTS):
            yield batch
            batch, texts = [], 0
        batch.append(event)
        texts, width = texts + rows, columns
    if batch:
        yield batch
