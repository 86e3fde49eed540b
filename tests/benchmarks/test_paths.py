"""The path of a request through the files stays short enough for a reader to follow."""

from benchmarks.paths import trace_requests


def test_a_ranking_and_a_preference_pass_through_few_files():
    traces = trace_requests()
    ranking, preference = traces["ranking"], traces["preference"]
    assert "service/ranking/scoring.py" in ranking.files
    assert "models/taste/posterior.py" in preference.files
    assert len(ranking.files) <= 24
    # Two are for a bundle that reads prompts: match.py computes the match, match_basis.py turns it into features.
    # Two make the coordinates of a text independent of the texts described with it. Ten keep one preference from holding
    # up others: they bound the writer's work and its expiry, limit every call to the store, keep ids unique among events
    # in force, and save a state on the way.
    assert len(preference.files) <= 49
    assert ranking.callers["service/users"] == {"service/ranking/scoring.py"}
