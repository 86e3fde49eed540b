"""The commands that read the feedback log of a store: take it elsewhere, learn a new bundle from it, learn it again."""

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

from penchant.service.cli.inputs import checkpoint_in, load_bundle, resumable, save_fitted
from penchant.service.cli.store_access import DataDir, StoreUrl, bundle_in_use, open_store, settings_of
from penchant.service.cli.tables import print_manifest
from penchant.service.cli.terminal import note, out, progress, stop

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from penchant.models.evaluation.comparison import Comparison

Tenants = Annotated[
    list[str] | None, typer.Option("--tenant", help="Whose feedback; may be given more than once.")
]


def export(
    out_path: Annotated[Path, typer.Option("--out", help="File to write; .gz packs it.")],
    judgements: Annotated[
        bool, typer.Option("--judgements", help="The feedback log, in the form that `penchant fit` reads.")
    ] = False,
    tenant: Tenants = None,
    data_dir: DataDir = None,
    store_url: StoreUrl = None,
) -> None:
    """Write the feedback of a store as JSON Lines; a server may be running on it."""
    from penchant.models.files import open_atomically
    from penchant.service.log.judgements import lines
    from penchant.service.store.events import iterate_logs

    if not judgements:
        stop("say what to export: --judgements")
    left_out: Counter[str] = Counter()
    written = 0
    with open_store(data_dir, store_url) as store, store.reading() as connection:
        tenants = chosen_tenants(connection, tenant)
        try:
            with open_atomically(out_path) as whole, packed(whole, out_path) as file:
                for owner in tenants:
                    prefix = f"{owner}/" if len(tenants) > 1 else ""
                    for line in lines(iterate_logs(connection, owner), prefix, left_out):
                        file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                        written += 1
        except OSError as error:
            stop(error)
    out.print(f"{out_path}: {written} judgements", markup=False, highlight=False, soft_wrap=True)
    for why, number in sorted(left_out.items()):
        note(f"{number} left out: {why}")


@contextmanager
def packed(file: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    """The file itself, or one that packs into it where the path ends in .gz."""
    if path.suffix != ".gz":
        yield file
        return
    with gzip.GzipFile(path.stem, "wb", fileobj=file, mtime=0) as pack:
        yield cast("IO[bytes]", pack)


def chosen_tenants(connection: "Connection", given: Sequence[str] | None) -> list[str]:
    """The tenants that were named; where none was, the only one there is. Several are never mixed unasked."""
    from penchant.service.store.events import count_events

    found = count_events(connection)
    if not found:
        stop("the store holds no feedback")
    if given:
        missing = [tenant for tenant in given if tenant not in found]
        if missing:
            stop(f"no feedback of tenant {missing[0]!r}; there is feedback of {', '.join(found)}")
        return list(dict.fromkeys(given))
    if len(found) > 1:
        told = ", ".join(f"{tenant} ({number} events)" for tenant, number in found.items())
        stop(f"the store holds feedback of several tenants, {told}: name with --tenant those that are meant")
    return list(found)


def fit_from_store(
    *,
    tenant: Sequence[str] | None,
    data_dir: Path | None,
    store_url: str | None,
    current: Path | None,
    out_path: Path,
    name: str,
    split: Literal["cold", "warm"],
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    work: Path,
    resume: bool,
) -> None:
    """`penchant fit --from-store`."""
    from penchant.models.bundle import BundleError
    from penchant.models.checkpoint import CheckpointError
    from penchant.models.fitting.em import FitOptions
    from penchant.service.bundles.new_bundle import TooLittleError, fit_new
    from penchant.service.log.judgements import read_judgements

    options = FitOptions(seed=seed, device=device)
    with resumable(work, BundleError, CheckpointError, TooLittleError):
        with progress() as report:
            report("read feedback", 0, 0)
            with open_store(data_dir, store_url) as store, store.reading() as connection:
                tenants = chosen_tenants(connection, tenant)
                settings = settings_of(data_dir, store_url)
                bundle = load_bundle(current) if current else bundle_in_use(connection, settings)
                found = read_judgements(connection, tenants, bundle.manifest.encoder.features)
            checkpoint = checkpoint_in(
                work,
                resume=resume,
                data=[found.sha256],
                split=split,
                features=bundle.manifest.encoder.features,
                current=bundle.version,
                options=asdict(options),
            )
            new, comparison = fit_new(
                found,
                bundle,
                name=name,
                mode=split,
                options=options,
                progress=report,
                checkpoint=checkpoint,
            )
        save_fitted(new, out_path, checkpoint)
    print_manifest(new)
    print_comparison(comparison, bundle.version)


def print_comparison(found: "Comparison", current: str) -> None:
    """Both bundles on the held-out users, and in one sentence what follows."""
    table = Table(
        title=f"The new bundle and {current} on {found.users} users held out from both",
        title_justify="left",
        caption="means over users; what the new one gains ± standard error, paired by user",
        caption_justify="left",
    )
    for column in ("k", "accuracy", "before", "gain", "log-loss", "before", "gain"):
        table.add_column(column, justify="right")
    for shot in found.shots:
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
    out.print(sentence(found), markup=False, highlight=False, soft_wrap=True)


def sentence(found: "Comparison") -> str:
    """What the comparison says, and what to do."""
    size = f"{abs(found.gain):.4f} ± {found.gain_error:.4f} nats of log-loss, {found.users} users"
    match found.verdict:
        case "better":
            return f"The new bundle is better ({size}). Nothing was switched: `penchant upgrade` does that."
        case "worse":
            return f"The new bundle is worse ({size}). Nothing was switched, and nothing should be."
    return f"Neither bundle is measurably better ({size}). Nothing was switched; more feedback will tell."


def replay(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's users.")] = None,
    user: Annotated[str | None, typer.Option(help="Only this user; with --tenant.")] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Save what the log says where it differs.")
    ] = False,
    bundle: Annotated[
        Path | None, typer.Option(help="The bundle whose states are compared; the one in use unless given.")
    ] = None,
    data_dir: DataDir = None,
    store_url: StoreUrl = None,
) -> None:
    """Learn every user again from the log and compare with what is saved; exit code 1 where it differs.

    A server may be running on the store: states that it has not saved yet are caught up before they are compared.
    """
    import time

    from penchant.service.users.fold import Fold
    from penchant.service.users.states import Forgetting
    from penchant.service.users.verify import TOLERANCE
    from penchant.service.users.verify import replay as replay_store

    if user is not None and tenant is None:
        stop("--user goes with --tenant")
    settings = settings_of(data_dir, store_url)
    with open_store(data_dir, store_url) as store, progress() as report:
        with store.reading() as connection:
            loaded = load_bundle(bundle) if bundle else bundle_in_use(connection, settings)
        fold = Fold(
            loaded.reward,
            Forgetting(settings.forgetting_half_life_days),
            loaded.version,
            loaded.manifest.encoder.features,
        )
        found = replay_store(
            store,
            fold,
            as_of=time.time(),
            tenant=tenant,
            user=user,
            repair=repair,
            progress=lambda done: report("replay", done, 0),
        )
    out.print(
        f"{loaded.version}: {found.users} users, {found.equal} equal, {found.different} different, {found.behind} "
        f"behind (caught up first), {found.lacking} lacking features, {found.repaired} repaired; largest difference "
        f"{found.largest:.2g} (equal up to {TOLERANCE:g})",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if found.different and not repair:
        raise typer.Exit(1)
