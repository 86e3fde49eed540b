"""The command line: its output, its error messages and the effects of its commands."""

import gzip
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from penchant.models.bundle import Bundle
from penchant.models.encoding import loading
from penchant.models.encoding.encoder import Encoding
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.testing import tiny_bundle
from penchant.service.cli.app import app

WORDS = ["tea", "rain", "moon", "bread", "river", "stone", "lamp", "garden", "paper", "music"]


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def hashing(monkeypatch: pytest.MonkeyPatch) -> FeatureExtractor:
    """Replaces the embedded encoder with the weight-free one."""
    monkeypatch.setattr(loading, "load_encoder", lambda *_args, **_options: HashingEncoder())
    return FeatureExtractor(HashingEncoder())


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Judgement file in which 40 users rate 30 texts each. Half of them like long texts, half short ones."""
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
        "import sys; from penchant.service.cli.app import app\n"
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


def test_fit_writes_a_bundle_that_evaluate_show_and_export_read(
    hashing: FeatureExtractor, ratings: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "lengths-bundle"
    fitted = run("fit", ratings, "--out", folder)
    bundle = Bundle.load(folder)
    assert bundle.version in fitted.stdout
    assert bundle.manifest.name == "lengths-bundle"
    assert bundle.manifest.data[0]["name"] == "lengths"
    assert (bundle.manifest.data[0]["judgements"], bundle.manifest.data[0]["users"]) == (1200, 40)
    assert [path.name for path in tmp_path.iterdir()] == ["lengths-bundle"]  # the checkpoint is gone

    evaluated = run("evaluate", ratings, "--split", "cold", "--bundle", folder, "--repetitions", 1)
    assert bundle.version in evaluated.stdout
    assert "log-loss" in evaluated.stdout

    description = run("bundle", "show", folder).stdout
    assert bundle.version in description
    assert "What decides between two texts" in description
    manifest = json.loads(run("bundle", "show", folder, "--json").stdout)
    assert manifest["version"] == bundle.version
    assert manifest["inspection"] == bundle.manifest.metrics["inspection"]

    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "tea rain"}\n\n{"context": "Which?", "text": "moon"}\n{"text": "tea rain"}\n')
    out = tmp_path / "elsewhere"
    exported = run("bundle", "export", folder, "--out", out, "--users", ratings, "--texts", texts)
    names = ["model.npz", "manifest.json", "users.jsonl", "texts.jsonl"]
    assert exported.stdout.split() == [str(out / name) for name in names]
    users = [json.loads(line) for line in (out / "users.jsonl").read_text("utf-8").splitlines()]
    assert [user["user"] for user in users] == [f"u{number}" for number in range(40)]
    assert all(len(user["mean"]) == bundle.reward.q for user in users)
    rows = [json.loads(line) for line in (out / "texts.jsonl").read_text("utf-8").splitlines()]
    assert [(row["context"], row["text"]) for row in rows] == [("", "tea rain"), ("Which?", "moon")]
    run("bundle", "export", folder, "--out", tmp_path / "arrays", "--format", "safetensors")
    assert {path.name for path in (tmp_path / "arrays").iterdir()} == {"model.safetensors", "manifest.json"}


def test_windows_are_chosen_at_fitting_and_remembered(
    ratings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_name: str, *, max_windows: int, **_options: object) -> HashingEncoder:
        return HashingEncoder(max_tokens=8, max_windows=max_windows)

    monkeypatch.setattr(loading, "load_encoder", load)
    folder = tmp_path / "windows"
    assert "8 tokens, up to 4 windows" in run("fit", ratings, "--out", folder, "--max-windows", 4).stdout
    bundle = Bundle.load(folder)
    assert bundle.manifest.encoder.max_windows == 4
    evaluation = ["evaluate", ratings, "--split", "cold", "--repetitions", 1, "--json"]
    report = json.loads(run(*evaluation, "--bundle", folder).stdout)
    assert report["bundle"] == bundle.version  # loaded with four windows, or it would not match
    curves = [json.loads(run(*evaluation, "--max-windows", number).stdout)["curve"] for number in (1, 4)]
    assert curves[0] != curves[1]
    assert "--max-windows" in run("fit", ratings, "--out", folder, "--max-windows", 65, code=2).stderr


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """Comparisons of answers to nine questions. The one that is further from its question wins."""
    rows = [
        {
            "user": f"u{i % 7}",
            "context": f"Where is topic{i % 9}?",
            "chosen": f"It is far away, number {i}.",
            "rejected": f"topic{i % 9} is here, number {i}.",
        }
        for i in range(90)
    ]
    file = tmp_path / "asked.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_the_weight_of_relevance_is_chosen_at_fitting(
    hashing: FeatureExtractor, asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load_encoder", lambda _name, **_options: hashing.encoder)
    slopes = []
    for weight in ("0", "auto", "20"):
        run("fit", asked, "--out", tmp_path / weight, "--relevance", weight)
        prior = Bundle.load(tmp_path / weight).reward.text_prior
        slopes.append(float(prior.weights[prior.standardiser.matched, 0].sum()))
    assert 0 == slopes[0] <= slopes[1] < slopes[2]
    for wrong in ("-1", "101", "much", "nan"):
        assert (
            "--relevance" in run("fit", asked, "--out", tmp_path / "b", "--relevance", wrong, code=2).stderr
        )


def test_a_gate_is_fitted_on_request(
    hashing: FeatureExtractor, asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load_encoder", lambda _name, **_options: hashing.encoder)
    run("fit", asked, "--out", tmp_path / "gated", "--gate", 2)
    gate = Bundle.load(tmp_path / "gated").reward.gate
    assert gate is not None
    assert gate.size == 2
    run("fit", asked, "--out", tmp_path / "bare", "--gate", "auto")  # too few users to show that one pays
    assert Bundle.load(tmp_path / "bare").reward.gate is None
    for wrong in ("-1", "99", "some"):
        assert "--gate" in run("fit", asked, "--out", tmp_path / "b", "--gate", wrong, code=2).stderr


def test_show_explains_a_bundle_on_other_judgements(
    hashing: FeatureExtractor, ratings: Path, tmp_path: Path
) -> None:
    tiny_bundle(hashing).save(tmp_path / "tiny")
    assert "What decides" not in run("bundle", "show", tmp_path / "tiny").stdout
    description = run("bundle", "show", tmp_path / "tiny", "--on", ratings, "--examples", 1).stdout
    assert "measured on 60 texts" in description
    assert "longer answers" in description
    inspection = json.loads(run("bundle", "show", tmp_path / "tiny", "--on", ratings, "--json").stdout)[
        "inspection"
    ]
    lengths = [[len(text.split()) for text in inspection["tastes"][0][end]] for end in ("highest", "lowest")]
    assert [len(end) for end in lengths] == [2, 2]


class Interrupting(HashingEncoder):
    """An encoder that raises KeyboardInterrupt at the batch of the given number."""

    def __init__(self, batch: int) -> None:
        super().__init__(8)
        self.left = batch

    def encode(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Encoding:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
        return super().encode(texts, prompts)


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[HashingEncoder]]:
    """Stack of the encoders to load next, the last one first. Ctrl-C works even if the tests run as a background job."""
    queue: list[HashingEncoder] = []
    monkeypatch.setattr(loading, "load_encoder", lambda *_args, **_options: queue.pop())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield queue
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def votes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Judgement file in which twelve users vote on 1,200 texts, more than one checkpoint step saves."""
    file = tmp_path_factory.mktemp("votes") / "votes.jsonl"
    rows = [{"user": f"u{i % 12}", "item": f"tea {i}", "vote": 1 if i % 5 else -1} for i in range(1200)]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_an_interrupted_fit_reports_it_and_can_be_continued(
    encoders: list[HashingEncoder], votes: Path, tmp_path: Path
) -> None:
    encoders += [HashingEncoder(8), HashingEncoder(8), Interrupting(5)]
    out, work = tmp_path / "bundle", tmp_path / "bundle.work"
    interrupted = run("fit", votes, "--out", out, code=130)
    assert f"interrupted: progress is saved in {work}" in interrupted.stderr
    assert interrupted.stdout == ""
    assert work.is_dir()
    assert not out.exists()

    resumed = run("fit", votes, "--out", out)
    assert f"resuming from {work}" in resumed.stderr
    assert not work.exists()
    run("fit", votes, "--out", tmp_path / "whole")
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_a_fit_interrupted_before_the_first_checkpoint_leaves_nothing(
    encoders: list[HashingEncoder], votes: Path, tmp_path: Path
) -> None:
    encoders += [Interrupting(1)]
    interrupted = run("fit", votes, "--out", tmp_path / "bundle", code=130)
    assert "interrupted: nothing was done yet" in interrupted.stderr
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_fit_is_not_continued(
    encoders: list[HashingEncoder], votes: Path, tmp_path: Path
) -> None:
    encoders += [HashingEncoder(8), HashingEncoder(8), Interrupting(5)]
    options = ["fit", votes, "--out", tmp_path / "bundle", "--work", tmp_path / "elsewhere"]
    run(*options, code=130)
    refused = run(*options, "--seed", 1, code=2)
    assert f"{tmp_path / 'elsewhere'} holds work on other data, with other options" in refused.stderr
    assert "--no-resume" in refused.stderr
    restarted = run(*options, "--seed", 1, "--no-resume")
    assert "resuming" not in restarted.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_fit_does_not_touch_a_folder_that_is_no_checkpoint(
    hashing: FeatureExtractor, ratings: Path, tmp_path: Path
) -> None:
    (tmp_path / "bundle.work").mkdir()
    (tmp_path / "bundle.work" / "diary.txt").write_text("mine")
    for option in ("--resume", "--no-resume"):
        result = run("fit", ratings, "--out", tmp_path / "bundle", option, code=2)
        assert "holds no work" in result.stderr
    (tmp_path / "file").write_text("mine")
    assert "is not a folder" in run("fit", ratings, "--out", tmp_path / "file", code=2).stderr
    assert (tmp_path / "bundle.work" / "diary.txt").read_text() == (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        (b"\n", "holds no text"),
        (b'{"text": "tea"}\n{"text": ', ":2: the line is not valid JSON"),
        (b'{"text": " "}', ":1: 'text' must be a string that is not empty"),
        (b'["tea"]', ":1: 'text' must be"),
        (b'{"text": "tea", "context": 1}', ":1: 'context' must be a string"),
        (b"\xff", "utf-8"),
    ],
)
def test_texts_that_cannot_be_exported_are_refused(
    hashing: FeatureExtractor, tmp_path: Path, content: bytes | None, problem: str
) -> None:
    tiny_bundle(hashing).save(tmp_path / "tiny")
    file = tmp_path / "texts.jsonl"
    if content is not None:
        file.write_bytes(content)
    result = run("bundle", "export", tmp_path / "tiny", "--out", tmp_path / "out", "--texts", file, code=2)
    assert problem in result.stderr
    assert str(file) in result.stderr


