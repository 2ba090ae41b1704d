"""The mutation run of `make mutants`: its named mutants are of this code, and a killed one is told from a survivor."""

from pathlib import Path

import mutants
import pytest


def test_the_named_mutants_still_change_the_code_and_can_run():
    named = mutants.list_named()
    assert len({mutant.name for mutant in named}) == len(mutants.NAMED)
    assert all(mutants.can_run(mutant) and mutant.part in mutants.PARTS for mutant in named)


def test_every_part_has_files_and_tests():
    for name, part in mutants.PARTS.items():
        assert all(list(mutants.ROOT.glob(pattern)) for pattern in part.files), name
        files = [test.partition("::")[0] for test in part.tests if test.startswith("tests/")]
        assert files
        assert all((mutants.ROOT / file).exists() for file in files), name


@pytest.mark.parametrize(
    ("edit", "text", "changed"),
    [
        (mutants.edit_python, "return not a and b() < 1", ["a and b() < 1", "not a or", "b() <= 1", "b() < 2"]),
        (mutants.edit_python, 's = f"WHERE {a} IS NULL"\nlog.write(1)', ["{a} IS NOT NULL", "log.write(2)"]),
        (mutants.edit_sql, "-- NOT here\nWHERE a >= 1", ["WHERE a > 1", "WHERE a >= 77"]),
        (mutants.edit_catalog, 'day: {is: last-1d, why: x}\n  t: {is: "a = b", why: a = b}', ["is: last,", '"a != b"']),
    ],
)  # fmt: skip
def test_the_changes_of_a_text(edit, text, changed):
    made = [mutants.mutate("", "", text.encode(), each).text.decode() for each in sorted(set(edit(text.encode())))]
    assert len(made) == len(changed)
    assert all(any(each in text for text in made) for each in changed)


@pytest.mark.soak
def test_a_killed_mutant_is_told_from_a_survivor(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(
        mutants.PARTS, "windows", mutants.Part((), ("tests/test_windows.py::test_months_tile_the_window",))
    )
    path = "lib/stkpi/servicetitan/windows.py"
    text = (mutants.ROOT / path).read_bytes()
    harmless = mutants.mutate("windows", path, text, (0, 0, b"# a comment\n"))
    at = text.index(b"Window(middle, self.end)")
    harmful = mutants.mutate("windows", path, text, (at, at + len("Window(middle"), b"Window(self.start"))
    unusable = mutants.mutate("windows", path, text, (0, 0, b"raise ValueError  # no test can be collected\n"))
    copy = mutants.Copy(tmp_path / "copy")
    assert [copy.judge(mutant, 60).outcome for mutant in (harmless, harmful, unusable, harmless)] == [
        *("survived", "killed", "killed", "survived"),
    ]
