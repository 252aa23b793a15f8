"""Tests marked ``large`` run only when asked for by name, whatever else is selected."""


def pytest_collection_modifyitems(config, items):
    if "large" not in config.option.markexpr:
        large = [item for item in items if item.get_closest_marker("large")]
        items[:] = [item for item in items if item not in large]
        config.hook.pytest_deselected(items=large)
