"""What a statement is called, and what it writes to, in the warehouse as it really is.

All SQL and Python say st_raw_v2; the setting DATASETS says what that dataset is called in the warehouse (`st_{}_v3`).
Only the engines translate, here: by the tokens of a statement, so that texts and comments stay as they are. A name of
three parts (project.dataset.table) is a real one and stays as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from sqlglot.dialects.bigquery import BigQuery
from sqlglot.errors import TokenError
from sqlglot.tokens import Token, TokenType

LOGICAL = "st_{}_v2"
DATASETS = tuple(LOGICAL.format(part) for part in ("raw", "ref", "mart", "logs", "stage"))
_NAME = re.compile(r"[\w.-]+")
_JOINTS = (TokenType.DOT, TokenType.DASH)
_VERBS = ("CREATE", "ALTER", "DROP", "TRUNCATE", "INSERT", "MERGE", "UPDATE", "DELETE")
# What may stand between a verb and the name.
_BETWEEN = {
    "OR", "REPLACE", "TEMP", "TEMPORARY", "MATERIALIZED", "EXTERNAL", "SNAPSHOT", "TABLE", "VIEW", "INTO", "FROM", "IF",
    "NOT", "EXISTS",
}  # fmt: skip


@dataclass(frozen=True)
class Write:
    """What a statement does to an object: `verb` of _VERBS, `kind` TABLE or VIEW, `name` the real one.

    surely: afterward the object is the one that the statement made (CREATE without IF NOT EXISTS)
    """

    verb: str
    kind: str
    name: str
    surely: bool = False


@dataclass(frozen=True)
class Statement:
    """A statement, or several with semicolons between, with real names."""

    sql: str
    writes: tuple[Write, ...]


def map_name(name: str, pattern: str) -> str:
    """Return the real name of a dataset or a table (`dataset.table`); a name that is not one of ours stays.

    pattern: the setting DATASETS

    >>> map_name("st_raw_v2.raw_jobs", "acme_{}")
    'acme_raw.raw_jobs'
    """
    dataset, dot, table = name.partition(".")
    if dataset not in DATASETS:
        return name
    start, end = LOGICAL.split("{}")
    return pattern.format(dataset.removeprefix(start).removesuffix(end)) + dot + table


def map_sql(sql: str, pattern: str) -> str:
    """Return SQL with the real names of the datasets. Raises ValueError for a text that is not SQL."""
    return prepare_statement(sql, pattern).sql


@lru_cache(maxsize=512)
def prepare_statement(sql: str, pattern: str, options: str = "") -> Statement:
    """Translate the names of a statement, and find what it writes to.

    options: goes into the OPTIONS of every table and view that it creates; empty: nothing does
    Raises ValueError for a text that is not SQL.
    """
    try:
        tokens = BigQuery.Tokenizer().tokenize(sql)
    except TokenError as error:
        raise ValueError(f"Not GoogleSQL: {error}") from error
    edits = list(_map_tokens(tokens, pattern))
    writes = []
    for place, token in enumerate(tokens):
        if token.text.upper() not in _VERBS or token.token_type in (TokenType.IDENTIFIER, TokenType.STRING):
            continue
        write, end = _read_write(tokens, place, pattern)
        if write:
            writes.append(write)
        if write and write.verb == "CREATE" and options:
            edits.append(_insert_options(tokens, end, options))
    for start, stop, text in sorted(edits, reverse=True):
        sql = sql[:start] + text + sql[stop:]
    return Statement(sql, tuple(writes))


def _map_tokens(tokens: Sequence[Token], pattern: str) -> Iterator[tuple[int, int, str]]:
    """Yield where a dataset is named, as (start, end, real name)."""
    for before, token, after in zip([None, *tokens[:-1]], tokens, [*tokens[1:], None], strict=True):
        if before and before.token_type is TokenType.DOT:
            continue
        quoted = token.token_type is TokenType.IDENTIFIER
        if (quoted and "." in token.text) or (
            token.token_type in (TokenType.VAR, TokenType.IDENTIFIER) and after and after.token_type is TokenType.DOT
        ):  # `dataset.table`
            real = map_name(token.text, pattern)
        else:
            continue
        if real != token.text:
            yield token.start, token.end + 1, f"`{real}`" if quoted else real


def _read_write(tokens: Sequence[Token], place: int, pattern: str) -> tuple[Write | None, int]:
    """Read from a verb to the name that follows it; return the write, if there is one, and the place after the name."""
    end = place + 1
    while end < len(tokens) and tokens[end].text.upper() in _BETWEEN:
        end += 1
    words = {token.text.upper() for token in tokens[place:end]}
    name = ""
    while end < len(tokens):
        text, joins = tokens[end].text, tokens[end].token_type in _JOINTS
        # Two words side by side: the name is over. A project may have dashes in its name.
        is_name = tokens[end].token_type is TokenType.IDENTIFIER or _NAME.fullmatch(text)
        if not joins and (name[-1:].isalnum() or not is_name):
            break
        name += text
        end += 1
    if "." not in name:  # a clause of a MERGE, or a temporary table
        return None, end
    verb = tokens[place].text.upper()
    kind = "VIEW" if "VIEW" in words else "TABLE"
    return Write(verb, kind, map_name(name, pattern), surely=verb == "CREATE" and "EXISTS" not in words), end


def _insert_options(tokens: Sequence[Token], place: int, options: str) -> tuple[int, int, str]:
    """Return the edit that gives options to the object whose name ends before `place`."""
    depth = 0
    last = tokens[place - 1].end + 1
    for token, after in zip(tokens[place:], [*tokens[place + 1 :], None], strict=True):
        if depth == 0 and token.token_type is TokenType.SEMICOLON:
            break
        if depth == 0 and token.token_type is TokenType.ALIAS:
            return token.start, token.start, f"OPTIONS ({options})\n"
        if depth == 0 and token.text.upper() == "OPTIONS" and after and after.token_type is TokenType.L_PAREN:
            return after.end + 1, after.end + 1, f"{options}, "
        depth += {TokenType.L_PAREN: 1, TokenType.R_PAREN: -1}.get(token.token_type, 0)
        last = token.end + 1
    return last, last, f"\nOPTIONS ({options})"
