"""How much do the tests notice? `make mutants` changes the code in one small place at a time and runs its tests.

A mutant that no test notices survives. Each part of PARTS is changed at random places, the same ones for a seed; NAMED
are changes that once went unseen. mutmut and cosmic-ray do this for Python only, and half of what makes a figure here
is SQL: this file changes both, in a copy of the project.

`python tests/mutants.py [part …]` prints a table. MUTANTS=150 is how many at random, MUTANTS_SEED=1, MUTANTS_JOBS=2.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count, islice, pairwise
from multiprocessing import get_context
from pathlib import Path
from queue import SimpleQueue
from random import Random

import pytest

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("lib", "sql", "expectations", "notebooks", "tests")
# Whatever a test imports slowly, and no file of this project.
IMPORTED = ("pandas", "duckdb", "sqlglot", "google.cloud.bigquery", "hypothesis", "zetasql", "great_expectations")
Edit = tuple[int, int, bytes]  # the bytes from … to … become these


@dataclass(frozen=True)
class Part:
    """A part of the product: its files, and what pytest is given to run the tests that should notice a change."""

    files: tuple[str, ...]
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Mutant:
    """A changed file; `old` and `new` are the changed line before and after. A named one has been thought up."""

    part: str
    path: str
    line: int
    old: str
    new: str
    text: bytes
    name: str = ""
    outcome: str = ""


# The quickest first: the first test that fails ends the run of a mutant.
READ = (
    *(f"tests/test_{name}.py" for name in ("windows", "landing", "reading", "faults_cursor", "faults_records")),
    *("tests/test_faults_first.py", "tests/test_faults.py"),
    *("-k", "not (bigquery or timeout or killed or 088_a_field or 089_warranty or 118 or 119_builds or 122)"),
)
COUNT = (
    *("tests/test_sql.py::test_case", "tests/test_sql.py::test_what_the_pages_ask_is_googlesql"),
    *("tests/test_options.py", "tests/test_every_option.py", "tests/test_ways.py", "tests/test_figures.py"),
    *("tests/test_ingest.py", "tests/test_definitions_agree.py"),
    *("-k", "test_case or pages_ask or option or test_ways or figures or equals_the_truth or (agree and 1-1)"),
)
PARTS = {
    "windows": Part(("lib/stkpi/servicetitan/windows.py",), READ),
    "mapping": Part(("lib/stkpi/servicetitan/entities.py", "lib/stkpi/ingest/shapes.py"), READ),
    "landing": Part(("lib/stkpi/ingest/landing.py",), READ),
    "merge": Part(("lib/stkpi/ingest/load.py",), READ),
    "watermark": Part(("lib/stkpi/ingest/state.py",), READ),
    "completeness": Part(("lib/stkpi/ingest/read.py",), READ),
    "client": Part(("lib/stkpi/servicetitan/client.py",), READ),
    "batching": Part(("lib/stkpi/warehouse/chunks.py",), READ),
    "increment": Part(
        ("lib/stkpi/marts/increment.py", "sql/increment/bounds.sql", "sql/st_ref_v2/r*.sql"), ("tests/test_marts.py",)
    ),
    "catalog": Part(("sql/catalog.yml", "lib/stkpi/kpis/sql.py", "lib/stkpi/kpis/days.py"), COUNT),
    "figures": Part(("sql/kpis/[cdfw]*.j2", "sql/st_ref_v2/dim_*.sql"), COUNT),
}

# What is wrong, the part, the file, what stands there, and what stands there instead.
NAMED = (
    (
        *("a backfill loses its last day", "windows", "lib/stkpi/ingest/read.py"),
        *("in (first, last + timedelta(days=1))", "in (first, max(last, first + timedelta(days=1)))"),
    ),
    (
        *("soldAfter is left out", "completeness", "lib/stkpi/servicetitan/entities.py"),
        *('also=("soldAfter",)', "also=()"),
    ),
    (
        *("pay settles in 4 days, not in 45", "completeness", "lib/stkpi/servicetitan/entities.py"),
        *("lookback=timedelta(days=45)", "lookback=LATE"),
    ),
    (
        *("pay is read without an overlap", "watermark", "lib/stkpi/ingest/read.py"),
        *("floor_to_midnight(watermark - reader.entity.lookback)", "floor_to_midnight(watermark)"),
    ),
    (
        *("a feed is read without an overlap", "watermark", "lib/stkpi/ingest/read.py"),
        *("since = watermark - reader.entity.lookback", "since = watermark"),
    ),
    (
        *("a list is read without an overlap", "watermark", "lib/stkpi/ingest/read.py"),
        *("_format_timestamp(watermark - reader.entity.lookback)})", "_format_timestamp(watermark)})"),
    ),
    (
        *("a watermark goes back", "watermark", "lib/stkpi/ingest/state.py"),
        *("marks = [read_state(target, entity).watermark, *(", "marks = [*("),
    ),
    (
        *("a short window counts as done", "completeness", "lib/stkpi/ingest/load.py"),
        *('"loaded" if landed.complete else "short"', '"loaded"'),
    ),
    (
        *("an incomplete slice deletes", "completeness", "lib/stkpi/ingest/load.py"),
        *("if not reading.removes or not landed.complete or landed.moved:", "if not reading.removes or landed.moved:"),
    ),
    (
        *("the last batch of a feed is lost", "batching", "lib/stkpi/ingest/read.py"),
        "    for first in pages:  # and those that follow it, one at a time: records may be large\n"
        "        reader.load(path, chain([first], islice(pages, FEED_PAGES - 1)))\n",
        "    for number, first in enumerate(pages):\n"
        "        batch = [first, *islice(pages, FEED_PAGES - 1)]\n"
        "        if not number or len(batch) == FEED_PAGES:\n"
        "            reader.load(path, batch)\n",
    ),
    (
        *("the last lines of a file are lost", "batching", "lib/stkpi/warehouse/chunks.py"),
        *("    if lines:\n        yield", "    if lines and not first:\n        yield"),
    ),
    (
        *("a token is not renewed before it expires", "client", "lib/stkpi/servicetitan/client.py"),
        *("if not token or time.monotonic() >= renewal:", "if not token:"),
    ),
    (
        *("a token that expired is not renewed", "client", "lib/stkpi/servicetitan/client.py"),
        *("            self._discard_token(token)\n", "            pass\n"),
    ),
    (
        *("visits at no charge count", "catalog", "sql/catalog.yml"),
        *('excluded: {is: "estimates > 0 OR invoiced != 0", bits: 0', 'excluded: {is: "TRUE", bits: 0'),
    ),
    (
        *("what was invoiced without an estimate does not count", "catalog", "sql/catalog.yml"),
        *('excluded: {is: "estimates > 0 OR invoiced != 0", bits: 0', 'excluded: {is: "estimates > 0", bits: 0'),
    ),
    (
        *("a deleted record counts as loaded in any state", "merge", "lib/stkpi/ingest/load.py"),
        *("ON D.key = S._key AND D.digest = S._hash", "ON D.key = S._key OR D.digest = S._hash"),
    ),
    (
        *("a record of just the limit is refused", "landing", "lib/stkpi/ingest/landing.py"),
        *("if len(text) > max_bytes:", "if len(text) >= max_bytes:"),
    ),
    (
        *("a number reads the facts of every KPI", "catalog", "lib/stkpi/kpis/sql.py"),
        *("if name not in wanted:\n            continue", "if name not in wanted:\n            pass"),
    ),
    (
        *("a window of one more day leaves the week before", "increment", "lib/stkpi/marts/increment.py"),
        *("plan = replace(plan, bounds=plan.bounds.widen())", "pass"),
    ),
)

# Survivors that change nothing: part of the line as it stands, what it becomes, and why no test could notice.
SAME: tuple[tuple[str, str, str], ...] = (
    ('positive: {is: "amount > 0"', "amount >= 0", "a payment of $0 adds nothing to what is collected"),
    (
        "warranty_similar_cost:",
        "REGEXP_CONTAINS(job_type_name",
        "a type without a name is no warranty type: IF takes NULL for no",
    ),
    ('"includeTotal": "true"', '"pageSize": 2', "a count is the same with a larger page"),
    ("PATIENCE = 15 * 60", "PATIENCE = 15 * 61", "fifteen seconds of fifteen minutes"),
    ("now - self._told_at >= 60", "now - self._told_at >= 61", "it is told once a minute, or a second later"),
    ("FEED_PAGES - 1", "FEED_PAGES - 2", "how many pages are merged together"),
    ("cuts.append((start", "pass", "the last window goes on to the end of time, without another row"),
    ("else 'CAST(0 AS NUMERIC)'", "CAST(77", "the value of a column that no statement reads"),
)


# --- changes ----------------------------------------------------------------------------------------------------------

_COMPARED = {
    **{ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">")},
    **{ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is")},
    **{ast.In: ("in", "not in"), ast.NotIn: ("not in", "in")},
}
_COMPUTED = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
}
_REMOVED = (ast.AugAssign, ast.Continue, ast.Break, ast.Raise)
_SAID = re.compile(rb"log\.|self\.report|_print|progress")  # what is only told is not what this is about

_IN_SQL = re.compile(
    rb"\b(SELECT|FROM|WHERE|JOIN|WHEN|CASE|CAST|COALESCE|IF|AND|OR|IS NULL|SUM|COUNT|DATE|TRUE)\b|[<>=]=? "
)
_SQL: tuple[tuple[re.Pattern[bytes], bytes], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rb" >= ", b" > "),
        (rb" <= ", b" < "),
        (rb" < ", b" <= "),
        (rb" > ", b" >= "),
        (rb" = (?=[\w@'(.])", b" != "),
        (rb" != ", b" = "),
        (rb"\bIS NOT NULL\b", b"IS NULL"),
        (rb"\bIS NULL\b", b"IS NOT NULL"),
        (rb"\bAND\b", b"OR"),
        (rb"\bOR\b(?! REPLACE)", b"AND"),
        (rb"\bNOT (?!NULL|MATCHED|BETWEEN)", b""),
        (rb"\bTRUE\b", b"FALSE"),
        (rb"\bFALSE\b", b"TRUE"),
        (rb"\bLEFT JOIN\b", b"INNER JOIN"),
        (rb"\bINNER JOIN\b", b"LEFT JOIN"),
        (rb"\bMIN\(", b"MAX("),
        (rb"\bMAX\(", b"MIN("),
        (rb"\bGREATEST\(", b"LEAST("),
        (rb"\bLEAST\(", b"GREATEST("),
        (rb"\bDISTINCT ", b""),
        (rb"\bUNION ALL\b", b"UNION DISTINCT"),
        (rb" DESC\b", b""),
        (rb"(?<=\w) \+ (?=\w)", b" - "),
        (rb"(?<=\w) - (?=\w)", b" + "),
        (rb"\bCOALESCE\(([\w.@]+), [\w.@' ]*\)", rb"\1"),
        (rb"(?<![\w.'-])\d+(?![\w.'-])", b"77"),
        (rb"(?<=')[A-Z][a-z]+(?=')", b"Other"),
    )
)


def edit_sql(text: bytes, start: int = 0) -> Iterator[Edit]:
    """Yield the changes of a piece of SQL, which begins at `start` of its file; its comments stay."""
    comments = [found.span() for found in re.finditer(rb"--.*", text)]
    for pattern, replacement in _SQL:
        for found in pattern.finditer(text):
            if not any(first <= found.start() < last for first, last in comments):
                yield start + found.start(), start + found.end(), found.expand(replacement)


def edit_catalog(text: bytes) -> Iterator[Edit]:
    """Yield the changes of what is SQL in the catalog, or a window."""
    for found in re.finditer(rb'(?<=\bis: )("[^"]*"|\[[^\]]*\])', text):
        yield from edit_sql(found[0], found.start())
    for found in re.finditer(rb"(?<=is: )(first|last|monday)?([+-]\d+[dy])?", text):
        if found[2]:
            yield found.start(2), found.end(2), b""
    for found in re.finditer(rb"(?<=\{ratio: \[)[^\]]*|(?<=: )\w+( [+-] \w+)+|(?<=: )\"IF\([^\"]*", text):
        yield from edit_sql(found[0], found.start())


def edit_python(text: bytes) -> Iterator[Edit]:
    """Yield the changes of Python, and of the SQL in its texts."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in _walk(ast.parse(text)):
        if isinstance(node, ast.expr | ast.stmt):
            first, last = (
                starts[line - 1] + column
                for line, column in (
                    (node.lineno, node.col_offset),
                    (node.end_lineno or 0, node.end_col_offset or 0),
                )
            )
            yield from _edit_value(node, first, last)
            for left, words, right in _list_operators(node):
                begin = starts[(left.end_lineno or 0) - 1] + (left.end_col_offset or 0)
                at = text.index(words[0].encode(), begin, starts[right.lineno - 1] + right.col_offset)
                yield at, at + len(words[0]), words[1].encode()
            source = text[first:last]
            if isinstance(node, ast.JoinedStr | ast.Constant) and _IN_SQL.search(source):
                yield from edit_sql(source, first)
            is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            if (is_call or isinstance(node, _REMOVED)) and not _SAID.match(source):
                yield first, last, b"pass"


