"""INSERT that minds what is there already, in the words of either database."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Executable, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Inserts rows; one that is there already stays as it is."""
    if rows:
        connection.execute(_inserting(connection.dialect.name, table, replace=False), rows)


def insert_or_replace(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Inserts rows; of one that is there already all columns but the key are replaced. Rows name every column."""
    if rows:
        connection.execute(_inserting(connection.dialect.name, table, replace=True), rows)


@cache
def _inserting(dialect: str, table: Table, *, replace: bool) -> Executable:
    statement = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    keys = list(table.primary_key.columns.keys())
    if not replace:
        return statement.on_conflict_do_nothing(index_elements=keys)
    replaced = {
        column.name: statement.excluded[column.name] for column in table.columns if not column.primary_key
    }
    return statement.on_conflict_do_update(index_elements=keys, set_=replaced)
