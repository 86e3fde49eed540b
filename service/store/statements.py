"""Statements that every table needs: inserts, and lists of keys cut into chunks that one statement accepts.

Each insert is compiled once, because compilation would otherwise dominate the store's time for a single judgement.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, Final, Literal

from sqlalchemy import Connection, Dialect, Row, Table
from sqlalchemy.dialects import postgresql, sqlite

from penchant.service.store.tables import features, judged_items, rankings

AnyRow = Row[*tuple[Any, ...]]
"""A row that a query returned."""

Values = Mapping[str, Any]
"""A row to be written, by column."""

OnConflict = Literal["fail", "keep", "replace", "add"]
"""What an insert does with a row whose key exists."""

_CHUNK: Final = 500  # values in one IN list
_KEEPING: Final = (features, rankings, judged_items)  # tables in which an existing row stays


def insert(connection: Connection, table: Table, rows: Sequence[Values]) -> None:
    """Insert rows, all with the same columns. An existing key is an error."""
    _execute(connection, table, rows, "fail")


def insert_new(connection: Connection, table: Table, rows: Sequence[Values]) -> None:
    """Insert rows, all with the same columns. A row whose key exists stays as it is."""
    _execute(connection, table, rows, "keep")


def insert_or_replace(connection: Connection, table: Table, rows: Sequence[Values]) -> None:
    """Insert rows that name every column. A row whose key exists is replaced."""
    _execute(connection, table, rows, "replace")


def insert_or_add(connection: Connection, table: Table, rows: Sequence[Values]) -> None:
    """Insert rows that name every column. If the key exists, the numbers outside it are added to the stored ones."""
    _execute(connection, table, rows, "add")


def add(connection: Connection, table: Table, rows: Sequence[Values]) -> None:
    """Insert rows. In `features`, `rankings` and `judged_items` a row whose key exists stays as it is.

    Rows should be sorted by a key. Two PostgreSQL transactions that insert the same rows then never deadlock.
    """
    if table in _KEEPING:
        insert_new(connection, table, rows)
    else:
        insert(connection, table, rows)


def chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield the values in lists that one statement accepts."""
    remaining = list(values)
    for start in range(0, len(remaining), _CHUNK):
        yield remaining[start : start + _CHUNK]


def _execute(connection: Connection, table: Table, rows: Sequence[Values], on_conflict: OnConflict) -> None:
    if rows:
        sql, bind = _compile(connection.dialect, table, tuple(rows[0]), on_conflict)
        connection.exec_driver_sql(sql, [bind(row) for row in rows])


@cache
def _compile(
    dialect: Dialect, table: Table, columns: tuple[str, ...], on_conflict: OnConflict
) -> tuple[str, Callable[[Values], Any]]:
    """Return the statement, and the function that turns a row into the driver's parameters."""
    statement = postgresql.insert(table) if dialect.name == "postgresql" else sqlite.insert(table)
    keys = list(table.primary_key.columns.keys())
    others = [column for column in table.columns if not column.primary_key]
    new = statement.excluded
    if on_conflict == "keep":
        statement = statement.on_conflict_do_nothing(index_elements=keys)
    elif on_conflict == "replace":
        replaced = {column.name: new[column.name] for column in others}
        statement = statement.on_conflict_do_update(index_elements=keys, set_=replaced)
    elif on_conflict == "add":
        sums = {column.name: column + new[column.name] for column in others}
        statement = statement.on_conflict_do_update(index_elements=keys, set_=sums)
    compiled = statement.compile(dialect=dialect, column_keys=list(columns))
    order = compiled.positiontup
    return str(compiled), dict if order is None else itemgetter(*order)
