"""The command `python -m benchmarks.serving.encoder`. It measures documents per second by backend, in this process.

The anchor is a typical hand-written implementation: transformers' model in float32 on torch, with texts in their given
order, in batches padded to the longest text, and torch's threads sharing each batch. The backends take turns in every
round, and ratios are taken within rounds. On CUDA all of them compute there, the anchor included, and growing batches
show at which size the device is saturated.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import torch
import typer

from benchmarks.machine import accelerator
from benchmarks.serving import encoder_backends, encoder_report, saturation
from benchmarks.serving.encoder_backends import ANCHOR, Anchor
from benchmarks.serving.encoder_starts import starts
from benchmarks.serving.saturation import Peak
from penchant.models.encoding.features import TwoStepEncoder

Figures = dict[str, Any]
Device = Literal["auto", "cpu", "cuda"]

BUSY_WORK: Final = "16 × 128 tokens"
_WORDS: Final = (
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
)


@dataclass(frozen=True)
class Work:
    """Texts to encode.

    Attributes:
        name: Name in the table.
        lengths: `[n]` words, each of which is one token; two special tokens are added.
        batch: Number of texts that the anchor pads together.
    """

    name: str
    lengths: tuple[int, ...]
    batch: int

    def texts(self) -> list[str]:
        """Return texts with these numbers of words."""
        return [" ".join(_WORDS[(i + j) % len(_WORDS)] for j in range(n)) for i, n in enumerate(self.lengths)]


def works() -> list[Work]:
    """Return work with equal lengths at several batch sizes, and work with unsorted mixed lengths."""
    same = [
        Work(f"{n} × {length} tokens", (length - 2,) * n, n)
        for n, length in [(1, 128), (16, 32), (16, 128), (64, 64)]
    ]
    mixed = np.random.default_rng(0).lognormal(3.6, 0.9, 64).clip(3, 254).astype(int)
    return [*same, Work("64 of 5 to 256 tokens, batches of 32", tuple(mixed.tolist()), 32)]


def measured(
    work: Work, anchor: Anchor, encoders: Mapping[str, TwoStepEncoder], rounds: int, seconds: float
) -> dict[str, Any]:
    """Return the seconds of every backend in every round. No further round starts when the time is up."""
    tokens = next(iter(encoders.values())).tokenize(work.texts())
    runs: dict[str, Callable[[], object]] = {ANCHOR: lambda: anchor(tokens, work.batch)}
    runs |= {name: partial(encoder.encode_tokens, tokens) for name, encoder in encoders.items()}
    for run in runs.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    for i in range(rounds):
        for name, run in runs.items():
            taken[name].append(_timed(run))
        if i >= 2 and time.perf_counter() > end:
            break
    tokenizing = [_timed(lambda: next(iter(encoders.values())).tokenize(work.texts())) for _ in range(3)]
    return {
        "work": work.name,
        "documents": len(work.lengths),
        "tokens": int(tokens.lengths.sum()),
        "rounds": len(taken[ANCHOR]),
        "tokenizing_seconds": statistics.median(tokenizing),
        "backends": {
            name: _summary(times, taken[ANCHOR], len(work.lengths)) for name, times in taken.items()
        },
    }


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _summary(times: Sequence[float], anchors: Sequence[float], documents: int) -> dict[str, float]:
    ratios = sorted(anchor / own for anchor, own in zip(anchors, times, strict=True))
    return {
        "documents_a_second": documents / statistics.median(times),
        "ratio": statistics.median(ratios),
        "ratio_least": ratios[0],
        "ratio_most": ratios[-1],
    }


@contextmanager
def busy_core(*, busy: bool) -> Iterator[None]:
    """Run another process that tries to use one core fully."""
    if not busy:
        yield
        return
    process = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _spin() -> None:
    while True:
        pass


def on_processor(threads: Sequence[int], rounds: int, seconds: float) -> tuple[list[Figures], dict[str, str]]:
    """Measure every kind of work with each number of threads, and one again while another process uses a core."""
    found: list[Figures] = []
    absent: dict[str, str] = {}
    for number in threads:
        serving, absent = encoder_backends.on_processor(number)
        anchor = Anchor(number)
        for busy in (False, True):
            with busy_core(busy=busy):
                for work in works():
                    if busy and work.name != BUSY_WORK:
                        continue
                    one = measured(work, anchor, serving, rounds, seconds)
                    found.append({"threads": number, "busy": busy, **one})
                    print(number, "busy" if busy else "", encoder_report.line(one), flush=True)
    return found, absent


def on_device(
    device: str, rounds: int, seconds: float, sizes: Sequence[int], peaks: Mapping[str, Peak]
) -> tuple[list[Figures], dict[str, str], Figures]:
    """Measure work and growing batches on a device. Return figures, reasons for absent ones, and saturation."""
    serving, absent = encoder_backends.on_torch(device)
    anchor = Anchor(1, device)
    found: list[Figures] = []
    for work in works():
        one = measured(work, anchor, {name: b.encoder for name, b in serving.items()}, rounds, seconds)
        found.append({"threads": 1, "busy": False, **one})
        print(encoder_report.line(one), flush=True)
    return found, absent, saturation.measured(serving, device, sizes=sizes, peaks=peaks)


def peaks_of(text: str) -> dict[str, Peak]:
    """Parse peaks such as `float32=67,bfloat16=989`. An empty text gives none.

    Raises:
        typer.BadParameter: If the text has another form.
    """
    try:
        named = [one.split("=") for one in text.split(",") if one]
        peaks = {precision: Peak(float(tflops), "from the data sheet") for precision, tflops in named}
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} must have the form float32=67,bfloat16=989") from error
    if not peaks.keys() <= {"float32", "bfloat16"} or not all(peak.tflops > 0 for peak in peaks.values()):
        raise typer.BadParameter(f"{text!r} must give positive TFLOP/s of float32 or bfloat16")
    return peaks


def main(
    *,
    device: Annotated[Device, typer.Option(help="auto uses CUDA if it is available.")] = "auto",
    threads: Annotated[str, typer.Option(help="Numbers of cores, separated by commas. Not on CUDA.")] = "1,2",
    rounds: Annotated[int, typer.Option(min=3, help="Rounds of each kind of work.")] = 7,
    seconds: Annotated[float, typer.Option(min=0, help="Time after which no further round begins.")] = 10.0,
    sizes: Annotated[
        str, typer.Option(help="On CUDA: batch sizes in documents, ascending, with commas.")
    ] = ",".join(map(str, saturation.SIZES)),
    peak_tflops: Annotated[
        str, typer.Option(help="On CUDA: peaks such as float32=67,bfloat16=989. Default: measured.")
    ] = "",
    out: Annotated[Path, typer.Option(help="Path of the results, without extension.")] = Path(
        "benchmarks/results/encoder"
    ),
) -> None:
    """Measure the encoder's backends. It takes minutes, bounded by `seconds` for each kind of work."""
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise typer.BadParameter("this machine has no CUDA device")
    if has_cuda and device != "cpu":
        batches, peaks = [int(size) for size in sizes.split(",")], peaks_of(peak_tflops)
        found, absent, saturated = on_device("cuda", rounds, seconds, batches, peaks)
        encoder_report.write(
            found, absent, starts(1, "cuda"), out, ANCHOR, accelerator=accelerator(), saturation=saturated
        )
    else:
        numbers = [int(number) for number in threads.split(",")]
        found, absent = on_processor(numbers, rounds, seconds)
        encoder_report.write(found, absent, starts(max(numbers), "cpu"), out, ANCHOR)
    print(out.with_suffix(".md").read_text("utf-8"))


if __name__ == "__main__":
    typer.run(main)
