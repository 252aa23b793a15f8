"""From MyST to the Markdown of a notebook, on small texts and an invented site."""

from types import SimpleNamespace

import nbformat
import notebooks
import pytest
from notebooks_blocks import CELL, Converter
from notebooks_inline import Inline, MarkupError, expand, macros
from notebooks_references import References

from tests.book.small_site import MACROS, environment


@pytest.fixture
def env():
    return environment()


@pytest.fixture
def convert(env):
    """Translate a text; the headings of the invented chapter have the numbers 1 and 1.1."""
    references = References(env, "book/01-a")
    inline = Inline("01-a.md", references.role, MACROS)
    converter = Converter(inline, references, iter(references.headings()))
    return lambda text: "\n".join(converter.convert(text.strip("\n").split("\n"), 1))


# ---- inline --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [
        ("see {eq}`eq-a`.", "see (1.1)."),
        ("**by {prf:ref}`thm-a`**, *{prf:ref}`so <thm-a>`*", "**by Theorem 1.2**, *so*"),
        ("{ref}`sec-a`, {ref}`the\nsection <sec-a>`, {ref}`ex-a`", "A section, the section, Exercise 1.3"),
        ("{numref}`fig-a`, {numref}`sec-a`, {numref}`Plot %s <fig-a>`", "Fig. 1.4, Section 1.1, Plot 1.4"),
        ("{doc}`01-a` {doc}`/book/01-a` {doc}`this <01-a>`", "A chapter A chapter this"),
        ("{cite:p}`two` {cite}`two`", "[Lovelace and Noether, 1901] [Lovelace and Noether, 1901]"),
        ("{cite:t}`many,two`", "Lovelace and Noether [1901], One et al. [1902]"),
        ("{cite:p}`{see}two{p. 3}`", "[see Lovelace and Noether, 1901, p. 3]"),
        ("{claim}`def-1`", "Definition 1"),
        ("{repo}`Makefile`", "[`Makefile`](https://example.org/us/book/blob/main/Makefile)"),
    ],
)
def test_a_role_shows_what_the_site_shows(convert, text, expected):
    assert convert(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "`{eq}`, ``{eq}`eq-a` ``, `$\\E$` and `:::`",
        "it costs \\$5, and \\`{eq}\\`",
        "set {a, b} and [a link](https://example.org) and <https://example.org>",
        "```python\nx = r'{eq}`eq-a` $\\E$'\n# (label)=\n:::{note}\n% magic\n```",
        "````\n```{code-cell}\n```\n````",
        "| a | b |\n|---|---|\n| 1 | $x$ |",
        "a lone $ sign\n\nand $ another",
    ],
)
def test_code_escapes_and_plain_markdown_stay(convert, text):
    assert convert(text) == text


@pytest.mark.parametrize(
    "text, expected",
    [
        ("$\\E x$ and `$\\E x$`", r"$\operatorname{\mathbb{E}} x$ and `$\E x$`"),
        ("$a\n + b$", "$a + b$"),
        ('"$$\\E = 1$$" ends', r'"$$\operatorname{\mathbb{E}} = 1$$" ends'),
        (r"$\text{5\$}$ and \$6 and $y$", r"$\text{5\$}$ and \$6 and $y$"),
    ],
)
def test_mathematics_in_a_line(convert, text, expected):
    assert convert(text) == expected


@pytest.mark.parametrize(
    "tex, expected",
    [
        (r"\Epsilon \E", r"\Epsilon \operatorname{\mathbb{E}}"),
        (r"x^\E", r"x^{\operatorname{\mathbb{E}}}"),
        (r"\norm{a_{1}}x + \norm y", r"\lVert a_{1} \rVert x + \lVert y \rVert"),
        (r"\in{\norm{a}}\E", r"\langle \lVert a \rVert ,\operatorname{\mathbb{E}}\rangle"),
        (r"\frac{\E}{2} \\ \{x\}", r"\frac{\operatorname{\mathbb{E}}}{2} \\ \{x\}"),
    ],
)
def test_macros_are_written_out(tex, expected):
    assert expand(tex, MACROS).rstrip() == expected


@pytest.mark.parametrize("tex, message", [(r"a \norm", "takes 1 arguments"), (r"\norm{a", "never closed")])
def test_a_macro_without_its_argument_is_an_error(tex, message):
    with pytest.raises(ValueError, match=message):
        expand(tex, MACROS)


