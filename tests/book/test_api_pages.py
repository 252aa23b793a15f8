"""The API page: a room's names as the reader imports them, and links to what a module inside a room defines."""

import sys
from types import SimpleNamespace

import api_links
import api_pages
import pytest
from docutils import nodes
from sphinx.domains.python import PythonDomain
from sphinx.ext.autodoc import ModuleDocumenter

from sgdvi_lite import diffusion, gradients, series
from tests.book.conftest import ROOT


def documenter(module):
    room = object.__new__(api_pages.Room)
    room.modname, room.object = module.__name__, module
    room.__dict__["__all__"] = getattr(module, "__all__", None)
    return room


def test_modules_and_rooms_are_globbed_and_private_ones_are_not(tmp_path):
    for name in ("__init__", "_checks", "linalg", "sgd/__init__", "sgd/loop", "_storage/__init__", "sgd/deep/__init__"):
        path = tmp_path / "sgdvi_lite" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert api_pages.modules(tmp_path) == ["linalg", "sgd"]
    assert {"data", "gradients", "linalg"} <= set(api_pages.modules(ROOT))


def test_a_room_knows_which_module_defines_a_name():
    assert api_pages.home(series, "stationarity") == "sgdvi_lite.series.balance"
    assert api_pages.home(gradients, "CHUNK_BYTES").startswith("sgdvi_lite.gradients.")  # a number does not say so


def test_a_room_shows_its_names_in_the_order_of_their_sources_with_the_texts_of_its_constants():
    room = documenter(gradients)
    checked, members = room.get_object_members(True)
    names = [member.__name__ for member in members]
    assert not checked and sorted(names) == sorted(gradients.__all__)
    assert names.index("CHUNK_BYTES") < names.index("Network") < names.index("per_example_gradients")
    assert "".join(api_pages.analysed("sgdvi_lite.gradients").attr_docs["", "CHUNK_BYTES"]).strip()
    assert room.sort_members(["b", "a"], "bysource") == ["b", "a"]


def test_a_module_without_a_list_of_names_is_left_to_autodoc(monkeypatch):
    monkeypatch.setattr(ModuleDocumenter, "get_object_members", lambda self, want_all: "autodoc's")
    assert documenter(sys.modules["sgdvi_lite.linalg"]).get_object_members(True) == "autodoc's"


def test_an_attribute_keeps_its_colon_and_a_function_gets_its_sections():
    sentence = ["Area: of a cell, in units of x."]
    api_pages.sections(None, "property", "f", None, None, lines := [*sentence])
    assert lines == sentence
    lines = ["Do.", "", "Raises", "------", "ValueError", "    x"]
    api_pages.sections(None, "function", "f", None, None, lines)
    assert ":raises ValueError: x" in lines


@pytest.mark.parametrize(
    ("written", "documented"),
    [
        ("sgdvi_lite.diffusion.matrix.DiffusionMatrix", "sgdvi_lite.diffusion.DiffusionMatrix"),
        ("sgdvi_lite.diffusion.matrix.DiffusionMatrix.rank", "sgdvi_lite.diffusion.DiffusionMatrix.rank"),
        ("sgdvi_lite.experiments.spectrum.run.Spectrum", "sgdvi_lite.experiments.Spectrum"),
        ("sgdvi_lite.diffusion.lanczos.Hidden", None),
        ("sgdvi_lite.Missing", None),
    ],
)
def test_what_a_module_in_a_room_defines_is_linked_as_the_room_exports_it(written, documented):
    objects = {
        "sgdvi_lite.diffusion.DiffusionMatrix",
        "sgdvi_lite.diffusion.DiffusionMatrix.rank",
        "sgdvi_lite.experiments.Spectrum",
    }
    assert api_links.exported(written, objects) == documented


def test_what_no_room_exports_is_plain_text_and_what_does_not_exist_is_missed(monkeypatch):
    monkeypatch.setattr(PythonDomain, "objects", {})
    env = SimpleNamespace(get_domain=lambda name: object.__new__(PythonDomain))

    def resolve(target):
        text = nodes.literal("", target)
        return api_links.resolve(None, env, {"refdomain": "py", "reftarget": target}, text) is text

    assert resolve(f"{diffusion.DiffusionMatrix.__module__}.DiffusionMatrix")
    assert not resolve("sgdvi_lite.diffusion.DiffusionMatrrix")
