"""The serving benchmark on a small scale: its load, its parts without a server, and its report."""

import asyncio
import json

import pytest
from typer.testing import CliRunner

from benchmarks.serving import __main__ as command
from benchmarks.serving import inside
from benchmarks.serving.client import Load, Spec, bodies, measured
from benchmarks.serving.parts import Goal, Outcome
from benchmarks.serving.pictures import draw
from benchmarks.serving.profile import profile
from benchmarks.serving.report import markdown, write
from benchmarks.serving.texts import CANDIDATES, TOKENS, Texts

ABOUT = {
    "seconds": 1.0,
    "cores": 2,
    "processor": "one",
    "accelerator": None,
    "commit": "c",
    "versions": {"python": "3"},
}


def run(spec, answers):
    """Run the load against a server that repeats these answers. Return the load and the requests it saw."""
    requests, served = [], []

    async def serve(reader, writer):
        served.append(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                requests.append(json.loads(await reader.readexactly(length)))
                writer.write(answers[(len(requests) - 1) % len(answers)])
                await writer.drain()
        except asyncio.IncompleteReadError:
            writer.close()
            await writer.wait_closed()

    async def main():
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            load = await measured(Spec(port, **spec))
            await asyncio.gather(*served)
            return load

    return asyncio.run(main()), requests


def answer(status, more=""):
    return f"HTTP/1.1 {status} X\r\nContent-Length: 2\r\n{more}\r\n{{}}".encode()


def test_a_closed_load_counts_answers_and_their_times():
    load, requests = run(
        {"seconds": 0.1, "concurrency": 3}, [answer(200), answer(429, "Retry-After: 1\r\n"), answer(429)]
    )
    assert sum(load.statuses.values()) == len(requests)
    assert load.statuses["200"] == len(load.latencies)
    assert 0 < load.without_retry < load.statuses["429"]
    assert load.rate == pytest.approx(len(load.latencies) / load.seconds)
    assert load.quantile(0.5) <= load.quantile(0.99) < 1


def test_an_open_load_does_not_wait_for_answers():
    load, requests = run({"seconds": 0.2, "rate": 100.0}, [answer(200)])
    assert 10 <= len(requests) <= 21
    assert load.statuses == {"200": len(requests)}


def test_new_texts_always_differ_and_repeated_texts_never_do():
    new, same = bodies(Spec(1, seed=1)), bodies(Spec(1, kind="same", more={"user": "u"}))
    first, second = json.loads(next(new)), json.loads(next(new))
    assert not set(first["documents"]) & set(second["documents"])
    assert len(first["documents"]) == CANDIDATES
    assert next(same) == next(same)
    assert json.loads(next(same))["user"] == "u"
    assert len(Texts(0).text().split()) == TOKENS - 2


def test_votes_cycle_through_users_and_texts():
    more = {"rank_id": "r", "candidates": 2, "users": 3}
    supply = bodies(Spec(1, kind="vote", more=more))
    votes = [json.loads(next(supply)) for _ in range(4)]
    assert [vote["user"] for vote in votes] == ["u0", "u1", "u2", "u0"]
    assert [vote["index"] for vote in votes] == [0, 1, 0, 1]


def test_a_load_without_successful_answers_is_infinitely_slow():
    assert Load(1.0, {"500": 3}, [], 0).quantile(0.5) == float("inf")


def test_goals_are_reported_as_met_or_missed(tmp_path):
    goals = [Goal("fast", 3.0, 2.0), Goal("small", 3.0, 2.0, at_least=False)]
    outcome = Outcome("part", [["what", "how much"], ["this", "1"]], goals)
    text = markdown(ABOUT, [outcome])
    assert "| fast | ≥ 2 | 3 | met |" in text
    assert "| small | ≤ 2 | 3 | **missed** |" in text
    assert write([outcome], 1.0, tmp_path / "serving") == goals[1:]
    assert json.loads((tmp_path / "serving.json").read_text())["parts"]["part"]["goals"][0]["name"] == "fast"


def test_the_report_names_the_device_if_there_is_one():
    assert "compute on" not in markdown(ABOUT, [])
    assert "the peers', compute on Some Device." in markdown(ABOUT | {"accelerator": "Some Device"}, [])


def test_the_parts_run_in_this_process(tmp_path):
    update = inside.posterior(0.05)
    assert update.figures["state_bytes"] <= 1024
    assert all(seconds > 0 for seconds in update.figures["seconds"])
    curves = inside.growth(0.01).figures["curves"]
    assert [n for n, _ in curves["users"]] == list(inside.USERS)
    assert {path.suffix for path in draw(curves, tmp_path)} == {".png", ".svg"}


def test_the_command_measures_the_requested_parts(tmp_path):
    options = [
        "--parts",
        "posterior",
        "--seconds",
        "0.1",
        "--out",
        str(tmp_path / "s"),
        "--pictures",
        str(tmp_path),
    ]
    result = CliRunner().invoke(_app(), options)
    assert result.exit_code in {0, 1}  # the machine may be busy
    assert "update of a posterior" in result.output
    assert CliRunner().invoke(_app(), ["--parts", "nothing"]).exit_code == 2


@pytest.mark.slow
def test_the_profile_accounts_for_the_whole_request():
    profile_result = profile(1.0)
    shares = profile_result.figures["shares"]
    assert profile_result.figures["median_seconds"] > 0
    assert min(shares.values()) > 0
    assert sum(share for name, share in shares.items() if not name.startswith(" ")) == pytest.approx(1)


@pytest.mark.slow
def test_the_command_measures_a_server(tmp_path):
    options = ["--parts", "start", "--out", str(tmp_path / "s")]
    assert "ready after" in CliRunner().invoke(_app(), options).output


def _app():
    import typer

    app = typer.Typer()
    app.command()(command.main)
    return app
