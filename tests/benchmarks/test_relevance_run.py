"""The relevance benchmark: swapped prompts, the client of a server, the report, and the command."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from benchmarks.relevance import __main__ as command
from benchmarks.relevance import report
from benchmarks.relevance.metrics import Figure
from benchmarks.relevance.plan import NONE, OWN, Plan
from benchmarks.relevance.questions import Question, QuestionSet, load_facts
from benchmarks.relevance.rankers import RequestFailedError, ServedRanker
from benchmarks.relevance.rankings import OURS, RankingRow
from benchmarks.relevance.report import Results
from benchmarks.relevance.run import Place, measure
from benchmarks.relevance.study import Study
from benchmarks.relevance.styles import Preference
from benchmarks.relevance.swapped_prompts import (
    Compared,
    Probe,
    PromptRow,
    measure_probes,
    measure_swapped_prompts,
    pairs_of,
    swap_prompts,
)
from benchmarks.relevance.swapped_queries import QueryRow
from benchmarks.relevance.timing import TimeRow, measure_time
from benchmarks.relevance.users import SHARES, CurvePoint, UserRow, measure_curve
from penchant.models.bundle import Bundle
from penchant.models.encoding.extract import extract_text_features
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.judgements.judgement import Judgement
from penchant.models.testing import tiny_bundle

ABOUT = {
    "questions": {"facts": 66},
    "bundle": "b-0",
    "measured": "through HTTP",
    "cores": 2,
    "processor": "one",
    "commit": "c",
    "versions": {"python": "3"},
    "bootstrap_draws": 2000,
}


class Handler(BaseHTTPRequestHandler):
    """A server that orders candidates by length: shortest first for the population, longest first for a user."""

    protocol_version = "HTTP/1.1"
    fields = ("query", "documents", "personalization")
    requests: list[tuple[str, dict]]

    def do_GET(self):
        properties = {name: {} for name in self.fields}
        schemas = {"Rerank": {"properties": properties}, "Other": {"properties": {"texts": {}}}}
        union = {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in schemas]}
        body = {"content": {"application/json": {"schema": union}}}
        paths = {"/v1/rerank": {"post": {"requestBody": body}}}
        self.answer({"components": {"schemas": schemas}, "paths": paths})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append((self.path, body))
        if self.path == "/v1/feedback":
            accepted = [event for event in body["events"] if event["chosen"] != "refused"]
            return self.answer({"accepted": len(accepted)})
        if body["query"] == "broken":
            return self.answer({"detail": "no"}, 500)
        share = body.get("personalization", 1.0) if body.get("user") else 0.0
        sign = 1 if share > 0.5 else -1
        texts = body["documents"]
        order = sorted(range(len(texts)), key=lambda i: -sign * len(texts[i]))
        order = order[: 1 if body["query"] == "short" else None]
        return self.answer({"results": [{"index": i} for i in order]})

    def answer(self, content, status=200):
        encoded = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    """A running `Handler` as (port, its requests)."""
    handler = type("Recording", (Handler,), {"requests": []})
    served = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served.server_port, handler
    served.shutdown()
    served.server_close()
    thread.join()


@pytest.fixture
def ranker(server):
    ranked = ServedRanker(server[0])
    yield ranked
    ranked.close()


def test_a_server_ranks_and_learns(server, ranker):
    assert ranker.rank("q", ["aaa", "a", "aa"]).tolist() == [1, 2, 0]
    assert ranker.rank("q", ["aaa", "a", "aa"], "u", 0.75).tolist() == [0, 2, 1]
    ranker.learn("u", [Preference("q", "a", "b"), Preference("", "c", "d")])
    (_, first), (_, second), (path, learned) = server[1].requests
    assert first == {"query": "q", "documents": ["aaa", "a", "aa"]}
    assert (second["user"], second["personalization"]) == ("u", 0.75)
    assert path == "/v1/feedback"
    assert [event.get("prompt") for event in learned["events"]] == ["q", None]
    assert learned["events"][0] == {
        "event_id": "u-0",
        "type": "preference",
        "user": "u",
        "chosen": "a",
        "rejected": "b",
        "prompt": "q",
    }


def test_a_server_that_refuses_is_reported(ranker):
    with pytest.raises(RequestFailedError, match="POST /v1/rerank: 500"):
        ranker.rank("broken", ["a"])
    with pytest.raises(RequestFailedError, match="ranked 1 of 2 texts"):
        ranker.rank("short", ["a", "b"])
    with pytest.raises(RequestFailedError, match="accepted 0 of 1"):
        ranker.learn("u", [Preference("q", "refused", "b")])


def test_the_curve_needs_the_field(server, ranker):
    facts = load_facts()
    few = QuestionSet("facts", facts.questions[:8])
    points = measure_curve(Study(Plan([few]), ranker))
    assert [point.personalization for point in points] == list(SHARES)
    assert [point.kept.value == 1 for point in points] == [True, True, True, False, False]
    assert points[0].shift.value == 0
    assert points[3] == CurvePoint("facts", 0.75, points[4].ndcg, points[4].kept, points[4].shift)
    server[1].fields = ("query", "documents")
    older = ServedRanker(server[0])
    assert not older.has_personalization
    assert measure_curve(Study(Plan([few]), older)) is None
    older.close()


def test_times_are_taken_alternately(server, ranker):
    one = Question("q", ("a", "bb"), np.array([1.0, 0.0]))
    row = measure_time(ranker, QuestionSet("s", (one, one)), rounds=2)
    queries = [body["query"] for _, body in server[1].requests]
    assert queries[:8] == ["", "q", "", "q", "q", "", "q (0)", "q (1)"]
    assert row.candidates == 2
    assert 0 < row.same_ratio.low <= row.same_ratio.value
    assert row.none_ms > 0


def compare(better: str, worse: str, prompt: str, kind: str = "pair") -> Judgement:
    return Judgement("u", prompt, kind, (better, worse))


def rate(text: str, prompt: str, value: float) -> Judgement:
    return Judgement("u", prompt, "rating", (text,), value, (0.0, 2.0))


def test_judgements_become_pairs_by_kind():
    judgements = [compare("a", "b", "p"), compare("b", "a", "q"), compare("c", "d", "p", "edit")]
    pairs = pairs_of([*judgements, Judgement("u", "p", "vote", ("a",), 1.0)])
    assert set(pairs) == {"pair", "edit"}
    assert pairs["pair"][0].better == ("p", "a")
    assert pairs["pair"][0].cluster == pairs["pair"][1].cluster
    assert len(pairs_of([compare(f"{i}", "x", "p") for i in range(50)], most=20)["pair"]) == 20


def test_ratings_are_compared_within_a_prompt_if_possible():
    alone = [rate("a", "p", 2), rate("b", "q", 0), rate("c", "r", 2), rate("c", "r", 0)]
    found = {(pair.better, pair.worse) for pair in pairs_of(alone)["rating"]}
    a, b, c = ("p", "a"), ("q", "b"), ("r", "c")
    assert found == {(a, b), (c, b), (a, c)}  # c has a mean of 1
    shared = [rate("a", "p", 2), rate("b", "p", 0), rate("c", "q", 2), rate("d", "q", 1)]
    found = {(pair.better[1], pair.worse[1]) for pair in pairs_of(shared)["rating"]}
    assert found == {("a", "b"), ("c", "d")}


def test_every_prompt_gets_a_wrong_one():
    wrong = swap_prompts(["a", "b", "c", "a"])
    assert set(wrong) == set(wrong.values()) == {"a", "b", "c"}
    assert all(prompt != other for prompt, other in wrong.items())
    with pytest.raises(ValueError, match="one prompt only"):
        swap_prompts(["a", "a"])


def test_swapped_prompts_matter_to_a_model_that_reads_them():
    """Items whose vectors say whether the text answers the prompt, under a model that likes those that do."""
    extractor = FeatureExtractor(HashingEncoder())
    reward = tiny_bundle(extractor).reward
    reward.text_prior.weights[:] = 0
    reward.text_prior.weights[0, 0] = 1.0
    prompts = [f"p{i}" for i in range(20)]
    pairs = [Compared((p, f"answer to {p}"), (p, f"nothing about {p}"), p) for p in prompts]
    wrong = swap_prompts(prompts)

    def extract(items):
        found = {}
        for prompt, text in items:
            vector = np.zeros(extractor.dim, np.float16)
            vector[0] = text == f"answer to {prompt}"
            vector[1] = len(found) / 100  # no two texts are the same
            found[prompt, text] = vector
        return found

    (row,) = measure_probes([Probe("planted", pairs, wrong)], reward, extract)
    assert (row.right.value, row.wrong.value, row.gain.value) == (1.0, 0.5, 0.5)
    assert row.own.value == pytest.approx(
        0.75
    )  # every answer, and half of the texts that answer nothing, at ties
    assert row.passed


def test_the_sets_of_a_folder_are_probed(tmp_path):
    extractor = FeatureExtractor(HashingEncoder())
    folder = tmp_path / "ukp_convarg1"
    folder.mkdir()
    with gzip.open(folder / "data.jsonl.gz", "wt", encoding="utf-8") as file:
        for number in range(12):
            row = {
                "user": "u",
                "context": f"question {number % 3}",
                "chosen": f"a {number}",
                "rejected": f"b {number}",
            }
            file.write(json.dumps(row) + "\n")
    (row,) = measure_swapped_prompts(
        tiny_bundle(extractor).reward, lambda items: extract_text_features(items, extractor), tmp_path
    )
    assert (row.pairs, row.number) == ("ukp_convarg1: pairs", 12)
    assert row.gain.value == 0  # this model does not read the prompt


def test_the_report_renders_every_part(tmp_path):
    good, bad = Figure(1.0, 0.9, 1.1), Figure(0.4, 0.3, 0.45)
    results = Results(
        ABOUT,
        rankings=[RankingRow("facts", OURS, bad, bad, bad)],
        users=[UserRow("facts", "texts", "more long_words", good, good, bad)],
        left_out={"facts": {"less digits": "no room"}},
        curve=None,
        time=[TimeRow("facts", 20, 1.0, 1.05, 3.0, good, good)],
        queries=[
            QueryRow("facts", NONE, bad, bad, Figure(0, 0, 0), None),
            QueryRow("facts", OWN, bad, bad, bad, bad),
        ],
        prompts=[PromptRow("set: pairs", 1000, bad, good, Figure(-0.6, -0.7, -0.5), None)],
    )
    report.write(results, tmp_path / "out" / "relevance")
    text = (tmp_path / "out" / "relevance.md").read_text("utf-8")
    assert "| facts | texts | more long words | 1.000 [0.900, 1.100] | 100.0% [90.0%, 110.0%] | met |" in text
    assert "0.400 [0.300, 0.450] | **missed** |" in text
    assert "facts/texts 0 of 1" in text
    assert "facts: less digits (no room)" in text
    assert "Not available" in text
    assert "| 1.00 ms | 1.05 ms | 3.00 ms |" in text
    assert "4 goals missed" in text
    written = json.loads((tmp_path / "out" / "relevance.json").read_text("utf-8"))
    assert len(written["missed"]) == 4
    assert written["users"][0]["shift"] == {"value": 0.4, "low": 0.3, "high": 0.45}
    point = CurvePoint("facts", 0.25, good, good, good)
    assert "| facts | 0.25 |" in report.markdown(Results(ABOUT, curve=[point]))
    assert "All goals met." in report.markdown(Results(ABOUT))


def test_unknown_parts_and_sets_are_refused(tmp_path):
    app = typer.Typer()
    app.command()(command.main)
    out = ["--data", str(tmp_path), "--out", str(tmp_path / "r"), "--sets", "facts"]
    for more, message in (
        (["--parts", "nothing"], "Unknown part"),
        (["--parts", "time", "--in-process"], "needs a server"),
        (["--sets", "cranfield"], "No such file"),
    ):
        result = CliRunner().invoke(app, [*out, *more])
        assert result.exit_code == 2
        assert message in result.output


@pytest.mark.slow
def test_a_server_and_the_model_in_this_process_give_the_same_figures(tmp_path):
    few = QuestionSet("facts", load_facts().questions[:10])
    place = Place(tmp_path, tmp_path / "bundle", tmp_path / "served", tmp_path / "cache")
    Bundle.load(command.DEFAULT_BUNDLE).save(place.bundle)
    served = measure([few], ("rankings", "users", "curve", "time", "queries"), place)
    local = measure([few], ("rankings", "users", "queries"), place, in_process=True)
    assert [row.ndcg.value for row in served.rankings] == pytest.approx(
        [row.ndcg.value for row in local.rankings]
    )
    assert [row.shift.value for row in served.users] == pytest.approx(
        [row.shift.value for row in local.users]
    )
    assert served.queries == local.queries
    assert served.time[0].none_ms > 0
    assert "## Users of style" in (tmp_path / "served.md").read_text("utf-8")
