"""From the document tree to the Markdown of a notebook, on small pages of a book that Sphinx has read."""

from types import SimpleNamespace

import nbformat
import notebooks
import pytest
from notebooks_tex import expand, macros
from notebooks_translator import MarkupError

from tests.book import small_site
from tests.book.small_site import MACROS

CELL = "\f"
"""Where a new cell begins, in what is expected; there ``N`` is the number of the page and ``@`` its own label."""

ROLES = [
    ("see {eq}`eq-a`.", "see (1.1)."),
    ("**by {prf:ref}`thm-a`**, *{prf:ref}`so <thm-a>`*", "**by Theorem 1.2**, *so*"),
    ("{ref}`sec-a`, {ref}`the\nsection <sec-a>`, {ref}`ex-a`", "A section, the section, Exercise 1.3"),
    ("{numref}`fig-a`, {numref}`sec-a`, {numref}`Plot %s <fig-a>`", "Fig. 1.4, Section 1.1, Plot 1.4"),
    ("{doc}`01-a` {doc}`/book/01-a` {doc}`this <01-a>`", "A chapter A chapter this"),
    ("{cite:p}`two` {cite}`two`", "[Lovelace and Noether, 1901] [Lovelace and Noether, 1901]"),
    ("{cite:t}`many,two`", "Lovelace and Noether [1901], One *et al.* [1902]"),
    ("{cite:p}`{see}two{p. 3}`", "[see Lovelace and Noether, 1901, p. 3]"),
    ("{claim}`def-1`", "Definition 1"),
    ("{repo}`Makefile`", "[`Makefile`](https://example.org/us/book/blob/main/Makefile)"),
    ("[here](#sec-a)", "here"),
]
UNCHANGED = [
    "`{eq}`, ``{eq}`eq-a` ``, `$\\E$` and `:::`",
    "it costs \\$5, and \\`{eq}\\`",
    "\\*no\\*, snake_case, \\_no\\_, \\~~, a \\<b>, [x]\\(y), \\&amp; and \\\\",
    "\\- no\n\n\\# no\n\n1\\. no",
    "set {a, b} and [a link](https://example.org) and <https://example.org>",
    "```python\nx = r'{eq}`eq-a` $\\E$'\n# (label)=\n:::{note}\n% magic\n```",
    "````\n```{code-cell}\n```\n````",
    "| a | b |\n|---|:-:|\n| 1 | $x$ |",
    "- a\n- b\n  more\n  1. c\n  2. d",
    "3. a\n\n   b\n\n4. c",
    "> a\n> b\n>\n> c",
]
INLINE = [
    ("a lone $ sign\n\nand $ another", "a lone \\$ sign\n\nand \\$ another"),
    ("$\\E x$ and `$\\E x$`", r"$\operatorname{\mathbb{E}} x$ and `$\E x$`"),
    ("`a $$x$$`, `$$` and $x$ `$`", "`a $$x$$`, `$$` and $x$ `$`"),
    ("```bash\necho $$\n```", "```bash\necho $$\n```"),
    ("$a\n \\le b$", "$a \\le b$"),
    (r"$\text{5\$}$ and \$6 and $y$", r"$\text{5\$}$ and \$6 and $y$"),
    ('"so" -- it\'s', "“so” – it’s"),
]
BLOCKS = [
    ("$$\n\\E x\n$$ (@)", "$$\n\\operatorname{\\mathbb{E}} x\n\\tag{N.1}\n$$"),
    ("$$ x $$\ntext", "$$\nx\n$$\n\ntext"),
    ("- item\n\n  $$ x $$ (@)\n\n- next", "- item\n\n  $$\n  x\n  \\tag{N.1}\n  $$\n\n- next"),
    ("```{math}\n:label: @\nx\n```", "$$\nx\n\\tag{N.1}\n$$"),
    ("(here)=\n% a comment\ntext", "text"),
    ("text\n## Next", f"text{CELL}## N.1. Next"),
    (":::{note}\ntext $x$\n:::", "> **Note**\n>\n> text $x$"),
    (":::{note}\ntext", "> **Note**\n>\n> text"),
    (":::{tip} text\n:::", "> **Tip**\n>\n> text"),
    (":::{seealso}\ntext\n:::", "> **See also**\n>\n> text"),
    ("> :::{note}\n> text\n> :::", "> > **Note**\n> >\n> > text"),
    (":::{admonition} By {eq}`eq-a`\n:class: paper\n\ntext\n:::", "> **By (1.1)**\n>\n> text"),
    (":::{warning}\n$$\na % b\n= c\n$$ (@)\n:::", "> **Warning**\n>\n> $$ a  = c \\tag{N.1} $$"),
    ("```{prf:theorem} Of $x$\n:label: @\ntext\n```", "> **Theorem N.1** (Of $x$).\n>\n> text"),
    ("```{prf:remark}\n:label: @\n:nonumber:\ntext\n```", "> **Remark.**\n>\n> text"),
    (":::{prf:lemma}\nx\n:::", "> **Lemma N.1.**\n>\n> x"),
    (":::{prf:proof}\nLook\nhere.\n:::", "*Proof.* Look\nhere. ∎"),
    (":::{prf:proof}\nSo\n\n$$ x $$\n:::", "*Proof.* So\n\n$$\nx\n$$\n\n∎"),
    (":::{exercise} Hard\n:label: @\n\nDo.\n:::", "**Exercise N.1** (Hard).\n\nDo."),
    (
        ":::{solution} ex-a\n:class: dropdown\n$x$\n:::",
        "<details>\n<summary>Solution to Exercise 1.3</summary>\n\n$x$\n\n</details>",
    ),
    (
        ":::{figure} a.svg\n:alt: An a\n:name: @\n\nAn *a*\nof $x$.\n:::",
        "![An a](https://example.org/us/book/raw/main/book/a.svg)\n\n*Fig. N.1. An *a* of $x$.*",
    ),
    (
        ":::::{note}\nbegin\n\n::::{tip}\n```python\n:::\nx\n```\n::::\n\nend\n:::::",
        "> **Note**\n>\n> begin\n>\n> > **Tip**\n> >\n> > ```python\n> > :::\n> > x\n> > ```\n>\n> end",
    ),
]
SHOWN = [*ROLES, *((text, text) for text in UNCHANGED), *INLINE, *BLOCKS]
REFUSED = [
    ("a\n\nb {eq}`no`", "5: the reference to 'no' leads nowhere"),
    ("a\n\n\nb {nope}`x`", "6: notebooks have no form for system_message .*Unknown interpreted text role .nope."),
    ("{prf:ref}`no`", "3: the reference to 'no' leads nowhere"),
    ("{ref}`no`", "3: the reference to 'no' leads nowhere"),
    ("{numref}`no`", "3: the reference to 'no' leads nowhere"),
    ("{doc}`no`", "3: the reference to 'no' leads nowhere"),
    ("{cite:p}`no`", r"3: the reference to '\[\]' leads nowhere"),
    ("{cite:odd}`two`", "3: notebooks have no form for system_message .*Unknown interpreted text role .cite:odd."),
    ("{claim}`no`", "3: notebooks have no form for system_message .*claim .no.: the ledger has no such id"),
    ("a [link](#nowhere)", "3: the link 'link' leads nowhere in a notebook"),
    ("a [link](01-a.md)\n\na [link](a.svg)", "5: the link 'link' leads nowhere in a notebook"),
    ("a note[^1]\n\n[^1]: text", "3: notebooks have no form for footnote_reference"),
    (":::{nope}\n:::", "3: notebooks have no form for system_message .*Unknown directive type: .nope."),
    ("::: note\ntext\n:::", r"3: notebooks have no form for container \['note'\]: 'text'"),
    (":::{note}\n\n\nx {eq}`no`\n:::", "6: the reference to 'no'"),
    (":::{note}\n## Heading\n:::", "4: notebooks have no form for rubric"),
    ("a\n\n:::{prf:proof}\nb\n\n\nx {eq}`no`\n:::", "9: the reference to 'no'"),
    (":::{prf:proof}\n:class: dropdown\n\nb\n\n> x {eq}`no`\n:::", "8: the reference to 'no'"),
    (
        "> ::::{prf:proof}\n> :class: dropdown\n>\n> b\n>\n> :::{note}\n> {eq}`no`\n> :::\n> ::::",
        "9: the reference to 'no'",
    ),
    ("```{prf:lemma} x\n:label: @\n\nb\n\n- c\n- {eq}`no`\n```", "9: the reference to 'no'"),
    (":::{exercise}\n:label: @\n\nb\n\n{eq}`no`\n:::", "8: the reference to 'no'"),
    (":::{solution} gone\nx\n:::", "3: no exercise has the label 'gone'"),
    (":::{figure} a.svg\n:name: @\nx\n:::", r"3: the image 'book/a\.svg' has no alt text"),
    ("![An a](https://example.org/a.svg)", "3: the image .* is no file of the book"),
    ("$$ \\norm $$", r"3: an argument of \\norm is missing"),
    ("\\begin{align}\nx\n\\end{align}", r"3: notebooks have no form for math_block \['amsmath'\]"),
    ("A\n: b", "3: notebooks have no form for definition_list"),
    ("a\\\nb", "3: notebooks have no form for raw"),
    ("<i>a</i>", "3: notebooks have no form for raw"),
    ("a\n\n---\n\nb", "5: notebooks have no form for transition"),
    ("| a |\n|---|\n| $\\|x\\|$ |", "3: in notebooks a table has headings"),
    ("```{table} Title\n| a |\n|---|\n| b |\n```", "4: in notebooks a table has headings, no title"),
    ("```{list-table}\n* - a\n* - b\n```", "3: in notebooks a table has headings"),
    ("| a |\n|---|\n| {eq}`no` |", "3: the reference to 'no'"),
    ("a $$x$$ b", r"3: \$\$ in the text 'a \$\$x\$\$ b'"),
    ("a\n$$ x $$ b", "3: .* a formula has lines of its own"),
    ("*$$x$$*", r"3: \$\$ in the text"),
    ("a $x$$y$", r"3: \$\$ in the text"),
    ("- a\n- b $$ c", r"4: \$\$ in the text"),
    (":::{admonition} $$x$$\nb\n:::", r"3: \$\$ in the text"),
    (":::{note}\na\n\nb $$ x $$\n:::", r"6: \$\$ in the text"),
    (":::{prf:proof}\n$$ x $$\n:::", r"4: \$\$ in the text 'Proof\. \$\$x\$\$'"),
    (":::{prf:proof}\n$$\nx\n$$\n\nb\n:::", r"4: \$\$ in the text"),
]
NUMBERS = {text: number for number, (text, _) in enumerate(dict.fromkeys([*SHOWN, *REFUSED]), 2)}
"""Each text has a page, with this number."""


