"""The commands that read a store's feedback log: `penchant export`, `fit --from-store` and `replay`."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Literal, cast

import typer
from rich.table import Table

from penchant.service.cli.inputs import load_bundle, open_checkpoint, resumable, save_fitted
from penchant.service.cli.store_access import (
    DataDir,
    StoreUrl,
    build_served_fold,
    load_current_bundle,
    open_store,
    read_settings,
)
from penchant.service.cli.tables import print_manifest
from penchant.service.cli.terminal import note, out, progress, stop

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from penchant.models.evaluation.comparison import Comparison
    from penchant.models.fitting.em import FitOptions
    from penchant.models.fitting.gates import GateOption

Tenants = Annotated[
    list[str] | None, typer.Option("--tenant", help="Tenant whose feedback is used. May be repeated.")
]


def export(
    out_path: Annotated[Path, typer.Option("--out", help="File to write, compressed if it ends in .gz.")],
    judgements: Annotated[
        bool,
        typer.Option("--judgements", help="Export the feedback log in the format that `penchant fit` reads."),
    ] = False,
    tenant: Tenants = None,
    data_dir: DataDir = None,
    store_url: StoreUrl = None,
) -> None:
    """Write a store's feedback as JSON Lines. A server may be running."""
    from penchant.models.files import open_atomically
    from penchant.service.log.judgements import iterate_lines

    if not judgements:
        stop("name what to export: --judgements")
    left_out: Counter[str] = Counter()
    written = 0
    with open_store(data_dir, store_url, patient=True) as store, store.reading() as connection:
        tenants = choose_tenants(connection, tenant)
        try:
            with open_atomically(out_path) as whole, compress(whole, out_path) as file:
                for owner in tenants:
                    prefix = f"{owner}/" if len(tenants) > 1 else ""
                    for line in iterate_lines(connection, owner, prefix, left_out):
                        file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                        written += 1
        except OSError as error:
            stop(error)
    out.print(f"{out_path}: {written} judgements", markup=False, highlight=False, soft_wrap=True)
    for why, number in sorted(left_out.items()):
        note(f"{number} left out: {why}")


