"""Keys: made, stored as hashes, compared, bound to scopes, revoked."""

import hmac
import json

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import select
from typer.testing import CliRunner

from penchant import Client, PermissionDeniedError
from penchant.service import app as app_module
from penchant.service.access import keyring
from penchant.service.access.keyring import Scope, create_key, revoke_key
from penchant.service.claims import StartError, check_exposure
from penchant.service.cli.app import app as command
from penchant.service.store import feed as rows
from penchant.service.store.tables import metadata

BODY = {"query": "q", "documents": ["a", "b"]}
PUBLIC = {"/healthz", "/readyz", "/health", "/metrics", "/openapi.json"}
NOBODY = "pk_0123456789abcdef_" + "x" * 43


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def make(client, *scopes, tenant="acme"):
    """A key that the server has heard of."""
    served = client.app.state.runtime
    with served.store.writing() as connection:
        key, stored = create_key(connection, tenant, scopes or (Scope.ADMIN,), "", 0.0)
    served.feed.poll()
    return key, stored.key_id


def revoke(client, key_id):
    served = client.app.state.runtime
    with served.store.writing() as connection:
        revoked = revoke_key(connection, key_id, 1.0)
    served.feed.poll()
    return revoked


def rank(client, key=None):
    return client.post("/v1/rerank", json=BODY, headers=bearer(key) if key else {})


def test_the_first_key_closes_the_server(client):
    assert rank(client).status_code == 200
    key, key_id = make(client)
    assert (rank(client).status_code, rank(client, key).status_code) == (401, 200)
    assert client.get("/v1/models", headers={"X-API-Key": key}).status_code == 200
    revoke(client, key_id)
    assert (rank(client).status_code, rank(client, key).status_code) == (401, 401)


def test_a_key_that_was_revoked_keeps_the_server_closed_after_a_restart(serve):
    client = serve()
    key, key_id = make(client)
    revoke(client, key_id)
    client = serve()
    assert (rank(client).status_code, rank(client, key).status_code) == (401, 401)


def test_stored_keys_open_after_a_restart_beside_those_of_the_environment(serve):
    key, _ = make(serve())
    client = serve(api_keys={"umbrella": SecretStr("umbrella-key")})
    assert [rank(client, one).status_code for one in (key, "umbrella-key", "other")] == [200, 200, 401]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda key: key[:-1],
        lambda key: key + "x",
        lambda key: key.replace("pk_", "PK_"),
        lambda key: key.rpartition("_")[0],
        lambda key: key.rpartition("_")[0] + "_",
        lambda key: key.split("_", 2)[2],
        lambda key: NOBODY,
        lambda key: "pk_",
        lambda key: "pk__",
        lambda key: "",
    ],
)
def test_what_is_almost_a_key_opens_nothing(client, wrong):
    key, _ = make(client)
    for headers in (bearer(wrong(key)), {"X-API-Key": wrong(key)}):
        answer = client.post("/v1/rerank", json=BODY, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


def test_one_keys_id_with_anothers_secret_opens_nothing(client):
    (one, _), (other, _) = make(client), make(client)
    assert rank(client, "_".join([*one.split("_", 2)[:2], other.split("_", 2)[2]])).status_code == 401


def test_known_and_unknown_keys_take_the_same_path(client, monkeypatch):
    key, _ = make(client)
    compared = []
    same = hmac.compare_digest
    monkeypatch.setattr(
        keyring.hmac, "compare_digest", lambda a, b: compared.append((len(a), len(b))) or same(a, b)
    )
    for presented in (key, NOBODY, "anything", ""):
        compared.clear()
        rank(client, presented or None)
        assert compared == [(32, 32)]


def test_only_the_hash_is_stored(client, settings):
    key, key_id = make(client)
    secret = key.split("_", 2)[2]
    assert len(secret) == 43  # 256 bits in base64
    with client.app.state.runtime.store.reading() as connection:
        tables = {table.name: connection.execute(select(table)).all() for table in metadata.sorted_tables}
    assert key_id in repr(tables["api_keys"])
    assert secret not in repr(tables)
    for file in settings.data_dir.iterdir() if settings.data_dir.exists() else ():
        assert secret.encode() not in file.read_bytes()


def test_every_route_says_what_it_needs_and_asks_for_it(client):
    """Walks the router: a route without a declared scope fails here."""
    routes = [route for module in app_module._ROUTE_MODULES for route in module.router.routes]
    routes += [route for route in client.app.routes if hasattr(route, "path")]
    keys = {scope: make(client, scope)[0] for scope in Scope}
    walked = set()
    for route in routes:
        path = route.path.replace("{user}", "u")
        for method in route.methods:
            where = f"{method} {path}"
            if path in PUBLIC:
                assert client.request(method, path).status_code == 200, where
                continue
            scope = getattr(route, "required_scope", None)
            assert scope in set(Scope), f"{where} declares no scope"
            walked.add(scope)
            assert client.request(method, path).status_code == 401, where
            for held, key in keys.items():
                answer = client.request(method, path, headers=bearer(key))
                if held in (scope, Scope.ADMIN):
                    assert answer.status_code not in (401, 403), where
                else:
                    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), where
                    assert f"`{scope}`" in answer.json()["detail"], where
                    assert answer.json()["required_scope"] == scope, where
                    assert f'scope="{scope}"' in answer.headers["www-authenticate"], where
    assert walked == set(Scope)


