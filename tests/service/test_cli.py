"""The command line: what it prints where, how it refuses, and that its commands do what they say."""

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from penchant.models import encoder
from penchant.models.bundle import Bundle
from penchant.models.encoder import HashingEncoder
from penchant.models.features import FeatureExtractor
from penchant.models.testing import tiny_bundle
from penchant.service.commands import app

WORDS = ["tea", "rain", "moon", "bread", "river", "stone", "lamp", "garden", "paper", "music"]


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def hashing(monkeypatch: pytest.MonkeyPatch) -> FeatureExtractor:
    """The weight-free encoder in place of the one with weights."""
    monkeypatch.setattr(encoder, "load_encoder", lambda *_args, **_options: HashingEncoder())
    return FeatureExtractor(HashingEncoder())


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 users rate 30 texts each: half of them like long texts, half short ones."""
    rng = random.Random(7)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(2, 40))) + "." for _ in range(60)]
    lines = []
    for number in range(40):
        sign = 1 if number % 2 else -1
        for text in rng.sample(texts, 30):
            rating = 5.5 + sign * (len(text.split()) - 20) / 5 + rng.gauss(0, 0.5)
            row = {"user": f"u{number}", "context": "Which?", "item": text, "scale": [1, 10]}
            lines.append(json.dumps({**row, "rating": min(10.0, max(1.0, rating))}))
    folder = tmp_path_factory.mktemp("sets") / "lengths"
    folder.mkdir()
    with gzip.open(folder / "data.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines))
    return folder


def test_version_and_help() -> None:
    assert run("--version").stdout == "penchant 0.1.0\n"
    assert {"serve", "fit", "evaluate", "bundle", "demo"} <= set(run("--help").stdout.split())


def test_help_does_not_load_torch() -> None:
    code = (
        "import sys; from penchant.service.commands import app\n"
        "try: app(['evaluate', '--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


def test_evaluate_prints_json_and_nothing_else_on_stdout(hashing: FeatureExtractor, ratings: Path) -> None:
    result = run("evaluate", ratings, "--split", "warm", "--repetitions", 1, "--json")
    report = json.loads(result.stdout)
    assert (report["set"], report["split"], report["repetitions"]) == ("lengths", "warm", 1)
    assert report["users"] > 5
    assert [point["k"] for point in report["curve"]] == [0, 3, 10, 30, 100]
    for point in report["curve"]:
        assert {"accuracy", "log_loss", "accuracy_interval", "calibration_error"} <= set(point)
        low, high = point["accuracy_interval"]
        assert 0 <= low <= high <= 1
    assert "repetition 1/1" in result.stderr


def test_fit_writes_a_bundle_that_evaluate_and_show_read(
    hashing: FeatureExtractor, ratings: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "lengths-bundle"
    fitted = run("fit", ratings, "--out", folder)
    bundle = Bundle.load(folder)
    assert bundle.version in fitted.stdout
    assert bundle.manifest.name == "lengths-bundle"
    assert bundle.manifest.data[0]["name"] == "lengths"
    assert (bundle.manifest.data[0]["judgements"], bundle.manifest.data[0]["users"]) == (1200, 40)

    evaluated = run("evaluate", ratings, "--split", "cold", "--bundle", folder, "--repetitions", 1)
    assert bundle.version in evaluated.stdout
    assert "log-loss" in evaluated.stdout

    assert bundle.version in run("bundle", "show", folder).stdout
    manifest = json.loads(run("bundle", "show", folder, "--json").stdout)
    assert manifest["version"] == bundle.version


def test_a_bad_line_is_named_by_file_and_number(hashing: FeatureExtractor, tmp_path: Path) -> None:
    file = tmp_path / "judgements.jsonl"
    file.write_text('{"user": "u", "item": "t", "rating": 1}\n{"user": "u", "item": "t", "rating": "x"}\n')
    for command in (("evaluate", file, "--split", "cold"), ("fit", file, "--out", tmp_path / "b")):
        result = run(*command, code=2)
        assert f"{file}:2: 'rating' must be a finite number" in result.stderr
        assert result.stdout == ""


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        (b"", "holds no judgement"),
        (b"\xff\xfe", ":1: not UTF-8"),
        (b'{"user": "u"', ":1: not JSON"),
        (b'{"user": "u", "item": "t", "rating": 1, "scale": [0, 1]}\n', "no unseen user"),
    ],
)
def test_files_that_cannot_be_evaluated(
    hashing: FeatureExtractor, tmp_path: Path, content: bytes | None, problem: str
) -> None:
    file = tmp_path / "judgements.jsonl"
    if content is not None:
        file.write_bytes(content)
    result = run("evaluate", file, "--split", "cold", code=2)
    assert problem in result.stderr
    assert result.stdout == ""


def test_a_damaged_gzip_file_is_refused(hashing: FeatureExtractor, tmp_path: Path) -> None:
    file = tmp_path / "judgements.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"user": "u", "item": "t", "rating": 1}\n' * 999)[:-20])
    assert str(file) in run("evaluate", file, "--split", "cold", code=2).stderr


@pytest.mark.parametrize(
    "command", [("bundle", "show"), ("evaluate", "x.jsonl", "--split", "cold", "--bundle")]
)
def test_a_missing_bundle_is_refused(command: tuple[str, ...], tmp_path: Path) -> None:
    result = run(*command, tmp_path / "nothing", code=2)
    assert "cannot read bundle" in result.stderr


def test_a_bundle_of_another_encoder_is_refused(
    hashing: FeatureExtractor, ratings: Path, tmp_path: Path
) -> None:
    other = tiny_bundle(FeatureExtractor(HashingEncoder(32)))
    other.save(tmp_path / "other")
    result = run("evaluate", ratings, "--split", "cold", "--bundle", tmp_path / "other", code=2)
    assert "was fitted with encoder" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"), [(["--port", "70000"], "port"), (["--host", "0.0.0.0"], "PENCHANT_API_KEY")]
)
def test_serve_refuses_what_it_must(arguments: list[str], problem: str, tmp_path: Path) -> None:
    code = 2 if problem == "port" else 1
    result = run("serve", "--data-dir", tmp_path, *arguments, code=code)
    assert problem in result.stderr


def test_serve_names_its_data_folder(tmp_path: Path) -> None:
    # A process of its own: a server's logging is set up once and for all.
    options = ["--data-dir", str(tmp_path / "users"), "--bundle", str(tmp_path / "nothing")]
    command = [sys.executable, "-m", "penchant.service.cli", "serve", *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1
    assert f"data folder: {tmp_path / 'users'}" in result.stderr
    assert "The bundle cannot be loaded" in result.stderr
    assert "Traceback" not in result.stderr


def test_demo_walks_through_and_leaves_no_user(live: str) -> None:
    result = run("demo", "--base-url", live)
    assert "How do I keep basil alive" in result.stdout
    assert result.stdout.count(" 3w Sun and water.") == 3


def test_demo_without_a_server_says_how_to_start_one() -> None:
    result = run("demo", "--base-url", "http://127.0.0.1:1", code=1)
    assert "`make serve`" in result.stderr