def test_macros_are_read_from_the_configuration_of_the_site(env):
    assert macros(env.config) == {name: MACROS[name] for name in ("E", "norm")}
    assert macros(SimpleNamespace(mathjax3_config=None)) == {}
    with pytest.raises(ValueError, match="optional argument"):
        macros(SimpleNamespace(mathjax3_config={"tex": {"macros": {"x": ["#1", 1, "a"]}}}))


# ---- blocks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [
        ("$$\n\\E x\n$$ (eq-a)", "$$\n\\operatorname{\\mathbb{E}} x\n\\tag{1.1}\n$$"),
        ("$$ x $$\ntext", "$$\nx\n$$\n\ntext"),
        ("- item\n\n  $$ x $$ (eq-a)\n\n- next", "- item\n\n  $$\n  x\n  \\tag{1.1}\n  $$\n\n- next"),
        ("```{math}\n:label: eq-a\nx\n```", "$$\nx\n\\tag{1.1}\n$$"),
        ("(here)=\n% a comment\ntext", "text"),
        ("# Title\n\ntext\n## Next", f"{CELL}\n# 1. Title\n\ntext\n{CELL}\n## 1.1. Next"),
        (":::{note}\ntext $x$\n:::", "> **Note**\n>\n> text $x$"),
        (":::{tip} text\n:::", "> **Tip**\n>\n> text"),
        (":::{admonition} By {eq}`eq-a`\n:class: paper\n\ntext\n:::", "> **By (1.1)**\n>\n> text"),
        (":::{warning}\n$$\na % b\n= c\n$$ (eq-a)\n:::", "> **Warning**\n>\n> $$ a  = c \\tag{1.1} $$"),
        ("```{prf:theorem} Of $x$\n:label: thm-a\ntext\n```", "> **Theorem 1.2** (Of $x$).\n>\n> text"),
        ("```{prf:remark}\n:label: rem-a\n:nonumber:\ntext\n```", "> **Remark.**\n>\n> text"),
        (":::{prf:proof}\nLook\nhere.\n:::", "*Proof.* Look\nhere. ∎"),
        (":::{prf:proof}\nSo\n\n$$ x $$\n:::", "*Proof.* So\n\n$$\nx\n$$\n\n∎"),
        (":::{prf:proof}\n$$ x $$\n\nSo.\n:::", "*Proof.*\n\n$$\nx\n$$\n\nSo. ∎"),
        (":::{exercise} Hard\n:label: ex-a\n\nDo.\n:::", "**Exercise 1.3** (Hard).\n\nDo."),
        (
            ":::{solution} ex-a\n:class: dropdown\n$x$\n:::",
            "<details>\n<summary>Solution to Exercise 1.3</summary>\n\n$x$\n\n</details>",
        ),
        (
            ":::{figure} a.svg\n:alt: An a\n:name: fig-a\n\nAn *a*\nof $x$.\n:::",
            "![An a](https://example.org/us/book/raw/main/book/a.svg)\n\n*Fig. 1.4. An *a* of $x$.*",
        ),
    ],
)
def test_a_block(convert, text, expected):
    assert convert(text) == expected


def test_nested_directives_and_code(convert):
    text = ":::::{note}\nbegin\n\n::::{tip}\n```python\n:::\nx\n```\n::::\n\nend\n:::::"
    assert (
        convert(text) == "> **Note**\n>\n> begin\n>\n> > **Tip**\n> >\n> > ```python\n> > :::\n> > x\n> > ```\n>\n> end"
    )


@pytest.mark.parametrize(
    "text, message",
    [
        ("a\n\nb {eq}`no`", r"01-a\.md:3: role \{eq\}: no equation has the label 'no'"),
        ("a\nb {nope}`x`", r"01-a\.md:2: role \{nope\}: notebooks do not know it; they know eq"),
        ("{prf:ref}`no`", r"01-a\.md:1: role \{prf:ref\}: no theorem"),
        ("{ref}`no`", r"01-a\.md:1: role \{ref\}: no page has the label 'no'"),
        ("{numref}`no`", r"no page has the label 'no'"),
        ("{doc}`no`", r"there is no page 'book/no'"),
        ("{cite:p}`no`", r"the bibliography has no entry 'no'"),
        ("{cite:odd}`two`", r"the citation style knows"),
        ("{claim}`no`", r"the ledger has no claim 'no'"),
        ("a [link](#here)", r"01-a\.md:1: the link to '#here' leads nowhere"),
        ("a note[^1]", r"01-a\.md:1: \[\^1\] leads nowhere"),
        (":::{nope}\n:::", r"01-a\.md:1: directive \{nope\}: notebooks do not know it; they know admonition"),
        (":::{note}\ntext", r"01-a\.md:1: the fence ::: is never closed"),
        ("::: note\n:::", r"01-a\.md:1: '::: note' names no directive"),
        (":::{note}\n\n\nx {eq}`no`\n:::", r"01-a\.md:4: role \{eq\}"),
        (":::{prf:lemma}\n:label: gone\nx\n:::", r"01-a\.md:1: no theorem, lemma or the like has the label 'gone'"),
        (":::{prf:lemma}\nx\n:::", r"01-a\.md:1: this needs a label"),
        (":::{exercise}\n:label: gone\nx\n:::", r"no exercise has the label 'gone'"),
        (":::{figure} a.svg\n:name: fig-a\nx\n:::", r"figure 'a\.svg' has no alt text"),
        ("$$ x $$ (no)", r"01-a\.md:1: no equation has the label 'no'"),
        ("$$ \\norm $$", r"01-a\.md:1: \\norm takes 1 arguments"),
    ],
)
def test_what_cannot_be_shown_is_an_error_with_file_and_line(convert, text, message):
    with pytest.raises(MarkupError, match=message):
        convert(text)