def test_scopes_add_up_and_a_key_without_any_opens_nothing(client):
    both, _ = make(client, Scope.RANK, Scope.FEEDBACK)
    vote = {"type": "vote", "user": "u", "text": "boats", "value": 1}
    assert rank(client, both).status_code == 200
    assert client.post("/v1/feedback", json=vote, headers=bearer(both)).status_code == 200
    assert client.delete("/v1/users/u", headers=bearer(both)).status_code == 403
    served = client.app.state.runtime
    with served.store.writing() as connection:
        newer, _ = create_key(connection, "acme", ("of-a-newer-version",), "", 0.0)
    served.feed.poll()
    assert rank(client, newer).status_code == 403


def test_keys_belong_to_tenants(client):
    acme, umbrella = make(client)[0], make(client, tenant="umbrella")[0]
    client.post(
        "/v1/feedback", json={"type": "vote", "user": "u", "text": "t", "value": 1}, headers=bearer(acme)
    )
    assert client.get("/v1/users/u", headers=bearer(acme)).status_code == 200
    assert client.get("/v1/users/u", headers=bearer(umbrella)).status_code == 404


def test_the_sdk_says_permission_denied(client):
    key, _ = make(client, Scope.FEEDBACK)
    with (
        Client(base_url="http://testserver", api_key=key, http_client=_through(client)) as sdk,
        pytest.raises(PermissionDeniedError) as caught,
    ):
        sdk.rerank(query="q", documents=["a"])
    assert (caught.value.status, caught.value.code) == (403, "forbidden")


def _through(client):
    def handle(request):
        answer = client.request(
            request.method, str(request.url), content=request.read(), headers=dict(request.headers)
        )
        return httpx.Response(answer.status_code, content=answer.content, headers=dict(answer.headers))

    return httpx.Client(transport=httpx.MockTransport(handle), base_url="http://testserver")


# Commands, beside a running server


@pytest.fixture
def run(settings):
    def invoke(*words):
        place = ["--data-dir", str(settings.data_dir)]
        if settings.store_url is not None:
            place += ["--store-url", settings.store_url.get_secret_value()]
        result = CliRunner().invoke(command, [*words, *place])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        return result

    return invoke


def test_commands_make_list_and_revoke_keys_of_a_running_server(client, run):
    made = run("keys", "create", "--tenant", "acme", "--scope", "rank", "--name", "shop")
    key = made.stdout.strip()
    assert key.startswith("pk_")
    client.app.state.runtime.feed.poll()
    assert (rank(client, key).status_code, rank(client).status_code) == (200, 401)
    (listed,) = json.loads(run("keys", "list", "--json").stdout)
    assert (listed["tenant"], listed["scopes"], listed["name"]) == ("acme", ["rank"], "shop")
    assert listed["revoked_at"] is None
    for shown in (run("keys", "list"), run("keys", "list", "--json")):
        assert key.split("_", 2)[2] not in shown.output
        assert listed["key_id"] in shown.output
    assert run("keys", "revoke", listed["key_id"]).exit_code == 0
    client.app.state.runtime.feed.poll()
    assert rank(client, key).status_code == 401
    (listed,) = json.loads(run("keys", "list", "--json").stdout)
    assert listed["revoked_at"] is not None


def test_the_first_key_comes_before_the_first_server(run, serve):
    made = json.loads(run("keys", "create", "--tenant", "acme", "--scope", "admin", "--json").stdout)
    assert made["scopes"] == ["admin"]
    client = serve()
    assert (rank(client, made["key"]).status_code, rank(client).status_code) == (200, 401)


@pytest.mark.parametrize(
    "words",
    [
        ("keys", "create", "--tenant", "", "--scope", "rank"),
        ("keys", "create", "--tenant", "x" * 65, "--scope", "rank"),
        ("keys", "create", "--tenant", "line\nbreak", "--scope", "rank"),
        ("keys", "create", "--tenant", "acme", "--scope", "everything"),
        ("keys", "create", "--tenant", "acme"),
        ("keys", "create", "--tenant", "acme", "--scope", "rank", "--name", "x" * 129),
        ("keys", "revoke", "0123456789abcdef"),
    ],
)
def test_commands_that_cannot_be_done_say_so_and_change_nothing(run, client, words):
    result = run(*words)
    assert result.exit_code in (1, 2)
    assert result.stderr
    with client.app.state.runtime.store.reading() as connection:
        assert rows.find_newest(connection) == 0


def test_beyond_loopback_a_stored_key_is_enough(run, settings):
    exposed = settings.model_copy(update={"host": "0.0.0.0"})
    with pytest.raises(StartError, match="penchant keys create"):
        check_exposure(exposed)
    assert settings.store_url or not settings.data_dir.exists()  # it only looked
    made = run("keys", "create", "--tenant", "acme", "--scope", "rank")
    assert made.exit_code == 0, made.stderr
    check_exposure(exposed)