def _edit_value(node: ast.AST, first: int, last: int) -> Iterator[Edit]:
    """Yield the changes of a number, a truth, or a `not`."""
    match node:
        case ast.Constant(value=bool()):
            yield first, last, str(not node.value).encode()
        case ast.Constant(value=int()) if node.value < 100:  # beyond it are sizes and seconds
            yield first, last, str(node.value + 1).encode()
        case ast.UnaryOp(op=ast.Not()):
            yield first, first + len("not "), b""


def _list_operators(node: ast.AST) -> Iterator[tuple[ast.expr, tuple[str, str], ast.expr]]:
    """Yield each operator of an expression: what is left of it, what it is and becomes, and what is right of it."""
    match node:
        case ast.Compare():
            for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
                yield left, _COMPARED[type(operator)], right
        case ast.BoolOp():
            for left, right in pairwise(node.values):
                yield left, ("and", "or") if isinstance(node.op, ast.And) else ("or", "and"), right
        case ast.BinOp() if type(node.op) in _COMPUTED:
            yield node.left, _COMPUTED[type(node.op)], node.right


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of what runs: no docstrings, decorators, types, error texts, and no code within f-strings."""
    yield node
    if isinstance(node, ast.JoinedStr | ast.Raise):
        return
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            said = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            if isinstance(child, ast.AST) and not said and name not in ("decorator_list", "annotation", "returns"):
                yield from _walk(child)


def list_mutants(part: str, path: str) -> list[Mutant]:
    """List every change of a file."""
    text = (ROOT / path).read_bytes()
    edit = {".py": edit_python, ".yml": edit_catalog}.get(Path(path).suffix, edit_sql)
    return [mutate(part, path, text, change) for change in sorted(set(edit(text)))]


def can_run(mutant: Mutant) -> bool:
    """Whether the file can still be read: what looks like SQL may be the code in an f-string."""
    try:
        return not mutant.path.endswith(".py") or bool(ast.parse(mutant.text))
    except SyntaxError:
        return False


def mutate(part: str, path: str, text: bytes, edit: Edit, name: str = "") -> Mutant:
    """Make the mutant of an edit."""
    start, end, replacement = edit
    begin = text.rfind(b"\n", 0, start) + 1
    new = text[:start] + replacement + text[end:]
    old_line, new_line = (each[begin:].split(b"\n", 1)[0].decode().strip() for each in (text, new))
    return Mutant(part, path, text.count(b"\n", 0, start) + 1, old_line, new_line, new, name)


def list_named() -> list[Mutant]:
    """List the named mutants. Raises ValueError where the code is no longer what they change."""
    found = []
    for name, part, path, old, new in NAMED:
        text = (ROOT / path).read_bytes()
        if text.count(old.encode()) != 1:
            raise ValueError(f"{path} must have this once, which the mutant “{name}” changes: {old}")
        start = text.index(old.encode())
        found.append(mutate(part, path, text, (start, start + len(old.encode()), new.encode()), name))
    return found


def draw_mutants(parts: Iterable[str], number: int, seed: int) -> list[Mutant]:
    """Draw about as many mutants of each part."""
    rng, parts = Random(seed), list(parts)
    found: list[Mutant] = []
    for part in parts:
        paths = [str(path.relative_to(ROOT)) for name in PARTS[part].files for path in sorted(ROOT.glob(name))]
        every = [mutant for path in paths for mutant in list_mutants(part, path) if not explain(mutant)]
        found += islice(filter(can_run, rng.sample(every, len(every))), -(-number // len(parts)))
    return found


def explain(mutant: Mutant) -> str:
    """Return why a mutant changes nothing; empty if it may."""
    return next((why for old, new, why in SAME if old in mutant.old and new in mutant.new), "")


# --- running the tests ------------------------------------------------------------------------------------------------


def run_tests(folder: Path, tests: tuple[str, ...]) -> None:
    """Run tests of the copy in `folder` until one fails, in this process, and end it with pytest's code."""
    os.setsid()
    with (folder / "output").open("w") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder / "lib")
    sys.path[:0] = [str(folder / "lib")]
    options = ("-x", "-q", "-m", "not soak", "-p", "no:cacheprovider", "-p", "no:randomly", f"--basetemp={folder}/tmp")
    os._exit(pytest.main([*options, *tests]))


