"""penchant: the Python SDK.

    from penchant import Client

    with Client() as client:
        ana = client.for_user("ana")
        ana.prefer(prompt="How do I boil an egg?", chosen="Ten minutes.", rejected="It depends on …")
        ana.rerank(query="How do I cook rice?", documents=["Lid on, twelve minutes.", "Rice is …"]).order

Needs httpx and pydantic, nothing else; the model runs in the server (``pip install 'penchant[server,cpu]'``).
"""

from penchant._async_client import AsyncClient
from penchant._client import Client
from penchant._pages import AsyncPage, Page
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
