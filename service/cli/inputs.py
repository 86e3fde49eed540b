"""What commands are given: judgements, texts, bundles, encoders. A problem with one ends the command in one line."""

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

Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto: CUDA where there is one.")]
EncoderOption = Annotated[
    str,
    typer.Option("--encoder", help="Text encoder: 'embedded', or a Hugging Face model by name or folder."),
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

EVERY: int = 10_000
"""Lines between two reports of progress."""


def read_judgements(path: Path, report: Report) -> "list[Judgement]":
    """All judgements of a file, or of the data.jsonl(.gz) in a folder; line by line."""
    from penchant.models.judgements.files import read, with_scales
    from penchant.models.judgements.lines import JudgementError

    file, stage = judgement_file(path), f"read {set_name(path)}"
    judgements: list[Judgement] = []
    try:
        for judgement in read(file):
            judgements.append(judgement)
            if len(judgements) % EVERY == 0:
                report(stage, len(judgements), 0)
    except JudgementError as error:
        stop(error)
    if not judgements:
        stop(f"{file}: holds no judgement")
    return with_scales(judgements)


def judgement_file(path: Path) -> Path:
    """The file itself, or the one in the folder."""
    if not path.is_dir():
        return path
    packed = path / "data.jsonl.gz"
    return packed if packed.is_file() else path / "data.jsonl"


def set_name(path: Path) -> str:
    """What the judgements of a file, or of a folder, are called."""
    from penchant.models.judgements.files import source_name

    return source_name(judgement_file(path))


def described(path: Path, judgements: "Sequence[Judgement]") -> dict[str, Any]:
    """A set of judgements as a manifest names it."""
    file = judgement_file(path)
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    users = len({judgement.user for judgement in judgements})
    return {"name": set_name(path), "judgements": len(judgements), "users": users, "sha256": digest}


def read_texts(path: Path) -> list[tuple[str, str]]:
    """Distinct (context, text) of JSON Lines with `text` and, where it answers something, `context`; in file order."""
    found: dict[tuple[str, str], None] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    found[_text(line, f"{path}:{number}")] = None
    except (OSError, UnicodeDecodeError) as error:
        stop(f"{path}: {error}")
    if not found:
        stop(f"{path}: holds no text")
    return list(found)


def _text(line: str, place: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        stop(f"{place}: not JSON that can be read: {error}")
    text, context = (row.get("text"), row.get("context", "")) if isinstance(row, dict) else (None, "")
    if not isinstance(text, str) or not text.strip():
        stop(f"{place}: 'text' must be a text that is not empty")
    if not isinstance(context, str):
        stop(f"{place}: 'context' must be a text")
    return context, text


def load_bundle(path: Path | None) -> "Bundle":
    """A bundle by its folder."""
    from penchant.models.bundle import Bundle, BundleError

    try:
        return Bundle.load(bundle_folder(path))
    except BundleError as error:
        stop(error)


def bundle_folder(path: Path | None) -> Path:
    """The folder of a bundle; the shipped one's where there is none, or it is called 'default'."""
    from penchant.models.bundle import DEFAULT_BUNDLE

    return DEFAULT_BUNDLE if path is None or (path == Path("default") and not path.exists()) else path


def load_extractor(
    name: str,
    report: Report,
    *,
    pooling: "Pooling" = "mean",
    max_tokens: int = 256,
    joint: bool = False,
    precision: "Precision" = "auto",
    device: str = "auto",
) -> "FeatureExtractor":
    """Features by a text encoder."""
    from penchant.models.encoding.encoder import EncoderError
    from penchant.models.encoding.features import FeatureExtractor
    from penchant.models.encoding.loading import load_encoder

    report("load encoder", 0, 1)
    try:
        encoder = load_encoder(
            name, pooling=pooling, max_tokens=max_tokens, joint=joint, precision=precision, device=device
        )
    except EncoderError as error:
        stop(error)
    report("load encoder", 1, 1)
    return FeatureExtractor(encoder)


def extractor_of(
    bundle: "Bundle", report: Report, *, precision: "Precision" = "auto", device: str = "auto"
) -> "FeatureExtractor":
    """Features as a bundle needs them."""
    card = bundle.manifest.encoder
    extractor = load_extractor(
        card.name,
        report,
        pooling="last" if card.pooling == "last" else "mean",
        max_tokens=card.max_tokens,
        joint=card.joint,
        precision=precision,
        device=device,
    )
    if extractor.identity != card.features:
        stop(f"bundle {bundle.version} was fitted with encoder {card.name!r}, and other weights of it")
    return extractor


def checkpoint_in(folder: Path, *, resume: bool, **parts: object) -> "Checkpoint":
    """What an interrupted run of the same work left in the folder, or an empty one.

    Raises:
        CheckpointError: The folder holds something else, or cannot be read.
    """
    from penchant.models.checkpoint import Checkpoint, CheckpointMismatchError, compute_fingerprint

    versions = {package: version(package) for package in ("penchant", "torch", "numpy", "scipy")}
    identity = compute_fingerprint(versions=versions, **parts)
    try:
        checkpoint = Checkpoint(folder, identity) if resume else Checkpoint.start_over(folder, identity)
    except CheckpointMismatchError as error:
        stop(f"{error}: repeat that command to go on, or start anew with --no-resume")
    if checkpoint.stages:
        note(f"going on from {folder}")
    return checkpoint


@contextmanager
def resumable(work: Path, *expected: type[Exception]) -> Iterator[None]:
    """Work that keeps in a folder what is done of it: Ctrl-C, or an error that it may meet, ends the command."""
    try:
        yield
    except KeyboardInterrupt:
        kept = f"what is done is kept in {work}; the same command goes on from there"
        stop(f"interrupted: {kept if work.exists() else 'nothing was done yet'}", INTERRUPTED)
    except expected as error:
        stop(error)


def save_fitted(bundle: "Bundle", folder: Path, checkpoint: "Checkpoint") -> None:
    """Writes a bundle and says so; what was kept of the work on it is needed no more.

    Raises:
        BundleError: It cannot be written.
        CheckpointError: What was kept cannot be removed.
    """
    bundle.save(folder)
    checkpoint.clear()
    out.print(f"{folder}: bundle {bundle.version}", markup=False, highlight=False)
