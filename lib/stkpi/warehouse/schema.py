"""Tables as data: their DDL, and the migration that brings a table which is there to what is declared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from stkpi.errors import UserError

Columns = Mapping[str, str]  # name to GoogleSQL type


@dataclass(frozen=True)
class Column:
    """A column; every one may be NULL: a column that joins a table later cannot be anything else."""

    name: str
    type: str
    description: str = ""

    @property
    def sql(self) -> str:
        """The column as DDL declares it."""
        return f"`{self.name}` {self.type}{_options(self.description)}"


@dataclass(frozen=True)
class Table:
    """A table by its full name. `partition` is over a date that never changes: a MERGE prunes by it."""

    name: str
    columns: tuple[Column, ...]
    partition: str = ""
    cluster: tuple[str, ...] = ()
    description: str = ""

    @property
    def dataset(self) -> str:
        """The dataset that it is in."""
        return self.name.partition(".")[0]


def create_sql(table: Table) -> str:
    """The CREATE TABLE IF NOT EXISTS of a table."""
    columns = ",\n  ".join(column.sql for column in table.columns)
    lines = [f"CREATE TABLE IF NOT EXISTS {table.name} (\n  {columns}\n)"]
    if table.partition:
        lines.append(f"PARTITION BY {table.partition}")
    if table.cluster:
        lines.append(f"CLUSTER BY {', '.join(table.cluster)}")
    if table.description:
        lines.append(_options(table.description).strip())
    return "\n".join(lines)


def migration(tables: Iterable[Table], found: Mapping[str, Columns]) -> Iterator[str]:
    """The statements that create the tables that are missing and add the columns that the others lack.

    found: the tables that are there, by full name
    Raises UserError for a column of another type: no statement changes it without a person's decision.
    """
    for table in tables:
        if table.name not in found:
            yield create_sql(table)
            continue
        there = found[table.name]
        for column in table.columns:
            if there.get(column.name, column.type) != column.type:
                raise UserError(
                    f"{table.name}.{column.name} is {there[column.name]} in the warehouse and must be {column.type}: "
                    f"rename the table, and the next ingest reads it anew."
                )
        if missing := [column for column in table.columns if column.name not in there]:
            actions = ",\n  ".join(f"ADD COLUMN IF NOT EXISTS {column.sql}" for column in missing)
            yield f"ALTER TABLE {table.name}\n  {actions}"


def _options(description: str) -> str:
    text = description.replace("\\", "\\\\").replace('"', '\\"')
    return f' OPTIONS (description="{text}")' if description else ""
