"""Fixtures for the models: small random models with known parameters, all drawn from seeds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from penchant.models.encoding.attributes import ATTRIBUTE_NAMES
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.judgements.judgement import Judgement
from penchant.models.taste.items import Items
from penchant.models.taste.population import Population

from ..conftest import TINY

# The same examples on every run, no database of failures, no clock.
hypothesis.settings.register_profile(
    "seeded", derandomize=True, database=None, deadline=None, max_examples=50
)
hypothesis.settings.load_profile("seeded")

MakeItems = Callable[..., Items]
MakePopulation = Callable[..., Population]
Plant = Callable[..., "Planted"]

CONTEXT = "Which of these?"
LOGISTIC_STD = 1.28  # half the variance of a logistic pair: the noise of one rating in units of utility


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20_261_121)


@pytest.fixture
def extractor() -> FeatureExtractor:
    return FeatureExtractor(HashingEncoder())


@pytest.fixture(scope="session")
def make_items() -> MakeItems:
    """Returns a function that makes items with given or random numbers: `make_items(rng, 5, k=2, keys=...)`."""

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
    """Returns a function that makes a random mixture of `archetypes` Gaussians over q coordinates."""

    def make(rng: np.random.Generator, *, q: int = 3, archetypes: int = 1) -> Population:
        roots = rng.normal(0, 1, (archetypes, q, q))
        return Population(
            rng.dirichlet(np.full(archetypes, 5.0)),
            rng.normal(0, 0.7, (archetypes, q)),
            roots @ roots.transpose(0, 2, 1) / q + 0.5 * np.eye(q),
        )

    return make


@dataclass(frozen=True)
class Planted:
    """Judgements drawn from known utilities u = t + b + z·v, b and v linear in six of the features.

    Attributes:
        judgements: Judgements, user by user.
        vectors: Feature vector `[dim]` float16 of each (context, text).
        texts: Names of the n texts.
        users: Names of the m users.
        utility: Utilities `[m, n]`.
        base: Base utilities `[n]`.
        directions: Loadings `[n, 2]` of the texts on the two directions.
        stars: Offset and slope of the rating scale, for ratings normalised to [-1, 1].
    """

    judgements: list[Judgement]
    vectors: dict[tuple[str, str], NDArray[np.float16]]
    texts: list[str]
    users: list[str]
    utility: NDArray[np.float64]
    base: NDArray[np.float64]
    directions: NDArray[np.float64]
    stars: tuple[float, float]


@pytest.fixture(scope="session")
def plant() -> Plant:
    """Returns a function that draws a `Planted` set. With `plant(taste=0.0)` users differ by noise only.

    With `centres`, users are drawn around them with a tenth of the usual spread.
    """

    def draw(
        *,
        seed: int = 0,
        n_users: int = 120,
        n_texts: int = 90,
        per_user: int = 24,
        taste: float = 1.5,
        residual: float = 0.3,
        kinds: tuple[str, ...] = ("pair", "rating", "vote"),
        centres: NDArray[np.float64] | None = None,
    ) -> Planted:
        rng = np.random.default_rng(seed)
        x = rng.normal(0, 1, (n_texts, 6))
        noise = rng.normal(0, 1, (n_texts, len(ATTRIBUTE_NAMES)))
        texts = [f"text {i}" for i in range(n_texts)]
        vectors = np.concatenate([x, noise], axis=1).astype(np.float16)
        base = x @ [1.0, 0.5, 0, 0, 0, 0] + residual * rng.normal(size=n_texts)
        directions = taste * x[:, 2:4]
        z, t = rng.normal(0, 1, (n_users, 2)), rng.normal(0, 0.5, (n_users, 1))
        if centres is not None:
            z = centres[np.arange(n_users) % len(centres)] + 0.1 * z
        utility = t + base + z @ directions.T
        offset, slope = 0.1, 0.08
        judgements = []
        for i in range(n_users):
            for j in range(per_user):
                kind = kinds[j % len(kinds)]
                a, b = rng.choice(n_texts, 2, replace=False)
                fields = {"user": f"user {i}", "context": CONTEXT, "kind": kind}
                match kind:
                    case "pair":
                        if rng.random() > expit(utility[i, a] - utility[i, b]):
                            a, b = b, a
                        judgements.append(Judgement(**fields, texts=(texts[a], texts[b])))
                    case "choice" | "ranking":
                        candidates = rng.choice(n_texts, 4, replace=False)
                        best = candidates[np.argsort(-utility[i, candidates] - rng.gumbel(size=4))]
                        groups = (1, 3) if kind == "choice" else ()
                        judgements.append(
                            Judgement(**fields, texts=tuple(texts[s] for s in best), groups=groups)
                        )
                    case "vote":
                        value = 1.0 if rng.random() < expit(utility[i, a]) else -1.0
                        judgements.append(Judgement(**fields, texts=(texts[a],), value=value))
                    case _:
                        value = float(offset + slope * (utility[i, a] + LOGISTIC_STD * rng.normal()))
                        judgements.append(Judgement(**fields, texts=(texts[a],), value=value, source="stars"))
        return Planted(
            judgements,
            {(CONTEXT, text): vector for text, vector in zip(texts, vectors, strict=True)},
            texts,
            [f"user {i}" for i in range(n_users)],
            utility,
            base,
            directions,
            (offset, slope),
        )

    return draw


# ---------------------------------------------------------------- tiny transformers: only these import torch


@pytest.fixture(scope="session")
def bert(letter_tokenizer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a random BERT encoder with 32 positions."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=20, max_position_embeddings=32, **TINY)).save_pretrained(folder)
    letter_tokenizer(framed=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama(letter_tokenizer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a random Llama decoder."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    folder = tmp_path_factory.mktemp("llama")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaModel(LlamaConfig(vocab_size=20, max_position_embeddings=64, **TINY)).save_pretrained(folder)
    letter_tokenizer(framed=False).save_pretrained(folder)
    return folder
