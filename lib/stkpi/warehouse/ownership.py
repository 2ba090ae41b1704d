"""Whose a table is. What this project makes is labeled, and only that may be replaced, changed or dropped.

BigQuery keeps the label as a label of the dataset, table or view, DuckDB as a comment. Both get it in the statement or
transaction that makes the object.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from stkpi.errors import UserError
from stkpi.warehouse.names import Write

LABEL = ("made_by", "stkpi")
LISTED = 10  # names in a message


class Ownership:
    """Which tables and views are ours, of those that were there at the beginning and those that were made since."""

    def __init__(
        self,
        found: Mapping[str, bool],
        our_datasets: Collection[str],
        *,
        pattern: str,
        catalog: str,
        may_change: str,
        read_only: bool,
    ) -> None:
        """Look at what is there.

        found: the tables and views, by real name: whether they have the label
        our_datasets: the datasets that are ours even where nothing in them is, by real name
        pattern: the setting DATASETS
        catalog: the project or database, with which a name may begin
        may_change: the one table that may get columns and values although it is not ours, by real name
        Raises UserError, which names all of them, for tables in a dataset that has nothing of ours.
        """
        self._found = dict(found)
        self._pattern, self._catalog = pattern, f"{catalog}."
        self._may_change, self._read_only = may_change, read_only
        ours = {name.partition(".")[0] for name, is_ours in found.items() if is_ours} | set(our_datasets)
        self._refuse(name for name in found if name.partition(".")[0] not in ours)

    def check(self, names: Iterable[str], look_up: Callable[[str], bool | None]) -> None:
        """Check that tables may be written, by real name.

        look_up: says of a table that was not seen yet, or without a label, whether it is ours; None: it does not exist
        Raises UserError, which names all of them, for tables that are not ours.
        """
        foreign = []
        for name in (name.removeprefix(self._catalog) for name in names):
            is_ours = self._found.get(name)
            # A listing may have come while another program of ours was making the table.
            if not is_ours and (is_ours := look_up(name)) is not None:
                self._found[name] = is_ours
            if is_ours is False:
                foreign.append(name)
        self._refuse(foreign)

    def check_writes(self, writes: Iterable[Write], look_up: Callable[[str], bool | None]) -> None:
        """Check, as `check` does, what a statement writes to. Raises RuntimeError on a connection that only reads."""
        writes = tuple(writes)
        if writes and self._read_only:
            raise RuntimeError(f"the warehouse was opened for reading only, and {writes[0].name} would be written")
        names = (write.name for write in writes if write.verb not in ("ALTER", "UPDATE") or not self._may(write.name))
        self.check(names, look_up)

    def note(self, writes: Iterable[Write]) -> None:
        """Note what a statement has made or dropped."""
        for write in writes:
            if write.surely:
                self._found[write.name] = True
            elif write.verb == "DROP":
                self._found.pop(write.name, None)

    def _may(self, name: str) -> bool:
        return name == f"{self._catalog}{self._may_change}"

    def _refuse(self, names: Iterable[str]) -> None:
        foreign = sorted(set(names))
        if not foreign:
            return
        listed = ", ".join(foreign[:LISTED])
        if len(foreign) > LISTED:
            listed += f" and {len(foreign) - LISTED} more"
        raise UserError(
            f"This program did not make {listed}, and leaves everything as it is: set DATASETS={self._suggest()} in "
            ".env, so that its own tables get other names."
        )

    def _suggest(self) -> str:
        """Return the next pattern: st_{}_v2, st_{}_v3."""
        stem = self._pattern.rstrip("0123456789")
        number = self._pattern.removeprefix(stem)
        return f"{stem}{int(number) + 1}" if number else f"{stem}_v2"
