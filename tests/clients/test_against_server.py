"""The SDK against the real service."""

from collections.abc import Iterator

import pytest

from penchant import Client, NotFoundError, UnprocessableEntityError


@pytest.fixture(scope="module")
def client(live: str) -> Iterator[Client]:
    with Client(base_url=live) as client:
        yield client


def test_the_server_is_ready(client: Client) -> None:
    ready = client.ready()
    assert ready
    assert set(ready.checks) == {"encoder", "store", "bundle"}


def test_feedback_moves_the_next_ranking(client: Client) -> None:
    ana = client.for_user("sdk-ana")
    texts = [
        "It is dry. Oil it.",
        "Wipe the chain with a rag, then put one drop of oil on every single roller.",
    ]
    before = ana.rerank(query="Why does it squeak?", documents=texts, return_documents=True)
    assert before.meta.personalization.state == "population"
    assert {result.document.text for result in before.results if result.document} == set(texts)
    first, last = (texts[index] for index in before.order)
    event = {"type": "preference", "prompt": "Why does it squeak?", "chosen": last, "rejected": first}
    assert ana.feedback(events=[event] * 20).accepted == 20
    after = ana.rerank(query="Why does it squeak?", documents=texts)
    assert after.order == before.order[::-1]
    assert after.meta.personalization.feedback_events == 20
    best = ana.best_of_n(prompt="Why does it squeak?", candidates=texts, accept_threshold=0.0)
    assert best.best is not None
    assert best.best.index == after.order[0]
    assert sum(candidate.probability_best for candidate in best.results) == pytest.approx(1.0)
    scores = ana.score(queries="Why does it squeak?", documents=texts)
    assert [s.index for s in sorted(scores.data, key=lambda s: -s.score)] == after.order


def test_personalization_leads_from_the_population_to_the_user(client: Client) -> None:
    dora = client.for_user("sdk-dora")
    query, texts = (
        "Why does it squeak?",
        ["Oil it.", "Put one drop of oil on every single roller, then wait."],
    )
    first, last = (texts[index] for index in client.rerank(query=query, documents=texts).order)
    event = {"type": "preference", "prompt": query, "chosen": last, "rejected": first}
    assert dora.feedback(events=[event] * 5).accepted == 5

    def scores(strength: float | None) -> list[float]:
        return [s.score for s in dora.score(queries=query, documents=texts, personalization=strength).data]

    population = [s.score for s in client.score(queries=query, documents=texts).data]
    assert scores(0) == population
    assert scores(1) == scores(None) != population
    assert scores(0.5) == pytest.approx(
        [(a + b) / 2 for a, b in zip(population, scores(1), strict=True)], abs=1e-12
    )
    assert (
        dora.rerank(query=query, documents=texts, personalization=0).meta.personalization.state == "personal"
    )
    best = dora.best_of_n(prompt=query, candidates=texts, personalization=0).results
    assert best == client.best_of_n(prompt=query, candidates=texts).results
    with pytest.raises(UnprocessableEntityError, match="from 0 to 1"):
        scores(1.5)


def test_feedback_can_name_the_texts_of_a_ranking(client: Client) -> None:
    bo = client.for_user("sdk-bo")
    ranking = bo.rerank(query="Tea?", documents=["Yes.", "No, thank you."])
    assert bo.vote(value=1, rank_id=ranking.id, index=0).accepted == 1
    assert bo.rate(value=4, scale=(1, 5), rank_id=ranking.id, index=1, source="stars").accepted == 1
    assert bo.users.get().feedback_events == 2


def test_an_event_sent_twice_counts_once(client: Client) -> None:
    events = [{"type": "vote", "text": "Yes.", "value": 1, "event_id": "sdk-once"}]
    first = client.feedback(events=events, user="sdk-cy")
    again = client.feedback(events=events, user="sdk-cy")
    assert (first.accepted, first.duplicates) == (1, 0)
    assert (again.accepted, again.duplicates) == (0, 1)
    assert client.users.get(user="sdk-cy").feedback_events == 1


def test_an_invalid_event_is_listed_in_a_batch_and_raises_on_its_own(client: Client) -> None:
    invalid = {"type": "vote", "text": "Yes.", "value": 3}
    receipt = client.feedback(events=[invalid, {**invalid, "value": -1}], user="sdk-di")
    assert receipt.accepted == 1
    assert [rejected.index for rejected in receipt.rejected] == [0]
    with pytest.raises(UnprocessableEntityError) as caught:
        client.vote(value=3, text="Yes.", user="sdk-di")  # type: ignore[arg-type]
    assert caught.value.errors[0]["pointer"] == "/value"


