"""The commands of `penchant`. Each imports what it needs when it runs, so that help does not load torch."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from penchant import Client, PenchantError
from penchant.service.cli.bundle import bundle_app
from penchant.service.cli.demo import CANDIDATES, PREFERENCES, QUESTION, walk
from penchant.service.cli.keys import keys_app, tenants_app
from penchant.service.cli.learning import export, replay
from penchant.service.cli.models import evaluate, fit
from penchant.service.cli.store import backup, doctor, restore
from penchant.service.cli.store_access import DataDir, read_settings
from penchant.service.cli.terminal import err, out, stop
from penchant.service.cli.upgrade import rollback, upgrade

app = typer.Typer(
    help="Learns what each user likes and ranks text for them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(fit)
app.command()(evaluate)
app.command()(export)
app.command()(replay)
app.command()(doctor)
app.command()(backup)
app.command()(restore)
app.command()(upgrade)
app.command()(rollback)
app.add_typer(bundle_app, name="bundle")
app.add_typer(keys_app, name="keys")
app.add_typer(tenants_app, name="tenants")


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"penchant {version('penchant')}", highlight=False)
        raise typer.Exit


@app.callback()
def _common(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Learns what each user likes and ranks text for them."""


@app.command()
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. Any other than loopback needs a key.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle to rank with. The shipped one by default.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Start the server, on 127.0.0.1:8642 by default. PENCHANT_* variables set what no option does."""
    settings = read_settings(data_dir, host=host, port=port, bundle=bundle)
    from penchant.service.claims import StartError, claim

    try:
        claims = claim(settings)
    except StartError as error:
        stop(error, code=1)
    err.print(
        f"data folder: {settings.data_dir.resolve()}\n"
        f"address:     http://{settings.host}:{settings.port} (ready when /readyz answers 200; press Ctrl-C to stop)",
        markup=False,
        highlight=False,
    )
    # Importing this takes seconds, and loading the encoder takes more.
    from penchant.service.server import run

    try:
        run(settings, claims=claims)
    except StartError as error:
        stop(error, code=1)


@app.command()
def openapi() -> None:
    """Print the OpenAPI document of the HTTP API, which is also docs/openapi.json."""
    # Importing the whole service takes a second, and only this command and `serve` need it.
    from penchant.service.api.openapi import build_document, serialize_document
    from penchant.service.app import create_app
    from penchant.service.telemetry.metrics import Tracing

    settings = read_settings(None)
    sys.stdout.buffer.write(
        serialize_document(build_document(create_app(settings, tracing=Tracing()), settings))
    )


@app.command()
def demo(
    base_url: Annotated[
        str | None, typer.Option(help="Address of the server. PENCHANT_BASE_URL by default.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="API key of the server. PENCHANT_API_KEY by default.")
    ] = None,
) -> None:
    """Run the README's tour against a running server."""
    try:
        with Client(base_url=base_url, api_key=api_key) as client:
            if not client.ready():
                stop("the server is up but not ready", code=1)
            tour = walk(client)
    except PenchantError as error:
        stop(f"{error}\nIs a server running? Start one with `make serve` or `penchant serve`.", code=1)
    after = f"after {len(PREFERENCES)} preferences for"
    table = Table(title=QUESTION, caption="best first: relevance score, length in words, text")
    for column in ("before, for anyone", f"{after} long answers", f"{after} short answers"):
        table.add_column(column, ratio=1, no_wrap=True)
    for row in zip(tour.before.results, tour.long.results, tour.short.results, strict=True):
        texts = [CANDIDATES[result.index] for result in row]
        lines = zip(row, texts, strict=True)
        table.add_row(*(f"{r.relevance_score:.3f} {len(t.split()):2}w {t}" for r, t in lines))
    out.print(table)
