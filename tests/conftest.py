"""For all tests: the scripts of tools/ and the extensions of book/_ext can be imported, the longest files begin first, and what was left out for want of a browser or a server is said once, at the end."""
import gc
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "book" / "_ext")]
from browser import NO_CHROMIUM  # noqa: E402
from serve import NO_SERVER  # noqa: E402


LONGEST = [f"test_{name}.py" for name in ("pdf", "course", "site", "diagnostics", "experiments", "fork", "strict", "workflows", "reader", "corpus", "compression", "exercises", "page_chat")]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, each of which one process runs, so that all processes end at about the same time.

    An order of files on the command line would not do: pytest drops a file whose folder is named, too. That pytest-xdist keeps this order needs --no-loadscope-reorder."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported and collected stays until the end: Python need not look through it for garbage again and again, half a second each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    """Also under pytest-xdist, where the tests run in other processes and their reports come together here."""
    left_out = [report for report in terminalreporter.stats.get("skipped", []) if NO_CHROMIUM in str(report.longrepr)]
    if left_out:
        terminalreporter.write_sep("!", f"{NO_CHROMIUM}: {len(left_out)} tests did not look at the site in a browser", red=True, bold=True)
    left_out = [report for report in terminalreporter.stats.get("skipped", []) if NO_SERVER in str(report.longrepr)]
    if left_out:
        terminalreporter.write_sep("!", f"{NO_SERVER}: {len(left_out)} tests did not talk to the server", red=True, bold=True)
