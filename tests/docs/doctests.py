"""The ``>>>`` examples of the docs, run as they stand."""
import doctest
import re
import sys

import numpy as np

_FENCE = re.compile(r"^```.*$", re.M)


def run(pages):
    """Runs each page's examples, in one namespace a page.

    Args:
        pages: paths of Markdown files.

    Returns:
        (failed, attempted); failures are printed.
    """
    runner = doctest.DocTestRunner()
    for page in pages:
        # A fence would be read as expected output; without it every line keeps its number.
        text = _FENCE.sub("", page.read_text())
        with np.printoptions():  # A page may set them for itself.
            runner.run(doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0), out=sys.stdout.write)
    return runner.failures, runner.tries
