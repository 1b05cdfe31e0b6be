"""Makes one HTML page of one or several runs: curves, judgements, pictures, differences of their configs.

Examples:
    morel report runs/cifar10
    morel report runs/a runs/b --output=report.html
    morel report runs/cifar10 --watch
"""
import sys
from pathlib import Path

from absl import flags

from morel_jax import command

_OUTPUT = flags.DEFINE_string("output", None, "The page; by default report.html in the folder given or, of several, "
                              "in the working folder.")
_IMAGES = flags.DEFINE_integer("images", 100, "Test images of each run's best network that are attacked for the "
                               "pictures; 0: no pictures, and no network is loaded.", lower_bound=0)
_WATCH = flags.DEFINE_bool("watch", False, "Rewrite the page after each epoch until every run is finished; it loads "
                           "itself again meanwhile, and gets its pictures in the end.")
command.define_compilation_cache()


def _report(folders: list[str]) -> None:
    from morel_jax.files import local_path  # Here: --help and a wrong flag answer at once.
    from morel_jax.reporting import watch, write_report
    if not folders:
        raise ValueError("a report must be told of which runs: the folders of runs or sweeps, such as runs/a runs/b.")
    output = Path("report.html") if len(folders) > 1 else local_path(folders[0], "RUN") / "report.html"
    if _OUTPUT.value is not None:
        output = local_path(_OUTPUT.value, "--output")
    if output.is_dir() or not output.parent.is_dir():
        if _OUTPUT.value is not None:
            raise ValueError(f"--output must be a file in a folder that is there; got {output}.")
    if _WATCH.value:
        print(f"watching; open {output}", file=sys.stderr)
    for note in (watch if _WATCH.value else write_report)(folders, output, _IMAGES.value):
        print(f"note: {note}", file=sys.stderr)
    print(f"report: {output}")


def main(argv: list[str]) -> int:
    """Writes the page. Exit status: see :func:`morel_jax.command.exit_status`."""
    return command.exit_status(lambda: _report(argv[1:]))


def run() -> None:
    """Entry point of the console script."""
    command.run(main, positional=True)


if __name__ == "__main__":
    run()
