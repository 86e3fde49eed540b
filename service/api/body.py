"""Reads the body of a request as strict JSON, within limits of size and time. Errors name fields by JSON pointer."""

import asyncio
import json
import math
from collections.abc import Iterator
from typing import Any, NoReturn

import orjson
from starlette.requests import Request

from penchant.service.errors import ApiError, Code, InvalidRequestError
from penchant.service.settings import Settings
from penchant.service.validation import format_pointer


async def read_object(request: Request, settings: Settings) -> dict[str, Any]:
    """Return the body of a request, which must be a JSON object.

    Raises:
        ApiError: `unsupported_media_type`, `body_too_large`, `request_timeout`, `invalid_encoding`,
            `invalid_json`, or `validation_failed` if it is not an object or has a number that is not finite.
    """
    _check_media_type(request)
    try:
        async with asyncio.timeout(settings.body_timeout_seconds):
            raw = await _read_bytes(request, settings.max_body_bytes)
    except TimeoutError:
        detail = f"The body did not arrive within {settings.body_timeout_seconds:g} s."
        raise ApiError(Code.REQUEST_TIMEOUT, detail, headers={"Connection": "close"}) from None
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        _raise_parse_error(raw, error)
    if not isinstance(data, dict):
        raise InvalidRequestError(("", "The body must be a JSON object."))
    return data


def _check_media_type(request: Request) -> None:
    header = request.headers.get("content-type")
    if header is None:
        # Browsers send cross-site posts without a type and without asking first; programs have no Origin.
        if "origin" not in request.headers:
            return
        raise ApiError(Code.UNSUPPORTED_MEDIA_TYPE, "Send `Content-Type: application/json`.")
    if header == "application/json":
        return
    media, *parameters = (part.strip().lower() for part in header.split(";"))
    if media != "application/json" and not (media.startswith("application/") and media.endswith("+json")):
        raise ApiError(Code.UNSUPPORTED_MEDIA_TYPE, "Send `Content-Type: application/json`.")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8", "us-ascii"):
            raise ApiError(Code.UNSUPPORTED_MEDIA_TYPE, "JSON is UTF-8; no other charset is read.")


async def _read_bytes(request: Request, limit: int) -> bytes:
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > limit:
        _raise_too_large(limit)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            _raise_too_large(limit)
        chunks.append(chunk)
    return b"".join(chunks)


def _raise_too_large(limit: int) -> NoReturn:
    detail = f"The body may have {limit} bytes."
    raise ApiError(Code.BODY_TOO_LARGE, detail, headers={"Connection": "close"})


def _raise_parse_error(raw: bytes, error: orjson.JSONDecodeError) -> NoReturn:
    """Raise an error that says why a body is not JSON. The body is parsed a second time only in this case."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        detail = f"Byte {fault.start} of the body is not UTF-8."
        raise ApiError(Code.INVALID_ENCODING, detail) from None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if faults := list(_find_non_finite(data, ())):
        raise InvalidRequestError(*((format_pointer(path), "Numbers must be finite.") for path in faults))
    raise ApiError(Code.INVALID_JSON, f"The body cannot be parsed: {error.msg}.")


def _find_non_finite(value: object, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """Yield the paths of NaN and infinities, which Python's own parser accepts."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _find_non_finite(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _find_non_finite(inner, (*path, index))
