"""Answers that are sent piece by piece, because they may be larger than memory."""

import asyncio

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from penchant.service.privacy.exports import Export


class ExportResponse(Response):
    """An export as JSON. A client that takes no piece of it for a while is cut off.

    Args:
        export: The export. It is closed when it has been sent.
        seconds: Longest time that the client may take for a piece.
    """

    media_type = "application/json"

    def __init__(self, export: Export, seconds: float) -> None:
        super().__init__(headers={"Content-Length": str(export.size)})
        self._export = export
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the export."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while piece := await self._export.read():
                async with asyncio.timeout(self._seconds):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})
        except TimeoutError:
            raise ClientDisconnect from None
        finally:
            self._export.close()
