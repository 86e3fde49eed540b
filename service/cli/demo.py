"""The tour: seven candidates ranked for two users, before and after five preferences of each.

One user likes long answers, the other one short answers. No bundle was fitted on these texts.
"""

import uuid
from dataclasses import dataclass
from typing import Final

from penchant import Client, Ranking

QUESTION: Final = "How do I keep basil alive on a windowsill?"

CANDIDATES: Final = (
    "Keep basil sunny and watered.",
    "Give the basil a sunny windowsill, and water it when the soil feels dry.",
    "To keep basil alive on a windowsill, give it sun, warmth and drainage. Set the pot on your brightest "
    "sill, water it in the morning when the soil feels dry, and empty the saucer afterwards, so that the "
    "roots never stand in water.",
    "Put the basil on a sunny windowsill and water it.",
    "Basil from a shop dies on the windowsill because twenty seedlings share one pot. Split the clump into "
    "four and plant each part in fresh compost. Keep them at the sunniest window, away from cold glass at "
    "night, and water from below when the surface has dried. Feed every second week. Pinch the tips just "
    "above a pair of leaves before flowers open: each cut makes two new shoots, and the plant stays bushy "
    "for months.",
    "Boil the pasta for nine minutes.",
    "Between 1889 and 1914 the railway company replaced every wooden bridge on the line with one of iron, "
    "and the journey to the coast became an hour shorter.",
)
"""Five answers to the question, and two texts that do not answer it."""

PREFERENCES: Final = (
    (
        "How do I get a coffee stain out of a shirt?",
        "Rinse the back of the stain with cold water at once, so that the coffee leaves the way it came in. "
        "Then work in washing-up liquid with a spoonful of white vinegar, leave it for ten minutes, and wash "
        "the shirt as usual.",
        "Cold water, soap, then wash it.",
    ),
    (
        "Why does my bicycle chain squeak?",
        "A squeak nearly always means that the oil is gone from inside the rollers. Wipe the chain with a "
        "rag, put one drop on every roller while you turn the pedals backwards, wait a few minutes, and wipe "
        "off what is left.",
        "It is dry. Oil it.",
    ),
    (
        "What should I pack for a weekend in the mountains?",
        "Plan for two seasons in one day: a light waterproof jacket, a fleece and a hat, even in July. Take "
        "shoes that you have walked in before, a litre and a half of water a day, and more food than you "
        "think you need.",
        "Boots, jacket, water, snacks.",
    ),
    (
        "How do I learn to swim?",
        "Start in shallow water, where you can stand, and breathe out under water until it feels natural. "
        "Then push off the wall and glide, add the kick, and only then the arms; two short lessons a week "
        "teach you more than one long one.",
        "Take lessons twice a week.",
    ),
    (
        "How often should I replace running shoes?",
        "Most pairs last between five and eight hundred kilometres, and heavier runners wear them out "
        "sooner. Look at the sole, press the midsole with your thumb, and replace them when they no longer "
        "spring back or when your knees begin to ache.",
        "Every 700 kilometres.",
    ),
)
"""Questions, each with a long and a short answer."""


@dataclass(frozen=True)
class Tour:
    """The rankings of the candidates.

    Attributes:
        before: Ranking for a user without feedback.
        long: Ranking after five preferences for long answers.
        short: Ranking after five preferences for short answers.
    """

    before: Ranking
    long: Ranking
    short: Ranking


def walk(client: Client) -> Tour:
    """Run the tour with two new users, and delete them afterwards."""
    visit = uuid.uuid4().hex[:8]
    likes_long, likes_short = (client.for_user(f"demo-{taste}-{visit}") for taste in ("long", "short"))
    try:
        before = _rank(likes_long)
        for question, long, short in PREFERENCES:
            likes_long.prefer(prompt=question, chosen=long, rejected=short)
            likes_short.prefer(prompt=question, chosen=short, rejected=long)
        return Tour(before, _rank(likes_long), _rank(likes_short))
    finally:
        likes_long.users.delete()
        likes_short.users.delete()


def _rank(client: Client) -> Ranking:
    return client.rerank(query=QUESTION, documents=CANDIDATES)
