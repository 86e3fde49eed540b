"""The fold of a log: the same state, to the bit, however the events are grouped."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.taste.observing import build_observation
from penchant.models.taste.population import Population
from penchant.models.taste.reward import ItemMemory, RewardModel
from penchant.models.testing import tiny_bundle
from penchant.service.store.judgements import LoggedJudgement
from penchant.service.users import fold as fold_module
from penchant.service.users.fold import Fold
from penchant.service.users.states import Evidence, Forgetting

TEXTS = 12
TYPES = {"preference": 2, "edit": 2, "vote": 1, "rating": 1, "choice": 4, "ranking": 3, "pick": 2}


def make_reward(archetypes: int) -> RewardModel:
    """Return a model with a gate, prompts, and learned residuals of two of the texts."""
    extractor = FeatureExtractor(HashingEncoder(), reads_prompt_embedding=True)
    reward = tiny_bundle(extractor, match=True, gate=2).reward
    m = 1 + reward.rank
    memory = ItemMemory({b"\x01": 0, b"\x05": 1}, np.ones((2, m)), np.full((2, m), 0.25))
    prior = reward.population
    population = Population(
        np.full(archetypes, 1 / archetypes),
        np.concatenate([prior.means[:1] + 0.5 * c for c in range(archetypes)]),
        np.concatenate([prior.precisions[:1] * (1 + c) for c in range(archetypes)]),
    )
    return replace(reward, population=population, memory=memory, flips={"default": 0.05})


REWARDS = {archetypes: make_reward(archetypes) for archetypes in (1, 2)}
VECTORS = np.random.default_rng(7).normal(size=(TEXTS, 2000)).astype(np.float16)


def make_fold(archetypes: int = 1, half_life: float | None = None) -> Fold:
    return Fold(REWARDS[archetypes], Forgetting(half_life), "v", "x", "m")


def make_event(seq: int, kind: str, texts: list[int], **more: Any) -> LoggedJudgement:
    reward = REWARDS[1]
    width = reward.text_prior.standardiser.raw_width + (reward.gate.prompt_dim if reward.gate else 0)
    groups = {"choice": (1, len(texts) - 1), "pick": (1, 1)}.get(kind, ())
    fields: dict[str, Any] = {
        "value": None,
        "weight": 1.0,
        "groups": groups,
        "target": None,
        "source": None,
        "received_at": 1e9 + 3600.0 * seq,
        "happened_at": 1e9 + 3600.0 * seq,
        "item_keys": tuple(bytes([text]) for text in texts),
        "vectors": VECTORS[texts, :width],
    }
    return LoggedJudgement(seq, f"e{seq}", "choice" if kind == "pick" else kind, **(fields | more))


@strategies.composite
def logs(draw: strategies.DrawFn) -> list[LoggedJudgement]:
    """Judgements of every kind; some are without weight, tied, of equal texts, older than those before, or retracted."""
    log = []
    for seq in range(1, draw(strategies.integers(2, 12)) + 1):
        kind = draw(strategies.sampled_from([*TYPES, "retract"]))
        if kind == "retract":
            target = f"e{draw(strategies.integers(1, seq))}"
            log.append(make_event(seq, "retract", [], target=target, vectors=None))
            continue
        n = TYPES[kind]
        texts = draw(strategies.lists(strategies.integers(0, TEXTS - 1), min_size=n, max_size=n))
        value = {"vote": draw(strategies.sampled_from([-1.0, 1.0])), "rating": draw(strategies.floats(-1, 1))}
        more: dict[str, Any] = {
            "value": value.get(kind),
            "weight": draw(strategies.sampled_from([0.0, 0.3, 1.0])),
            "happened_at": 1e9 + 3600.0 * draw(strategies.integers(0, seq)),
        }
        if kind == "ranking":
            more["groups"] = draw(strategies.sampled_from([(), (1, 2), (2, 1), (3,)]))
        log.append(make_event(seq, kind, texts, **more))
    return log


def bits(evidence: Evidence) -> tuple[bytes, bytes, float]:
    posterior = evidence.posterior
    return posterior.to_bytes(), posterior.precision.tobytes(), evidence.learned_at


@settings(max_examples=60, deadline=None)
@given(
    log=logs(),
    cuts=strategies.sets(strategies.integers(1, 11)),
    archetypes=strategies.sampled_from([1, 2]),
    half_life=strategies.sampled_from([None, 0.5]),
    batch=strategies.sampled_from([1, 5, 128]),
)
def test_live_learning_and_a_replay_give_the_same_bits(
    log: list[LoggedJudgement], cuts: set[int], archetypes: int, half_life: float | None, batch: int
) -> None:
    fold = make_fold(archetypes, half_life)
    judgements = [event for event in log if event.target is None]
    live = fold.start
    for event in judgements:
        live = fold.learn(live, event)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold_module, "_BATCH_TEXTS", batch)
        assert bits(fold.replay(judgements)) == bits(live)
        parts, start = fold.start, 0
        for end in sorted(cuts | {len(judgements)}):
            parts = fold.extend(parts, judgements[start:end])
            start = max(start, end)
        assert bits(parts) == bits(live)
    # A retracted event is as if it had never been sent.
    retracted = {event.target for event in log if event.target is not None}
    if not any(event.target is not None and event.event_id in retracted for event in log):
        earlier = {e.target: e.seq for e in log if e.target is not None}
        kept = [e for e in judgements if earlier.get(e.event_id, 0) <= e.seq]
        assert bits(fold.replay(log)) == bits(fold.extend(fold.start, kept))


def test_texts_are_described_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    fold = make_fold()
    sizes: list[int] = []
    describe = RewardModel.describe

    def watched(self: RewardModel, vectors: Any, keys: Any) -> Any:
        sizes.append(len(vectors))
        return describe(self, vectors, keys)

    monkeypatch.setattr(RewardModel, "describe", watched)
    log = [make_event(seq, "preference", [seq % TEXTS, (seq + 1) % TEXTS]) for seq in range(1, 301)]
    fold.replay(log)
    assert sizes == [128] * 4 + [88]


def test_vectors_of_different_widths_are_described_apart() -> None:
    """Events that were logged before the bundle read prompts may have none."""
    fold = make_fold()
    dim = len(fold.reward.text_prior.standardiser.centre)
    wide = [make_event(seq, "vote", [seq], value=1.0) for seq in (1, 2, 3)]
    narrow = replace(wide[1], vectors=VECTORS[[2], :dim])
    assert fold.replay([wide[0], narrow, wide[2]]).posterior.judgements == 3


def test_what_cannot_be_learned_is_named() -> None:
    fold, event = make_fold(), make_event(3, "vote", [0], value=1.0)
    for broken in (replace(event, vectors=None), replace(event, type="clap")):
        with pytest.raises(ValueError, match="event 3 of type"):
            fold.extend(fold.start, [broken])
    assert fold.learn(fold.start, replace(event, groups=(1,), vectors=None)) is fold.start


@pytest.mark.parametrize("kind", ["preference", "vote", "rating"])
def test_a_judgement_of_a_log_is_the_observation_that_it_states(kind: str) -> None:
    """The reference is the observation with the texts as `Items`."""
    fold = make_fold()
    value = {"vote": -1.0, "rating": 0.25}.get(kind)
    event = make_event(1, kind, [1, 2][: TYPES[kind]], value=value, weight=0.5)
    assert event.vectors is not None
    items = fold.reward.describe(event.vectors, event.item_keys)
    name = "pair" if kind == "preference" else kind
    observation = build_observation(fold.reward, items, kind=name, value=value, weight=0.5)
    assert observation is not None
    expected = fold.start.posterior.fold([observation])
    assert fold.learn(fold.start, event).posterior.to_bytes() == expected.to_bytes()