@contextmanager
def compress(file: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    """Open a file that compresses into `file` if the path ends in .gz, or else `file` itself."""
    if path.suffix != ".gz":
        yield file
        return
    with gzip.GzipFile(path.stem, "wb", fileobj=file, mtime=0) as pack:
        yield cast("IO[bytes]", pack)


def choose_tenants(connection: "Connection", given: Sequence[str] | None) -> list[str]:
    """Return the named tenants, or else the only tenant. Several tenants are mixed only if they are named."""
    from penchant.service.store.events import count_events

    events = count_events(connection)
    if not events:
        stop("the store holds no feedback")
    if given:
        missing = [tenant for tenant in given if tenant not in events]
        if missing:
            stop(f"there is no feedback of tenant {missing[0]!r}, only of {', '.join(events)}")
        return list(dict.fromkeys(given))
    if len(events) > 1:
        counts = ", ".join(f"{tenant} ({number} events)" for tenant, number in events.items())
        stop(f"the store holds feedback of several tenants: {counts}. Name the ones to use with --tenant")
    return list(events)


def fit_from_store(
    *,
    tenant: Sequence[str] | None,
    data_dir: Path | None,
    store_url: str | None,
    current: Path | None,
    out_path: Path,
    name: str,
    split: Literal["cold", "warm"],
    options: "FitOptions",
    work: Path,
    resume: bool,
    gate: "GateOption",
) -> None:
    """Run `penchant fit --from-store`."""
    from penchant.models.bundle import BundleError
    from penchant.models.checkpoint import CheckpointError
    from penchant.models.fitting.gates import GateError
    from penchant.service.bundles.new_bundle import TooLittleError, fit_new
    from penchant.service.log.judgements import read_judgements

    with resumable(work, BundleError, CheckpointError, GateError, TooLittleError):
        with progress() as report:
            report("read feedback", 0, 0)
            with open_store(data_dir, store_url, patient=True) as store, store.reading() as connection:
                tenants = choose_tenants(connection, tenant)
                settings = read_settings(data_dir, store_url)
                bundle = load_bundle(current) if current else load_current_bundle(connection, settings)
                card = bundle.manifest.encoder
                feedback = read_judgements(
                    connection,
                    tenants,
                    card.features,
                    card.match,
                    reads_prompt_embedding=card.prompt_embedding or bool(gate),
                )
            checkpoint = open_checkpoint(
                work,
                resume=resume,
                data=[feedback.sha256],
                split=split,
                features=bundle.manifest.encoder.features,
                current=bundle.version,
                gate=gate,
                options=asdict(options),
            )
            new, comparison = fit_new(
                feedback,
                bundle,
                name=name,
                mode=split,
                options=options,
                gate=gate,
                progress=report,
                checkpoint=checkpoint,
            )
        save_fitted(new, out_path, checkpoint)
    print_manifest(new)
    print_comparison(comparison, bundle.version)


def print_comparison(comparison: "Comparison", current: str) -> None:
    """Print the figures of both bundles on the held-out users, and a conclusion."""
    table = Table(
        title=f"The new bundle and {current} on {comparison.users} users held out from both",
        title_justify="left",
        caption="means over users; gains of the new bundle ± standard error, paired by user",
        caption_justify="left",
    )
    for column in ("k", "accuracy", "before", "gain", "log-loss", "before", "gain"):
        table.add_column(column, justify="right")
    for shot in comparison.shots:
        table.add_row(
            str(shot.k),
            f"{shot.accuracy:.3f}",
            f"{shot.current_accuracy:.3f}",
            f"{shot.accuracy_gain:+.3f} ± {shot.accuracy_error:.3f}",
            f"{shot.log_loss:.4f}",
            f"{shot.current_log_loss:.4f}",
            f"{shot.log_loss_gain:+.4f} ± {shot.log_loss_error:.4f}",
        )
    out.print("", table)
    out.print(conclude(comparison), markup=False, highlight=False, soft_wrap=True)


def conclude(comparison: "Comparison") -> str:
    """Return the conclusion of a comparison, and what to do."""
    size = (
        f"{abs(comparison.gain):.4f} ± {comparison.gain_error:.4f} nats of log-loss, {comparison.users} users"
    )
    match comparison.verdict:
        case "better":
            return f"The new bundle is better ({size}). Nothing was switched. Switch with `penchant upgrade`."
        case "worse":
            return f"The new bundle is worse ({size}). Nothing was switched. Keep the current bundle."
    return f"Neither bundle is measurably better ({size}). Nothing was switched. Collect more feedback."


def replay(
    tenant: Annotated[str | None, typer.Option(help="Replay only this tenant's users.")] = None,
    user: Annotated[str | None, typer.Option(help="Replay only this user. Needs --tenant.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Replace saved states that differ.")] = False,
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle whose states are compared. The active one by default.")
    ] = None,
    data_dir: DataDir = None,
    store_url: StoreUrl = None,
) -> None:
    """Learn every user again from the log and compare with the saved states. Exits with 1 if any differs.

    A server may be running. States that it has not saved yet are caught up before they are compared.
    """
    import time

    from penchant.service.users.verify import TOLERANCE
    from penchant.service.users.verify import replay as replay_store

    if user is not None and tenant is None:
        stop("--user needs --tenant")
    settings = read_settings(data_dir, store_url)
    with open_store(data_dir, store_url, patient=True) as store, progress() as report:
        with store.reading() as connection:
            loaded = load_bundle(bundle) if bundle else load_current_bundle(connection, settings)
        fold = build_served_fold(loaded, settings)
        result = replay_store(
            store,
            fold,
            now=time.time(),
            tenant=tenant,
            user=user,
            repair=repair,
            progress=lambda done: report("replay", done, 0),
        )
    out.print(
        f"{fold.bundle_version}: {result.users} users, {result.equal} equal, {result.different} different, "
        f"{result.behind} behind (caught up first), {result.lacking} lacking features, {result.repaired} repaired; "
        f"largest difference {result.largest:.2g} (equal up to {TOLERANCE:g})",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for line in result.shortfall.describe():
        note(line)
    if result.different and not repair:
        raise typer.Exit(1)
