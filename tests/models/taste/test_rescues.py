"""Iterations that do not converge are counted and logged, and what they give is a proper site all the same."""

import logging

import numpy as np
import pytest

from penchant.models.taste import contrast, listwise
from penchant.models.taste.population import Beliefs
from penchant.models.taste.rescues import Rescues


@pytest.fixture
def counted(monkeypatch):
    """Rescues of this test alone, wherever they are counted."""
    fresh = Rescues()
    for module in (listwise, contrast):
        monkeypatch.setattr(module, "rescues", fresh)
    return fresh


def wide_beliefs(seed: int) -> Beliefs:
    """Of four utilities, with deviations of about a hundred: users of a fitted bundle differ by one."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(0, 1, (2, 4, 4))
    covariances = 10_000 * (roots @ roots.transpose(0, 2, 1) / 4 + 0.1 * np.eye(4))
    return Beliefs(rng.dirichlet(np.ones(2)), rng.normal(0, 100, (2, 4)), covariances)


def test_a_ranking_whose_site_is_not_found_is_counted_and_its_site_is_proper(counted, caplog):
    with caplog.at_level(logging.WARNING):
        sites = [listwise.gaussian_site((1, 1, 1, 1), wide_beliefs(seed)) for seed in range(6)]
    for precision, linear in sites:
        assert np.linalg.eigvalsh(precision)[0] > -1e-9
        assert np.isfinite(linear).all()
    (name,) = counted.counts()
    assert name == "site of a choice or ranking"
    assert 1 <= counted.counts()[name] <= 6
    assert "did not converge: a residual of" in caplog.text


def test_a_ranking_whose_site_is_found_is_not_counted(counted):
    beliefs = Beliefs(np.ones(1), np.zeros((1, 4)), np.eye(4)[None])
    listwise.gaussian_site((1, 1, 1, 1), beliefs)
    assert counted.counts() == {}


def test_a_pair_whose_bound_is_not_found_is_counted(counted, monkeypatch):
    assert contrast.tilt([(1.0, 0.5, 1.0)], 1.0, 0.5) == pytest.approx(0.24, abs=0.02)
    assert counted.counts() == {}
    monkeypatch.setattr(contrast, "MAX_ITERATIONS", 1)
    contrast.tilt([(1.0, 3.0, 400.0)], 1.0, 0.5)
    assert counted.counts() == {contrast.TILT: 1}


def test_the_log_is_not_flooded(caplog):
    rescues = Rescues()
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            rescues.add("sum", residual=0.5, tolerance=1e-6, steps=60)
        rescues.add("product", residual=0.5, tolerance=1e-6, steps=60, number=9)
    assert rescues.counts() == {"sum": 100, "product": 9}
    told = [record.getMessage() for record in caplog.records]
    assert [text.rpartition("(")[2] for text in told] == [
        *(f"{2**n} so far)" for n in range(7)),
        "9 so far)",
    ]
    assert told[0] == (
        "the sum did not converge: a residual of 0.5 after 60 steps, 1e-06 is wanted; its best approximation is used "
        "(1 so far)"
    )
