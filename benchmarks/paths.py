"""Which files a request runs through: `python -m benchmarks.paths` prints them in the order in which they are entered.

A short path is what a reader follows to understand a request. Two requests are traced against the application with the
shipped bundle: a ranking for a known user whose texts are all in memory, and one preference. A file is entered when one
of its functions is called between the request and its answer, in whatever thread. Generated code does not count.
"""

import logging
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

import structlog
from starlette.testclient import TestClient

from penchant.service.app import create_app
from penchant.service.settings import Settings

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDERS: Final = ("models", "service")
TEXTS: Final = ("Bread.", "Rye bread with seeds.", "A loaf that took two days.", "Toast!")
RANKING: Final = {"user": "ana", "query": "Which bread?", "documents": TEXTS}
PREFERENCE: Final = {
    "type": "preference", "user": "ana", "prompt": "Which bread?", "chosen": TEXTS[1], "rejected": TEXTS[0],
}  # fmt: skip


@dataclass
class Trace:
    """The files that a request entered.

    Attributes:
        files: Files in the order in which they were first entered, relative to the repository.
        callers: For each folder, the files outside it that called into it.
    """

    files: list[str] = field(default_factory=list)
    callers: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    @property
    def folders(self) -> list[str]:
        """Folders of the files, in the order in which they were first entered."""
        return list(dict.fromkeys(str(Path(file).parent) for file in self.files))


class Tracer:
    """Records the files that are entered while `record` is active, in every thread that starts after `install`."""

    def __init__(self) -> None:
        self._names: dict[str, str | None] = {}
        self._trace: Trace | None = None
        self._lock = threading.Lock()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Trace this thread and all that start while the context is open."""
        before, before_threads = sys.getprofile(), threading.getprofile()
        threading.setprofile(self._on_event)
        sys.setprofile(self._on_event)
        try:
            yield
        finally:
            sys.setprofile(before)
            threading.setprofile(before_threads)

    def record(self, request: Callable[[], object]) -> Trace:
        """Return the files that a request enters."""
        trace = self._trace = Trace()
        try:
            request()
        finally:
            self._trace = None
        return trace

    def _on_event(self, frame: FrameType, event: str, _argument: object) -> None:
        trace = self._trace
        if trace is None or event != "call":
            return
        file = self._name(frame)
        if file is None:
            return
        caller, above = None, frame.f_back
        while above is not None and caller is None:
            caller, above = self._name(above), above.f_back
        with self._lock:
            if file not in trace.files:
                trace.files.append(file)
            folder = str(Path(file).parent)
            if caller is not None and str(Path(caller).parent) != folder:
                trace.callers[folder].add(caller)

    def _name(self, frame: FrameType) -> str | None:
        """Return the file of a frame, relative to the repository. None if it is not one of ours."""
        raw = frame.f_code.co_filename
        if raw not in self._names:
            path = Path(raw)
            parts = path.parts
            if "penchant" in parts:  # a link in the environment, or an installed copy
                last = len(parts) - 1 - parts[::-1].index("penchant")
                path = ROOT.joinpath(*parts[last + 1 :])
            inside = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in FOLDERS
            self._names[raw] = str(path.relative_to(ROOT)) if inside else None
        return self._names[raw]


def trace_requests() -> dict[str, Trace]:
    """Return the traces of a warm ranking of a known user and of one preference."""
    tracer = Tracer()
    with (
        tempfile.TemporaryDirectory() as folder,
        tracer.installed(),
        TestClient(create_app(_settings(Path(folder)))) as client,
    ):

        def send(path: str, body: Mapping[str, object]) -> None:
            answer = client.post(path, json=body)
            if answer.is_error:
                raise RuntimeError(f"{path}: {answer.text}")

        rank, prefer = partial(send, "/v1/rerank", RANKING), partial(send, "/v1/feedback", PREFERENCE)
        for request in (rank, prefer, rank, prefer, rank):
            request()
        return {"ranking": tracer.record(rank), "preference": tracer.record(prefer)}


def _settings(folder: Path) -> Settings:
    """Return settings with which nothing else runs while a request is recorded: no late write, no poll for changes."""
    return Settings(data_dir=folder, ranking_write_delay_seconds=3600.0, change_poll_seconds=3600.0)


def main() -> None:
    """Print both paths."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    for name, trace in trace_requests().items():
        print(f"{name}: {len(trace.files)} files in {len(trace.folders)} folders")
        for file in trace.files:
            print(f"  {file}")
        for folder, callers in trace.callers.items():
            print(f"  {folder} is called from {', '.join(sorted(callers))}")


if __name__ == "__main__":
    main()
