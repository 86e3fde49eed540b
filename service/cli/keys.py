"""The `penchant keys` and `penchant tenants` commands. Running servers apply each change within a second.

They create a store if none exists, because a first key is needed before the first server.
"""

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from penchant.service.access.keyring import Scope
from penchant.service.cli.inputs import Json
from penchant.service.cli.store_access import DataDir, StoreUrl, open_store, read_settings
from penchant.service.cli.terminal import note, out, stop
from penchant.service.timestamps import format_rfc3339

if TYPE_CHECKING:
    from penchant.service.store.keys import StoredKey

keys_app = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)
tenants_app = typer.Typer(help="Change and show the settings and limits of tenants.", no_args_is_help=True)

Tenant = Annotated[str, typer.Argument(help="Name of the tenant.")]
_DAY = 86_400


@keys_app.command("create")
def create(
    tenant: Annotated[str, typer.Option(help="Tenant that owns the key. Each tenant has data of its own.")],
    scope: Annotated[
        list[Scope],
        typer.Option(help="What the key may do. May be repeated. `admin` may do everything."),
    ],
    name: Annotated[str, typer.Option(help="Name that tells the key from others.")] = "",
    data_dir: DataDir = None,
    store_url: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Create a key and print it. It cannot be shown again, because only its hash is stored."""
    from penchant.service.access.keyring import create_key

    _check_tenant(tenant)
    if len(name) > 128:
        stop("a key's name has at most 128 characters")
    with open_store(data_dir, store_url, create=True) as store, store.writing() as connection:
        key, stored = create_key(connection, tenant, set(scope), name, time.time())
    if as_json:
        typer.echo(json.dumps({"key": key, **_key_json(stored)}))
        return
    note(f"{stored.key_id}: a key of {tenant} for {', '.join(stored.scopes)}. It will not be shown again.")
    typer.echo(key)


@keys_app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="List only this tenant's keys.")] = None,
    data_dir: DataDir = None,
    store_url: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """List all keys, including revoked ones, by their ids. The keys themselves are never shown."""
    from penchant.service.store import keys

    with open_store(data_dir, store_url, create=True) as store, store.reading() as connection:
        listed = [key for key in keys.list_keys(connection) if tenant in (None, key.tenant)]
    if as_json:
        typer.echo(json.dumps([_key_json(key) for key in listed]))
        return
    table = Table("key id", "tenant", "scopes", "name", "created", "revoked")
    for key in listed:
        created, revoked = _format_time(key.created_at), _format_time(key.revoked_at)
        table.add_row(key.key_id, key.tenant, ", ".join(key.scopes), key.name, created, revoked)
    out.print(table)


@keys_app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `list` shows it.")],
    data_dir: DataDir = None,
    store_url: StoreUrl = None,
) -> None:
    """Revoke a key forever. A server still requires a key after its last one is revoked."""
    from penchant.service.access.keyring import revoke_key

    with open_store(data_dir, store_url, create=True) as store, store.writing() as connection:
        revoked = revoke_key(connection, key_id, time.time())
    if revoked is None:
        stop(f"there is no key {key_id}", code=1)
    typer.echo(f"{key_id} is revoked")


@tenants_app.command("set")
def set_tenant(
    tenant: Tenant,
    keep_texts: Annotated[
        bool | None, typer.Option(help="Whether the log keeps texts, or only their features.")
    ] = None,
    retention_days: Annotated[
        str | None, typer.Option(help="Days after which judgements are deleted.")
    ] = None,
    requests_per_minute: Annotated[
        str | None, typer.Option(help="Requests per minute by all keys together, on each server.")
    ] = None,
    candidates_per_day: Annotated[str | None, typer.Option(help="Candidates ranked per UTC day.")] = None,
    events_per_day: Annotated[str | None, typer.Option(help="Feedback events accepted per UTC day.")] = None,
    users: Annotated[str | None, typer.Option(help="Number of users with feedback.")] = None,
    ranking_bytes: Annotated[
        str | None, typer.Option(help="Bytes of stored rankings, of which the oldest are removed.")
    ] = None,
    data_dir: DataDir = None,
    store_url: StoreUrl = None,
) -> None:
    """Change settings of a tenant. Settings that are not given stay. `none` restores the server's setting."""
    from pydantic import ValidationError

    from penchant.service.access.limits import TenantSettings, find_own_settings, put_settings

    _check_tenant(tenant)
    options: dict[str, Any] = {
        "keep_texts": keep_texts,
        "retention_days": retention_days,
        "requests_per_minute": requests_per_minute,
        "candidates_per_day": candidates_per_day,
        "events_per_day": events_per_day,
        "users": users,
        "ranking_bytes": ranking_bytes,
    }
    changes = {
        name: None if value == "none" else value for name, value in options.items() if value is not None
    }
    with open_store(data_dir, store_url, create=True) as store, store.writing() as connection:
        try:
            settings = TenantSettings(**find_own_settings(connection, tenant).model_dump() | changes)
        except ValidationError as error:
            faults = [f"--{str(e['loc'][0]).replace('_', '-')}: {e['msg']}" for e in error.errors()]
            stop("; ".join(faults))
        put_settings(connection, tenant, settings, time.time())
    typer.echo(json.dumps({"tenant": tenant, **settings.model_dump()}))


@tenants_app.command("show")
def show_tenant(tenant: Tenant, data_dir: DataDir = None, store_url: StoreUrl = None) -> None:
    """Show a tenant's settings and its usage today (UTC), as JSON."""
    from penchant.service.access.limits import Tenancy
    from penchant.service.store import keys

    tenancy = Tenancy(read_settings(data_dir, store_url))
    with open_store(data_dir, store_url, create=True) as store, store.reading() as connection:
        tenancy.load(keys.find_tenant_settings(connection))
        usage = keys.find_usage(connection, int(time.time() // _DAY), [tenant])
        users = keys.count_users(connection, [tenant])[tenant]
    today = {kind: amount for (_, kind), amount in usage.items()}
    settings = tenancy.get(tenant).model_dump()
    typer.echo(json.dumps({"tenant": tenant, "settings": settings, "today": today, "users": users}, indent=2))


@tenants_app.command("list")
def list_tenants(data_dir: DataDir = None, store_url: StoreUrl = None, as_json: Json = False) -> None:
    """List the tenants that have a key or settings of their own."""
    from penchant.service.store import keys

    with open_store(data_dir, store_url, create=True) as store, store.reading() as connection:
        settings = keys.find_tenant_settings(connection)
        stored = keys.list_keys(connection)
    valid = [key.tenant for key in stored if key.revoked_at is None]
    names = sorted({*settings, *(key.tenant for key in stored)})
    if as_json:
        rows = [
            {"tenant": name, "keys": valid.count(name), "settings": settings.get(name, {})} for name in names
        ]
        typer.echo(json.dumps(rows))
        return
    table = Table("tenant", "valid keys", "settings of its own")
    for name in names:
        own = ", ".join(f"{field}={value}" for field, value in settings.get(name, {}).items())
        table.add_row(name, str(valid.count(name)), own)
    out.print(table)


def _check_tenant(tenant: str) -> None:
    from penchant.service.access.limits import find_tenant_name_error

    if fault := find_tenant_name_error(tenant):
        stop(fault)


def _key_json(key: "StoredKey") -> dict[str, Any]:
    """Return a key without its hash."""
    return {
        "key_id": key.key_id,
        "tenant": key.tenant,
        "scopes": list(key.scopes),
        "name": key.name,
        "created_at": _format_time(key.created_at),
        "revoked_at": _format_time(key.revoked_at) or None,
    }


def _format_time(seconds: float | None) -> str:
    return "" if seconds is None else format_rfc3339(seconds, whole_seconds=True)
