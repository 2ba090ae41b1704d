"""Tables as data: their DDL, and the migration that brings an existing table to its declaration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from stkpi.errors import UserError

Columns = Mapping[str, str]  # name to GoogleSQL type


@dataclass(frozen=True)
class Column:
    """A column. All are nullable: a column that is added to an existing table cannot be anything else."""

    name: str
    type: str
    description: str = ""

    @property
    def sql(self) -> str:
        """The column as it stands in a CREATE TABLE."""
        return f"`{self.name}` {self.type}{_options_sql(self.description)}"


@dataclass(frozen=True)
class Table:
    """A table by its full name. `partition` is by a date that never changes, so that a MERGE can prune by it."""

    name: str
    columns: tuple[Column, ...]
    partition: str = ""
    cluster: tuple[str, ...] = ()
    description: str = ""

    @property
    def dataset(self) -> str:
        """The dataset of the table."""
        return self.name.partition(".")[0]


def create_sql(table: Table) -> str:
    """Return the CREATE TABLE IF NOT EXISTS statement of a table."""
    columns = ",\n  ".join(column.sql for column in table.columns)
    lines = [f"CREATE TABLE IF NOT EXISTS {table.name} (\n  {columns}\n)"]
    if table.partition:
        lines.append(f"PARTITION BY {table.partition}")
    if table.cluster:
        lines.append(f"CLUSTER BY {', '.join(table.cluster)}")
    if table.description:
        lines.append(_options_sql(table.description).strip())
    return "\n".join(lines)


def plan_migration(
    tables: Iterable[Table], found: Mapping[str, Columns], resolve_name: Callable[[str], str] = str
) -> Iterator[str]:
    """Yield the statements that create missing tables and add missing columns.

    found: the existing tables, by full name
    resolve_name: gives the name of a table in the warehouse, for the message
    Raises UserError for a column of another type: changing it needs a person's decision.
    """
    for table in tables:
        if table.name not in found:
            yield create_sql(table)
            continue
        existing = found[table.name]
        for column in table.columns:
            if existing.get(column.name, column.type) != column.type:
                raise UserError(
                    f"{resolve_name(table.name)}.{column.name} is {existing[column.name]} in the warehouse and must be "
                    f"{column.type}: rename the table, and the next ingest reads its data again."
                )
        if missing := [column for column in table.columns if column.name not in existing]:
            actions = ",\n  ".join(f"ADD COLUMN IF NOT EXISTS {column.sql}" for column in missing)
            yield f"ALTER TABLE {table.name}\n  {actions}"


def _options_sql(description: str) -> str:
    text = description.replace("\\", "\\\\").replace('"', '\\"')
    return f' OPTIONS (description="{text}")' if description else ""
