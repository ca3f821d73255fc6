"""How `pytest --nbval` compares the notebooks: strictly, but for stderr, where progress bars go."""


def pytest_collectstart(collector):
    if collector.fspath and collector.fspath.ext == ".ipynb":
        collector.skip_compare += ("stderr",)