@pytest.mark.parametrize("user", ["a/b", "100%", "a%2Fb", "zoë 花", "..", "who?#x&y=z+1"])
def test_any_user_id_can_be_read_and_deleted(client: Client, user: str) -> None:
    reader = client.for_user(user)
    reader.vote(value=1, text="Yes.")
    reader.vote(value=-1, text="No.")
    reader.vote(value=-1, text="Never.")
    assert reader.users.get().user == user
    log = reader.users.feedback(limit=2)
    assert len(log.data) == 2
    assert [entry.event["text"] for entry in log] == ["Yes.", "No.", "Never."]
    reader.users.delete()
    with pytest.raises(NotFoundError) as caught:
        reader.users.get()
    assert caught.value.code == "user_not_found"
    reader.users.delete()


def test_a_provisional_user_is_merged_and_exported(client: Client) -> None:
    client.prefer(user="sdk-guest", chosen="Yes.", rejected="No.")
    client.vote(user="sdk-zoe", value=1, text="Perhaps.")
    zoe = client.for_user("sdk-zoe")
    assert (zoe.users.merge(provisional="sdk-guest").merged_events, zoe.users.get().feedback_events) == (1, 2)
    assert zoe.users.merge(provisional="sdk-guest").merged_events == 0
    export = zoe.users.export()
    assert [logged.event["type"] for logged in export.events] == ["preference", "vote"]
    assert export.states[0]["judgements"] == 2
    zoe.users.delete()
    with pytest.raises(NotFoundError):
        zoe.users.export()


def test_every_type_of_event_is_accepted(client: Client) -> None:
    eve = client.for_user("sdk-eve")
    texts = ["Yes.", "No, thank you.", "Perhaps later, when the water boils."]
    ranking = eve.rerank(query="Tea?", documents=texts)
    receipts = [
        eve.prefer(chosen=texts[0], rejected=texts[1], prompt="Tea?", strength=0.5),
        eve.choose(index=2, candidates=texts, prompt="Tea?"),
        eve.choose(index=1, rank_id=ranking.id, seen=[0, 1]),
        eve.rank(order=[texts[0], texts[1:]], prompt="Tea?", rank_id=ranking.id),
        eve.edit(original=texts[2], edited="Perhaps later.", prompt="Tea?", event_id="sdk-edit"),
        eve.retract(target_event_id="sdk-edit"),
    ]
    assert [receipt.users[0].feedback_events for receipt in receipts] == [1, 2, 3, 4, 5, 6]
    types = [entry.event["type"] for entry in eve.users.feedback()]
    assert types == ["preference", "choice", "choice", "ranking", "edit", "retract"]
    with pytest.raises(NotFoundError) as caught:
        eve.retract(target_event_id="sdk-unknown")
    assert caught.value.code == "event_not_found"


def test_rankings_scores_and_users_are_explained(client: Client) -> None:
    fay = client.for_user("sdk-fay")
    long, short = "Yes, with milk and sugar and a biscuit or two, if there is any left. " * 3, "Yes."
    for n in range(6):
        fay.prefer(chosen=f"{long}{n}", rejected=f"{short}{n}")
    ranking = fay.rerank(query="Tea?", documents=[short, long], explain=True)
    scores = fay.score(queries="Tea?", documents=[short, long], explain=True)
    best = fay.best_of_n(prompt="Tea?", candidates=[short, long], explain=True).best
    assert best is not None
    for result in (ranking.results[0], scores.data[1], best):
        assert result.explanation is not None
        assert result.explanation.utility == pytest.approx(scores.data[1].score)
        assert sum(part.value for part in result.explanation.parts) == pytest.approx(scores.data[1].score)
        assert result.explanation.shift > 0
    reasons = fay.users.get().reasons
    assert reasons is not None
    assert next(a for a in reasons.attributes if a.name == "length").effect > 0
    assert reasons.texts[0].text.startswith(long)


def test_models_list_their_limits(client: Client) -> None:
    names = {model.id for model in client.models()}
    assert "penchant" in names
    assert client.models().data[0].limits["max_events"] == 100  # type: ignore[attr-defined]
