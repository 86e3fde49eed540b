"""INSERT that minds what is there already, in the words of either database.

Each statement is compiled once for all: at one judgement a request this is where the time of the store goes.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Dialect, Table
from sqlalchemy.dialects import postgresql, sqlite

Row = Mapping[str, Any]


def insert(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Inserts rows, all of the same columns; one that is there already is an error."""
    _execute(connection, table, rows, on_conflict="fail")


def insert_new(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Inserts rows, all of the same columns; one that is there already stays as it is."""
    _execute(connection, table, rows, on_conflict="keep")


def insert_or_replace(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Inserts rows; of one that is there already all columns but the key are replaced. Rows name every column."""
    _execute(connection, table, rows, on_conflict="replace")


def _execute(connection: Connection, table: Table, rows: Sequence[Row], *, on_conflict: str) -> None:
    if rows:
        sql, bind = _compiled(connection.dialect, table, tuple(rows[0]), on_conflict)
        connection.exec_driver_sql(sql, [bind(row) for row in rows])


@cache
def _compiled(
    dialect: Dialect, table: Table, columns: tuple[str, ...], on_conflict: str
) -> tuple[str, Callable[[Row], Any]]:
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
