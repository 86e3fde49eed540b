"""Models that the answers of all dialects share: explanations and usage."""

from pydantic import Field

from penchant.service.api.answers.base import Answer


class Part(Answer):
    """One term of a utility, in units of utility."""

    name: str = Field(
        description="an attribute, or `relevance` (how closely it answers the prompt), `content`, `memory`, `constant` "
        "(shared), `threshold` (personal)"
    )
    personal: bool = Field(
        description="whether it is this user's own difference, multiplied by `personalization`, rather than shared taste"
    )
    label: str = Field(
        description="plain description; for an attribute and `relevance`, the direction in which the candidate differs"
    )
    value: float
    std: float = Field(description="uncertainty about the user; 0 for shared taste")


class Explanation(Answer):
    """The parts of a candidate's utility for the user, and what moved the candidate up or down for this user."""

    utility: float = Field(description="posterior mean; the values of `parts` sum to it")
    std: float
    population_utility: float = Field(description="the sum of the shared parts")
    population_rank: int = Field(
        description="rank among the candidates for a user of whom nothing is known; 1 is first"
    )
    parts: list[Part] = Field(description="sorted by absolute value, largest first")
    shift: float = Field(
        description="how far the candidate moved for this user relative to the others; the values of `moved` sum to it"
    )
    shift_std: float
    probability_up: float = Field(ge=0, le=1, description="P(shift > 0)")
    moved: list[Part] = Field(
        description="the personal parts of the shift, sorted by absolute value, largest first"
    )


EXPLANATION = Field(default=None, description="absent unless the request sets `explain`")


class Usage(Answer):
    """Number of tokens of the texts, with OpenAI's field names. A query that is read on its own does not count."""

    prompt_tokens: int
    total_tokens: int
