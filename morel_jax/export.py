"""Writes a trained network as files for other programs, with a model card.

Examples:
    morel export --workdir=runs/cifar10
    morel export --workdir=runs/cifar10 --which=last --format=safetensors --format=torch --out=exported
"""
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from morel_jax import command

if TYPE_CHECKING:
    from morel_jax.evaluation.trained import Trained

_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.")
_WHICH = flags.DEFINE_enum("which", "best", ["best", "last"], "The checkpoint.")
_FORMAT = flags.DEFINE_multi_enum("format", ["stablehlo"], ["stablehlo", "safetensors", "torch", "robustbench"],
                                  "What to write; may be given more than once.")
_OUT = flags.DEFINE_string("out", None, "Folder of the files; by default exported/<which> in the workdir.")
_PLATFORMS = flags.DEFINE_list("platforms", ["cpu", "cuda"], "Where the StableHLO is to run: cpu, cuda, rocm, tpu.")
_GRADIENTS = flags.DEFINE_bool("gradients", False, "Make the StableHLO differentiable, so that it can be attacked.")
_PREFERENCE = command.PreferenceFlag()
_SUB_BLOCK1 = flags.DEFINE_bool("sub_block1", False, "For a wide_resnet: write TRADES' unused sub_block1 too.")
_ENTRY = flags.DEFINE_multi_string("entry", [], "For RobustBench: FIELD=VALUE with what a run cannot know, such as "
                                   "authors=A. Doe; fields are id, link, name, authors, venue and reported.")


def _summary(folder: Path, trained: "Trained") -> dict[str, Any] | None:
    """The checkpoint's summary.json, or None where there is none, or one of another network."""
    from morel_jax.evaluation.identity import network_digests
    from morel_jax.evaluation.summary import read_summary

    path = folder / "summary.json"
    if not path.exists():
        return None
    summary = read_summary(path)
    settings = summary["settings"]
    digests = network_digests(trained.logits_fn, trained.data["image_shape"])
    # Weights and modules; and the traced program, if this version of JAX made the summary.
    if settings.get("network") == digests["network"] and all(settings.get(name, digest) == digest
                                                             for name, digest in digests.items()):
        return summary
    print(f"warning: {path} judges another network than this one; the model card leaves it out.", file=sys.stderr)
    return None


def _load(workdir: Path, which: str) -> "tuple[Trained, dict[str, Any]]":
    """(Trained, the checkpoint's record), both of one checkpoint."""
    from morel_jax.evaluation.trained import load_trained
    from morel_jax.training.saved import load_record

    record = None
    while record != (record := load_record(workdir, which)):  # A run under way may save another between the two.
        trained = load_trained(workdir, which, preference=_PREFERENCE.value)
    return trained, record


def _main() -> None:
    import jax

    from morel_jax.files import local_path, write_atomically
    from morel_jax.interop import robustbench, stablehlo, torch_file
    from morel_jax.interop.model_card import model_card, to_markdown
    from morel_jax.interop.torch import export_state_dict
    from morel_jax.training.workdir import load_content

    workdir, which = local_path(_WORKDIR.value, "workdir"), _WHICH.value
    out = _PREFERENCE.folder(workdir / "exported" / which) if _OUT.value is None else local_path(_OUT.value, "out")
    run = load_content(workdir)
    trained, record = _load(workdir, which)
    model, data = trained.model, trained.data
    if "train_images" not in data:  # An earlier version's record of a custom data set.
        raise ValueError(f"{workdir} was trained on its caller's own data set, which its config.json does not "
                         "describe; export it with the functions of morel_jax.interop.")
    forms, summary = dict.fromkeys(_FORMAT.value), _summary(
        _PREFERENCE.folder(workdir / "evaluation" / which), trained)
    if _ENTRY.value and "robustbench" not in forms:
        raise ValueError(f"entry is for --format=robustbench alone; got {', '.join(forms)}.")
    entry = robustbench.entry(model, run["config"], data, summary, _ENTRY.value) if "robustbench" in forms else None

    def state_dict(sub_block1: bool = False) -> dict[str, Any]:
        return export_state_dict(trained.variables, trained.config.model.name, mean=model.mean, std=model.std,
                                 sub_block1=sub_block1)

    out.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}

    def write(name: str, what: str, content: Any, by: Callable[[Path, Any], None] = write_atomically) -> None:
        files[name] = what
        for stale in ("model_card.json", "model_card.md"):  # An earlier export's: not beside new weights.
            (out / stale).unlink(missing_ok=True)
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        by(out / name, content)

    for form in forms:
        if form == "stablehlo":
            write("model.stablehlo", f"for `jax.export.deserialize`, on {', '.join(_PLATFORMS.value)}, batches of any "
                  f"size, weights inside{', differentiable once' if _GRADIENTS.value else ''}",
                  stablehlo.serialise(trained.logits_fn, data["image_shape"], _PLATFORMS.value, _GRADIENTS.value))
        elif entry is not None and form == "robustbench":
            for name, text in entry.texts.items():
                write(f"robustbench/{name}", "code or numbers of RobustBench's entry", text)
            write(f"robustbench/{entry.weights}", "weights of RobustBench's entry", state_dict(), torch_file.write)
            if entry.missing:
                print(f"warning: RobustBench's entry has no {', '.join(entry.missing)}; give them as "
                      "--entry=FIELD=VALUE.", file=sys.stderr)
        else:
            write({"safetensors": "model.safetensors", "torch": "model.pt"}[form],
                  "state dict of the network in PyTorch's layout", state_dict(_SUB_BLOCK1.value), torch_file.write)
    card = model_card(
        run, which, record, summary,
        sum(leaf.size for leaf in jax.tree.leaves(trained.variables["params"])),
        {"name": data["name"], "num_classes": data["num_classes"], "image_shape": data["image_shape"],
         "train": data["train_images"], "test": data["test_images"]}, files)
    write_atomically(out / "model_card.json", json.dumps(card, indent=1))
    write_atomically(out / "model_card.md", to_markdown(card))
    print(f"exported: {', '.join(str(out / name) for name in [*files, 'model_card.md'])}")


def main(argv: list[str]) -> int:
    """Exports. Exit status: see :func:`morel_jax.command.exit_status`."""
    del argv
    return command.exit_status(_main)


def run() -> None:
    """Entry point of the console script."""
    command.run(main, required=["workdir"])


if __name__ == "__main__":
    run()
