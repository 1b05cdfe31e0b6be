"""Sphinx's settings: ``sphinx-build -W --keep-going -b html docs docs/_build/html``. Needs no network."""
import sys
from pathlib import Path

import morel_jax

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "morel_jax"
author = "the morel_jax authors"
version = release = morel_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "docstrings",
    "mathml",
    "tables",
]
exclude_patterns = ["_build", "_extensions", "**.ipynb_checkpoints"]
suppress_warnings = [
    "ref.python",  # A class has one name in its package and one in its module; either link is right.
]

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # Notebooks are shown with the outputs that they hold.

highlight_language = "none"  # Docstrings' indented paragraphs are formulas.
default_role = "py:obj"  # Single backticks: a link where there is such a name, else code.
add_module_names = False
python_use_unqualified_type_names = True
autodoc_mock_imports = ["art", "foolbox"]  # The adapters' pages need neither.
autodoc_class_signature = "mixed"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_numpy_docstring = False
napoleon_attr_annotations = False
napoleon_custom_sections = [("Attributes", "params_style"), ("Raises (when called)", "params_style")]
napoleon_use_rtype = False

html_theme = "furo"
html_title = "morel_jax"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_theme_options = {"navigation_with_keys": False}
html_show_copyright = False
html_show_sphinx = False