def test_export_needs_the_bundle_s_encoder_for_texts_only(
    hashing: FeatureExtractor, ratings: Path, tmp_path: Path
) -> None:
    tiny_bundle(FeatureExtractor(HashingEncoder(32))).save(tmp_path / "other")
    run("bundle", "export", tmp_path / "other", "--out", tmp_path / "out")
    result = run(
        "bundle", "export", tmp_path / "other", "--out", tmp_path / "out", "--users", ratings, code=2
    )
    assert "was fitted with encoder" in result.stderr
    (tmp_path / "file").write_text("")
    assert (
        "File exists"
        in run("bundle", "export", tmp_path / "other", "--out", tmp_path / "file", code=2).stderr
    )


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
def test_files_that_cannot_be_evaluated_are_refused(
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
def test_serve_refuses_invalid_options(arguments: list[str], problem: str, tmp_path: Path) -> None:
    code = 2 if problem == "port" else 1
    result = run("serve", "--data-dir", tmp_path, *arguments, code=code)
    assert problem in result.stderr


def test_serve_names_its_data_folder(tmp_path: Path) -> None:
    # A separate process, because logging is set up only once per process.
    options = ["--data-dir", str(tmp_path / "users"), "--bundle", str(tmp_path / "nothing")]
    command = [sys.executable, "-m", "penchant.service.cli.main", "serve", *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1
    assert f"data folder: {tmp_path / 'users'}" in result.stderr
    assert "The bundle cannot be loaded" in result.stderr
    assert "Traceback" not in result.stderr


def test_demo_walks_through_and_leaves_no_user(live: str) -> None:
    result = run("demo", "--base-url", live)
    assert "How do I keep basil alive" in result.stdout
    assert result.stdout.count(" 5w Keep basil sunny and watered.") == 3


def test_demo_without_a_server_says_how_to_start_one() -> None:
    result = run("demo", "--base-url", "http://127.0.0.1:1", code=1)
    assert "`make serve`" in result.stderr
