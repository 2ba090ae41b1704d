"""The layers of lib/stkpi: a module imports from its own layer or a lower one, and modules never import in a circle."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from stkpi.kpis.catalog import read_catalog

LIBRARY = Path(__file__).parents[1] / "lib" / "stkpi"
# From low to high; names on one line are independent of each other unless one of them says otherwise.
LAYERS = (
    ("errors", "deadline", "garbage"),
    ("settings",),
    ("log",),
    ("dates", "formatting", "company", "terminal", "spreadsheets"),
    ("kpis",),
    ("servicetitan", "warehouse"),
    ("ingest",),
    ("marts",),
    ("validation", "reconcile"),
    ("proposal",),
    ("reporting",),
    ("runs",),
    ("__main__", "cli", "runner"),
)
RANKS = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def find_modules(library: Path) -> dict[str, Path]:
    """Return the modules of a package, {dotted name without the package: file}; a package is its __init__.py."""
    modules = {}
    for path in library.rglob("*.py"):
        parts = path.relative_to(library).with_suffix("").parts
        if parts != ("__init__",):
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def read_imports(path: Path, package: str, modules: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of the package that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import: write `from {package}...`"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == package:
                candidates = (".".join(parts[1:end]) for end in range(len(parts), 1, -1))
                if module := next((candidate for candidate in candidates if candidate in modules), None):
                    yield module


def find_violations(library: Path) -> list[str]:
    """Return a sentence for each upward import and for each circle of modules."""
    modules = find_modules(library)
    imports = {name: set(read_imports(path, library.name, modules)) - {name} for name, path in modules.items()}
    layers = {name: name.partition(".")[0] for name in modules}
    if unknown := sorted(set(layers.values()) - RANKS.keys()):
        return [f"{', '.join(unknown)} is in no layer: add it to LAYERS"]
    found = [
        f"{name} imports {other}, which is in a higher layer"
        for name, others in sorted(imports.items())
        for other in sorted(others)
        if RANKS[layers[other]] > RANKS[layers[name]]
    ]
    packages: dict[str, set[str]] = {}
    for name, others in imports.items():
        packages.setdefault(layers[name], set()).update({layers[other] for other in others} - {layers[name]})
    for graph in (imports, packages):
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            found.append(f"{' imports '.join(reversed(error.args[1]))}: a circle")
    return found


def test_imports_go_down_and_never_in_a_circle() -> None:
    assert find_violations(LIBRARY) == []


@pytest.fixture
def write(tmp_path):
    """`write({file: text})` writes a library named stkpi; returns its folder."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / "stkpi" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "stkpi"

    return write


def test_an_upward_import_inside_a_function_is_named_with_both_modules(write) -> None:
    library = write({"warehouse/duckdb.py": "def f():\n    from stkpi.ingest import load\n", "ingest/load.py": ""})
    assert find_violations(library) == ["warehouse.duckdb imports ingest.load, which is in a higher layer"]


@pytest.mark.parametrize(
    "files",
    [
        {"ingest/a.py": "from stkpi.ingest import b", "ingest/b.py": "import stkpi.ingest.a"},
        {
            "reconcile/a.py": "from stkpi.validation import b",
            "validation/b.py": "",
            "validation/c.py": "from stkpi.reconcile.a import x",
        },
    ],
)
def test_a_circle_of_modules_or_of_packages_is_named(write, files) -> None:
    [found] = find_violations(write(files))
    assert "circle" in found


def test_a_module_without_a_layer_is_named(write) -> None:
    assert "helpers" in find_violations(write({"helpers.py": ""}))[0]


def test_nothing_in_the_library_names_a_kpi():
    """Their one home is sql/catalog.yml. Names that are English words (leads, estimates) cannot be told from words."""
    names = "|".join(name for name in read_catalog() if name not in ("leads", "estimates"))
    files = [path for path in LIBRARY.rglob("*") if path.suffix in (".py", ".html", ".css")]
    named = [
        f"{path.relative_to(LIBRARY)}: {line.strip()}"
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(rf"\b({names})\b", line)
    ]
    assert len(files) > 50
    assert named == []


def test_only_commands_and_runs_name_a_make_target():
    told = [
        f"{path.relative_to(LIBRARY)}: {line.strip()}"
        for path in LIBRARY.rglob("*.py")
        if path.relative_to(LIBRARY).parts[0] not in ("runs", "__main__.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"`make [a-z]|\bmake (nightly|ingest|setup|observe|find|adopt|validate|rebuild)\b", line)
    ]
    assert told == []
