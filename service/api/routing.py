"""Routes that cost little: found at once, they call their endpoint, and nothing else.

Each route names the scope that a key needs to call it. The OpenAPI document reads the scope from the route.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as Connection

from penchant.service.access.scopes import Scope

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


class LeanRoute(APIRoute):
    """For endpoints that take the request and give the response.

    There is nothing to be found out about their arguments and nothing to be converted. What they raise is handled where
    the application handles it for all routes.

    Attributes:
        required_scope: What a key needs to call it; None where no key is asked for.
    """

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        *,
        required_scope: Scope | None,
        **options: Any,  # noqa: ANN401 - FastAPI's own
    ) -> None:
        super().__init__(path, endpoint, generate_unique_id_function=lambda route: route.name, **options)
        self.required_scope = required_scope

    def get_route_handler(self) -> Endpoint:
        """The endpoint itself."""
        handler: Endpoint = self.endpoint
        return handler

    async def handle(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Answers a request that matches; 405 where the path alone does."""
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


class LeanRouter:
    """Collects such routes, each known by its endpoint's name.

    Args:
        tags: Of all of them, for the OpenAPI document.
        prefix: What all their paths begin with.

    Attributes:
        routes: What an application adds to its own: in a router that it includes each is looked for twice.
    """

    def __init__(self, *, tags: Sequence[str], prefix: str = "") -> None:
        self.routes: list[LeanRoute] = []
        self._tags = [*tags]
        self._prefix = prefix

    def get(
        self,
        path: str,
        *,
        scope: Scope | None,
        **options: Any,  # noqa: ANN401 - FastAPI's own
    ) -> Callable[[Endpoint], Endpoint]:
        """Registers an endpoint for GET.

        Args:
            path: Behind the prefix.
            scope: What a key needs to call it; None where no key is asked for.
            options: How FastAPI documents it.
        """
        return self._adding("GET", path, scope, options)

    def post(
        self,
        path: str,
        *,
        scope: Scope | None,
        **options: Any,  # noqa: ANN401 - FastAPI's own
    ) -> Callable[[Endpoint], Endpoint]:
        """Registers an endpoint for POST; the arguments are those of `get`."""
        return self._adding("POST", path, scope, options)

    def delete(
        self,
        path: str,
        *,
        scope: Scope | None,
        **options: Any,  # noqa: ANN401 - FastAPI's own
    ) -> Callable[[Endpoint], Endpoint]:
        """Registers an endpoint for DELETE; the arguments are those of `get`."""
        return self._adding("DELETE", path, scope, options)

    def _adding(
        self, method: str, path: str, scope: Scope | None, options: dict[str, Any]
    ) -> Callable[[Endpoint], Endpoint]:
        def add(endpoint: Endpoint) -> Endpoint:
            route = LeanRoute(
                self._prefix + path,
                endpoint,
                required_scope=scope,
                methods=[method],
                tags=[*self._tags],
                **options,
            )
            self.routes.append(route)
            return endpoint

        return add