class Copy:
    """A copy of the project in which one mutant at a time is tried."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.context = get_context("forkserver")  # what is slow to import is imported once
        self.context.set_forkserver_preload(list(IMPORTED))
        self.times = count(1_000_000_000)
        for name in COPIED:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for path in ROOT.glob(".venv*"):
            if path.is_dir():
                (folder / path.name).symlink_to(path.resolve())

    def run(self, tests: tuple[str, ...], limit: float) -> str:
        """Run the tests; return passed, failed, or too long."""
        process = self.context.Process(target=run_tests, args=(self.folder, tests))
        process.start()
        process.join(limit)
        late = process.is_alive()
        if process.pid:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what the tests started, too
        process.join()
        return "too long" if late else "failed" if process.exitcode else "passed"

    def write(self, path: str, text: bytes) -> None:
        """Write a file; its time is new, or Python would run it from the bytecode of one as long."""
        (self.folder / path).write_bytes(text)
        moment = next(self.times)
        os.utime(self.folder / path, (moment, moment))

    def judge(self, mutant: Mutant, limit: float) -> Mutant:
        """Return the mutant with its outcome: killed, or survived."""
        self.write(mutant.path, mutant.text)
        found = self.run(PARTS[mutant.part].tests, limit)
        self.write(mutant.path, (ROOT / mutant.path).read_bytes())
        return replace(mutant, outcome="survived" if found == "passed" else "killed")


def judge_all(mutants: list[Mutant], jobs: int) -> list[Mutant]:
    """Try every mutant, after the tests without any, which must pass and whose time is the measure of all others."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary, ThreadPoolExecutor(jobs) as pool:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(jobs):
            copies.put(Copy(Path(temporary) / str(number)))
        limits: dict[tuple[str, ...], float] = {}

        @contextmanager
        def borrow() -> Iterator[Copy]:
            copy = copies.get()
            try:
                yield copy
            finally:  # after an error, too: others wait for it
                copies.put(copy)

        def measure(tests: tuple[str, ...]) -> None:
            with borrow() as copy:
                began = time.monotonic()
                if copy.run(tests, 1200) != "passed":
                    raise RuntimeError((copy.folder / "output").read_text())
                limits[tests] = 30 + 3 * (time.monotonic() - began)

        def judge(mutant: Mutant) -> Mutant:
            with borrow() as copy:
                found = copy.judge(mutant, limits[PARTS[mutant.part].tests])
            print(f"{found.outcome:8}  {describe(found)}", flush=True)
            return found

        list(pool.map(measure, {PARTS[mutant.part].tests for mutant in mutants}))
        return list(pool.map(judge, mutants))


