"""For all tests: the scripts of tools/ and the extensions of book/_ext can be imported, and what was left out for want of a browser is said once, at the end."""
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "book" / "_ext")]
from browser import NO_CHROMIUM  # noqa: E402


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    """Also under pytest-xdist, where the tests run in other processes and their reports come together here."""
    left_out = [report for report in terminalreporter.stats.get("skipped", []) if NO_CHROMIUM in str(report.longrepr)]
    if left_out:
        terminalreporter.write_sep("!", f"{NO_CHROMIUM}: {len(left_out)} tests did not look at the site in a browser", red=True, bold=True)
