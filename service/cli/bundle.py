"""The commands for bundles: show what one holds, export it for use elsewhere."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from penchant.service.cli.inputs import (
    Device,
    Json,
    bundle_folder,
    extractor_of,
    load_bundle,
    read_judgements,
    read_texts,
)
from penchant.service.cli.tables import print_inspection, print_manifest
from penchant.service.cli.terminal import INTERRUPTED, Report, out, progress, stop

if TYPE_CHECKING:
    from penchant.models.bundle import Bundle

bundle_app = typer.Typer(help="Trained models on disk.", no_args_is_help=True)

BundlePath = Annotated[
    Path | None, typer.Argument(metavar="[BUNDLE]", help="A bundle's folder; the shipped one unless given.")
]


@bundle_app.command("show")
def show(
    path: BundlePath = None,
    on: Annotated[
        Path | None,
        typer.Option(help="Judgements to look at it on, as for `fit`: shows texts that tell of each taste."),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Texts at each end of a taste, with --on.")] = 2,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Show what a bundle was fitted on, why it was chosen so, and what its tastes mean."""
    bundle = load_bundle(path)
    found = bundle.manifest.metrics.get("inspection")
    if on is not None:
        with progress() as report:
            found = _inspected(bundle, on, report, examples=examples, device=device)
    if as_json:
        manifest = json.loads((bundle_folder(path) / "manifest.json").read_text("utf-8"))
        typer.echo(json.dumps({**manifest, "inspection": found}, indent=2, ensure_ascii=False))
        return
    print_manifest(bundle)
    if found is not None:
        print_inspection(found)


def _inspected(
    bundle: "Bundle", on: Path, report: Report, *, examples: int, device: str
) -> dict[str, Any] | None:
    """What the bundle holds, its own tastes seen on other judgements."""
    from penchant.models.encoding.extract import extract_features
    from penchant.models.export import find_tastes
    from penchant.models.training import inspect_reward_model

    judgements = read_judgements(on, report)
    vectors = extract_features(
        judgements, extractor_of(bundle, report, precision="float32", device=device), report
    )
    axes = find_tastes(bundle) if bundle.manifest.metrics.get("inspection") else None
    return inspect_reward_model(bundle.reward, judgements, vectors, axes=axes, examples=examples)


@bundle_app.command("export")
def export(
    path: BundlePath = None,
    *,
    out_path: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
    users: Annotated[
        Path | None,
        typer.Option(help="Judgements, as for `fit`: writes what is known of each user after theirs."),
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(help="JSON Lines of `text` and `context`: writes where each text stands.")
    ] = None,
    kind: Annotated[Literal["npz", "safetensors"], typer.Option("--format", help="Of the arrays.")] = "npz",
    device: Device = "auto",
) -> None:
    """Write a bundle as plain arrays, users and texts, for use without penchant."""
    from penchant.models.encoding.extract import extract_features, extract_text_features
    from penchant.models.explain.text_map import ExplanationError
    from penchant.models.export import export_model, export_texts, export_users, save_model, save_rows

    bundle = load_bundle(path)
    try:
        with progress() as report:
            written = save_model(export_model(bundle), out_path, kind=kind)
            extractor = (
                extractor_of(bundle, report, precision="float32", device=device) if users or texts else None
            )
            if users and extractor:
                judgements = read_judgements(users, report)
                vectors = extract_features(judgements, extractor, report)
                rows = export_users(bundle, judgements, vectors, report)
                written.append(save_rows(rows, out_path / "users.jsonl"))
            if texts and extractor:
                items = read_texts(texts)
                rows = export_texts(bundle, items, extract_text_features(items, extractor, report))
                written.append(save_rows(rows, out_path / "texts.jsonl"))
    except (ExplanationError, OSError) as error:
        stop(error)
    except KeyboardInterrupt:
        stop("interrupted", INTERRUPTED)
    for file in written:
        out.print(str(file), markup=False, highlight=False, soft_wrap=True)
