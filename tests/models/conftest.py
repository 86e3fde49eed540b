"""Small random models with known truth; every number is seeded."""

from collections.abc import Callable

import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray

from penchant.models.encoder import HashingEncoder
from penchant.models.features import FeatureExtractor
from penchant.models.items import Items
from penchant.models.population import Population

# The same examples on every run, no database of failures, no clock.
hypothesis.settings.register_profile(
    "seeded", derandomize=True, database=None, deadline=None, max_examples=50
)
hypothesis.settings.load_profile("seeded")

MakeItems = Callable[..., Items]
MakePopulation = Callable[..., Population]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20_261_121)


@pytest.fixture
def extractor() -> FeatureExtractor:
    return FeatureExtractor(HashingEncoder())


@pytest.fixture(scope="session")
def make_items() -> MakeItems:
    """Items of given or random numbers: `make_items(rng, 5, k=2, keys=...)`."""

    def make(
        rng: np.random.Generator,
        n: int = 1,
        *,
        k: int = 2,
        base: NDArray[np.float64] | list[float] | None = None,
        directions: NDArray[np.float64] | list[list[float]] | None = None,
        residual: float = 0.1,
        keys: tuple[bytes, ...] | None = None,
    ) -> Items:
        return Items(
            rng.normal(0, 1, n) if base is None else np.asarray(base, float),
            residual * rng.uniform(0.5, 1.5, n),
            rng.normal(0, 1, (n, k)) if directions is None else np.asarray(directions, float),
            residual * rng.uniform(0.5, 1.5, (n, k)),
            keys or tuple(rng.bytes(16) for _ in range(n)),
        )

    return make


@pytest.fixture(scope="session")
def make_population() -> MakePopulation:
    """A random mixture of `archetypes` Gaussians over q coordinates."""

    def make(rng: np.random.Generator, *, q: int = 3, archetypes: int = 1) -> Population:
        roots = rng.normal(0, 1, (archetypes, q, q))
        return Population(
            rng.dirichlet(np.full(archetypes, 5.0)),
            rng.normal(0, 0.7, (archetypes, q)),
            roots @ roots.transpose(0, 2, 1) / q + 0.5 * np.eye(q),
        )

    return make
