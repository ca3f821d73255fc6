"""How `pytest --nbval` runs and compares the notebooks."""
import nbval.kernel

start_once = nbval.kernel.start_new_kernel


def start_new_kernel(*arguments, **options):
    """Start a kernel, again if it dies at once: two that start together may have been given the same port."""
    for tries_left in (3, 2, 1, 0):
        try:
            return start_once(*arguments, **options)
        except RuntimeError:
            if not tries_left:
                raise


nbval.kernel.start_new_kernel = start_new_kernel


def pytest_collectstart(collector):
    """Compare everything but stderr, where progress bars go."""
    if collector.fspath and collector.fspath.ext == ".ipynb":
        collector.skip_compare += ("stderr",)
