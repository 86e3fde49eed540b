"""The index by user stays correct as rankings in memory are added, dropped, written and reassigned."""

from dataclasses import dataclass, field
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from penchant.service.ranking.rankings import Rankings

USERS = ["u", "v", None]


@dataclass
class Writer:
    """A writer that finishes writing its rankings on demand."""

    waiting: list = field(default_factory=list)

    def __call__(self, _ranking, done):
        self.waiting.append(done)

    def finish(self):
        if self.waiting:
            self.waiting.pop(0)()


def make(writer, max_bytes):
    store = SimpleNamespace(clock=lambda: 0.0)
    tenancy = SimpleNamespace(get=lambda _tenant: SimpleNamespace(keep_texts=True))
    return Rankings(max_bytes=max_bytes, ttl_seconds=60.0, write=writer, tenancy=tenancy, store=store)


STEPS = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(USERS)),
    st.tuples(st.just("write"), st.none()),
    st.tuples(st.just("drop"), st.sampled_from("uv")),
    st.tuples(st.just("reassign"), st.permutations("uv")),
)


@given(st.lists(STEPS, max_size=30), st.sampled_from([0, 2000, 100_000]))
def test_the_rankings_of_a_user_are_those_in_memory(steps, max_bytes):
    writer = Writer()
    rankings = make(writer, max_bytes)
    for number, (step, argument) in enumerate(steps):
        if step == "add":
            rankings.add("t", f"r{number}", argument, ("p",), (f"text {number}",))
        elif step == "write":
            writer.finish()
        elif step == "drop":
            rankings.drop("t", argument)
        else:
            rankings.reassign("t", *argument)
        held = {**dict(rankings._recent.items()), **rankings._unwritten}.values()
        for user in "uv":
            expected = {ranking.get_candidate(0) for ranking in held if ranking.user == user}
            assert set(rankings.find_texts("t", user)) == expected
        assert set(rankings.list_users()) == {("t", ranking.user) for ranking in held if ranking.user}
