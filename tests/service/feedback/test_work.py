"""What waits for the writer: what goes first, and how much is written in one transaction."""

from types import SimpleNamespace

from penchant.service.feedback.work import ExclusiveWork, FeedbackWork, RankingWork, WorkQueue, split_rankings


def feedback(size, events=1):
    return FeedbackWork(SimpleNamespace(events=[None] * events, size=size), None)


def rankings(*sizes):
    return RankingWork(tuple(SimpleNamespace(size=size) for size in sizes), ())


def drain(queue):
    groups = []
    while group := queue.take_group(0.0):
        groups.append(group)
    return groups


def test_a_group_is_full_by_events_or_by_bytes():
    queue = WorkQueue(max_events=3, max_bytes=10)
    works = [
        feedback(4),
        feedback(4),
        feedback(4),
        feedback(1),
        feedback(1, events=5),
        feedback(50),
        feedback(1),
    ]
    for work in works:
        queue.put(work)
    assert drain(queue) == [works[:3], works[3:5], works[5:6], works[6:]]


def test_feedback_goes_before_rankings_of_which_each_group_takes_some():
    queue = WorkQueue(max_events=10, max_bytes=10)
    shown = [rankings(6), rankings(6), rankings(3), rankings(40)]
    first, second = feedback(10), feedback(10)
    for work in (*shown, first, second):
        queue.put(work)
    assert drain(queue) == [[first, shown[0]], [second, shown[1], shown[2]], [shown[3]]]


def test_exclusive_work_waits_for_all_rankings_before_it_and_holds_up_what_follows():
    queue = WorkQueue(max_events=10, max_bytes=10)
    shown, before, exclusive, after = (
        [rankings(9), rankings(9)],
        feedback(1),
        ExclusiveWork(None, None),
        feedback(1),
    )
    for work in (*shown, before, exclusive, after):
        queue.put(work)
    assert drain(queue) == [[before, shown[0]], [shown[1]], [exclusive], [after]]


def test_a_closed_queue_ends_after_its_work():
    queue = WorkQueue(max_events=10, max_bytes=10)
    shown, exclusive = [rankings(9), rankings(9)], ExclusiveWork(None, None)
    for work in (*shown, exclusive):
        queue.put(work)
    queue.close()
    taken = []
    while not queue.is_finished:
        taken += queue.take_group(60.0)
    assert taken == [*shown, exclusive]


def test_rankings_are_split_by_their_bytes():
    gathered = [(SimpleNamespace(size=size), size) for size in (3, 3, 3, 20, 1)]
    parts = list(split_rankings(gathered, 8))
    assert [part.callbacks for part in parts] == [(3, 3), (3,), (20,), (1,)]
    assert [part.size for part in parts] == [6, 3, 20, 1]
