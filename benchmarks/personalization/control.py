"""Semi-synthetic control: real texts, with users whose taste is known.

It follows LoRe's study on PersonalLLM (github.com/facebookresearch/LoRe, PersonalLLM/train_basis.py). A user's reward
is a combination of ten reward functions, drawn from Dirichlet(0.1), and of eight texts the user prefers the best to
the worst. 1,000 seen users give 45 such pairs; 500 others give 3, 9 or 20. All users are tested on texts that nobody
judged.

In LoRe's study, the ten reward functions are reward models. Here they are standardised attributes of the text, which
the systems do *not* get: all of them see the embedding alone. A seen user is one who gave all 45 pairs. penchant may
choose rank 9, which together with the consensus spans the same space as LoRe's ten basis rewards.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import tuning
from benchmarks.peers.bradley_terry import BradleyTerry
from benchmarks.peers.lore import LoRe
from benchmarks.personalization.data import Source, Vectors
from benchmarks.personalization.task import Task
from penchant.models.encoding.attributes import ATTRIBUTE_NAMES
from penchant.models.evaluation.split import Split, TestPair
from penchant.models.judgements.judgement import Judgement

TEXTS: Final = "stanford_politeness"
"""Set that supplies the texts. It has the most texts of all sets that may be used."""

SYSTEMS: Final = ("penchant", "lore", "bt")
REWARDS: Final = (
    "length",
    "word_length",
    "questions",
    "courtesy",
    "hedging",
    "negation",
    "second_person",
    "first_person_singular",
    "positive_sentiment",
    "negative_sentiment",
)
CONCENTRATION: Final = 0.1
GROUP: Final = 8
SEEN: Final = 1000
UNSEEN: Final = 500
SEEN_PAIRS: Final = 45
ASKED: Final = 40
SHOTS: Final = (0, 3, 9, 20, SEEN_PAIRS)
TRAIN_SHARE: Final = 0.7
BASES: Final = 10
RANKS: Final = (4, 9)
CONTEXT: Final = "control"
SEED: Final = 20_250_419


def task(source: Source, *, seen: int = SEEN, unseen: int = UNSEEN) -> Task:
    """Draw users and their judgements."""
    vectors = source.vectors()
    by_text = {text: vector[: vectors.dim] for (_, text), vector in vectors.items()}
    return draw(by_text, np.random.default_rng(SEED), seen=seen, unseen=unseen)


def draw(
    by_text: Mapping[str, NDArray[np.float16]], rng: np.random.Generator, *, seen: int, unseen: int
) -> Task:
    """Draw users and their judgements of texts with the given features (embedding, then attributes)."""
    texts = np.array(list(by_text), dtype=object)
    wide = np.stack(list(by_text.values()))
    columns = [wide.shape[1] - len(ATTRIBUTE_NAMES) + ATTRIBUTE_NAMES.index(name) for name in REWARDS]
    attributes = wide[:, columns].astype(np.float64)
    rewards = (attributes - attributes.mean(0)) / np.maximum(attributes.std(0), 1e-9)
    order = rng.permutation(len(texts))
    cut = int(TRAIN_SHARE * len(texts))
    known, new = _groups(order[:cut]), _groups(order[cut:])
    tastes = rng.dirichlet(np.full(len(REWARDS), CONCENTRATION), seen + unseen)

    def pairs(user: int, groups: NDArray[np.int64], count: int) -> list[tuple[str, str]]:
        chosen = groups[rng.choice(len(groups), min(count, len(groups)), replace=False)]
        utility = rewards[chosen] @ tastes[user]
        rows = np.arange(len(chosen))
        best, worst = chosen[rows, utility.argmax(1)], chosen[rows, utility.argmin(1)]
        return [(texts[a], texts[b]) for a, b in zip(best, worst, strict=True)]

    support: dict[str, list[Judgement]] = {}
    test: dict[str, list[TestPair]] = {}
    for user in range(seen + unseen):
        name, most = (f"seen {user}", SEEN_PAIRS) if user < seen else (f"unseen {user}", max(SHOTS[:-1]))
        support[name] = [Judgement(name, CONTEXT, "pair", pair) for pair in pairs(user, known, most)]
        test[name] = [TestPair(CONTEXT, *pair) for pair in pairs(user, new, ASKED)]
    train = [j for name, rows in support.items() if name.startswith("seen") for j in rows]
    hidden = wide.copy()
    hidden[:, -len(ATTRIBUTE_NAMES) :] = 0
    vectors: Vectors = {(CONTEXT, text): row for text, row in zip(texts, hidden, strict=True)}
    return Task("control", "cold", 0, Split(train, support, test), vectors)


def peer(system: str) -> tuning.Peer:
    """Return a peer as it takes part: LoRe at rank 10 on all users, the consensus without effects of single texts.

    Raises:
        ValueError: If the system takes no part.
    """
    match system:
        case "lore":
            return LoRe(bases=(BASES,), users=SEEN)
        case "bt":
            return BradleyTerry(text_ridges=(None,))
        case _:
            raise ValueError(f"{system!r} takes no part in the control")


def _groups(texts: NDArray[np.int64]) -> NDArray[np.int64]:
    return texts[: len(texts) // GROUP * GROUP].reshape(-1, GROUP)
