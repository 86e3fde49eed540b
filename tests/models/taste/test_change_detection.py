"""Page's test agrees with a computation by hand and has few false alarms and short delays on simulated users."""

import numpy as np
import pytest

from penchant.models.taste.observations import Pair, Vote
from penchant.models.taste.population import Population
from penchant.models.taste.posterior import (
    CHANGE_THRESHOLD,
    MAX_LOG_RATIO,
    UserPosterior,
    update_change_statistic,
)


def test_the_statistic_is_never_negative_and_no_judgement_decides():
    statistic, statistics = 0.0, []
    for log_ratio in (-0.5, 0.25, 0.5, -0.25, 9.0, -9.0, -9.0, np.inf, -np.inf):
        statistic = update_change_statistic(statistic, log_ratio)
        statistics.append(statistic)
    assert statistics == [0.0, 0.25, 0.75, 0.5, 1.5, 0.5, 0.0, 1.0, 0.0]
    assert update_change_statistic(0.75, np.nan) == 0.75  # -inf - -inf: impossible under both
    assert MAX_LOG_RATIO * 3 < CHANGE_THRESHOLD


@pytest.fixture
def simulate(make_items):
    """Returns the changes detected up to each judgement of a user whose taste is scaled by a factor after 80."""

    def run(seed: int, kind: str, factor: float, *, n: int) -> list[int]:
        rng = np.random.default_rng(seed)
        population = Population(np.ones(1), np.zeros((1, 5)), np.eye(5)[None])
        taste, posterior, changes = rng.normal(size=5), UserPosterior.at_prior(population), []
        for number in range(n):
            y = factor * taste if number >= 80 else taste
            a, b = make_items(rng, k=4, residual=0.0), make_items(rng, k=4, residual=0.0)
            u, v = (float(i.base[0] + i.features[0] @ y) + 0.0 for i in (a, b))
            if kind == "pair":
                judgement = Pair(a, b) if u - v + rng.logistic() > 0 else Pair(b, a)
            else:
                judgement = Vote(a, 1 if u + rng.logistic() > 0 else -1)
            posterior = posterior.learn(judgement)
            changes.append(posterior.changes)
        return changes

    return run


@pytest.mark.parametrize("kind", ["pair", "vote"])
def test_an_unchanged_user_rarely_raises_an_alarm(simulate, kind):
    alarms = [simulate(seed, kind, 1.0, n=250)[-1] for seed in range(16)]
    assert sum(alarms) <= 1  # in 4,000 judgements


@pytest.mark.parametrize("kind", ["pair", "vote"])
def test_a_reversed_user_is_detected_soon(simulate, kind):
    delays, totals = [], []
    for seed in range(16):
        changes = simulate(seed, kind, -1.0, n=180)
        assert changes[79] == 0
        delays.append(next((i for i in range(100) if changes[80 + i]), 100))
        totals.append(changes[-1])
    assert np.median(delays) <= 20
    assert max(delays) <= 60
    assert max(totals) <= 3  # the retained quarter is still wrong and may be detected again
