"""What the answers of all dialects share: an explanation, and usage."""

from pydantic import Field

from penchant.service.api.answers.base import Answer


class Part(Answer):
    """One term of a utility, in units of utility."""

    name: str = Field(
        description="an attribute, or `content`, `memory`, `constant` (shared), `threshold` (personal)"
    )
    personal: bool = Field(description="how this user departs from the population, or else shared taste")
    label: str = Field(description="in plain language; of an attribute, which way the candidate stands out")
    value: float
    std: float = Field(description="over what is known of the user; 0 of shared taste")


class Explanation(Answer):
    """What makes a candidate's utility for the user, and what moved it up or down for this user."""

    utility: float = Field(description="posterior mean; the values of `parts` sum to it")
    std: float
    population_utility: float = Field(description="the sum of the shared parts")
    population_rank: int = Field(description="place among the candidates for anybody, 1 is first")
    parts: list[Part] = Field(description="largest value first, whatever its sign")
    shift: float = Field(
        description="how far it moved for this user against the other candidates; the values of `moved` sum to it"
    )
    shift_std: float
    probability_up: float = Field(ge=0, le=1, description="P(shift > 0)")
    moved: list[Part] = Field(description="the personal parts of the shift, largest value first")


EXPLANATION = Field(default=None, description="absent unless `explain` was asked for")


class Usage(Answer):
    """Tokens in OpenAI's words."""

    prompt_tokens: int
    total_tokens: int
