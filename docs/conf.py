"""Settings of the site that `make docs` builds with Sphinx, from these pages and the docstrings."""

from __future__ import annotations

import re
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

from clipmill import __version__

project = "clipmill"
release = version = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click", "sphinx_copybutton"]
html_theme = "furo"
smartquotes = False  # two hyphens before an option are no dash
html_title = f"clipmill {release}"
html_show_copyright = html_show_sphinx = html_copy_source = False
html_static_path = ["static"]
html_css_files = ["pages.css"]
pygments_style, pygments_dark_style = "friendly", "github-dark"

nb_execution_mode = "off"  # the notebooks are kept with their results, and a test runs them
myst_heading_anchors = 4

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_use_rtype = False
napoleon_use_ivar = True

INCLUDED = {"../SECURITY.md": "security.md", "../CHANGELOG.md": "changelog.md", "../CONTRIBUTING.md": "contributing.md"}
"""Pages of the repository's root, and the pages of the site that include them."""


def _link_to_included(app: Sphinx, page: str, source: list[str]) -> None:
    """Let links to pages of the root, which are right in the repository, lead to the pages that include them."""
    for there, here in INCLUDED.items():
        source[0] = source[0].replace(f"]({there}", f"]({here}")


def _link_within_root(app: Sphinx, path: Path, page: str, content: list[str]) -> None:
    """Do the same for links from one of these pages to another."""
    for there, here in INCLUDED.items():
        content[0] = content[0].replace(f"]({Path(there).name}", f"]({here}")


def _mark_code(app: Sphinx, kind: str, name: str, it: object, options: object, lines: list[str]) -> None:
    """Turn `code` of a docstring into a reference where it is a name, and else into a literal, whatever follows it."""
    for number, line in enumerate(lines):
        lines[number] = re.sub(
            r"(?<![`\w:])`([^`]+)`(?!`)",
            lambda found: f":py:obj:`{found[1]}`\\ " if re.fullmatch(r"[\w.]+", found[1]) else f"``{found[1]}``\\ ",
            line,
        )


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.add_lexer("mermaid", TextLexer)  # forges draw these diagrams; a drawing here would need a script from the web
    app.connect("source-read", _link_to_included)
    app.connect("include-read", _link_within_root)
    app.connect("autodoc-process-docstring", _mark_code, priority=400)  # before napoleon's
