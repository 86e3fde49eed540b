"""The path of a request through the files stays short enough for a reader to follow."""

from benchmarks.paths import trace_requests


def test_a_ranking_and_a_preference_pass_through_few_files():
    traces = trace_requests()
    ranking, preference = traces["ranking"], traces["preference"]
    assert "service/ranking/scoring.py" in ranking.files
    assert "models/taste/posterior.py" in preference.files
    assert len(ranking.files) <= 24
    # Two are for a bundle that reads prompts: match.py computes the match, match_basis.py turns it into features.
    # Another two give a text the same coordinates whatever is described with it. Ten keep one preference from stopping
    # anybody: the writer's work and its expiry are bounded, every call to the store has a limit, ids are unique among
    # events in force, and a state is saved on the way.
    assert len(preference.files) <= 49
    assert ranking.callers["service/users"] == {"service/ranking/scoring.py"}
