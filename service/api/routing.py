"""Routes that cost little: found at once, they call their endpoint, and nothing else."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class LeanRoute(APIRoute):
    """For endpoints that take the request and give the response.

    There is nothing to be found out about their arguments and nothing to be converted. What they raise is handled where
    the application handles it for all routes.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint itself."""
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request that matches; 405 where the path alone does."""
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


def lean_router(*, tags: Sequence[str], prefix: str = "") -> APIRouter:
    """A router of such routes, each known by its endpoint's name.

    An application adds its `routes` to its own: in a router that it includes each is looked for twice.
    """
    return APIRouter(
        prefix=prefix,
        tags=[*tags],
        route_class=LeanRoute,
        generate_unique_id_function=lambda route: route.name,
    )
