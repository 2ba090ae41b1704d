"""The pages are true: the commands, files and links that they name exist, and the sample is what the command prints."""

import re
import subprocess
from pathlib import Path

import pytest

from stkpi.reconcile import command, render

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "README_AUDIT.md", "CONTRIBUTING.md", "CHANGELOG.md", "runs/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = dict(re.findall(r"^([a-z-]+):(?!=)[^\n]*\n((?:\t[^\n]*\n)*)", MAKEFILE, re.MULTILINE))
SETTINGS = {*re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE), "ENV_FILE"}
COMMAND = re.compile(r"((?:\b[A-Z_]+=\S+ )*)\bmake (?!\W)([a-z-]+)((?: [A-Z_]+=(?:\"[^\"]*\"|[^\s`|]*))*)")


def code(page: Path) -> str:
    """What a page has in code: its blocks, and the words between backticks."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))])


def untrue_commands(text: str) -> list[str]:
    """The commands of a text that the Makefile would not take, each with what is wrong."""
    wrong = []
    for before, target, after in COMMAND.findall(text):
        command = f"{before}make {target}{after}"
        if target not in TARGETS:
            wrong.append(f"{command}: the Makefile has no target {target}")
            continue
        used = set(re.findall(r"\$(?:\(if \$\(|\$\{?)([A-Z_]+)\b", TARGETS[target]))
        wrong += [f"{command}: {target} does not use {name}" for name in variables(after) - used]
        wrong += [f"{command}: .env.example has no {name}" for name in variables(before) - SETTINGS]
    return wrong


def variables(text: str) -> set[str]:
    """The names that `A=1 B="2 3"` sets."""
    return set(re.findall(r"\b([A-Z_]+)=", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_a_target_that_uses_its_variables(page):
    assert untrue_commands(code(page)) == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("make nightly", None),
        ('make adopt KPI=leads DEFINITION="status=completed"', None),
        ("make observe KPI=leads VALUE=96 UNDO=1", None),
        ("WAREHOUSE=copy.duckdb make repair DRY=1", None),
        ("make nigthly", "the Makefile has no target nigthly"),
        ("make find KPI=leads UNDO=1", "find does not use UNDO"),
        ("WEARHOUSE=copy.duckdb make repair", ".env.example has no WEARHOUSE"),
    ],
)
def test_an_untrue_command_is_found(words, complaint):
    assert untrue_commands(words) == ([f"{words}: {complaint}"] if complaint else [])


def test_every_target_is_on_a_page():
    listed = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE)) - {"help"}
    named = {target for page in PAGES for _, target, _ in COMMAND.findall(code(page))}
    assert listed - named == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text)]
    assert [link for link in links if link and not (page.parent / link).exists()] == []
    tracked = ("lib", "sql", "expectations", "notebooks", "tests", "docs")
    paths = re.findall(rf"`((?:{'|'.join(tracked)})/[\w./-]*)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_test_that_contributing_names_is_there():
    named = re.findall(r"`(test_\w+)::(test_\w+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(named) >= 5
    missing = [name for file, name in named if f"\ndef {name}(" not in (ROOT / "tests" / f"{file}.py").read_text()]
    assert missing == []


def test_the_sample_is_what_the_command_prints(healthy):
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    asked = re.search(r"\$ make reconcile EXPORT=(\S+) BU=(\S+) FROM=(\S+) TO=(\S+)\n", page)
    export, unit, first_day, last_day = asked.groups()
    result = command.run(str(ROOT / export), "", unit, first_day, last_day)
    printed = "\n".join(line.rstrip() for line in render.format_text(result).splitlines())
    assert printed in page, f"copy the new sample to README.md:\n{printed}"


def test_what_is_typed_reaches_the_program_as_it_was_typed(tmp_path):
    """Quotes, dollars and backticks of a unit's name are no code for make or the shell."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    typed = {"BU": """Air "Fresh" & O'Brien #1""", "VALUE": "$170,166.61", "BY": f"`touch {tmp_path}/ran` $(date)"}
    arguments = [f"{name}={value}" for name, value in typed.items()]
    command = ["make", "-s", "-o", ".venv/ready", f"BIN={tmp_path}", "observe", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    given = done.stdout.splitlines()
    assert given[given.index("--bu") + 1] == typed["BU"]
    assert f"--value={typed['VALUE']}" in given
    assert given[given.index("--by") + 1] == typed["BY"]
    assert given[given.index("--source") + 1] == "screen"
    assert not (tmp_path / "ran").exists()
