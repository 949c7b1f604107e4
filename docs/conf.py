"""Sphinx configuration. Build the pages with `python -m sphinx -W docs docs/_build`."""

import pathlib
import sys

DOCS = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_ext")]

import atgcn_jax  # noqa: E402 (needs the path above)

project = "atgcn_jax"
author = "the authors of atgcn_jax"
project_copyright = "the authors of atgcn_jax"
release = atgcn_jax.__version__
html_theme = "furo"
html_title = f"atgcn_jax {release}"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "from_code"]
exclude_patterns = ["_build", "_ext"]
myst_heading_anchors = 3
# Pages link to files of the repository that are not pages. The tests check that these exist.
suppress_warnings = ["myst.xref_missing"]
napoleon_use_ivar = True
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
highlight_language = "none"
