"""Validation of request data by pydantic models. Errors name each invalid field by its JSON pointer.

Types are strict: `"3"` is not accepted for 3, nor `true` for 1. Requests in the dialects of other services ignore
unknown fields (`LenientModel`), all other requests refuse them (`ExactModel`).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)

from penchant.service.errors import MAX_FAULTS, InvalidRequestError

Model = TypeVar("Model", bound=BaseModel)

_MAX_NAME_CHARS: Final = 128
_MAX_DIGITS: Final = 19
MAX_DIGITS_VALUE: Final = 10 ** (_MAX_DIGITS - 1)


def validate(model: type[Model], data: object, *, pointer: str = "") -> Model:
    """Return data as an instance of a model.

    Args:
        model: Model to validate with.
        data: Parsed JSON.
        pointer: JSON pointer of the data within the body.

    Raises:
        InvalidRequestError: If fields are invalid. The error names the first of them. A list tells its first fault,
            because the models' lists fail fast.

    Cost: linear in the data, also if it is refused.
    """
    if isinstance(data, dict) and len(data) > len(model.model_fields) + MAX_FAULTS:
        _refuse_unknown_fields(model, data, pointer)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False, include_context=False)
        faults = [(pointer + format_pointer(e["loc"]), _strip_prefix(e["msg"])) for e in errors]
        raise InvalidRequestError(*faults) from None


def _refuse_unknown_fields(model: type[BaseModel], data: Mapping[str, object], pointer: str) -> None:
    """Refuse unknown fields if the model does. Pydantic would build an error for every one of them."""
    if model.model_config.get("extra") != "forbid":
        return
    known = {field.alias or name for name, field in model.model_fields.items()}
    unknown = [name for name in data if name not in known]
    first = [
        (pointer + format_pointer([name]), "Extra inputs are not permitted") for name in unknown[:MAX_FAULTS]
    ]
    raise InvalidRequestError(*first, number=len(unknown))


def format_pointer(path: Sequence[str | int]) -> str:
    """Return a path as a JSON pointer (RFC 6901). Long names, which a caller may have made up, are cut."""
    return "".join(f"/{_cut(str(part)).replace('~', '~0').replace('/', '~1')}" for part in path)


def _cut(name: str) -> str:
    return name if len(name) <= _MAX_NAME_CHARS else f"{name[:_MAX_NAME_CHARS]}…"


def read_digits(text: str) -> int | None:
    """Return a whole number that a caller sent as decimal digits, or None if it is something else.

    Python refuses to convert a text of thousands of digits. Here, zeros in front do not count, and anything above
    `MAX_DIGITS_VALUE`, 10¹⁸, is read as that.
    """
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0")
    return int(digits or "0") if len(digits) < _MAX_DIGITS else MAX_DIGITS_VALUE


def _strip_prefix(text: str) -> str:
    return text.removeprefix("Value error, ")


MAX_USER_CHARS: Final = 128
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def find_user_id_error(user: str) -> str | None:
    """Return why a user id is invalid, or None if it is valid."""
    if not 1 <= len(user) <= MAX_USER_CHARS:
        return f"A user id must have 1 to {MAX_USER_CHARS} characters. This one has {len(user)}."
    if _CONTROL.search(user):
        return "A user id must not contain control characters."
    return None


def _validate_user_id(user: str) -> str:
    if fault := find_user_id_error(user):
        raise ValueError(fault)
    return user


USER_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_USER_CHARS,
    "pattern": "^[^\\x00-\\x1f\\x7f-\\x9f]+$",
}

UserId = Annotated[str, AfterValidator(_validate_user_id), WithJsonSchema({**USER_SCHEMA})]

LimitedText = Annotated[str, Field(json_schema_extra={"maxLength": "max_text_chars"})]
"""A text. `Task.within_limits` checks its length; the OpenAPI document states the setting's value."""


def _read_integer(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# An integer of JSON, where 1.0 is the integer 1. It may be larger than any that a database can store.
Integer = Annotated[int, BeforeValidator(_read_integer)]
NonNegativeInteger = Annotated[int, Field(ge=0), BeforeValidator(_read_integer)]
PositiveInteger = Annotated[int, Field(ge=1), BeforeValidator(_read_integer)]


def _validate_strength(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError("`personalization` must be a number from 0 to 1.")
    return value


_Strength = Annotated[float, Field(ge=0, le=1), BeforeValidator(_validate_strength)]

PersonalizationStrength = Annotated[
    _Strength | None,
    Field(
        description="how far the answer departs from the population's towards the user's: 0 is the population's answer, "
        "1 the user's; absent or null means the server's setting"
    ),
]
"""Strength of personalization of a request. None means the server's setting."""


class LenientModel(BaseModel):
    """Base of models that ignore unknown fields."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


class ExactModel(BaseModel):
    """Base of models that refuse unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
