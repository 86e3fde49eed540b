"""The base of the answer models, and the model of an error.

Answer models serve the OpenAPI document, and tests that compare real answers with it. The hot path writes plain
dictionaries, because building these models for each answer would cost more than ranking.
"""

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """An answer. It has the declared fields and no others."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


class FieldError(Answer):
    """One invalid field."""

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
