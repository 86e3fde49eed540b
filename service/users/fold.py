"""A user's state is a fold over the user's log, and here is the fold.

Feedback that comes in is learned by one step of it; a retraction and another bundle replay it from the start. Both
take the same steps in the same order, so that they come to the same state.
"""

from collections.abc import Iterable

from penchant.models.judgements import kinds
from penchant.models.taste.posterior import UserPosterior
from penchant.models.taste.reward import RewardModel, build_observation
from penchant.service.log.reading import in_force
from penchant.service.store.events import LoggedJudgement
from penchant.service.users.states import Evidence, Forgetting


class Fold:
    """Learns the events of one bundle's users. All that a state depends on beside the log is here.

    Args:
        reward: Describes judged texts.
        forgetting: How they lose weight.
        bundle_version: Marks the states that are learned.
        extractor: Identity of the features that the bundle reads.
    """

    def __init__(
        self, reward: RewardModel, forgetting: Forgetting, bundle_version: str, extractor: str
    ) -> None:
        self.reward = reward
        self.forgetting = forgetting
        self.bundle_version = bundle_version
        self.extractor = extractor
        self.start = Evidence(UserPosterior.at_prior(reward.population))

    def learn(self, evidence: Evidence, event: LoggedJudgement) -> Evidence:
        """One event more. A retraction, or a judgement that says nothing, leaves things as they are.

        Raises:
            ValueError: The event has no features, or is of a kind that this version cannot read; or the posterior is
                not finite.

        Cost: `RewardModel.describe` of the judged texts, one `UserPosterior.learn`, and beliefs computed anew.
        """
        if event.target is not None or len(event.groups) == 1:  # one group alone compares nothing
            return evidence
        if event.vectors is None or (kind := kinds.BY_TYPE.get(event.type)) is None:
            raise ValueError(
                f"event {event.seq} of type {event.type!r} without features, or of no known kind"
            )
        said = build_observation(
            self.reward,
            self.reward.describe(event.vectors, event.item_keys),
            kind=kind.name,
            value=event.value or 0.0,
            weight=event.weight * event.discount,
            source=event.source,
            groups=event.groups,
        )
        if said is None:
            return evidence
        posterior = self.forgetting.aged(evidence, event.received_at).fold([said])
        return Evidence(posterior, max(evidence.as_of, event.received_at))

    def replay(self, log: Iterable[LoggedJudgement]) -> Evidence:
        """Return what a user's whole log tells, without the events that are retracted.

        Raises:
            ValueError: As `learn`.
        """
        return self.extend(self.start, log)

    def extend(self, evidence: Evidence, log: Iterable[LoggedJudgement]) -> Evidence:
        """Return `evidence` after the events that follow it. The events that they retract must be among them.

        Raises:
            ValueError: As `learn`.
        """
        events = list(log)
        if any(event.target is not None for event in events):
            events = in_force(events)
        for event in events:
            evidence = self.learn(evidence, event)
        return evidence
