"""The commands for data: fit a model to judgements, evaluate one, show what one holds."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from penchant.service.console import Report, out, progress, stop

if TYPE_CHECKING:
    from penchant.models.bundle import Bundle
    from penchant.models.encoder import Pooling
    from penchant.models.features import FeatureExtractor
    from penchant.models.judgements import Judgement

bundle_app = typer.Typer(help="Trained models on disk.", no_args_is_help=True)

Split = Literal["cold", "warm"]

Data = Annotated[
    Path, typer.Argument(help="Judgements: a .jsonl or .jsonl.gz file, or a folder with data.jsonl.gz.")
]
SplitOption = Annotated[Split, typer.Option(help="cold: the texts to rank are new. warm: they recur.")]
Encoder = Annotated[
    str, typer.Option(help="Text encoder: 'embedded', or a Hugging Face model by name or folder.")
]


def fit(
    data: Annotated[
        list[Path],
        typer.Argument(help="Judgements: .jsonl or .jsonl.gz files, or folders with data.jsonl.gz."),
    ],
    out_path: Annotated[Path, typer.Option("--out", help="Folder to write the bundle to.")],
    name: Annotated[str | None, typer.Option(help="Its name; the folder's unless given.")] = None,
    split: SplitOption = "cold",
    encoder: Encoder = "embedded",
) -> None:
    """Fit a bundle to judgements."""
    from penchant.models.bundle import BundleError
    from penchant.models.training import fit_bundle

    with progress() as report:
        sets = [_read(path, report) for path in data]
        extractor = _extractor(encoder, report)
        bundle = fit_bundle(
            [judgement for judgements in sets for judgement in judgements],
            extractor,
            name=name or out_path.resolve().name,
            mode=split,
            data=[_described(path, judgements) for path, judgements in zip(data, sets, strict=True)],
            progress=report,
        )
    try:
        bundle.save(out_path)
    except BundleError as error:
        stop(error)
    out.print(f"{out_path}: bundle {bundle.version}", markup=False, highlight=False)
    _show(bundle)


def evaluate(
    data: Data,
    split: SplitOption,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Bundle to evaluate, or 'default'; unless given, one is fitted on the set's train part."
        ),
    ] = None,
    repetitions: Annotated[
        int, typer.Option(min=1, help="How many random splits the figures are the mean of.")
    ] = 5,
    encoder: Encoder = "embedded",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """How well are new users' next comparisons predicted after k of their own judgements?"""
    from penchant.models.bundle import BundleError
    from penchant.models.training import NothingToEvaluateError
    from penchant.models.training import evaluate as evaluate_set

    loaded = None if bundle is None else _load(bundle)
    with progress() as report:
        judgements = _read(data, report)
        extractor = _extractor(encoder, report) if loaded is None else _extractor_of(loaded, report)
        try:
            found = evaluate_set(
                judgements,
                extractor,
                name=_set_name(_file(data)),
                mode=split,
                repetitions=repetitions,
                bundle=loaded,
                progress=report,
            )
        except (BundleError, NothingToEvaluateError) as error:
            stop(error)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    table = Table(
        title=f"{found.set}, {found.split}: {found.users} users, mean of {found.repetitions}",
        caption=found.bundle,
    )
    for column in ("k", "accuracy", "95 %", "log-loss", "95 %", "calibration error", "made worse"):
        table.add_column(column, justify="right")
    for point in found.curve:
        table.add_row(
            str(point.k),
            f"{point.accuracy:.3f}",
            _interval(point.accuracy_interval),
            f"{point.log_loss:.4f}",
            _interval(point.log_loss_interval),
            f"{point.calibration_error:.3f}",
            f"{point.harmed:.1%}",
        )
    out.print(table)


@bundle_app.command("show")
def show(
    path: Annotated[
        Path | None, typer.Argument(help="A bundle's folder; the shipped one unless given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Show what a bundle was fitted on, and how well it does."""
    from penchant.models.bundle import DEFAULT_BUNDLE

    folder = path or DEFAULT_BUNDLE
    bundle = _load(folder)
    if as_json:
        typer.echo((folder / "manifest.json").read_text("utf-8").rstrip())
    else:
        _show(bundle)


def _read(path: Path, report: Report) -> "list[Judgement]":
    from penchant.models.judgements import JudgementError, read, with_scales

    file = _file(path)
    judgements: list[Judgement] = []
    try:
        for judgement in read(file, source=_set_name(file)):
            judgements.append(judgement)
            if len(judgements) % 10_000 == 0:
                report(f"read {_set_name(file)}", len(judgements), 0)
    except JudgementError as error:
        stop(error)
    if not judgements:
        stop(f"{file}: holds no judgement")
    return with_scales(judgements)


def _file(path: Path) -> Path:
    """The file itself, or the one in the folder."""
    if not path.is_dir():
        return path
    packed = path / "data.jsonl.gz"
    return packed if packed.is_file() else path / "data.jsonl"


def _set_name(file: Path) -> str:
    stem = file.name.removesuffix(".gz").removesuffix(".jsonl")
    return file.resolve().parent.name if stem == "data" else stem


def _described(path: Path, judgements: "Sequence[Judgement]") -> dict[str, Any]:
    file = _file(path)
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    users = len({judgement.user for judgement in judgements})
    return {"name": _set_name(file), "judgements": len(judgements), "users": users, "sha256": digest}


def _load(path: Path) -> "Bundle":
    from penchant.models.bundle import DEFAULT_BUNDLE, Bundle, BundleError

    try:
        return Bundle.load(DEFAULT_BUNDLE if path == Path("default") and not path.exists() else path)
    except BundleError as error:
        stop(error)


def _extractor(
    name: str, report: Report, *, pooling: "Pooling" = "mean", max_tokens: int = 256, joint: bool = False
) -> "FeatureExtractor":
    from penchant.models.encoder import EncoderError, load_encoder
    from penchant.models.features import FeatureExtractor

    report("load encoder", 0, 1)
    try:
        extractor = FeatureExtractor(load_encoder(name, pooling=pooling, max_tokens=max_tokens, joint=joint))
    except EncoderError as error:
        stop(error)
    report("load encoder", 1, 1)
    return extractor


def _extractor_of(bundle: "Bundle", report: Report) -> "FeatureExtractor":
    card = bundle.manifest.encoder
    return _extractor(
        card.name,
        report,
        pooling="last" if card.pooling == "last" else "mean",
        max_tokens=card.max_tokens,
        joint=card.joint,
    )


def _show(bundle: "Bundle") -> None:
    manifest, reward = bundle.manifest, bundle.reward
    table = Table(show_header=False, title=f"{manifest.name} {bundle.version}", title_justify="left")
    table.add_row(
        "encoder",
        f"{manifest.encoder.name}, {manifest.encoder.pooling} pooling, {manifest.encoder.max_tokens} tokens",
    )
    table.add_row("reads", "prompt and text together" if manifest.encoder.joint else "the text alone")
    table.add_row("taste", f"{reward.rank} directions learned, {reward.q} coordinates a user")
    for entry in manifest.data:
        table.add_row("data", _lines(entry))
    for name, figures in manifest.metrics.items():
        table.add_row(name, _lines(figures))
    out.print(table)


def _lines(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_inline(entry)}" for key, entry in value.items())
    return _inline(value)


def _inline(value: object) -> str:
    return (
        f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    )


def _interval(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.3f} – {bounds[1]:.3f}"
