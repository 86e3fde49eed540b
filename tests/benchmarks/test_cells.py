"""Results on disk are complete or absent, and are found only under their own key."""

import numpy as np
import pytest

from benchmarks.code import code_hash, meaning
from benchmarks.personalization.cells import Cell, Result, Store, key_of, run
from benchmarks.personalization.task import Answer, Asked
from penchant.models.evaluation.split import TestPair

CELL = Cell("curves", "tiny", "cold", 0, "bt")
TEST_PAIRS = Asked.of(
    {"ann": [TestPair("q", "a", "b"), TestPair("r", "c", "a")], "bob": [TestPair("q", "b", "c")]}
)


def result(cell: Cell = CELL) -> Result:
    return Result(cell, TEST_PAIRS, Answer({0: np.array([0.25, 0.5, 1.0])}, {"setting": [1]}), 2.0)


def test_a_result_is_read_as_it_was_written(tmp_path) -> None:
    store = Store(tmp_path)
    store.write(result(), "key")
    read = store.read(CELL)
    assert read.answer.better[0].tolist() == [0.25, 0.5, 1.0]
    assert read.answer.notes == {"setting": [1]}
    assert read.asked.users.tolist() == [0, 0, 1]
    assert read.asked.texts.tolist() == [[0, 1], [2, 0], [1, 2]]
    assert read.asked.contexts.tolist() == [0, 1, 0]
    assert read.asked.context_names == ("q", "r")
    assert (read.asked.user_ids == TEST_PAIRS.user_ids).all()


def test_another_key_or_half_a_file_is_no_result(tmp_path) -> None:
    store = Store(tmp_path)
    assert not store.has(CELL, "key")
    store.write(result(), "key")
    assert store.has(CELL, "key")
    assert not store.has(CELL, "another key")
    (about,) = tmp_path.rglob("*.json")
    about.write_text(about.read_text("utf-8")[:20], "utf-8")
    assert not store.has(CELL, "key")


def test_keys_distinguish_cells_code_and_data() -> None:
    other = Cell("curves", "tiny", "warm", 0, "bt")
    keys = {
        key_of(CELL, code="1", data="2"),
        key_of(CELL, code="1", data="3"),
        key_of(CELL, code="2", data="2"),
        key_of(other, code="1", data="2"),
    }
    assert len(keys) == 4


def test_results_before_an_error_are_kept(tmp_path) -> None:
    second = Cell("curves", "tiny", "cold", 0, "lore")

    def fill(group):
        yield result()
        raise ArithmeticError("the second cell fails")

    store = Store(tmp_path)
    with pytest.raises(ArithmeticError):
        run([[CELL, second]], fill, store, {CELL: "1", second: "2"}, 1)
    assert store.has(CELL, "1")
    assert not store.has(second, "2")


def test_a_hash_depends_on_code_but_not_on_its_documentation() -> None:
    import ast

    def hash_source(source: str) -> str:
        return ast.dump(meaning(source))

    plain = "def f(x):\n    return x + 1\n"
    documented = '"""A module."""\n\ndef f(x):\n    """Adds one."""\n    # a comment\n    return x + 1\n'
    assert hash_source(plain) == hash_source(documented)
    assert hash_source(plain) != hash_source(plain.replace("1", "2"))


def test_a_hash_covers_what_a_module_imports() -> None:
    assert code_hash("benchmarks.peers.pal") != code_hash("benchmarks.peers.lore")
    assert code_hash("benchmarks.peers.lore") == code_hash("benchmarks.peers.lore")
    with pytest.raises(ModuleNotFoundError):
        code_hash("benchmarks.nothing")
