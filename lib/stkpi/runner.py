"""`python -m stkpi.runner SPEC.yml [-p name=value ...]`: execute the notebooks of a spec; see `stkpi.runs.runner`."""

import sys

from stkpi.runs.runner import main

if __name__ == "__main__":
    sys.exit(main())
