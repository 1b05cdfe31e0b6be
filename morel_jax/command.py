"""What the commands share: flags read with one clear line where they are wrong."""
import dataclasses
import functools
import gc
import json
import os
import re
import signal
import sys
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from morel_jax.files import local_path

if TYPE_CHECKING:
    from morel_jax.evaluation.dry_run import EvaluationDryRun
    from morel_jax.targets import DryRun

flags.disclaim_key_flags()  # `--config` is of the command that asks for it.
_PACKAGE = str(Path(__file__).parent) + os.sep
_STANDARD_LIBRARY = sysconfig.get_path("stdlib") + os.sep


class _ConfigParser(flags.ArgumentParser):
    """In place of ml_collections' own, which puts a config file's traceback into its message or ignores it for now.

    Args:
        default: config of a command line without the flag, or None.
    """

    def __init__(self, default: str | None = None) -> None:
        super().__init__()
        self.default = default

    def flag_type(self) -> str:
        return "config object"

    def parse(self, path: str) -> ConfigDict:
        from morel_jax.configuration import config_file, load_file  # Here: --help and a wrong flag answer at once.
        file, *spec = path.split(":", 1)
        try:
            file = config_file(file)
            config = load_file(file, *spec)
        except Exception as error:
            raise flags.Error(_of_file(file, error)) from error
        if not hasattr(config, "lock"):
            raise flags.Error(f"get_config() in {file} must return a ConfigDict; got {type(config).__name__}.")
        return config.lock()


def _refuse(error: Exception | str) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def _of_file(file: str, error: Exception) -> str:
    """One line: this library's own message as it is, any other error with the place in the file that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, ValueError) and frames[-1].filename.startswith(_PACKAGE):
        return str(error)
    line = next((f", line {frame.lineno}" for frame in reversed(frames) if frame.filename == file), "")
    return f"{file}{line}: {type(error).__name__}: {error}"


def define_config(default: str | None = None,
                  help_text: str = "Name of a shipped config, or a Python file with get_config(); after a colon its "
                                   "argument. --config.SECTION.FIELD=VALUE overrides a field; --help=config lists the "
                                   "fields.") -> flags.FlagHolder:
    """The flag ``--config``, with overrides ``--config.SECTION.FIELD=VALUE``; a holder of the ConfigDict."""
    try:  # It looks at the command line at once, for a --flagfile.
        holder = config_flags.DEFINE_config_file("config", None, help_text)
    except flags.Error as error:
        _refuse(error)
    flags.FLAGS["config"].parser = _ConfigParser(default)
    return holder


class _FunctionParser(flags.ArgumentParser):
    """FILE.py:FUNCTION as the function.

    Args:
        name: of the flag.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def flag_type(self) -> str:
        return "function"

    def parse(self, text: Any) -> Callable:
        from morel_jax.files import load_module  # Here: --help and a wrong flag answer at once.
        if callable(text):  # absl parses a default, too.
            return text
        file, _, name = text.rpartition(":")
        if not os.path.isfile(file):
            raise flags.Error(f"--{self._name} must be FILE.py:FUNCTION, of a file that is there; got {text!r}.")
        try:
            function = getattr(load_module(file), name, None)
        except Exception as error:
            raise flags.Error(_of_file(file, error)) from error
        if not callable(function):
            raise flags.Error(f"--{self._name} must be FILE.py:FUNCTION; {file} has no function {name!r}.")
        return function


def define_function(name: str, help_text: str) -> flags.FlagHolder:
    """A flag ``--<name>=FILE.py:FUNCTION``; a holder of the function, or of None."""
    return flags.DEFINE(_FunctionParser(name), name, None, help_text)


def define_compilation_cache() -> None:
    """The flag ``--compilation_cache``, which :func:`exit_status` reads."""
    flags.DEFINE_string("compilation_cache", None, "Folder where compiled programs are kept for the next start, by "
                        "default one in the user's cache folder; off: none. JAX_COMPILATION_CACHE_DIR goes before.")


