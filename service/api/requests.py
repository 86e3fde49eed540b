"""Bodies of requests that no dialect has."""

from pydantic import Field

from penchant.service.validation import Exact, UserId


class MergeRequest(Exact):
    """A provisional user who turns out to be somebody known."""

    source: UserId = Field(alias="from", description="whose feedback is given to the user of the path")
