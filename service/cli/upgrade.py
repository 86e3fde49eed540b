"""The commands `penchant upgrade` and `penchant rollback`, which change the bundle that ranks.

They write to the store, and its servers do the work. If no server runs, the next one does it when it starts.
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
from penchant.service.cli.store_access import DataDir, StoreUrl, open_store, read_settings
from penchant.service.cli.terminal import INTERRUPTED, note, out, progress, stop

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from penchant.models.bundle import Bundle
    from penchant.service.store.bundles import StoredBundle
    from penchant.service.store.database import Store

Force = Annotated[
    bool, typer.Option("--force", help="Switch even if PENCHANT_BUNDLE pins the servers' bundle.")
]

_POLL_SECONDS: Final = 0.25
_HISTORY: Final = 10


def upgrade(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="BUNDLE", help="Folder of the bundle to rank with.")
    ] = None,
    status: Annotated[
        bool,
        typer.Option(
            "--status", help="Show which bundle ranks and how far the next one is. Changes nothing."
        ),
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the bundle ranks or has failed.")] = False,
    accept_loss: Annotated[
        bool,
        typer.Option("--accept-loss", help="Upgrade even if the bundle cannot use judgements without texts."),
    ] = False,
    force: Force = False,
    data_dir: DataDir = None,
    store_url: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Rank with another bundle. Every user is learned for it in the background, then all servers switch at once.

    Until then the current bundle answers. If the encoder differs, all judged texts are encoded again.
    """
    if status:
        with open_store(data_dir, store_url) as store:
            _print_status(store, as_json=as_json)
        return
    if bundle is None:
        stop("name the folder of a bundle, or give --status")
    loaded = load_bundle(bundle)
    _check_pinned(data_dir, store_url, force=force)
    with open_store(data_dir, store_url, patient=True) as store:
        _begin(store, loaded, accept_loss=accept_loss)
        if wait:
            _wait(store, loaded.version)
        if as_json:
            _print_status(store, as_json=True)
        elif wait:
            typer.echo(f"{loaded.version} ranks")
            _report_shortfall(store, loaded.version)
        else:
            typer.echo(f"{loaded.version} is being prepared. `penchant upgrade --status` shows the progress")


def rollback(
    to: Annotated[
        str | None, typer.Option(help="Version to rank with again. The previous one by default.")
    ] = None,
    force: Force = False,
    data_dir: DataDir = None,
    store_url: StoreUrl = None,
) -> None:
    """Rank with the previous bundle again. If another one is still being prepared, cancel that instead."""
    _check_pinned(data_dir, store_url, force=force)
    with open_store(data_dir, store_url) as store, store.writing() as connection:
        lines = _roll_back(connection, to)
    for line in lines:
        typer.echo(line)


def _roll_back(connection: "Connection", to: str | None) -> list[str]:
    """Change which bundle ranks, and return the lines to print after the commit."""
    from penchant.service.store import activations, bundles

    active, preparing, now = (
        activations.find_active(connection),
        bundles.find_preparing(connection),
        time.time(),
    )
    lines = []
    if preparing is not None:
        bundles.mark_failed(connection, preparing, "cancelled", now=now)
        lines = [f"{preparing} is cancelled"]
        if to in (None, active):
            return [*lines, f"{active} still ranks"]
    target = to or activations.find_previous(connection)
    if target is None:
        stop("there is no bundle to roll back to", code=1)
    if target == active:
        stop(f"{target} already ranks", code=1)
    stored = bundles.find_bundle(connection, target)
    if stored is None or stored.status != "ready":
        stop(f"the store holds no bundle {target} that has ranked", code=1)
    activations.activate(connection, target, now=now)
    return [*lines, f"{target} ranks again. Servers switch within seconds"]


def _check_pinned(data_dir: Path | None, store_url: str | None, *, force: bool) -> None:
    pinned = read_settings(data_dir, store_url).bundle
    if pinned is not None and not force:
        stop(
            f"PENCHANT_BUNDLE={pinned} pins the servers' bundle, so they would not switch. Unset it there and here, "
            "or give --force if it is set only here",
            code=1,
        )


