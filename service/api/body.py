"""Reads the body of a request within limits of size and time, and turns it into what the route needs.

A small body is parsed and validated at once. A large one would keep other requests waiting, so two threads of their own
do that; they are not those that read the store.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NoReturn, TypeVar

from pydantic import BaseModel
from starlette.requests import Request

from penchant.service.errors import ApiError, Code
from penchant.service.parsing import parse_object
from penchant.service.settings import Settings
from penchant.service.validation import read_digits, validate

INLINE_BYTES: Final = 2**16
"""Largest body that is parsed and validated on the event loop, which takes at most a few milliseconds."""

Result = TypeVar("Result")
Model = TypeVar("Model", bound=BaseModel)

_parsers: Final = ThreadPoolExecutor(2, thread_name_prefix="bodies")


async def read_model(request: Request, settings: Settings, model: type[Model]) -> Model:
    """Return the body of a request as an instance of a model, with the errors of `read_body` and of `validate`."""
    return await read_body(request, settings, lambda body: validate(model, body))


async def read_body(
    request: Request, settings: Settings, convert: Callable[[dict[str, Any]], Result]
) -> Result:
    """Return what a function makes of the body of a request, which must be a JSON object.

    Args:
        request: The request.
        settings: Limits.
        convert: Validates the parsed body. It may run in a thread.

    Raises:
        ApiError: `unsupported_media_type`, `request_timeout`, an error of `parse_object` or an error of `convert`.
    """
    _check_media_type(request)
    try:
        async with asyncio.timeout(settings.body_timeout_seconds):
            raw = await _read_bytes(request, settings.max_body_bytes)
    except TimeoutError:
        detail = f"The body did not arrive within {settings.body_timeout_seconds:g} s."
        raise ApiError(Code.REQUEST_TIMEOUT, detail, headers={"Connection": "close"}) from None
    if len(raw) <= INLINE_BYTES:
        return convert(parse_object(raw, settings))
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_parsers, lambda: convert(parse_object(raw, settings)))


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
    length = read_digits(request.headers.get("content-length", "0"))
    if length is not None and length > limit:
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
