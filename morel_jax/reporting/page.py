"""The report as one HTML page that needs no other file, no script and no network."""
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from morel_jax.configuration import FIELDS
from morel_jax.files import write_atomically
from morel_jax.reporting.chart import colour_class
from morel_jax.reporting.content import build
from morel_jax.reporting.runs import ReportedRun, find_runs
from morel_jax.schema import shown

# Seconds after which a page that is still being rewritten loads itself again.
REFRESH_SECONDS = 10


def _breakable(name: str) -> Markup:
    """A name that a narrow table may break where its parts end."""
    return Markup(re.sub(r"([=,/_.-])", r"\1<wbr>", str(escape(name))))


def to_html(content: Mapping[str, Any], refresh: bool = False) -> str:
    """The page of what :func:`~morel_jax.reporting.content.build` returned.

    ``refresh``: it loads itself again every few seconds.
    """
    environment = jinja2.Environment(loader=jinja2.PackageLoader("morel_jax.reporting", "."), autoescape=True,
                                     undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"value": shown, "breakable": _breakable}
    text = environment.get_template("page.html.j2").render(
        content=content, refresh=REFRESH_SECONDS if refresh else 0, colour=colour_class,
        defaults={name: field.default for name, field in FIELDS.items()},
        written=time.strftime("%Y-%m-%d %H:%M:%S %Z"))
    return text.encode(errors="replace").decode()  # A folder's name need not be text.


def write_report(paths: Iterable[str | os.PathLike], output: Path, images: int = 100,
                 refresh: bool = False) -> list[str]:
    """Writes the page of the runs in ``paths`` to ``output``.

    Args:
        paths: as :func:`~morel_jax.reporting.runs.find_runs` takes them.
        images: as for :func:`~morel_jax.reporting.content.build`.
        refresh: whether the page loads itself again every few seconds.

    Returns:
        A sentence for each thing that is not on the page because it is damaged, unfinished or missing.
    """
    content = build(find_runs(paths), images)
    write_atomically(output, to_html(content, refresh))
    return content["notes"]


def watch(paths: Sequence[str | os.PathLike], output: Path, images: int = 100, seconds: float = 2.0,
          sleep: Callable[[float], None] = time.sleep) -> list[str]:
    """Rewrites the page whenever a run's folder or state changed, until every run is finished; then once with pictures.

    It reads the folders and nothing else, so a training pays nothing for it. Arguments and result as for
    :func:`write_report`; ``seconds``: between two looks.
    """
    before, runs = None, find_runs(paths)
    while not all(run.is_finished for run in runs):
        now = _stamps(runs), [run.state for run in runs]  # A killed run changes no file.
        if now != before:
            write_atomically(output, to_html(build(runs), refresh=True))
            before = now
        sleep(seconds)
        runs = find_runs(paths)
    return write_report(paths, output, images)


def _stamps(runs: Sequence[ReportedRun]) -> dict[str, float]:
    """When the files that a page is made of were last written."""
    files = [run.folder / name for run in runs for name in ("config.json", "metrics.jsonl", "diverged.json")]
    files += [path for run in runs for path in (run.folder / "evaluation").rglob("*.json")]
    return {str(path): path.stat().st_mtime for path in files if path.exists()}
