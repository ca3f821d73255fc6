"""Run notebooks strictly under nbval: every output must be the committed one, every result within its tolerance.

What the results measured is left in _build/measured.jsonl for the tests, which falsify it and see the failure."""
import argparse
import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from processor import old_processor  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="notebooks, such as 11_surprise; without any, all of them")
    parser.add_argument("-n", "--jobs", default="2", help="notebooks side by side (default 2)")
    parser.add_argument("--old-processor", action="store_true", help="as a processor with none of the newer instructions would")
    options = parser.parse_args()
    measured = ROOT / "_build" / "measured.jsonl"
    measured.parent.mkdir(exist_ok=True)
    if not options.names:
        measured.unlink(missing_ok=True)
    os.environ.update(PRACTITIONER_MODE="test", PRACTITIONER_MEASURED=str(measured))
    # glibc gives every large piece of memory back to the system and asks for it again, page by page: a fifth of what the LSTM's notebook took.
    os.environ.update(MALLOC_MMAP_THRESHOLD_=str(2**32), MALLOC_TRIM_THRESHOLD_=str(2**32))
    if options.old_processor:
        os.environ.update(old_processor())
    paths = [str(ROOT / "notebooks" / f"{pathlib.Path(name).stem}.ipynb") for name in options.names] or [str(ROOT / "notebooks")]
    sys.exit(pytest.main(["--nbval", "--nbval-current-env", "-n", options.jobs, "--dist", "loadfile",
                          "-p", "no:cacheprovider", "--durations=5", *paths]))


if __name__ == "__main__":
    main()
