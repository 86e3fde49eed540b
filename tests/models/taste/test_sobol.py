"""Scrambled Sobol points equal torch's bit for bit."""

import hashlib

import numpy as np
import pytest
from torch.quasirandom import SobolEngine

from penchant.models.taste.sobol import MAX_POINTS, MAX_WIDTH, TABLE, pack_table, scrambled_sobol


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize(
    ("width", "count"),
    [
        (1, 1),
        (1, 2),
        (2, 64),
        (3, 256),
        (5, 100),
        (17, 512),
        (50, 256),
        (200, MAX_POINTS),
        (1024, 512),
        (2048, 33),
    ],
)
def test_points_agree_with_torch(width, count, seed):
    expected = SobolEngine(width, scramble=True, seed=seed).draw(count).double().numpy()
    np.testing.assert_array_equal(scrambled_sobol(width, count, seed=seed), expected)


def test_every_dimension_of_the_table_agrees_with_torch():
    np.testing.assert_array_equal(np.load(TABLE), pack_table(SobolEngine(MAX_WIDTH).sobolstate.numpy()))


def test_draws_never_change():
    """The hash is of draws of torch 2.13.0. Stored states were learned with these numbers."""
    digest = hashlib.sha256()
    for width, count in ((32, 512), (5, 256), (50, 32)):
        digest.update(scrambled_sobol(width, count).tobytes())
    assert digest.hexdigest() == "9fd08f74b675323558eb59cc71859da8bb8f4afa4b69de13364e4d6cd7c66015"


@pytest.mark.parametrize(("width", "count"), [(0, 8), (MAX_WIDTH + 1, 8), (3, 0), (3, MAX_POINTS + 1)])
def test_dimensions_beyond_the_table_are_an_error(width, count):
    with pytest.raises(ValueError, match=f"{MAX_WIDTH if count == 8 else MAX_POINTS}"):
        scrambled_sobol(width, count)
