"""What every answer model is made from, and what an error looks like.

Answer models are for the OpenAPI document, and for the tests that hold real answers to it. The hot path writes plain
dictionaries: building these models for each answer would cost more than ranking.
"""

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """An answer has these fields and no others."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


class FieldError(Answer):
    """One field that is to blame."""

    pointer: str
    detail: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: list[FieldError]
    request_id: str
    message: str
