"""Keep the environment's own chatter out of the chapters: whatever a cell writes to stderr fails the build."""

import os

IGNORED = "ignore:IProgress not found"  # tqdm looks for ipywidgets, which a static page cannot use


def warnings_setting(before: str) -> str:
    """The value of PYTHONWARNINGS for the kernels: what was set before, and :data:`IGNORED`."""
    return ",".join(filter(None, [before, IGNORED]))


def _prepare(app, config):
    os.environ["PYTHONWARNINGS"] = warnings_setting(os.environ.get("PYTHONWARNINGS", ""))
    import matplotlib.font_manager  # noqa: F401  builds its cache on a fresh machine, and says so


def setup(app):
    app.connect("config-inited", _prepare)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
