"""What callers send, as typed values; what is wrong with it is named by JSON pointer.

Types are strict (no `"3"` for 3, no `true` for 1). Unknown fields are ignored where foreign clients call (`Lenient`),
and refused elsewhere (`Exact`).
"""

import re
from collections.abc import Sequence
from typing import Annotated, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from penchant.service.errors import InvalidRequestError

Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], data: object, *, at: str = "") -> Model:
    """`data` as `model`; `at` is the pointer under which the data lies in the body.

    Raises:
        InvalidRequestError: Names every field that is wrong.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        faults = [(at + pointer(e["loc"]), _message(e["msg"])) for e in found]
        raise InvalidRequestError(*faults) from None


def pointer(path: Sequence[str | int]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)


def _message(text: str) -> str:
    return text.removeprefix("Value error, ")


MAX_USER_CHARS: Final = 128
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def user_fault(user: str) -> str | None:
    """What is wrong with a user id, or None."""
    if not 1 <= len(user) <= MAX_USER_CHARS:
        return f"A user id has 1 to {MAX_USER_CHARS} characters; this one has {len(user)}."
    if _CONTROL.search(user):
        return "A user id must not contain control characters."
    return None


def _check_user(user: str) -> str:
    if fault := user_fault(user):
        raise ValueError(fault)
    return user


UserId = Annotated[
    str,
    AfterValidator(_check_user),
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_USER_CHARS,
            "pattern": "^[^\\x00-\\x1f\\x7f-\\x9f]+$",
        }
    ),
]


Text = Annotated[str, Field(min_length=1)]


class Lenient(BaseModel):
    """Ignores fields it does not know."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


class Exact(BaseModel):
    """Refuses fields it does not know."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
