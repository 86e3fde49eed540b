"""The commands that change which bundle ranks: another is made ready and activated, or the one before takes over again.

They write into the store. Its servers do the work; where none runs, the next one does as it starts.
"""

import json
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.table import Table

from penchant.service.cli.inputs import Json, load_bundle
from penchant.service.cli.store_access import DataDir, StoreUrl, open_store, settings_of
from penchant.service.cli.terminal import INTERRUPTED, note, out, progress, stop

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from penchant.models.bundle import Bundle
    from penchant.service.store.bundles import StoredBundle
    from penchant.service.store.database import Store

Force = Annotated[bool, typer.Option("--force", help="Although PENCHANT_BUNDLE pins the servers' bundle.")]

_LOOK_SECONDS: Final = 0.25
_HISTORY: Final = 10


def upgrade(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="[BUNDLE]", help="Folder of the bundle to rank with.")
    ] = None,
    status: Annotated[
        bool,
        typer.Option("--status", help="Show which bundle ranks, and how far another is; change nothing."),
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until it ranks, or was given up.")] = False,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Although judgements without texts say nothing to it.")
    ] = False,
    force: Force = False,
    data_dir: DataDir = None,
    store_url: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Rank with another bundle: every user is learned for it in the background, then all servers switch at once.

    Answers keep coming from the bundle in use until then. With another encoder all judged texts are read again.
    """
    if status:
        with open_store(data_dir, store_url) as store:
            _show(store, as_json=as_json)
        return
    if bundle is None:
        stop("which bundle? Name its folder, or ask with --status")
    loaded = load_bundle(bundle)
    _check_pinned(data_dir, store_url, force=force)
    with open_store(data_dir, store_url) as store:
        _begin(store, loaded, accept_loss=accept_loss)
        if wait:
            _wait(store, loaded.version)
        if as_json:
            _show(store, as_json=True)
        elif wait:
            typer.echo(f"{loaded.version} ranks")
        else:
            typer.echo(f"{loaded.version} is made ready: `penchant upgrade --status` shows how far it is")


def rollback(
    to: Annotated[
        str | None, typer.Option(help="Version to rank with again; the one before unless given.")
    ] = None,
    force: Force = False,
    data_dir: DataDir = None,
    store_url: StoreUrl = None,
) -> None:
    """Rank with the bundle before again; or, while another is still made ready, call that off."""
    _check_pinned(data_dir, store_url, force=force)
    with open_store(data_dir, store_url) as store, store.writing() as connection:
        said = _go_back(connection, to)
    for line in said:
        typer.echo(line)


def _go_back(connection: "Connection", to: str | None) -> list[str]:
    """Changes what ranks; what there is to say of it once that is durable."""
    from penchant.service.store import activations, bundles

    active, coming, now = activations.find_active(connection), bundles.find_preparing(connection), time.time()
    said = []
    if coming is not None:
        bundles.mark_failed(connection, coming, "called off", now=now)
        said = [f"{coming} is called off"]
        if to in (None, active):
            return [*said, f"{active} goes on ranking"]
    target = to or activations.find_previous(connection)
    if target is None:
        stop("there is no bundle to go back to", code=1)
    if target == active:
        stop(f"{target} ranks already", code=1)
    found = bundles.find_bundle(connection, target)
    if found is None or found.status != "ready":
        stop(f"the store holds no bundle {target} that has ranked", code=1)
    activations.activate(connection, target, now=now)
    return [*said, f"{target} ranks again; servers follow in a moment"]


def _check_pinned(data_dir: Path | None, store_url: str | None, *, force: bool) -> None:
    pinned = settings_of(data_dir, store_url).bundle
    if pinned is not None and not force:
        stop(
            f"PENCHANT_BUNDLE={pinned} pins what servers rank with: they would not follow. Unset it there and "
            "here, or give --force if it is set here alone",
            code=1,
        )


def _begin(store: "Store", bundle: "Bundle", *, accept_loss: bool) -> None:
    """Hands the bundle to the servers."""
    from penchant.service.bundles.stored_bundles import pack_bundle
    from penchant.service.store import activations, bundles

    features = bundle.manifest.encoder.features
    with store.reading() as connection:
        version = activations.find_active(connection)
        before = None if version is None else bundles.find_bundle(connection, version)
    if version == bundle.version:
        stop(f"{version} ranks already", code=1)
    if before is None or before.extractor != features:
        note(f"{bundle.version} reads texts with another encoder: all judged texts are encoded again")
        _check_loss(store, features, accept_loss=accept_loss)
    archive = pack_bundle(bundle)
    with store.writing() as connection:
        name, now = bundle.manifest.name, time.time()
        bundles.put_preparing(connection, bundle.version, name, features, archive, now=now)


def _check_loss(store: "Store", extractor: str, *, accept_loss: bool) -> None:
    """Judgements of which no text was kept say nothing to another encoder: that is told before anything is done."""
    from penchant.service.log.reading import judged_texts_of
    from penchant.service.store import bundles

    with store.reading() as connection:
        payloads = bundles.find_unreadable(connection, extractor)
        lost = Counter(tenant for tenant, payload in payloads if not judged_texts_of(payload))
    if not lost:
        return
    told = ", ".join(f"{number} of {tenant}" for tenant, number in sorted(lost.items()))
    said = f"judgements that were kept without texts say nothing to the new encoder: {told}"
    if not accept_loss:
        stop(f"{said}. Nothing was changed; --accept-loss goes on without them", code=1)
    note(said)


def _wait(store: "Store", version: str) -> None:
    from penchant.service.store import activations, bundles

    try:
        with progress() as report:
            while True:
                with store.reading() as connection:
                    found, active = (
                        bundles.find_bundle(connection, version),
                        activations.find_active(connection),
                    )
                if active == version:
                    return
                if found is None or found.status == "failed":
                    stop(f"{version} was given up: {'' if found is None else found.message}", code=1)
                report(
                    "users learned" if found.users_total else "a server loads it",
                    found.users_done,
                    found.users_total,
                )
                time.sleep(_LOOK_SECONDS)
    except KeyboardInterrupt:
        stop("no longer waiting; servers go on. `penchant rollback` calls it off", INTERRUPTED)


def _show(store: "Store", *, as_json: bool) -> None:
    from penchant.service.store import activations, bundles

    with store.reading() as connection:
        active, previous = activations.find_active(connection), activations.find_previous(connection)
        found, history = bundles.list_bundles(connection), activations.list_activations(connection, _HISTORY)
    if as_json:
        activated: list[dict[str, Any]] = [
            {"number": row.number, "version": row.bundle_version, "activated_at": row.activated_at}
            for row in history
        ]
        listed = [asdict(bundle) for bundle in found]
        typer.echo(
            json.dumps({"active": active, "previous": previous, "bundles": listed, "activations": activated})
        )
        return
    table = Table("version", "name", "", "users learned", "features")
    for bundle in found:
        table.add_row(
            bundle.version,
            bundle.name,
            _standing(bundle, active, previous),
            _learned(bundle),
            bundle.extractor[:8],
        )
    out.print(table)


def _standing(bundle: "StoredBundle", active: str | None, previous: str | None) -> str:
    if bundle.version == active:
        return "ranks"
    if bundle.status == "failed":
        return f"given up: {bundle.message}"
    if bundle.status == "preparing":
        return "is made ready"
    return "ranked before" if bundle.version == previous else "is removed soon"


def _learned(bundle: "StoredBundle") -> str:
    return f"{bundle.users_done:,} of {bundle.users_total:,}" if bundle.status == "preparing" else ""