class BeginningFlags:
    """The flags ``--init_from`` and ``--init_which``, of the command that makes one of these."""

    def __init__(self) -> None:
        self._workdir = flags.DEFINE_string(
            "init_from", None, "Folder of a trained run of the same architecture, with whose weights a new one begins, "
            "where names and shapes are equal.")
        self._which = flags.DEFINE_enum("init_which", "best", ["best", "last"], "The checkpoint of --init_from.")

    @property
    def arguments(self) -> dict[str, Any]:
        """What ``fit`` and ``fit_population`` take of them."""
        workdir = None if self._workdir.value is None else local_path(self._workdir.value, "--init_from")
        return {"init_from": workdir, "init_which": self._which.value}


class PreferenceFlag:
    """The flag ``--preference``, of the command that makes one of these."""

    def __init__(self) -> None:
        self._flag = flags.DEFINE_list(
            "preference", None, "Of a network trained with morel.conditioned: the preference K1,K2 at which it is "
            "taken, two shares of sum 1; by default morel.judged_preference.")
        flags.register_validator("preference", _is_preference,
                                 "must be two numbers in [0, 1] of sum 1, such as 0.3,0.7")

    @property
    def value(self) -> float | None:
        """K1, or None."""
        return float(self._flag.value[0]) if self._flag.value else None

    def folder(self, parent: Path) -> Path:
        """Folder of what belongs to this preference, in that of the network's own."""
        return parent / f"preference={'_'.join(self._flag.value)}" if self._flag.value else parent


def _is_preference(texts: Sequence[str] | None) -> bool:
    if texts is None:
        return True
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return False
    return len(numbers) == 2 and min(numbers) >= 0 and abs(sum(numbers) - 1) < 1e-6


@dataclasses.dataclass(frozen=True)
class DryRunFlags:
    """The flags ``--dry_run``, ``--target`` and ``--json``, of the command that makes one of these.

    Attributes:
        what: that is compiled, for the help.
        instead_of: name of the flag that is needed without ``--dry_run``.
    """
    what: str
    instead_of: str = "workdir"

    def __post_init__(self) -> None:
        flags.DEFINE_bool("dry_run", False, f"Compile {self.what} without data, print what it needs, and stop.")
        flags.DEFINE_string("target", None, "With --dry_run: compile for devices that need not be there, such as h100, "
                            "h100:8, h100:2x8 (hosts x GPUs), a100 or tpu_v5e:4x4 (grid of chips).")
        flags.DEFINE_bool("json", False, "With --dry_run: print one JSON object.")

    def register(self) -> None:
        """Checks the flags once they are given; must come after all are defined."""
        names = [self.instead_of, "dry_run", "target", "json"]
        flags.register_multi_flags_validator(
            names, lambda given: given["dry_run"] or given[self.instead_of] is not None,
            f"Flag --{self.instead_of} must be given, unless --dry_run is.")
        flags.register_multi_flags_validator(
            names, lambda given: given["dry_run"] or not (given["target"] or given["json"]),
            "Flags --target and --json must come with --dry_run.")

    def run(self, dry_run: Callable[[str | None], "DryRun | EvaluationDryRun"]) -> bool:
        """Prints what ``dry_run(target)`` finds, if that is asked for; returns whether it was."""
        if not flags.FLAGS.dry_run:
            return False
        from morel_jax import sharding  # Here: --help and a wrong flag answer at once.
        found = dry_run(flags.FLAGS.target)
        if sharding.is_first_process():
            print(json.dumps(found.to_dict()) if flags.FLAGS.json else found.to_text())
        return True


def _check_overrides(argv: Sequence[str]) -> None:
    overridden = [found[1] for argument in argv[1:] if (found := re.match(r"--?(?:no)?config\.([^=]*)", argument))]
    if not overridden:
        return
    from morel_jax.configuration import FIELDS, unknown_field  # Here: --help and a wrong flag answer at once.
    sections = {field.rpartition(".")[0] for field in FIELDS}
    for name in overridden:
        if name not in FIELDS and name not in sections - {""}:
            raise flags.Error(unknown_field(name))


