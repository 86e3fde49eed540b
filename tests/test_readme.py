"""Every snippet of the README and its companions runs, in order, against a real server, and prints the stated output.

    UPDATE_README=1 scripts/test tests/test_readme.py     writes the printed output into the documents

A `bash` or `python` fence is run unless the line before it is `<!-- not run: why -->`. A `json` or `text` fence that
follows it holds its output. Ids, times and versions are not compared. Numbers may differ by 0.02 because processors
round differently. For the same reason the rows of archetypes and the attributes of a taste are only required to exist:
in a fit they change places with the last digit.
"""

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx
import pytest

from penchant.service.cli import demo

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCUMENTS = (README, ROOT / "docs" / "fit-your-own.md")
ADDRESS = "http://127.0.0.1:8642"
FENCE = re.compile(
    r"(?P<skip><!-- not run: [^\n]+ -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)```\n"
    r"(?:\n```(?P<kind>json|text)\n(?P<output>.*?)```\n)?",
    re.DOTALL,
)
NOT_COMPARED = [
    (r"\b(rank|score|best)_[-_0-9A-Za-z]{16,}", r"\1_…"),
    (r"\bb-[0-9a-f]{16}", "b-…"),
    (r" +\d+\.\d%", " …%"),
    (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "…Z"),
    (r"(?m)^│ \d │ +\d+% (│ [-+]\d\.\d ± \d\.\d )+│ [^│]+│\n(│ +│ +│( +│)+ [^│]+│\n)*", "an archetype\n"),
    (r"│ [^│]+ \d\.\d\d ± \d\.\d\d +│\n", "│ an attribute │\n"),
    (r"│ +│ +│ +│ +│ (an attribute|and \d+ more attributes +) ?│\n", ""),
]
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
TOLERANCE = 0.02


@dataclass(frozen=True)
class Snippet:
    """A fence that is run, and the position of its output in the document."""

    language: str
    code: str
    output: str | None
    span: tuple[int, int]


def snippets(document: Path) -> list[Snippet]:
    found = FENCE.finditer(document.read_text("utf-8"))
    return [
        Snippet(m["language"], m["code"], m["output"], m.span("output")) for m in found if m["skip"] is None
    ]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of `penchant serve` in a separate process, with defaults except for the port and the data folder."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    command = [sys.executable, "-m", "penchant.service.cli.main", "serve", "--port", str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--data-dir", str(folder / "data")],
            stdout=log,
            stderr=log,
            cwd=folder,
        )
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while True:
            assert process.poll() is None, (folder / "log").read_text("utf-8")
            assert time.monotonic() < deadline, (folder / "log").read_text("utf-8")
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                with pytest.raises(subprocess.TimeoutExpired):  # still starting: try again
                    process.wait(timeout=0.1)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def outputs_of(server: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], list[str]]:
    """Returns the output of each snippet of a document. Each document is run once, in any order of the tests."""
    return cache(lambda document: _run(document, server, tmp_path_factory.mktemp("reader")))


def _run(document: Path, server: str, folder: Path) -> list[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PENCHANT_BASE_URL": server, "COLUMNS": "110", "NO_COLOR": "1"}
    printed = []
    for snippet in snippets(document):
        code = snippet.code.replace(ADDRESS, server)
        shell = ["bash", "-euo", "pipefail", "-c"] if snippet.language == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*shell, code],
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{snippet.code}\n{done.stdout}\n{done.stderr}"
        lines = [line.rstrip() for line in done.stdout.replace(server, ADDRESS).splitlines()]
        printed.append("\n".join(lines) + "\n" if lines else "")
    if os.environ.get("UPDATE_README"):
        update(document, printed)
    return printed


def update(document: Path, printed: list[str]) -> None:
    text = document.read_text("utf-8")
    for snippet, output in reversed(list(zip(snippets(document), printed, strict=True))):
        if snippet.output is not None:
            start, end = snippet.span
            text = text[:start] + output + text[end:]
    document.write_text(text, encoding="utf-8")


def comparable(output: str) -> tuple[str, list[float]]:
    for pattern, replacement in NOT_COMPARED:
        output = re.sub(pattern, replacement, output)
    return NUMBER.sub("#", output), [float(number) for number in NUMBER.findall(output)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)
def test_each_document_has_snippets(document: Path) -> None:
    found = snippets(document)
    assert {snippet.language for snippet in found} == {"bash", "python"}
    assert sum(snippet.output is not None for snippet in found) >= 4
    assert shutil.which("curl"), "the README's requests are made with curl"


def test_the_demo_matches_the_readme() -> None:
    stated = {}
    for snippet in snippets(README):
        if snippet.language == "python":
            for node in ast.parse(snippet.code).body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).isupper():
                    stated[ast.unparse(node.targets[0])] = ast.literal_eval(node.value)
    assert stated == {
        "QUESTION": demo.QUESTION,
        "CANDIDATES": list(demo.CANDIDATES),
        "PREFERENCES": list(demo.PREFERENCES),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("document", "number"),
    [
        pytest.param(document, number, id=f"{document.stem}-{number}")
        for document in DOCUMENTS
        for number in range(len(snippets(document)))
    ],
)
def test_a_snippet_prints_the_documented_output(
    outputs_of: Callable[[Path], list[str]], document: Path, number: int
) -> None:
    outputs = outputs_of(document)
    stated = snippets(document)[number].output
    if stated is None:
        assert outputs[number] == "", f"it prints something that {document.name} does not show"
        return
    text, numbers = comparable(stated)
    printed_text, printed_numbers = comparable(outputs[number])
    assert printed_text == text
    assert printed_numbers == pytest.approx(numbers, abs=TOLERANCE)


@pytest.mark.slow
def test_the_users_of_the_tour_get_different_orders(outputs_of: Callable[[Path], list[str]]) -> None:
    """As the tour claims, the longest answer beats the shortest for one user only, and what answers nothing is last."""
    (tour,) = [output for output in outputs_of(README) if output.startswith("anybody")]
    orders = {
        line.split()[0]: [int(n) for n in re.findall(r"(\d+)w", line)] for line in tour.splitlines()[:3]
    }
    lengths = sorted(len(text.split()) for text in demo.CANDIDATES[:5])
    for line in tour.splitlines()[:3]:
        assert re.findall(r"\d+([w?])", line) == ["w"] * 5 + ["?"] * 2
    assert sorted(orders["ben"]) == sorted(orders["cleo"]) == lengths
    assert orders["ben"].index(lengths[-1]) < orders["ben"].index(lengths[0])
    assert orders["cleo"].index(lengths[0]) < orders["cleo"].index(lengths[-1])
    assert orders["ben"][0] > orders["cleo"][0]
