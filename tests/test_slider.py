import re
from html.parser import HTMLParser
from urllib.parse import unquote
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from sgdvi_lite.slider import slider

matplotlib.use("agg")

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40"><circle r="{r}"/></svg>'
DOTS = [SVG.format(r=r) for r in (5, 10, 20)]
LABELS = ["r = 5", "r = 10", 'r = "20" & more']
ALT = ["A small dot.", "A dot of <medium> size.", "A large dot."]


def make(**changes):
    return slider(**{"frames": DOTS, "labels": LABELS, "alt": ALT, "title": "radius"} | changes)


class Elements(HTMLParser):
    """All elements of a page: pairs of a tag and its attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def __getitem__(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def elements(shown):
    return Elements(shown._repr_html_())


def drawing(image):
    return unquote(image["src"].removeprefix("data:image/svg+xml,"))


def test_each_frame_carries_its_drawing_its_label_and_its_text():
    images = elements(make())["img"]
    assert [drawing(image) for image in images] == DOTS
    assert [image["alt"] for image in images] == ALT
    assert [image["data-label"] for image in images] == LABELS


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        ([1, 2.5, "x"], ["1", "2.5", "x"]),
        (np.array([0.5, 1.0, 2.0]), ["0.5", "1.0", "2.0"]),
        (torch.tensor([1, 2, 3]), ["1", "2", "3"]),
        (range(3), ["0", "1", "2"]),
        ((k for k in range(3)), ["0", "1", "2"]),
    ],
)
def test_labels_may_be_numbers(labels, shown):
    assert [image["data-label"] for image in elements(make(labels=labels))["img"]] == shown


def test_only_the_first_frame_is_shown_and_start_changes_which():
    hidden = [["hidden" in image for image in elements(make(start=start))["img"]] for start in (0, 2)]
    assert hidden == [[False, True, True], [True, True, False]]


def test_the_range_is_labelled_and_spans_the_frames():
    page = elements(make(start=1))
    (control,), (label,), (output,) = page["input"], page["label"], page["output"]
    assert control["type"] == "range" and (control["min"], control["max"], control["value"]) == ("0", "2", "1")
    assert control["aria-valuetext"] == "r = 10"
    assert label["for"] == output["for"] == control["id"]


def test_two_sliders_share_no_id_even_with_the_same_frames():
    ids = [
        attributes["id"] for shown in (make(), make()) for _, attributes in elements(shown).found if "id" in attributes
    ]
    assert len(ids) == 4 == len(set(ids))


def test_nothing_is_fetched():
    html = make(seconds=1)._repr_html_()
    assert set(re.findall(r"https?://[\w./]+", unquote(html))) == {"http://www.w3.org/2000/svg"}  # a name, no address
    assert all(image["src"].startswith("data:") for image in elements(make())["img"])
    assert not any({"src", "href"} & set(a) for tag, a in elements(make()).found if tag != "img")


def test_a_button_plays_only_where_it_was_asked_for():
    assert elements(make())["button"] == []
    assert elements(make(seconds=0.25))["button"] == [{"type": "button"}]
    assert "setInterval(step, 250)" in make(seconds=0.25)._repr_html_()


def test_a_terminal_gets_one_line():
    shown = make()
    assert repr(shown) == "Slider 'radius' with 3 frames, from r = 5 to r = \"20\" & more"
    assert shown._repr_mimebundle_() == {"text/html": shown._repr_html_(), "text/plain": repr(shown)}


def figure(slope):
    drawn, ax = plt.subplots()
    ax.plot([0, 1 / 3, 1], [0, slope / 3, slope], label="it's a line")
    ax.legend()
    return drawn


def test_figures_are_drawn_small_and_closed():
    figures = [figure(1), figure(2)]
    images = elements(make(frames=figures, labels=LABELS[:2], alt=ALT[:2]))["img"]
    roots = [ElementTree.fromstring(drawing(image)) for image in images]
    assert [root.tag for root in roots] == ["{http://www.w3.org/2000/svg}svg"] * 2
    assert not any(plt.fignum_exists(drawn.number) for drawn in figures)
    places = [path.get("d", "") for path in roots[0].iter("{http://www.w3.org/2000/svg}path")]
    assert any(places) and not any(re.search(r"\.\d\d", place) for place in places)


def test_a_generator_of_figures_holds_one_at_a_time():
    opened = len(plt.get_fignums())

    def figures():
        for slope in (1, 2, 3):
            assert len(plt.get_fignums()) == opened
            yield figure(slope)

    assert len(elements(make(frames=figures()))["img"]) == 3


@pytest.mark.parametrize(
    "changes, error",
    [
        ({"frames": DOTS[:1]}, r"frames has 1 drawings: expected at least 2"),
        ({"labels": LABELS[:2]}, r"labels has 2 texts: expected a list of 3"),
        ({"alt": "one text"}, r"alt has 8 texts: expected a list of 3"),
        ({"alt": ["A dot.", " ", "A dot."]}, r"alt has an empty text"),
        ({"title": ""}, r"title is empty"),
        ({"frames": ["<p>", *DOTS[1:]]}, r"frames has a text without an <svg> element"),
        ({"start": 3}, r"start = 3: expected an integer in \[0, 2\]"),
        ({"seconds": 0.0}, r"seconds = 0.0: expected a finite number > 0"),
    ],
)
def test_bad_arguments_are_named(changes, error):
    with pytest.raises(ValueError, match=error):
        make(**changes)


def page_of(browser, *shown, **options):
    page = browser.new_context(**options).new_page()
    page.set_content("<!doctype html><html lang='en'><body>" + "".join(s._repr_html_() for s in shown))
    return page


def shown_texts(page):
    return [image.get_attribute("alt") for image in page.locator("img").all() if image.is_visible()]


@pytest.mark.browser
def test_arrow_keys_move_one_slider_and_leave_the_other(browser):
    page = page_of(browser, make(), make())
    first = page.get_by_label("radius").first
    first.press("ArrowRight")
    assert shown_texts(page) == [ALT[1], ALT[0]]
    first.press("End")
    assert shown_texts(page) == [ALT[2], ALT[0]]
    assert page.locator("output").first.inner_text() == first.get_attribute("aria-valuetext") == LABELS[2]


@pytest.mark.browser
def test_the_button_plays_to_the_end_and_again(browser):
    page = page_of(browser, make(seconds=0.05))
    page.wait_for_timeout(200)
    assert shown_texts(page) == ALT[:1]  # not by itself
    for _ in range(2):
        page.get_by_role("button", name="Play").click()
        page.wait_for_function("document.querySelector('output').textContent.includes('20')")
        page.get_by_role("button", name="Play").wait_for()
    assert shown_texts(page) == ALT[2:]


@pytest.mark.browser
def test_a_wish_for_less_motion_removes_the_button(browser):
    assert not page_of(browser, make(seconds=1), reduced_motion="reduce").locator("button").is_visible()
    assert page_of(browser, make(seconds=1)).locator("button").is_visible()