def _help(module: str) -> str:
    """What a command's module says of itself, examples included, and its flags in the order of their definitions."""
    lines = [(sys.modules[module].__doc__ or "").strip(), "", "Flags:"]
    # absl names the program's own module as the program is called.
    for flag in flags.FLAGS.flags_by_module_dict()[sys.argv[0] if module == "__main__" else module]:
        name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
        default = (flag.default_as_str or "").strip("'")
        lines += [f"  {name} (default: {default})" if flag.default not in (None, "", [], False) else f"  {name}",
                  flags.text_wrap(flag.help or "", 100, indent="      ")]
    return "\n".join(lines)


def _parse(module: str, positional: bool, argv: list[str]) -> list[str]:
    if {"--help", "-help", "-h", "--helpshort"} & set(argv[1:]):
        print(_help(module))  # absl's own is empty for an installed command, and its exit status is 1.
        sys.exit(0)
    try:
        if "config" in flags.FLAGS:
            if "--help=config" in argv:
                from morel_jax.configuration import describe_fields
                print(describe_fields())
                sys.exit(0)
            _check_overrides(argv)
            parser: Any = flags.FLAGS["config"].parser
            default = parser.default
            if default and not any(re.match("--?config(=|$)", argument) for argument in argv):
                argv = [argv[0], f"--config={default}", *argv[1:]]
        rest = flags.FLAGS(argv)[1:]
        if rest and not positional:
            raise flags.Error(f"arguments that no flag takes: {' '.join(rest)}")
    # A --flagfile that is not there; a config file whose get_config() lacks the field of an override.
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        # absl puts a line for each rule that is broken, in no fixed order, and the values of its flags before the rule.
        _refuse(" ".join(sorted(re.sub(r"flags? [^\n]*?: (?=Flags? --)", "", str(error)).splitlines())))
    return [argv[0], *rest]


def _is_callers(error: BaseException) -> bool:
    """Whether an error is of code that is neither this library's nor installed: a loss of the caller's own, say."""
    ours = False
    for frame in traceback.extract_tb(error.__traceback__):
        file = os.path.abspath(frame.filename)
        installed = (frame.filename.startswith(("<", _STANDARD_LIBRARY))
                     or not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts))
        if file.startswith(_PACKAGE):
            ours |= file != __file__
        elif ours and not installed:
            return True
    return not ours


def exit_status(work: Callable[[], int | None]) -> int:
    """Calls ``work()``, a command's work; what goes wrong becomes one line on standard error.

    An error that the caller's own code raises (``work`` itself, or a loss, model or attack that it gave to this
    library) comes through with its traceback.

    Returns:
        What ``work`` returns, None counting as 0; 2 after something wrong in what was given, or a folder or disk that
        cannot be used; 3 after a divergence; 128 and its number after a signal.
    """
    from morel_jax import sharding  # Here: --help and a wrong flag answer at once.
    from morel_jax.training import Diverged, Interrupted
    try:
        if "compilation_cache" in flags.FLAGS and (folder := flags.FLAGS.compilation_cache) != "off":
            from morel_jax.compilation_cache import use_compilation_cache
            use_compilation_cache(folder)
        try:
            return work() or 0
        except (AssertionError, RuntimeError):
            sharding.jax_devices()  # Says which platform is not there, if that is why.
            raise
    except Interrupted as interruption:
        print(interruption, file=sys.stderr)
        return 128 + interruption.signal_number
    except KeyboardInterrupt:
        print("stopped; the same command resumes from here", file=sys.stderr)
        return 128 + signal.SIGINT
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except (ValueError, OSError, ImportError) as error:  # The last: an extra that is not installed.
        if _is_callers(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(main: Callable[[list[str]], int], required: Sequence[str] = (), positional: bool = False) -> None:
    """Runs ``main(argv)`` with the flags parsed; a wrong flag or config file is one line and exit status 2.

    Args:
        main: function of the program's name in a list; what it returns is the exit status.
        required: names of flags that must be given.
        positional: whether the command takes arguments beside flags; they follow the program's name in the list.
    """
    # Tracing makes so many objects that looking for garbage often takes a twentieth of a start.
    gc.set_threshold(50_000)
    flags.mark_flags_as_required(required)
    # Below this, JAX tells which accelerators it did not find.
    logging.set_verbosity(logging.WARNING)
    app.run(main, flags_parser=functools.partial(_parse, main.__module__, positional))
