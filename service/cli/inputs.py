"""Inputs of commands: judgements, texts, bundles and encoders. A fault in one ends the command with one line."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from penchant.service.cli.terminal import INTERRUPTED, Report, note, out, stop

if TYPE_CHECKING:
    from penchant.models.bundle import Bundle
    from penchant.models.checkpoint import Checkpoint
    from penchant.models.encoding.encoder import Pooling, Precision
    from penchant.models.encoding.features import FeatureExtractor
    from penchant.models.judgements.judgement import Judgement

Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto: CUDA if available.")]
EncoderOption = Annotated[
    str,
    typer.Option(
        "--encoder", help="Text encoder: 'embedded', or the name or folder of a Hugging Face model."
    ),
]
MaxWindows = Annotated[
    int,
    typer.Option(
        "--max-windows",
        min=1,
        max=64,
        help="Most windows of 256 tokens in which a long text is read. The rest of the text is cut off.",
    ),
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_REPORT_LINES: int = 10_000
"""Lines between two reports of progress."""


def read_judgements(path: Path, report: Report) -> "list[Judgement]":
    """Read all judgements of a file, or of the data.jsonl(.gz) in a folder, line by line."""
    from penchant.models.judgements.files import read, with_scales
    from penchant.models.judgements.lines import JudgementError

    file, stage = judgement_file(path), f"read {set_name(path)}"
    judgements: list[Judgement] = []
    try:
        for judgement in read(file):
            judgements.append(judgement)
            if len(judgements) % _REPORT_LINES == 0:
                report(stage, len(judgements), 0)
    except JudgementError as error:
        stop(error)
    if not judgements:
        stop(f"{file} holds no judgement")
    return with_scales(judgements)


def judgement_file(path: Path) -> Path:
    """Return the file itself, or the file of judgements in a folder."""
    if not path.is_dir():
        return path
    packed = path / "data.jsonl.gz"
    return packed if packed.is_file() else path / "data.jsonl"


def set_name(path: Path) -> str:
    """Return the name of the judgements in a file or folder."""
    from penchant.models.judgements.files import source_name

    return source_name(judgement_file(path))


def describe_judgements(path: Path, judgements: "Sequence[Judgement]") -> dict[str, Any]:
    """Return a manifest's entry of a set of judgements."""
    file = judgement_file(path)
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    users = len({judgement.user for judgement in judgements})
    return {"name": set_name(path), "judgements": len(judgements), "users": users, "sha256": digest}


def read_texts(path: Path) -> list[tuple[str, str]]:
    """Read the distinct (context, text) pairs of JSON Lines with `text` and an optional `context`, in file order."""
    texts: dict[tuple[str, str], None] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    texts[_parse_text(line, f"{path}:{number}")] = None
    except (OSError, UnicodeDecodeError) as error:
        stop(f"{path}: {error}")
    if not texts:
        stop(f"{path} holds no text")
    return list(texts)


def _parse_text(line: str, place: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        stop(f"{place}: the line is not valid JSON: {error}")
    text, context = (row.get("text"), row.get("context", "")) if isinstance(row, dict) else (None, "")
    if not isinstance(text, str) or not text.strip():
        stop(f"{place}: 'text' must be a string that is not empty")
    if not isinstance(context, str):
        stop(f"{place}: 'context' must be a string")
    return context, text


def load_bundle(path: Path | None) -> "Bundle":
    """Load the bundle in a folder."""
    from penchant.models.bundle import Bundle, BundleError

    try:
        return Bundle.load(bundle_folder(path))
    except BundleError as error:
        stop(error)


def bundle_folder(path: Path | None) -> Path:
    """Return the folder of a bundle, which is the shipped one if `path` is None or 'default'."""
    from penchant.models.bundle import DEFAULT_BUNDLE

    return DEFAULT_BUNDLE if path is None or (path == Path("default") and not path.exists()) else path


def load_extractor(
    name: str,
    report: Report,
    *,
    pooling: "Pooling" = "mean",
    max_tokens: int = 256,
    max_windows: int = 1,
    joint: bool = False,
    prompt_embedding: bool = False,
    precision: "Precision" = "auto",
    device: str = "auto",
    reads_prompts: bool = True,
) -> "FeatureExtractor":
    """Load a text encoder as a feature extractor, whose vectors hold the prompt's embedding if that is wanted."""
    from penchant.models.encoding.encoder import EncoderError
    from penchant.models.encoding.features import FeatureExtractor
    from penchant.models.encoding.loading import load_encoder

    report("load encoder", 0, 1)
    try:
        encoder = load_encoder(
            name,
            pooling=pooling,
            max_tokens=max_tokens,
            max_windows=max_windows,
            joint=joint,
            precision=precision,
            device=device,
        )
    except EncoderError as error:
        stop(error)
    report("load encoder", 1, 1)
    return FeatureExtractor(encoder, reads_prompts=reads_prompts, reads_prompt_embedding=prompt_embedding)


def load_bundle_extractor(
    bundle: "Bundle", report: Report, *, precision: "Precision" = "auto", device: str = "auto"
) -> "FeatureExtractor":
    """Load the feature extractor that a bundle needs."""
    card = bundle.manifest.encoder
    extractor = load_extractor(
        card.name,
        report,
        pooling="last" if card.pooling == "last" else "mean",
        max_tokens=card.max_tokens,
        max_windows=card.max_windows,
        joint=card.joint,
        prompt_embedding=card.prompt_embedding,
        precision=precision,
        device=device,
        reads_prompts=card.reads_prompts,
    )
    if extractor.identity != card.features:
        stop(f"bundle {bundle.version} was fitted with encoder {card.name!r}, but with other weights")
    return extractor


def open_checkpoint(folder: Path, *, resume: bool, **parts: object) -> "Checkpoint":
    """Open the checkpoint of an interrupted run of the same work in the folder, or a new one.

    Raises:
        CheckpointError: If the folder holds something else, or cannot be read.
    """
    from penchant.models.checkpoint import Checkpoint, CheckpointMismatchError, compute_fingerprint

    versions = {package: version(package) for package in ("penchant", "torch", "numpy", "scipy")}
    identity = compute_fingerprint(versions=versions, **parts)
    try:
        checkpoint = Checkpoint(folder, identity) if resume else Checkpoint.start_over(folder, identity)
    except CheckpointMismatchError as error:
        stop(f"{error}: repeat that command to resume it, or start over with --no-resume")
    if checkpoint.stages:
        note(f"resuming from {folder}")
    return checkpoint


@contextmanager
def resumable(work: Path, *expected: type[Exception]) -> Iterator[None]:
    """Run work that saves its progress in a folder. Ctrl-C and expected errors end the command with one line."""
    try:
        yield
    except KeyboardInterrupt:
        saved = f"progress is saved in {work}; repeat the command to resume"
        stop(f"interrupted: {saved if work.exists() else 'nothing was done yet'}", INTERRUPTED)
    except expected as error:
        stop(error)


def save_fitted(bundle: "Bundle", folder: Path, checkpoint: "Checkpoint") -> None:
    """Save a bundle, print its version, and remove the checkpoint.

    Raises:
        BundleError: If the bundle cannot be written.
        CheckpointError: If the checkpoint cannot be removed.
    """
    bundle.save(folder)
    checkpoint.clear()
    out.print(f"{folder}: bundle {bundle.version}", markup=False, highlight=False)