def describe(mutant: Mutant) -> str:
    """Return a mutant as a line: its place, and what becomes what."""
    change = mutant.name or f"{mutant.old}  →  {mutant.new}"
    return f"{mutant.path}:{mutant.line}  {change}"


def main() -> int:
    """Print every mutant as it is tried, then the table and the survivors; return 1 for less than 90 %, or a named."""
    parts = sys.argv[1:] or list(PARTS)
    number, seed, jobs = (int(os.environ.get(f"MUTANTS{name}", default)) for name, default in
                          (("", "150"), ("_SEED", "1"), ("_JOBS", "2")))  # fmt: skip
    named = [mutant for mutant in list_named() if mutant.part in parts]
    tried = judge_all([*named, *draw_mutants(parts, number, seed)], jobs)
    print(f"\n{'part':<16}{'mutants':>8}{'killed':>8}")
    for part in parts:
        outcomes = [mutant.outcome for mutant in tried if mutant.part == part]
        print(f"{part:<16}{len(outcomes):>8}{outcomes.count('killed'):>8}")
    survivors = [mutant for mutant in tried if mutant.outcome == "survived"]
    share = 1 - len(survivors) / len(tried)
    print(f"{'all':<16}{len(tried):>8}{len(tried) - len(survivors):>8}   {share:.1%}, seed {seed}")
    for mutant in survivors:
        print(f"survived: {describe(mutant)}")
    return int(share < 0.9 or any(mutant.name for mutant in survivors))


if __name__ == "__main__":
    sys.exit(main())