@pytest.fixture(scope="module")
def render(tmp_path_factory):
    """The Markdown of a text, which stands on line 3 of its page."""
    folder = tmp_path_factory.mktemp("site")
    pages = {
        f"{number}-case": f"# Title\n\n{text.replace('@', f'case-{number}')}\n" for text, number in NUMBERS.items()
    }
    small_site.write(folder, {"01-a": small_site.CHAPTER} | pages)

    def render(text):
        notebook = nbformat.reads(notebooks.render(f"book/{NUMBERS[text]}-case", app.builder), nbformat.NO_CONVERT)
        texts = [cell.source for cell in notebook.cells[2:] if not cell.source.startswith("## References")]
        return CELL.join(texts).removeprefix(f"# {NUMBERS[text]}. Title").strip("\n")

    with small_site.sphinx(folder) as app:
        small_site.read(app)
        yield render


@pytest.mark.parametrize("text, expected", SHOWN)
def test_a_notebook_shows_what_the_site_shows(render, text, expected):
    assert render(text) == expected.replace("N.", f"{NUMBERS[text]}.")


@pytest.mark.parametrize("text, message", REFUSED)
def test_what_cannot_be_shown_is_an_error_with_file_and_line(render, text, message):
    with pytest.raises(MarkupError, match=rf"(?s)^book/{NUMBERS[text]}-case\.md:{message}"):
        render(text)


