"""An invented book of one chapter, as Sphinx would know it: enough to translate a page without a build."""

from types import SimpleNamespace

from docutils import nodes
from pybtex.database import parse_string
from pybtex.plugin import find_plugin

BIBLIOGRAPHY = r"""
@article{two, author={Ada Lovelace and Emmy Noether}, title={On $D$_x}, journal={J}, year={1901}, doi={10.1/x}}
@article{many, author={A One and B Two and C Three}, title={Many}, journal={J}, year={1902}, eprint={1902.00001},
  archiveprefix={arXiv}}
"""
MACROS = {"E": (r"\operatorname{\mathbb{E}}", 0), "norm": (r"\lVert #1 \rVert", 1), "in": (r"\langle #1,#2\rangle", 2)}


def citations():
    style = find_plugin("pybtex.style.formatting", "alpha")()
    entries = parse_string(BIBLIOGRAPHY, "bibtex").entries.values()
    formatted = {item.key: item for item in style.format_entries(entries)}
    return [SimpleNamespace(key=e.key, entry=e, formatted_entry=formatted[e.key]) for e in entries]


def toc(*titles):
    links = [nodes.reference("", text, anchorname=anchor) for text, anchor in titles]
    return nodes.bullet_list("", *links)


def environment() -> SimpleNamespace:
    """What Sphinx would know about a book of one chapter, "book/01-a"."""
    page, home = "book/01-a", "https://example.org/us/book"
    theme = {"repository_url": home, "repository_branch": "main"}
    numfig = {"figure": "Fig. %s", "section": "Section %s", "exercise": "Exercise %s"}
    figures = {"displaymath": {"equation-eq-a": (1, 1)}, "theorem": {"thm-a": (1, 2)}}
    figures |= {"exercise": {"ex-a": (1, 3)}, "figure": {"fig-a": (1, 4)}}
    places = {"fig-a": (page, "fig-a", "A figure"), "sec-a": (page, "sec-a", "A section"), "ex-a": (page, "ex-a", "")}
    theorem = {"docname": page, "countertype": "theorem", "realtype": "theorem", "nonumber": False}
    return SimpleNamespace(
        config=SimpleNamespace(
            html_baseurl="",
            html_title="A book",
            html_theme_options=theme,
            numfig_format=numfig,
            math_eqref_format="({number})",
            bibtex_reference_style="author_year",
            mathjax3_config={"tex": {"macros": {"E": MACROS["E"][0], "norm": list(MACROS["norm"])}}},
            myst_enable_extensions=["colon_fence", "dollarmath"],
        ),
        all_docs={page: 0.0},
        titles={page: nodes.title("", "A chapter")},
        tocs={page: toc(("A chapter", ""), ("A section", "#a-section"))},
        toc_fignumbers={page: figures},
        toc_secnumbers={page: {"": (1,), "#a-section": (1, 1)}},
        domaindata={
            "math": {"objects": {"eq-a": (page, 1)}},
            "std": {"labels": places, "anonlabels": {key: place[:2] for key, place in places.items()}},
            "cite": {"citations": citations()},
        },
        proof_list={"thm-a": theorem, "rem-a": {**theorem, "realtype": "remark", "nonumber": True}},
        sphinx_exercise_registry={"ex-a": {"docname": page}},
    )
