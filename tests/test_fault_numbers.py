"""Every fault of the two matrices has a test: 1 to 72 break a run, 73 to 122 are wrong without an error.

A test says which it proves harmless by its name (test_073_…) or by the marker `fault(numbers)`.

`python tests/test_fault_numbers.py` prints the table: each number with all of its tests.
"""

import ast
import re
from collections import defaultdict
from pathlib import Path

NUMBERS = range(1, 123)
_NAME = re.compile(r"test_(\d{3})_")


def find_tests() -> dict[int, list[str]]:
    """The tests of each number, as file::name."""
    found: dict[int, set[str]] = defaultdict(set)
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            place = f"{path.name}::{node.name}"
            if named := _NAME.match(node.name):
                found[int(named[1])].add(place)
            for call in (each for decorator in node.decorator_list for each in ast.walk(decorator)):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "fault":
                    for number in call.args:
                        found[ast.literal_eval(number)].add(place)
    return {number: sorted(places) for number, places in sorted(found.items())}


def test_every_number_has_a_test():
    found = find_tests()
    assert [number for number in NUMBERS if number not in found] == []
    assert found.keys() <= set(NUMBERS)


if __name__ == "__main__":
    for number, places in find_tests().items():
        print(f"{number:>3}", *places)
