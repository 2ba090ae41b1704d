"""`make audit`: are the pinned packages free of known security holes, and are their licenses such as we may pass on?

Exit codes: 0 they are · 1 something was found · 3 the database of security holes could not be asked about all of them
(there is no network, or a proxy in between): then nothing is known about the others.
"""

import json
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
UNKNOWN = 3
PIP_AUDIT = "pip-audit==2.10.1"  # run by uv in an environment of its own: its packages are none of ours
FREE = re.compile(
    r"\b(MIT|BSD|0BSD|Apache|ISC|PSF|Python Software Foundation|MPL|Mozilla|HPND|Unlicense|Zlib|CNRI|ZPL|Zope|"
    r"Public Domain|CC0|MIT-CMU)",
    re.IGNORECASE,
)


def list_pins() -> list[str]:
    """Return the names of the pinned packages."""
    return re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)


def read_license(name: str) -> str:
    """Return what a package says of its license: the expression, the classifiers, or the first line of the field."""
    fields = metadata.metadata(name)
    classifiers = [each.rpartition("::")[2] for each in fields.get_all("Classifier") or () if "License ::" in each]
    first_line = (fields.get("License") or "").strip().partition("\n")[0][:80]
    return fields.get("License-Expression") or "; ".join(classifiers).strip() or first_line or "none"


def find_odd_licenses() -> list[str]:
    """Return a line for each package with a license that is not known to be free."""
    odd = {name: read_license(name) for name in list_pins()}
    return [f"{name}: {text}" for name, text in odd.items() if not FREE.search(text) or re.search("GPL", text)]


def find_holes(pins: str) -> tuple[list[str], list[str]]:
    """Ask pip-audit for the pins; return a line for each hole, and for each package that it knows nothing about.

    Raises OSError if there is no answer at all.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text(pins, encoding="utf-8")
        uv = Path(sys.executable).with_name("uv")
        options = ("--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json", "--desc=off")
        words = [uv, "tool", "run", "--quiet", PIP_AUDIT, *options, "-r", file]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        raise OSError((done.stderr.strip().splitlines() or ["no answer"])[-1]) from None
    holes = [
        f"{each['name']} {each['version']}: {hole['id']}, fixed in {', '.join(hole['fix_versions']) or 'no version'}"
        for each in packages
        for hole in each.get("vulns", ())
    ]
    return holes, [each["name"] for each in packages if "skip_reason" in each]


def main() -> int:
    """Print what was found; return the exit code."""
    pins = re.sub(r"^-e .*\n", "", (ROOT / "requirements.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    odd = find_odd_licenses()
    print(f"Licenses of {len(list_pins())} packages: {'look at these:' if odd else 'all free.'}", *odd, sep="\n  ")
    try:
        holes, skipped = find_holes(pins)
    except OSError as error:
        print(f"Security holes: NOT CHECKED. The database of advisories gave no answer ({error}).")
        return UNKNOWN
    if asked := len(list_pins()) - len(skipped):
        print(f"Security holes of {asked} packages: {'look at these:' if holes else 'none known.'}", *holes, sep="\n  ")
    if skipped:
        print(f"NOT CHECKED for holes: {len(skipped)} packages, of which the database of advisories said nothing.")
    return 1 if odd or holes else UNKNOWN if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
