"""The repository's address, which stands in ``_config.yml`` alone, in code blocks and links of any page.

``{repo-code}`` is a code block with ``@REPOSITORY@`` and ``@VERSION@`` filled in; ``{repo}`` links a file.
"""

from docutils import nodes
from sphinx.util.docutils import SphinxDirective, SphinxRole

import sgdvi_lite


def address(config) -> str:
    """The repository's address, without a slash at the end."""
    return config.html_theme_options["repository_url"].rstrip("/")


def file_address(config, path: str, kind: str = "blob") -> str:
    """Address of a file of the repository, on the branch that the site is built from."""
    return f"{address(config)}/{kind}/{config.html_theme_options['repository_branch']}/{path}"


class RepoCode(SphinxDirective):
    """A code block in which the repository's address and the library's version are filled in."""

    has_content = True
    required_arguments = 1

    def run(self):
        """Replace the two marks and return a literal block in the language given."""
        text = "\n".join(self.content).replace("@REPOSITORY@", address(self.config))
        text = text.replace("@VERSION@", sgdvi_lite.__version__)
        return [nodes.literal_block(text, text, language=self.arguments[0])]


class RepoRole(SphinxRole):
    """A link to a file of the repository, on the branch that the site is built from."""

    def run(self):
        """Refuse a path that does not exist."""
        if not (self.env.srcdir / self.text).exists():
            message = f"repo {self.text!r}: no such file in the repository; check the spelling"
            return [], [self.inliner.reporter.error(message, line=self.lineno)]
        return [nodes.reference("", "", nodes.literal("", self.text), refuri=file_address(self.config, self.text))], []


def setup(app):
    app.add_directive("repo-code", RepoCode)
    app.add_role("repo", RepoRole())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
