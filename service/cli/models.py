"""The commands `penchant fit` and `penchant evaluate`."""

import json
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer
from rich.table import Table

from penchant.service.cli.inputs import (
    Device,
    EncoderOption,
    Json,
    MaxWindows,
    describe_judgements,
    load_bundle,
    load_bundle_extractor,
    load_extractor,
    open_checkpoint,
    read_judgements,
    resumable,
    save_fitted,
    set_name,
)
from penchant.service.cli.learning import Tenants, fit_from_store
from penchant.service.cli.store_access import DataDir, StoreUrl
from penchant.service.cli.tables import print_manifest
from penchant.service.cli.terminal import INTERRUPTED, out, progress, stop

if TYPE_CHECKING:
    from penchant.models.evaluation.report import Report as EvaluationReport
    from penchant.models.fitting.gates import GateOption

MAX_RELEVANCE: Final = 100.0

Split = Literal["cold", "warm"]

Data = Annotated[
    Path, typer.Argument(help="Judgements: a .jsonl or .jsonl.gz file, or a folder with data.jsonl.gz.")
]
SplitOption = Annotated[Split, typer.Option(help="cold: texts to rank are new. warm: they recur.")]


def fit(
    data: Annotated[
        list[Path] | None,
        typer.Argument(help="Judgements: .jsonl or .jsonl.gz files, or folders with data.jsonl.gz."),
    ] = None,
    *,
    from_store: Annotated[
        bool,
        typer.Option(
            "--from-store",
            help="Fit to a store's feedback instead of files, and compare the result with --current.",
        ),
    ] = False,
    tenant: Tenants = None,
    data_dir: DataDir = None,
    store_url: StoreUrl = None,
    current: Annotated[
        Path | None,
        typer.Option(
            help="With --from-store: folder of the current bundle, or 'default'. By default PENCHANT_BUNDLE, "
            "or else the store's active bundle."
        ),
    ] = None,
    out_path: Annotated[Path, typer.Option("--out", help="Folder to write the bundle to.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the bundle. The folder's name by default.")
    ] = None,
    split: SplitOption = "cold",
    encoder: EncoderOption = "embedded",
    max_windows: MaxWindows = 1,
    precision: Annotated[
        Literal["float32", "bfloat16", "auto"],
        typer.Option(
            help="Precision of the encoder. auto: the faster one here, which may differ from run to run."
        ),
    ] = "float32",
    seed: Annotated[int, typer.Option(help="Seed. Equal data, options and seed give an equal bundle.")] = 0,
    gate: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help="Let taste depend on the kind of prompt, by so many numbers. 0: no. auto: only if it predicts "
            "held-out users measurably better.",
        ),
    ] = "0",
    relevance: Annotated[
        str,
        typer.Option(
            metavar="W|auto",
            help="Weight of the rule that an answer to the prompt beats an answer to another prompt, relative to the "
            "judgements. auto: as much as the judgements allow. Try 5 if requests mix in texts that do not answer.",
        ),
    ] = "auto",
    device: Device = "auto",
    work: Annotated[
        Path | None,
        typer.Option(help="Folder for the progress, removed at the end. OUT.work by default."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Resume an interrupted run, or start over.")
    ] = True,
) -> None:
    """Fit a bundle to judgements. After Ctrl-C the same command resumes."""
    from penchant.models.bundle import BundleError
    from penchant.models.checkpoint import CheckpointError
    from penchant.models.encoding.encoder import EncoderError
    from penchant.models.fitting.em import FitOptions
    from penchant.models.fitting.gates import GateError
    from penchant.models.training import fit_bundle

    target = out_path.resolve()
    if target.exists() and not target.is_dir():
        stop(f"{out_path} already exists and is not a folder")
    folder = work or target.with_name(target.name + ".work")
    wanted = _parse_gate(gate)
    options = FitOptions(seed=seed, device=device, mismatched_weights=_parse_relevance(relevance))
    if from_store == bool(data):
        stop("name files of judgements, or give --from-store" + (", but not both" if data else ""))
    if from_store:
        fit_from_store(
            tenant=tenant,
            data_dir=data_dir,
            store_url=store_url,
            current=current,
            out_path=out_path,
            name=name or target.name,
            split=split,
            options=options,
            work=folder,
            resume=resume,
            gate=wanted,
        )
        return
    with resumable(folder, BundleError, CheckpointError, EncoderError, GateError):
        with progress() as report:
            sets = [read_judgements(path, report) for path in data or ()]
            cards = [
                describe_judgements(path, judgements)
                for path, judgements in zip(data or (), sets, strict=True)
            ]
            extractor = load_extractor(
                encoder,
                report,
                max_windows=max_windows,
                prompt_embedding=bool(wanted),
                precision=precision,
                device=device,
            )
            checkpoint = open_checkpoint(
                folder,
                resume=resume,
                data=cards,
                split=split,
                features=extractor.identity,
                precision=precision,
                gate=wanted,
                options=asdict(options),
            )
            bundle = fit_bundle(
                list(chain.from_iterable(sets)),
                extractor,
                name=name or target.name,
                mode=split,
                options=options,
                gate=wanted,
                data=cards,
                progress=report,
                checkpoint=checkpoint,
            )
        save_fitted(bundle, out_path, checkpoint)
    print_manifest(bundle)


