"""The declared dependencies are the imported ones: those of lib/ at run time, those of tests/ for development."""

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import files, packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "lib" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OURS = {"stkpi", "sandbox"} | {path.stem for path in (ROOT / "tests").glob("*.py")}
EMULATOR = {"local_bigquery"}  # tests/emulator-requirements.txt: in an environment of its own
CONTENDERS = {"dlt"}  # `make bench-ingest` gives it an environment of its own
# Declared although no module imports them.
UNIMPORTED = {
    "jsonschema": "pinned below a slow version",
    "jupyterlab": "the program of `make lab`",
    "pandas-gbq": "for notebooks of one's own; a test reads with it",
    "pyarrow": "frames come from both engines through it",
    "tzdata": "time zones where the operating system has none",
}
TOOLS = {"check-jsonschema", "mypy", "nbstripout", "nbval", "pytest-xdist", "ruff", "uv"}  # programs, pytest plugins


def find_imports(folders: Iterable[str]) -> Iterator[str]:
    """Yield the dotted names that the modules and notebooks of folders import, `from a import b` as a.b."""
    for folder in folders:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix == ".py":
                sources = [path.read_text(encoding="utf-8")]
            elif path.suffix == ".ipynb" and ".ipynb_checkpoints" not in path.parts:
                cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
                sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
            else:
                continue
            for node in (node for source in sources for node in ast.walk(ast.parse(source))):
                if isinstance(node, ast.Import):
                    yield from (alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    yield from (f"{node.module}.{alias.name}" for alias in node.names)


list_distributions = cache(packages_distributions)


@cache
def list_modules(distribution: str) -> frozenset[str]:
    """Return the dotted names of the modules and packages of a distribution."""
    paths = [path.with_suffix("") for path in files(distribution) or () if path.suffix == ".py"]
    return frozenset(".".join(part for part in path.parts if part != "__init__") for path in paths)


def find_distribution(name: str) -> str | None:
    """Return the distribution of an imported name, normalized; None for the standard library and this project."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names | OURS | EMULATOR | CONTENDERS:
        return None
    distributions = set(list_distributions().get(top, ()))
    if len(distributions) > 1:  # one may only bring compiled modules for another, as sqlglotc does
        distributions = {each for each in distributions if list_modules(each)}
    if len(distributions) > 1:  # a namespace such as google: the one that has the longest part of the name
        parts = name.split(".")
        for end in range(len(parts), 1, -1):
            if found := [each for each in distributions if ".".join(parts[:end]) in list_modules(each)]:
                distributions = set(found)
                break
    assert len(distributions) == 1, f"{name} comes from {sorted(distributions) or 'no installed package'}"
    return normalize(distributions.pop())


def normalize(requirement: str) -> str:
    """Return the name of a requirement in its normal form.

    >>> normalize("PyYAML>=6")
    'pyyaml'
    """
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def find_distributions(*folders: str) -> set[str]:
    return {found for name in find_imports(folders) if (found := find_distribution(name))}


def test_the_runtime_dependencies_are_what_the_library_and_the_notebooks_import() -> None:
    declared = {normalize(requirement) for requirement in PROJECT["dependencies"]}
    assert declared - UNIMPORTED.keys() == find_distributions("lib", "notebooks") - UNIMPORTED.keys()


def test_the_development_dependencies_are_what_the_tests_import_and_the_tools() -> None:
    runtime = {normalize(requirement) for requirement in PROJECT["dependencies"]}
    development = {normalize(requirement) for requirement in PROJECT["optional-dependencies"]["dev"]}
    assert development & runtime == set()
    stubs = {name for name in development if name.startswith("types-") or name.endswith("-stubs")}
    assert development - stubs - TOOLS == find_distributions("tests") - runtime
    stubbed = {name.removeprefix("types-").removesuffix("-stubs") for name in stubs}
    assert stubbed <= find_distributions("lib", "tests")


def test_every_declared_dependency_is_pinned() -> None:
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    declared = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    assert {normalize(requirement) for requirement in declared} - pinned == set()


def test_an_import_that_is_not_installed_is_named() -> None:
    with pytest.raises(AssertionError, match="no_such_package"):
        find_distribution("no_such_package.module")