# ---- macros --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tex, expected",
    [
        (r"\Epsilon \E", r"\Epsilon \operatorname{\mathbb{E}}"),
        (r"x^\E", r"x^{\operatorname{\mathbb{E}}}"),
        (r"\norm{a_{1}}x + \norm y", r"\lVert a_{1} \rVert x + \lVert y \rVert"),
        (r"\in{\norm{a}}\E", r"\langle \lVert a \rVert ,\operatorname{\mathbb{E}}\rangle"),
        (r"\frac{\E}{2} \\ \{x\}", r"\frac{\operatorname{\mathbb{E}}}{2} \\ \{x\}"),
        (r"a \\E \norm{\{b\}}", r"a \\E \lVert \{b\} \rVert"),
    ],
)
def test_macros_are_written_out(tex, expected):
    assert expand(tex, MACROS).rstrip() == expected


@pytest.mark.parametrize("tex, message", [(r"a \norm", r"argument of \\norm is missing"), (r"\norm{a", "never closed")])
def test_a_macro_without_its_argument_is_an_error(tex, message):
    with pytest.raises(ValueError, match=message):
        expand(tex, MACROS)


def test_macros_are_read_from_the_configuration_of_the_site():
    config = SimpleNamespace(mathjax3_config={"tex": {"macros": {"E": MACROS["E"][0], "norm": list(MACROS["norm"])}}})
    assert macros(config) == {name: MACROS[name] for name in ("E", "norm")}
    assert macros(SimpleNamespace(mathjax3_config=None)) == {}
    with pytest.raises(ValueError, match="optional argument"):
        macros(SimpleNamespace(mathjax3_config={"tex": {"macros": {"x": ["#1", 1, "a"]}}}))


