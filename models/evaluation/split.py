"""The deterministic few-shot split: users to fit on, held-out judgements, and the order of a new user's support.

It depends only on the text of the judgements and the number of the repetition (BLAKE2 hashes), so that every system gets
the same split:

* 60 % of the users are *seen*: the shared model is fitted on their train judgements. The others are *unseen*.
* `cold`: 70 % of the texts are train texts; a judgement is for training if all its texts are train texts.
* `warm`: 70 % of the (user, texts) cells are for training; texts recur.
* An unseen user's train judgements, in a hashed order, are the *support*; the remaining judgements give the test pairs.
* Users with fewer than 10 support judgements or 4 test pairs are left out of the evaluation.
"""

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from penchant.models.judgements import kinds
from penchant.models.judgements.judgement import Judgement

Mode = Literal["cold", "warm"]

PAIRS_PER_USER: Final = 40
MIN_SUPPORT: Final = 10
MIN_TEST: Final = 4
TRAIN_SHARE: Final = 0.7
SEEN_SHARE: Final = 0.6
SEEN_USERS: Final = 2000
UNSEEN_USERS: Final = 600
MIN_TRAIN: Final = 3


@dataclass(frozen=True)
class TestPair:
    """A comparison to predict: `better` was preferred to `worse` in `context`."""

    __test__ = False  # keeps pytest from collecting the class

    context: str
    better: str
    worse: str


@dataclass(frozen=True)
class Split:
    """One repetition of a split.

    Attributes:
        train: Judgements of the first 2,000 seen users with at least 3, in order of first appearance.
        support: Judgements of each unseen user, in the order in which they are learned.
        test: Test pairs of each unseen user.
    """

    train: list[Judgement]
    support: dict[str, list[Judgement]]
    test: dict[str, list[TestPair]]


def bucket(*parts: str) -> float:
    """Return a uniform number in [0, 1) that depends only on the strings."""
    digest = hashlib.blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def split(
    judgements: Sequence[Judgement],
    mode: Mode = "cold",
    repetition: int | str = 0,
    *,
    seen_users: int = SEEN_USERS,
    unseen_users: int = UNSEEN_USERS,
) -> Split:
    """Return a split of judgements without authors' own automatic votes. Cost: linear, about 15 µs per judgement.

    Args:
        judgements: In file order.
        mode: Whether texts (`cold`) or cells (`warm`) are held out.
        repetition: Number or name that seeds the hashes.
        seen_users: Maximum number of users to fit on.
        unseen_users: Maximum number of users to evaluate.
    """

    def held_out(judgement: Judgement) -> bool:
        texts = _file_order(judgement)
        if mode == "warm":
            return bucket(str(repetition), "cell", judgement.user, *texts) >= TRAIN_SHARE
        return any(bucket(str(repetition), "text", text) >= TRAIN_SHARE for text in texts)

    by_user = group_by_user(judgements)
    train: set[str] = set()
    support: dict[str, list[Judgement]] = {}
    test: dict[str, list[TestPair]] = {}
    for user, rows in by_user.items():
        if bucket(str(repetition), "user", user) < SEEN_SHARE:
            if len(train) < seen_users and sum(not held_out(j) for j in rows) >= MIN_TRAIN:
                train.add(user)
        elif len(support) < unseen_users and (parts := split_user(rows, held_out)) is not None:
            support[user], test[user] = parts
    kept = [j for j in judgements if not j.own and j.user in train and not held_out(j)]
    return Split(kept, support, test)


def group_by_user(judgements: Sequence[Judgement]) -> dict[str, list[Judgement]]:
    """Return judgements by user in order of first appearance, without authors' own automatic votes."""
    by_user: dict[str, list[Judgement]] = {j.user: [] for j in judgements}
    for j in judgements:
        if not j.own:
            by_user[j.user].append(j)
    return by_user


def split_user(
    rows: Sequence[Judgement], held_out: Callable[[Judgement], bool]
) -> tuple[list[Judgement], list[TestPair]] | None:
    """Return a user's support in its hashed order, and the test pairs. None if either is too small to evaluate."""
    support = [j for j in rows if not held_out(j)]
    if len(support) < MIN_SUPPORT:
        return None
    pairs = test_pairs([j for j in rows if held_out(j)])
    if len(pairs) < MIN_TEST:
        return None
    return sorted(support, key=lambda j: bucket("order", j.user, *_file_order(j))), pairs


def test_pairs(judgements: Sequence[Judgement]) -> list[TestPair]:
    """Return the pairs to predict in a user's judgements: stated ones, then up to 40 of ratings that differ."""
    stated: list[tuple[str, str, str]] = []
    rated: dict[tuple[str, str, str], list[Judgement]] = defaultdict(list)
    for j in judgements:
        if j.form != "comparison":
            rated[j.context, j.kind, j.source].append(j)  # values on different scales cannot be compared
        else:
            stated += [(j.context, a, b) for a, b in j.pairs()]
    candidates = []
    for (context, _, _), rows in rated.items():
        for a, b in itertools.combinations(rows, 2):
            if a.value != b.value:
                better, worse = (a, b) if a.value > b.value else (b, a)
                candidates.append((context, better.texts[0], worse.texts[0]))
    candidates.sort(key=lambda pair: bucket("pair", *pair))
    return [TestPair(*pair) for pair in stated + candidates[:PAIRS_PER_USER] if pair[1] != pair[2]]


test_pairs.__test__ = False  # type: ignore[attr-defined]


def _file_order(judgement: Judgement) -> tuple[str, ...]:
    """Texts in the order of the judgement file, where an edit is (before, after)."""
    return kinds.BY_NAME[judgement.kind].in_line_order(judgement.texts)