# ---- a whole notebook ----------------------------------------------------------------------------------------------

CHAPTER = """\
---
kernelspec: {name: python3}
---
# Title

Text {cite:p}`many`.

```{code-cell} ipython3
:tags: [check]
x = "{eq}`no`"
```

```{code-cell} ipython3
---
mystnb:
  image: {alt: A plot}
  figure: {name: fig-a, caption: "The $\\\\E$."}
---
plot()
```

## A section
"""


@pytest.fixture
def render(env, tmp_path):
    def render(text):
        (tmp_path / "01-a.md").write_text(text, encoding="utf-8")
        return nbformat.reads(notebooks.render(tmp_path / "01-a.md", env), as_version=nbformat.NO_CONVERT)

    return render


def test_a_notebook_has_installation_text_code_captions_and_references(render):
    install, where, *rest = render(CHAPTER).cells
    assert '%pip install --quiet "git+https://example.org/us/book@main"' in install.source
    assert "[`book/01-a.md`](https://example.org/us/book/blob/main/book/01-a.md)" in where.source
    reference = "A One, B Two, and C Three. Many. *J*, 1902. [arXiv:1902.00001](https://arxiv.org/abs/1902.00001)."
    assert [(cell.cell_type, cell.source) for cell in rest] == [
        ("markdown", "# 1. Title\n\nText [One et al., 1902]."),
        ("code", 'x = "{eq}`no`"'),
        ("code", "plot()"),
        ("markdown", r"*Fig. 1.4. The $\operatorname{\mathbb{E}}$.*"),
        ("markdown", "## 1.1. A section"),
        ("markdown", f"## References\n\n- {reference}"),
    ]
    assert rest[1].metadata.tags == ["check"]


def test_identifiers_depend_on_content_and_position(render):
    first, same, other = render(CHAPTER), render(CHAPTER), render(CHAPTER.replace("Text", "Prose"))
    changed = [a.id != b.id for a, b in zip(first.cells, other.cells, strict=True)]
    assert [cell.id for cell in first.cells] == [cell.id for cell in same.cells]
    assert changed == [False, False, True, False, False, False, False, False]


def test_links_lead_to_the_site_if_it_has_an_address(env, render):
    env.config.html_baseurl = "https://site.example/"
    text = render(CHAPTER.replace("Text", "{eq}`eq-a`, {doc}`01-a`,")).cells[2].source
    assert "[(1.1)](https://site.example/book/01-a.html#equation-eq-a)" in text
    assert "[A chapter](https://site.example/book/01-a.html)" in text


def test_a_page_without_citations_has_no_references(render):
    assert "References" not in render(CHAPTER.replace("{cite:p}`many`", "")).cells[-1].source


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("Text", "{eq}`no`", r"01-a\.md:6: role \{eq\}"),
        ("fig-a", "gone", r"01-a\.md:14: no page has the label 'gone'"),
        ("name: fig-a, ", "", r"this needs a label"),
        ("## A section", "", r"the site numbers 1 more headings than were found"),
        (
            "## A section",
            "A\n> :::{note}\n> :::",
            r"01-a\.md:22: '> :::', in the text from this line on, would show as raw markup",
        ),
        ("```{code-cell} ipython3\n:tags: [check]", "```{raw-cell}", "a raw cell; notebooks have code and text only"),
    ],
)
def test_errors_in_a_chapter_name_file_and_line(render, old, new, message):
    with pytest.raises(MarkupError, match=message):
        render(CHAPTER.replace(old, new))