# ---- a whole notebook ----------------------------------------------------------------------------------------------

CHAPTER = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Title

Text {cite:p}`many`.

```{code-cell} ipython3
:tags: [check]
from IPython.display import SVG
x = "{eq}`no`"
```

```{code-cell} ipython3
---
tags: [hide-input]
mystnb:
  image: {alt: A plot}
  figure: {name: fig-b, caption: "The $\\\\E$."}
---
SVG('<svg xmlns="http://www.w3.org/2000/svg"/>')
```

## A section

By {numref}`fig-b`.
"""


def notebook(folder, text, **config):
    """The notebook of a page that comes second in a book."""
    small_site.write(folder, {"01-a": small_site.CHAPTER, "02-b": text})
    with small_site.sphinx(folder, **config) as app:
        small_site.read(app)
        return nbformat.reads(notebooks.render("book/02-b", app.builder), as_version=nbformat.NO_CONVERT)


def test_a_notebook_has_installation_text_code_captions_and_references(tmp_path):
    install, where, *rest = notebook(tmp_path, CHAPTER, nb_execution_mode="force").cells
    assert '%pip install --quiet "git+https://example.org/us/book@main"' in install.source
    assert "[`book/02-b.md`](https://example.org/us/book/blob/main/book/02-b.md)" in where.source
    reference = "A One, B Two, and C Three. Many. *J*, 1902. [arXiv:1902.00001](https://arxiv.org/abs/1902.00001)."
    assert [(cell.cell_type, cell.source) for cell in rest] == [
        ("markdown", "# 2. Title\n\nText [One *et al.*, 1902]."),
        ("code", 'from IPython.display import SVG\nx = "{eq}`no`"'),
        ("code", "SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>')"),
        ("markdown", r"*Fig. 2.1. The $\operatorname{\mathbb{E}}$.*"),
        ("markdown", "## 2.1. A section\n\nBy Fig. 2.1."),
        ("markdown", f"## References\n\n- {reference}"),
    ]
    assert rest[1].metadata == {"tags": ["check"]}
    figure = {"name": "fig-b", "caption": "The $\\E$."}
    assert rest[2].metadata == {"tags": ["hide-input"], "mystnb": {"image": {"alt": "A plot"}, "figure": figure}}


PLAIN = CHAPTER.replace("{numref}`fig-b`", "sight")


def test_identifiers_depend_on_content_and_position(tmp_path):
    first, same, other = (notebook(tmp_path, text) for text in (PLAIN, PLAIN, PLAIN.replace("Text", "Prose")))
    changed = [a.id != b.id for a, b in zip(first.cells, other.cells, strict=True)]
    assert [cell.id for cell in first.cells] == [cell.id for cell in same.cells]
    assert changed == [False, False, True, False, False, False, False]


def test_links_lead_to_the_site_if_it_has_an_address(tmp_path):
    text = PLAIN.replace("Text", "{eq}`eq-a`, {doc}`01-a`, {ref}`here`").replace("## A", "(here)=\n## A")
    source = notebook(tmp_path, text, html_baseurl="https://site.example/").cells[2].source
    assert "[(1.1)](https://site.example/book/01-a.html#equation-eq-a)" in source
    assert "[A chapter](https://site.example/book/01-a.html)" in source
    assert "[A section](https://site.example/book/02-b.html#here)" in source
    assert "[[One *et al.*, 1902](https://site.example/book/references.html#id" in source


def test_a_page_without_citations_has_no_references(tmp_path):
    assert "References" not in notebook(tmp_path, PLAIN.replace("{cite:p}`many`", "")).cells[-1].source


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("Text", "{eq}`no`", r"02-b\.md:14: the reference to 'no' leads nowhere"),
        ("sight", "{numref}`gone`", r"02-b\.md:34: the reference to 'gone'"),
        ("[check]", "[remove-input]", r"02-b\.md:18: notebooks have no form for container \['cell'"),
    ],
)
def test_errors_in_a_chapter_name_file_and_line(tmp_path, old, new, message):
    with pytest.raises(MarkupError, match=message):
        notebook(tmp_path, PLAIN.replace(old, new))