def _begin(store: "Store", bundle: "Bundle", *, accept_loss: bool) -> None:
    """Store the bundle for the servers to prepare."""
    from penchant.service.bundles.stored_bundles import pack_bundle
    from penchant.service.store import activations, bundles

    features = bundle.manifest.encoder.features
    with store.reading() as connection:
        version = activations.find_active(connection)
        before = None if version is None else bundles.find_bundle(connection, version)
    if version == bundle.version:
        stop(f"{version} already ranks", code=1)
    card = bundle.manifest.encoder
    if before is None or before.extractor != features:
        note(f"{bundle.version} reads texts with another encoder: all judged texts are encoded again")
        _check_loss(store, features, card.window_features, accept_loss=accept_loss)
    if card.reads_prompts:
        note(f"{bundle.version} reads prompts: those of logged judgements are encoded unless they are known")
    archive = pack_bundle(bundle)
    with store.writing() as connection:
        name, now = bundle.manifest.name, time.time()
        bundles.put_preparing(connection, bundle.version, name, features, archive, now=now)


def _check_loss(store: "Store", extractor: str, window_extractor: str, *, accept_loss: bool) -> None:
    """Report judgements without texts, which the new encoder cannot use, and end the command unless accepted."""
    from penchant.service.log.reading import get_judged_texts
    from penchant.service.store import bundles

    with store.reading() as connection:
        payloads = bundles.find_unreadable(connection, extractor, window_extractor)
        lost = Counter(tenant for tenant, payload in payloads if not get_judged_texts(json.loads(payload)))
    if not lost:
        return
    counts = ", ".join(f"{number} of {tenant}" for tenant, number in sorted(lost.items()))
    problem = f"the new encoder cannot use judgements that were kept without texts: {counts}"
    if not accept_loss:
        stop(f"{problem}. Nothing was changed; --accept-loss continues without them", code=1)
    note(problem)


def _wait(store: "Store", version: str) -> None:
    from penchant.service.store import activations, bundles

    try:
        with progress() as report:
            while True:
                with store.reading() as connection:
                    bundle, active = (
                        bundles.find_bundle(connection, version),
                        activations.find_active(connection),
                    )
                if active == version:
                    return
                if bundle is None or bundle.status == "failed":
                    stop(f"{version} failed: {'' if bundle is None else bundle.message}", code=1)
                stage = "learn users" if bundle.users_total else "load bundle"
                report(stage, bundle.users_done, bundle.users_total)
                time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        stop("no longer waiting. Servers continue; cancel with `penchant rollback`", INTERRUPTED)


def _print_status(store: "Store", *, as_json: bool) -> None:
    from penchant.service.store import activations, bundles

    with store.reading() as connection:
        active, previous = activations.find_active(connection), activations.find_previous(connection)
        stored, history = bundles.list_bundles(connection), activations.list_activations(connection, _HISTORY)
    if as_json:
        activated: list[dict[str, Any]] = [
            {"number": row.number, "version": row.bundle_version, "activated_at": row.activated_at}
            for row in history
        ]
        listed = [asdict(bundle) for bundle in stored]
        typer.echo(
            json.dumps({"active": active, "previous": previous, "bundles": listed, "activations": activated})
        )
        return
    table = Table("version", "name", "", "users learned", "features", "events not used in full")
    for bundle in stored:
        table.add_row(
            bundle.version,
            bundle.name,
            _status(bundle, active, previous),
            _progress(bundle),
            bundle.extractor[:8],
            "; ".join(_describe_shortfall(bundle)),
        )
    out.print(table)


def _report_shortfall(store: "Store", version: str) -> None:
    """Print how many events the bundle could not use in full, if any."""
    from penchant.service.store import bundles

    with store.reading() as connection:
        bundle = bundles.find_bundle(connection, version)
    for line in _describe_shortfall(bundle) if bundle is not None else []:
        note(line)


def _describe_shortfall(bundle: "StoredBundle") -> list[str]:
    from penchant.service.users.completion import Shortfall

    shortfall = Shortfall(bundle.events_unmatched, bundle.events_partly_matched, bundle.events_left_out)
    return shortfall.describe()


def _status(bundle: "StoredBundle", active: str | None, previous: str | None) -> str:
    if bundle.version == active:
        return "ranks"
    if bundle.status == "failed":
        return f"failed: {bundle.message}"
    if bundle.status == "preparing":
        return "is being prepared"
    return "ranked before" if bundle.version == previous else "will be deleted"


def _progress(bundle: "StoredBundle") -> str:
    return f"{bundle.users_done:,} of {bundle.users_total:,}" if bundle.status == "preparing" else ""
