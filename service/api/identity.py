"""For whom a request is: four channels → user. Who calls is the key's to say (`keyring`)."""

from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from penchant.service.errors import ApiError, Code, InvalidRequestError
from penchant.service.validation import user_fault


def decode_user(raw: str, pointer: str) -> str:
    """A percent-encoded user id (path segment or header) in clear.

    Raises:
        ApiError: It is not UTF-8 (`invalid_encoding`), or not a user id (`validation_failed`).
    """
    try:
        # Headers and raw paths arrive as Latin-1; a client that sent bare UTF-8 is understood as well.
        user = unquote_to_bytes(raw.encode("latin-1")).decode("utf-8")
    except UnicodeError:
        raise ApiError(Code.INVALID_ENCODING, "The user id is not percent-encoded UTF-8.") from None
    if fault := user_fault(user):
        raise InvalidRequestError((pointer, fault))
    return user


def split_model(model: str | None, aliases: Iterable[str]) -> str | None:
    """The user that a model name carries (`penchant:{user}`), or None.

    Raises:
        ApiError: `model_not_found`, or a bad user id after the colon.
    """
    if model is None or model in aliases:
        return None
    name, colon, user = model.partition(":")
    if not colon or name not in aliases:
        raise ApiError(
            Code.MODEL_NOT_FOUND,
            "The model is not in the list of GET /v1/models.",
            errors=[{"pointer": "/model", "detail": "unknown model"}],
        )
    if fault := user_fault(user):
        raise InvalidRequestError(("/model", fault))
    return user


def resolve_user(*, path: str | None, body: str | None, header: str | None, model: str | None) -> str | None:
    """The one user that all channels in use agree on; None is the population.

    Raises:
        ApiError: `user_conflict`.
    """
    channels = {"path": path, "body": body, "header": header, "model": model}
    named = {channel: user for channel, user in channels.items() if user is not None}
    if len(set(named.values())) > 1:
        raise ApiError(Code.USER_CONFLICT, f"Different users are named by: {', '.join(named)}.")
    return next(iter(named.values()), None)
