"""Statements that every table needs: inserting rows, and asking in portions that one statement takes.

Each insert is compiled once for all: at one judgement a request this is where the time of the store goes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import Connection, Dialect, Row, Table
from sqlalchemy.dialects import postgresql, sqlite

from penchant.service.store.tables import features, judged_items, rankings

AnyRow = Row[*tuple[Any, ...]]
"""A row that a query found."""

Values = Mapping[str, Any]
"""A row to be written, by column."""

CHUNK: Final = 500  # values in one IN list
_KEEPING: Final = (features, rankings, judged_items)  # a row that is there already stays


def insert(connection: Connection, table: Table, rows: Sequence[Values]) -> None:
    """Inserts rows, all of the same columns; one that is there already is an error."""
    _execute(connection, table, rows, on_conflict="fail")


def insert_new(connection: Connection, table: Table, rows: Sequence[Values]) -> None:
    """Inserts rows, all of the same columns; one that is there already stays as it is."""
    _execute(connection, table, rows, on_conflict="keep")


def insert_or_replace(connection: Connection, table: Table, rows: Sequence[Values]) -> None:
    """Inserts rows; of one that is there already all columns but the key are replaced. Rows name every column."""
    _execute(connection, table, rows, on_conflict="replace")


def add(connection: Connection, table: Table, rows: Sequence[Values]) -> None:
    """Inserts rows; for features, rankings and judged items a row that is there already stays.

    Rows should come in the order of a key: on PostgreSQL two transactions that insert the same ones then never wait
    for each other in a circle.
    """
    if table in _KEEPING:
        insert_new(connection, table, rows)
    else:
        insert(connection, table, rows)


def chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    """Values in lists that one statement takes."""
    listed = list(values)
    for start in range(0, len(listed), CHUNK):
        yield listed[start : start + CHUNK]


def _execute(connection: Connection, table: Table, rows: Sequence[Values], *, on_conflict: str) -> None:
    if rows:
        sql, bind = _compiled(connection.dialect, table, tuple(rows[0]), on_conflict)
        connection.exec_driver_sql(sql, [bind(row) for row in rows])


@cache
def _compiled(
    dialect: Dialect, table: Table, columns: tuple[str, ...], on_conflict: str
) -> tuple[str, Callable[[Values], Any]]:
    """The statement, and what makes of a row the parameters that the driver takes."""
    statement = postgresql.insert(table) if dialect.name == "postgresql" else sqlite.insert(table)
    keys = list(table.primary_key.columns.keys())
    if on_conflict == "keep":
        statement = statement.on_conflict_do_nothing(index_elements=keys)
    elif on_conflict == "replace":
        replaced = {
            column.name: statement.excluded[column.name] for column in table.columns if not column.primary_key
        }
        statement = statement.on_conflict_do_update(index_elements=keys, set_=replaced)
    compiled = statement.compile(dialect=dialect, column_keys=list(columns))
    order = compiled.positiontup
    return str(compiled), dict if order is None else itemgetter(*order)