def _parse_gate(value: str) -> "GateOption":
    from penchant.models.fitting.gates import MAX_GATE

    if value == "auto":
        return "auto"
    if not value.isascii() or not value.isdigit() or int(value) > MAX_GATE:
        stop(f"--gate must be 'auto' or a number from 0 to {MAX_GATE}, not {value!r}")
    return int(value)


def _parse_relevance(value: str) -> dict[int, float] | None:
    """Return the weight for both kinds of prompt."""
    if value == "auto":
        return None
    try:
        weight = float(value)
    except ValueError:
        weight = -1.0
    if not 0 <= weight <= MAX_RELEVANCE:
        stop(f"--relevance must be 'auto' or a number from 0 to {MAX_RELEVANCE:g}, not {value!r}")
    return {0: weight, 1: weight}


def evaluate(
    data: Data,
    split: SplitOption,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Bundle to evaluate, or 'default'. By default one is fitted on the training part of the data."
        ),
    ] = None,
    repetitions: Annotated[
        int, typer.Option(min=1, help="Number of random splits over which figures are averaged.")
    ] = 5,
    encoder: EncoderOption = "embedded",
    max_windows: MaxWindows = 1,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure how well new users' comparisons are predicted after k of their own judgements."""
    from penchant.models.bundle import BundleError
    from penchant.models.fitting.em import FitOptions
    from penchant.models.training import NothingToEvaluateError
    from penchant.models.training import evaluate as evaluate_set

    loaded = None if bundle is None else load_bundle(bundle)
    try:
        with progress() as report:
            judgements = read_judgements(data, report)
            extractor = (
                load_extractor(encoder, report, max_windows=max_windows, device=device)
                if loaded is None
                else load_bundle_extractor(loaded, report, device=device)
            )
            result = evaluate_set(
                judgements,
                extractor,
                name=set_name(data),
                mode=split,
                repetitions=repetitions,
                bundle=loaded,
                options=FitOptions(device=device),
                progress=report,
            )
    except (BundleError, NothingToEvaluateError) as error:
        stop(error)
    except KeyboardInterrupt:
        stop("interrupted", INTERRUPTED)
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
    else:
        out.print(_curve_table(result))


def _curve_table(result: "EvaluationReport") -> Table:
    table = Table(
        title=f"{result.set}, {result.split}: {result.users} users, mean of {result.repetitions}",
        caption=result.bundle,
    )
    for column in ("k", "accuracy", "95 %", "log-loss", "95 %", "calibration error", "made worse"):
        table.add_column(column, justify="right")
    for point in result.curve:
        table.add_row(
            str(point.k),
            f"{point.accuracy:.3f}",
            _interval(point.accuracy_interval),
            f"{point.log_loss:.4f}",
            _interval(point.log_loss_interval),
            f"{point.calibration_error:.3f}",
            f"{point.harmed:.1%}",
        )
    return table


def _interval(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.3f} – {bounds[1]:.3f}"
