"""What went wrong, said to the person who can mend it."""


class UserError(Exception):
    """Wrong use or missing set-up: one sentence that says what to do next. Commands print it and exit with 2."""


class WarehouseError(Exception):
    """The warehouse refuses, for now or for its cost: one sentence that says what to do. Commands exit with 1."""
