"""The command: `python -m benchmarks.serving.encoder`. Documents a second by backend, in this process.

The anchor is what one would write by hand: transformers' model in float32 on torch, texts as they come in batches padded
to the longest, torch's threads sharing each batch. All take turns in every round; ratios are taken within rounds.
"""

import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from transformers import AutoModel

from benchmarks.serving import encoder_report
from penchant.models.encoder import Encoder, EncoderError, load_encoder
from penchant.models.model_files import find
from penchant.models.tokens import Tokens

ANCHOR: Final = "torch eager float32, padded to batch"
BUSY_WORK: Final = "16 × 128 tokens"
_KINDS: Final = (
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
)
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
        name: How the table calls it.
        lengths: `[n]` words, which are tokens (two special ones come on top).
        batch: Texts that the anchor pads together.
    """

    name: str
    lengths: tuple[int, ...]
    batch: int

    def texts(self) -> list[str]:
        """That many words each."""
        return [" ".join(_WORDS[(i + j) % len(_WORDS)] for j in range(n)) for i, n in enumerate(self.lengths)]


def works() -> list[Work]:
    """Same lengths at several batch sizes, and mixed lengths as they come."""
    same = [
        Work(f"{n} × {length} tokens", (length - 2,) * n, n)
        for n, length in [(1, 128), (16, 32), (16, 128), (64, 64)]
    ]
    mixed = np.random.default_rng(0).lognormal(3.6, 0.9, 64).clip(3, 254).astype(int)
    return [*same, Work("64 of 5 to 256 tokens, batches of 32", tuple(mixed.tolist()), 32)]


class Anchor:
    """transformers' model, called by hand."""

    def __init__(self, threads: int) -> None:
        self._model = AutoModel.from_pretrained(find("embedded").folder, dtype=torch.float32).eval()
        self._threads = threads

    @torch.inference_mode()
    def __call__(self, tokens: Tokens, batch: int) -> None:
        """Mean-pooled unit vectors of all texts, in batches as they come."""
        torch.set_num_threads(self._threads)
        ends = np.cumsum(tokens.lengths)
        texts = [torch.from_numpy(tokens.ids[e - n : e]) for e, n in zip(ends, tokens.lengths, strict=True)]
        for first in range(0, len(texts), batch):
            ids = torch.nn.utils.rnn.pad_sequence(texts[first : first + batch], batch_first=True)
            mask = (ids != 0).long()
            hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
            pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
            torch.nn.functional.normalize(pooled, dim=1).numpy()


def measured(
    work: Work, anchor: Anchor, encoders: dict[str, Encoder], rounds: int, seconds: float
) -> dict[str, Any]:
    """Seconds of everyone in every round; rounds end early when the time is up."""
    tokens = next(iter(encoders.values())).tokenize(work.texts())
    runs: dict[str, Callable[[], object]] = {ANCHOR: lambda: anchor(tokens, work.batch)}
    runs |= {name: (lambda e=encoder: e.encode_tokens(tokens)) for name, encoder in encoders.items()}
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
    """Another process that takes one core, or tries to."""
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


_START: Final = """
import json, sys, time
start = time.perf_counter()
from penchant.models.encoder import load_encoder
encoder = load_encoder(backend=sys.argv[1], precision="float32", threads=int(sys.argv[2]))
encoder.encode(["ready"])
ready = time.perf_counter() - start
texts = ["word " * n for n in range(1, 250, 2)]
for _ in range(2):
    encoder.encode(texts)
status = open("/proc/self/status").read()
rss = int(status.split("VmRSS:")[1].split()[0]) * 1024
print(json.dumps({"backend": encoder.backend, "seconds": ready, "rss_bytes": rss, "torch": "torch" in sys.modules}))
"""


def starts(threads: int) -> list[dict[str, Any]]:
    """Seconds from nothing to the first vector, and memory after work, in fresh processes; the conversion is there."""
    found = []
    for backend in ("torch", "openvino"):
        command = [sys.executable, "-c", _START, backend, str(threads)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode == 0:
            found.append(dict(json.loads(done.stdout)))
    return found


def encoders_of(threads: int) -> tuple[dict[str, Encoder], dict[str, str]]:
    """Every backend that serves here by name, and why the others do not."""
    serving: dict[str, Encoder] = {}
    absent: dict[str, str] = {}
    for backend, precision in _KINDS:
        if precision == "bfloat16" and not torch.cpu._is_avx512_bf16_supported():
            absent[f"{backend} {precision}"] = "the processor does not multiply bfloat16"
            continue
        try:
            serving[f"{backend} {precision}"] = load_encoder(
                backend=backend, precision=precision, device="cpu", threads=threads
            )
        except EncoderError as error:
            absent[f"{backend} {precision}"] = str(error)
    return serving, absent


def main(
    threads: Annotated[str, typer.Option(help="Numbers of cores, with commas.")] = "1,2",
    rounds: Annotated[int, typer.Option(min=3, help="Rounds of each kind of work.")] = 7,
    seconds: Annotated[float, typer.Option(min=0, help="After which no further round of it begins.")] = 10.0,
    out: Annotated[Path, typer.Option(help="Path of the results, without ending.")] = Path(
        "benchmarks/results/encoder"
    ),
) -> None:
    """Measures the encoder's backends; minutes, bounded by `seconds` for each kind of work."""
    found: list[dict[str, Any]] = []
    absent: dict[str, str] = {}
    numbers = [int(number) for number in threads.split(",")]
    for number in numbers:
        serving, absent = encoders_of(number)
        anchor = Anchor(number)
        for busy in (False, True):
            with busy_core(busy=busy):
                for work in works():
                    if busy and work.name != BUSY_WORK:
                        continue
                    found.append(
                        {"threads": number, "busy": busy, **measured(work, anchor, serving, rounds, seconds)}
                    )
                    print(number, "busy" if busy else "", encoder_report.line(found[-1]), flush=True)
    encoder_report.write(found, absent, starts(max(numbers)), out, ANCHOR)
    print(out.with_suffix(".md").read_text("utf-8"))


if __name__ == "__main__":
    typer.run(main)
