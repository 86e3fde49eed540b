"""A user whose taste changes: found from the log alone, counted once, and the same in every replay."""

COUNT = "penchant_users_changed_total"


def prefer(n, *, long, user="u"):
    texts = [f"many words {n} " * 12, f"few {n}"]
    chosen, rejected = texts if long else reversed(texts)
    return {
        "type": "preference",
        "user": user,
        "chosen": chosen,
        "rejected": rejected,
        "event_id": f"{user} {n} {long}",
    }


def send(client, events):
    answer = client.post("/v1/feedback", json={"events": list(events)})
    assert answer.status_code == 200, answer.text
    assert answer.json()["rejected"] == []


def counted(client):
    (line,) = [line for line in client.get("/metrics").text.splitlines() if line.startswith(COUNT)]
    return float(line.split()[1])


def stored(store):
    return store.run("SELECT user_id, state FROM user_states ORDER BY user_id")


def test_a_change_is_counted_when_it_is_found(client):
    send(client, [prefer(n, long=True) for n in range(40)])
    assert counted(client) == 0
    send(client, [prefer(n, long=False) for n in range(10)])
    assert counted(client) == 1
    send(client, [prefer(n, long=True, user="steady") for n in range(40)])
    assert counted(client) == 1


def test_what_is_sent_again_is_not_counted_again(client):
    events = [prefer(n, long=True) for n in range(40)] + [prefer(n, long=False) for n in range(10)]
    send(client, events)
    send(client, events)
    assert counted(client) == 1


def test_taking_back_finds_no_change(client):
    """A replay meets the old changes again: they are known."""
    send(client, [prefer(n, long=True) for n in range(40)] + [prefer(n, long=False) for n in range(10)])
    send(client, [{"type": "retract", "user": "u", "target_event_id": "u 0 True"}])
    assert counted(client) == 1


def test_the_log_leads_to_the_same_changes(serve, store):
    """Whether the server was restarted in between or not, and when all is learned again."""
    events = [prefer(n, long=True) for n in range(40)] + [prefer(n, long=False) for n in range(12)]
    client = serve()
    for event in events:
        send(client, [event])
    client = serve()
    for n, event in enumerate(events):
        send(client, [event | {"user": "v", "event_id": f"v{n}"}])
        if n % 13 == 0:
            client = serve()
    serve()
    (_, of_u), (_, of_v) = saved = stored(store)
    assert of_u == of_v
    store.run("DELETE FROM user_states")
    client = serve()
    assert counted(client) == 0
    assert stored(store) == saved
