"""Routes that call their endpoint and do nothing else.

Each route declares everything that is known about it: the scope that a key needs to call it, the models of its body,
and whether it is also served per user. Middleware and the OpenAPI document read that from the route.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as Connection

from penchant.service.access.keyring import Scope

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


class LeanRoute(APIRoute):
    """A route whose endpoint takes the request and returns the response.

    FastAPI neither inspects its arguments nor converts its result. Exceptions are handled by the application.

    Attributes:
        required_scope: Scope that a key needs to call it. None if no key is needed.
        body_models: Models of the request's body, of which one must fit. Empty if there is no body.
        per_user: Whether the route is also served under `/users/{user}`.
    """

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        *,
        required_scope: Scope | None,
        body_models: tuple[type[BaseModel], ...] = (),
        per_user: bool = False,
        **options: Any,  # noqa: ANN401 - FastAPI's own
    ) -> None:
        super().__init__(path, endpoint, generate_unique_id_function=lambda route: route.name, **options)
        self.required_scope = required_scope
        self.body_models = body_models
        self.per_user = per_user

    def get_route_handler(self) -> Endpoint:
        """Return the endpoint itself."""
        handler: Endpoint = self.endpoint
        return handler

    async def handle(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Answer a request that matches the route. The answer is 405 if only the path matches."""
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


class LeanRouter:
    """Collects routes. Each is named after its endpoint.

    Args:
        tags: Tags of all routes in the OpenAPI document.
        prefix: Prefix of all paths.
        per_user: Whether the routes are also served under `/users/{user}`.

    Attributes:
        routes: The routes. An application adds them to its own; including the router would match each path twice.
    """

    def __init__(self, *, tags: Sequence[str], prefix: str = "", per_user: bool = False) -> None:
        self.routes: list[LeanRoute] = []
        self._tags = [*tags]
        self._prefix = prefix
        self._per_user = per_user

    def get(
        self,
        path: str,
        *,
        scope: Scope | None,
        **options: Any,  # noqa: ANN401 - FastAPI's own
    ) -> Callable[[Endpoint], Endpoint]:
        """Register an endpoint for GET.

        Args:
            path: Path after the prefix.
            scope: Scope that a key needs to call it. None if no key is needed.
            options: Further options of `LeanRoute` and of FastAPI's routes, as `openapi.describe_route` returns them.
        """
        return self._register("GET", path, scope, options)

    def post(
        self,
        path: str,
        *,
        scope: Scope | None,
        **options: Any,  # noqa: ANN401 - FastAPI's own
    ) -> Callable[[Endpoint], Endpoint]:
        """Register an endpoint for POST, with the arguments of `get`."""
        return self._register("POST", path, scope, options)

    def delete(
        self,
        path: str,
        *,
        scope: Scope | None,
        **options: Any,  # noqa: ANN401 - FastAPI's own
    ) -> Callable[[Endpoint], Endpoint]:
        """Register an endpoint for DELETE, with the arguments of `get`."""
        return self._register("DELETE", path, scope, options)

    def _register(
        self, method: str, path: str, scope: Scope | None, options: dict[str, Any]
    ) -> Callable[[Endpoint], Endpoint]:
        def add(endpoint: Endpoint) -> Endpoint:
            route = LeanRoute(
                self._prefix + path,
                endpoint,
                required_scope=scope,
                methods=[method],
                tags=[*self._tags],
                per_user=self._per_user,
                **options,
            )
            self.routes.append(route)
            return endpoint

        return add
