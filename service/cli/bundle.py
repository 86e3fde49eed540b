"""The `penchant bundle` commands, which show and export bundles."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from penchant.service.cli.inputs import (
    Device,
    Json,
    bundle_folder,
    load_bundle,
    load_bundle_extractor,
    read_judgements,
    read_texts,
)
from penchant.service.cli.tables import print_inspection, print_manifest
from penchant.service.cli.terminal import INTERRUPTED, Report, out, progress, stop

if TYPE_CHECKING:
    from penchant.models.bundle import Bundle

bundle_app = typer.Typer(help="Show and export bundles, the trained models on disk.", no_args_is_help=True)

BundlePath = Annotated[
    Path | None, typer.Argument(metavar="BUNDLE", help="Folder of the bundle. The shipped one by default.")
]


@bundle_app.command("show")
def show(
    path: BundlePath = None,
    on: Annotated[
        Path | None,
        typer.Option(help="Judgements, as for `fit`, from which to show example texts of each taste."),
    ] = None,
    examples: Annotated[
        int, typer.Option(min=0, help="Number of texts at each end of a taste, with --on.")
    ] = 2,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Show what a bundle was fitted on, how its model was chosen, and what its tastes mean."""
    bundle = load_bundle(path)
    inspection = bundle.manifest.metrics.get("inspection")
    if on is not None:
        with progress() as report:
            inspection = _inspect(bundle, on, report, examples=examples, device=device)
    if as_json:
        manifest = json.loads((bundle_folder(path) / "manifest.json").read_text("utf-8"))
        typer.echo(json.dumps({**manifest, "inspection": inspection}, indent=2, ensure_ascii=False))
        return
    print_manifest(bundle)
    if inspection is not None:
        print_inspection(inspection)


def _inspect(
    bundle: "Bundle", on: Path, report: Report, *, examples: int, device: str
) -> dict[str, Any] | None:
    """Inspect the bundle's tastes on other judgements."""
    from penchant.models.encoding.extract import extract_features
    from penchant.models.export import find_tastes
    from penchant.models.training import inspect_reward_model

    judgements = read_judgements(on, report)
    vectors = extract_features(
        judgements, load_bundle_extractor(bundle, report, precision="float32", device=device), report
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
        typer.Option(help="Judgements, as for `fit`. Writes each user's state after these judgements."),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(help="JSON Lines with `text` and `context`. Writes each text's coordinates."),
    ] = None,
    kind: Annotated[
        Literal["npz", "safetensors"], typer.Option("--format", help="Format of the arrays.")
    ] = "npz",
    device: Device = "auto",
) -> None:
    """Write a bundle, users and texts as plain arrays, for use without penchant."""
    from penchant.models.encoding.extract import extract_features, extract_text_features
    from penchant.models.explain.text_map import ExplanationError
    from penchant.models.export import export_model, export_texts, export_users, save_model, save_rows

    bundle = load_bundle(path)
    try:
        with progress() as report:
            written = save_model(export_model(bundle), out_path, kind=kind)
            extractor = (
                load_bundle_extractor(bundle, report, precision="float32", device=device)
                if users or texts
                else None
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
