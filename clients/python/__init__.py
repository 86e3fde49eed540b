"""penchant: the Python SDK of a server that ranks text for each user.

    from penchant import Client

    with Client() as client:
        ana = client.for_user("ana")
        ana.prefer(prompt="How do I boil an egg?", chosen="Ten minutes.", rejected="It depends on …")
        ranking = ana.rerank(query="How do I cook rice?", documents=["Lid on, twelve minutes.", "Rice is …"])
        print(ranking.order)

`AsyncClient` has the same methods for asyncio. The SDK needs only httpx and pydantic. The model runs in the server; to
install that too, run ``pip install 'penchant[server,cpu]'``.
"""

# In reading order: `_async` holds the client, from which scripts/unasync.py generates `_sync`. Both share `_calls` and
# `_events` (what to send), `_http` (requests and responses), `_responses` (models of results), `_retry`, `_config` and
# `errors`. `langchain` and `llama_index` are adapters.

from penchant._async.client import AsyncClient
from penchant._async.pages import AsyncPage
from penchant._responses import (
    AttributeReason,
    BestOfN,
    Candidate,
    Explanation,
    FeedbackReceipt,
    LoggedEvent,
    Merged,
    ModelCard,
    Part,
    RankedDocument,
    Ranking,
    Readiness,
    Reasons,
    Score,
    Scores,
    TextReason,
    User,
    UserExport,
)
from penchant._sync.client import Client
from penchant._sync.pages import Page
from penchant.errors import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    InternalServerError,
    NotFoundError,
    PayloadTooLargeError,
    PenchantError,
    PermissionDeniedError,
    RateLimitError,
    UnprocessableEntityError,
)

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseValidationError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncClient",
    "AsyncPage",
    "AttributeReason",
    "AuthenticationError",
    "BadRequestError",
    "BestOfN",
    "Candidate",
    "Client",
    "ConflictError",
    "Explanation",
    "FeedbackReceipt",
    "InternalServerError",
    "LoggedEvent",
    "Merged",
    "ModelCard",
    "NotFoundError",
    "Page",
    "Part",
    "PayloadTooLargeError",
    "PenchantError",
    "PermissionDeniedError",
    "RankedDocument",
    "Ranking",
    "RateLimitError",
    "Readiness",
    "Reasons",
    "Score",
    "Scores",
    "TextReason",
    "UnprocessableEntityError",
    "User",
    "UserExport",
]
