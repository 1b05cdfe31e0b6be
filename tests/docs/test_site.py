"""The site, built as a reader builds it; needs the extra ``docs``."""
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import morel_jax

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site; warnings, such as a page that no list of contents has, are errors."""
    folder = tmp_path_factory.mktemp("site")
    outcome = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", folder / "doctrees", "-b", "html",
         ROOT / "docs", folder / "html"], cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def anchors(site):
    """Names of the inventory's Python objects."""
    head, content = site.joinpath("objects.inv").read_bytes().split(b"zlib.\n", 1)
    assert f"Version: {morel_jax.__version__}".encode() in head
    lines = zlib.decompress(content).decode().splitlines()
    return {line.split()[0] for line in lines if line.split()[1].startswith("py:")}


def packages():
    """Those packages that say what is public; what `morel_jax` itself gives has its place where it is defined."""
    names = [info.name for info in pkgutil.walk_packages(morel_jax.__path__, "morel_jax.") if info.ispkg]
    found = [importlib.import_module(name) for name in names]
    return [package for package in found if hasattr(package, "__all__")]


def test_every_public_name_has_a_place(anchors):
    public = {f"{package.__name__}.{name}" for package in packages() for name in package.__all__}
    assert len(public) > 40
    assert not public - anchors, "add them to the package's page in docs/reference"


def test_every_public_function_is_documented():
    for package in packages():
        for name in package.__all__:
            if not hasattr(package, name):  # A module that nothing has imported yet.
                importlib.import_module(f"{package.__name__}.{name}")
            thing = getattr(package, name)
            assert not callable(thing) or inspect.getdoc(thing), f"{package.__name__}.{name}"


def test_signatures_have_shapes(site):
    text = re.sub(r"<[^>]+>|\s+", "", (site / "reference/losses.html").read_text())
    assert "trades(logits:float[*n,c],logits_adv:float[*n,c],labels:int[*n],beta:ArrayLike=6.0" in text


def test_every_page_is_built(site):
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")
             if not {"_build", "_extensions"} & set(path.relative_to(ROOT / "docs").parts)]
    assert len(pages) > 20
    for page in pages:
        assert (site / page).with_suffix(".html").is_file(), page


def test_tables_are_made(site):
    """What is read from the package: every command's flags, every attack and field, both variants."""
    assert "--coordinator" in (site / "reference/commands.html").read_text()
    assert "apgd-dlrx5" in (site / "evaluation.html").read_text()
    assert "contrastive_weight" in (site / "reference/configuration.html").read_text()
    assert "0.031" in (site / "explanation/variants.html").read_text()


def test_nothing_is_fetched(site):
    """A page loads no script, style or picture from elsewhere."""
    for page in site.rglob("*.html"):
        loaded = re.findall(r"""<(?:script|img|link rel="stylesheet")[^>]*?(?:src|href)="(https?:[^"]*)""",
                            page.read_text())
        assert not loaded, (page, loaded)


def test_equations_are_drawn_without_a_script(site):
    text = (site / "equations.html").read_text()
    assert "<math" in text
    assert not re.search(r"<script[^>]*mathjax", text, re.I)
