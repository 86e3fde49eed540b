"""Refusing a request costs no more than serving one: faults are counted, and large bodies do not hold up others."""

import asyncio
import gc
import json
import random
import threading
import tracemalloc
import weakref

import pytest
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from penchant.service.api import body as bodies
from penchant.service.api.routes import feedback, rank, users
from penchant.service.errors import MAX_FAULTS, ApiError, InvalidRequestError
from penchant.service.feedback.events import parse_request
from penchant.service.parsing import _has_more_values, is_deeper, parse_object
from penchant.service.settings import Settings
from penchant.service.validation import ExactModel, format_pointer, validate

MODELS = sorted(
    {
        model
        for module in (feedback, rank, users)
        for route in module.router.routes
        for model in route.body_models
    },
    key=lambda model: model.__name__,
)
MANY = 100_000


def schemas(node):
    """Every schema of pydantic within a schema."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list | tuple):
        for inner in node:
            yield from schemas(inner)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_list_of_a_request_stops_at_its_first_fault(model):
    for schema in schemas(model.__pydantic_core_schema__):
        if schema.get("type") in ("list", "tuple", "set", "frozenset", "generator"):
            assert schema.get("fail_fast") or schema["items_schema"]["type"] == "any", schema
        if schema.get("type") == "dict":  # keys of JSON are texts, and nothing is asked of the values
            assert schema["values_schema"]["type"] == "any"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_pydantic_never_builds_many_errors(model):
    """Counts the errors behind a refusal, with every field wrong in every item."""
    built = []
    for wrong in ([1] * MANY, [[1] * 300] * 300, [None] * MANY, {f"k{i}": 1 for i in range(MANY)}, 1):
        data = dict.fromkeys((field.alias or name for name, field in model.model_fields.items()), wrong)
        try:
            model.model_validate(data)
        except ValidationError as error:
            built.append(error.error_count())
    assert max(built) <= 2 * len(model.model_fields)


@pytest.mark.parametrize("number", [MAX_FAULTS - 1, MAX_FAULTS + 1, 1000])
def test_unknown_fields_are_told_up_to_a_limit(number):
    class Exact(ExactModel):
        known: int

    with pytest.raises(InvalidRequestError) as refused:
        validate(Exact, {"known": 1} | {f"k{i}": 1 for i in range(number)}, pointer="/events/0")
    told = refused.value.errors
    assert len(told) == min(number, MAX_FAULTS)
    assert told[0] == {"pointer": "/events/0/k0", "detail": "Extra inputs are not permitted"}
    assert refused.value.detail.endswith(f"(and {number - 1} more)")


def test_many_unknown_fields_are_refused_before_pydantic_sees_them():
    seen = []

    class Exact(ExactModel):
        known: int

        @classmethod
        def model_validate(cls, data, **options):
            seen.append(data)
            return super().model_validate(data, **options)

    with pytest.raises(InvalidRequestError):
        validate(Exact, {f"k{i}": 1 for i in range(MANY)})
    assert seen == []


def test_unknown_fields_that_are_ignored_stay_ignored():
    class Lenient(BaseModel):
        known: int

    assert validate(Lenient, {"known": 1} | {f"k{i}": 1 for i in range(MANY)}).known == 1


def test_long_names_are_cut_in_pointers():
    assert format_pointer(["a/b~c", 3]) == "/a~1b~0c/3"
    assert format_pointer(["x" * 10_000_000]) == "/" + "x" * 128 + "…"


def test_numbers_that_are_not_finite_are_told_up_to_a_limit():
    raw = b'{"a": [%b1], "b": NaN}' % (b"NaN, " * 1000)
    with pytest.raises(InvalidRequestError) as refused:
        parse_object(raw, Settings())
    assert [error["pointer"] for error in refused.value.errors] == [f"/a/{i}" for i in range(MAX_FAULTS)]


def test_events_of_a_batch_are_refused_one_by_one():
    event = {"type": "choice", "user": "u", "index": 0, "candidates": [1] * 1000}
    request = parse_request({"events": [event] * 100}, header_user=None, is_hashed=True, settings=Settings())
    assert [error.errors[0]["pointer"] for error in request.events] == [
        f"/events/{i}/candidates/0" for i in range(100)
    ]


# ---------------------------------------------------------------- the number of values, and their depth


def count(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(count, inner))


def make_value(rng, depth):
    kind = rng.random()
    if depth and kind < 0.3:
        return [make_value(rng, depth - 1) for _ in range(rng.randrange(5))]
    if depth and kind < 0.6:
        return {make_text(rng): make_value(rng, depth - 1) for _ in range(rng.randrange(5))}
    return make_text(rng) if kind < 0.9 else rng.choice([1, -2.5, True, None])


def make_text(rng):
    return "".join(rng.choices(',[]{}:"\\ ab\n', k=rng.randrange(8)))


def test_a_refused_event_keeps_nothing_of_the_body_in_memory():
    """Not even until Python looks for cycles, which takes many requests."""

    class Raw(dict):
        """A dictionary that can be watched."""

    raw = Raw(type="vote", user="u", text="t", value=1, **{f"k{n}": n for n in range(MAX_FAULTS + 9)})
    watched = [weakref.ref(raw)]
    wrong = Raw(type="vote", user="u", text="t", value="x")
    watched.append(weakref.ref(wrong))
    gc.disable()
    try:
        body = {"events": [raw, wrong]}
        request = parse_request(body, header_user=None, is_hashed=False, settings=Settings())
        del body, raw, wrong
        assert [type(event) for event in request.events] == [InvalidRequestError] * 2
        assert [watch() for watch in watched] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 65536])
def test_values_are_counted_outside_of_texts(monkeypatch, size):
    """Texts have commas, brackets, quotes and backslashes at every place relative to the slices that are counted."""
    monkeypatch.setattr("penchant.service.parsing._SLICE_BYTES", size)
    rng = random.Random(size)
    for _ in range(100):
        value = [make_value(rng, 4) for _ in range(3)]
        raw, number = json.dumps(value).encode(), count(value)
        # An empty container has no value, although it is counted as if it had one.
        most = number + raw.count(b"[]") + raw.count(b"{}")
        assert not _has_more_values(raw, most)
        assert _has_more_values(raw, number - 1)


def test_the_number_of_values_has_a_limit():
    settings = Settings(max_body_values=100)
    assert len(parse_object(json.dumps({"a": [1] * 98}).encode(), settings)["a"]) == 98
    assert parse_object(json.dumps({"a": ",[{" * 1000}).encode(), settings)
    for most in ({"a": [1] * 100}, {f"k{i}": 1 for i in range(101)}, {"a": [[]] * 100}, {"a": [{}] * 100}):
        with pytest.raises(ApiError) as refused:
            parse_object(json.dumps(most).encode(), settings)
        assert (refused.value.code, refused.value.detail) == (
            "body_too_large",
            "The body may have 100 JSON values.",
        )


def test_depth_is_counted_without_recursion():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert is_deeper(deep, 100_000)
    assert not is_deeper(deep, 100_001)
    assert not is_deeper({"a": {"b": 1}}, 2)
    assert is_deeper({"a": {"b": []}}, 2)
    assert not is_deeper(1, 0)
    while deep:  # Python would free it recursively
        deep = deep.pop()


HOSTILE = {
    "numbers": b'{"query": "q", "texts": [%b1]}' % (b"1," * 4_000_000),
    "objects": b'{"query": "q", "texts": [%b1]}' % (b'{"a":1},' * 1_000_000),
    "fields": b"{%b}" % b",".join(b'"%07d":1' % i for i in range(690_000)),
    "few fields": b"{%b}" % b",".join(b'"%040d":1' % i for i in range(180_000)),
    "NaN": b'{"query": "q", "texts": [%b1]}' % (b"NaN," * 2_000_000),
    "few NaN": b'{"query": "q", "texts": [%b1]}' % (b"%bNaN," % (b" " * 37) * 195_000),
    "few objects": b'{"query": "q", "texts": [%b1]}' % (b'%b{"a":1},' % (b" " * 70) * 98_000),
}


def measure_refusal(raw):
    """Bytes that Python objects take, at most, until a body is refused."""
    tracemalloc.start()
    try:
        with pytest.raises(ApiError):
            validate(rank.TeiRequest, parse_object(raw, Settings()))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE)
def test_memory_of_a_refused_body(raw):
    """At most 64 MB more than for one text of as many bytes. The parser reserves memory by the number of bytes."""
    assert 5e6 < len(raw) < 8 * 2**20
    ordinary = b'{"texts": ["%b"]}' % (b"x" * len(raw))
    assert measure_refusal(raw) < measure_refusal(ordinary) + 64 * 2**20


# ---------------------------------------------------------------- the event loop


def request_of(raw):
    async def receive():
        return {"type": "http.request", "body": raw, "more_body": False}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


@pytest.mark.parametrize("size", [bodies.INLINE_BYTES, bodies.INLINE_BYTES + 1])
def test_large_bodies_are_parsed_and_validated_in_a_thread(size):
    """Small ones are not: a thread would cost more than the parsing."""
    raw = b'{"a": "%b"}' % (b"x" * (size - 9))
    assert len(raw) == size
    where = asyncio.run(bodies.read_body(request_of(raw), Settings(), lambda _: threading.current_thread()))
    assert (where is threading.main_thread()) == (size <= bodies.INLINE_BYTES)


def test_a_large_body_that_is_refused_names_the_field():
    raw = json.dumps({"query": "q", "texts": ["x" * 100_000, 3]}).encode()
    with pytest.raises(InvalidRequestError) as refused:
        asyncio.run(bodies.read_model(request_of(raw), Settings(), rank.TeiRequest))
    assert refused.value.errors[0]["pointer"] == "/texts/1"
