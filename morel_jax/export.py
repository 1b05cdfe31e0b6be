"""Command: ``python -m morel_jax.export --workdir=runs/a --which=best --format=stablehlo --out=exported``."""
import json
import sys
from functools import partial

from absl import flags

from morel_jax import command

_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.")
_WHICH = flags.DEFINE_enum("which", "best", ["best", "last"], "The checkpoint.")
_FORMAT = flags.DEFINE_multi_enum("format", ["stablehlo"], ["stablehlo", "safetensors", "torch"],
                                  "What to write; may be given more than once.")
_OUT = flags.DEFINE_string("out", None, "Folder of the files; by default exported/<which> in the workdir.")
_PLATFORMS = flags.DEFINE_list("platforms", ["cpu", "cuda"], "Where the StableHLO is to run: cpu, cuda, rocm, tpu.")
_GRADIENTS = flags.DEFINE_bool("gradients", False, "Make the StableHLO differentiable, so that it can be attacked.")
_SUB_BLOCK1 = flags.DEFINE_bool("sub_block1", False, "For a wide_resnet: write TRADES' unused sub_block1 too.")

_STATE_DICT = "state dict of the network in PyTorch's layout"


def _summary(folder, logits_fn, split):
    """The checkpoint's summary.json, or None where there is none, or one of another network."""
    from morel_jax.evaluation.identity import agree, network_record
    from morel_jax.evaluation.summary import read_summary

    path = folder / "summary.json"
    if not path.exists():
        return None
    summary = read_summary(path)
    settings = summary["settings"]
    record = network_record(logits_fn, split.images, split.labels, width=8)
    # Of the program only what any version of JAX would find: its weights, its modules, and what it answers.
    if all(agree(name, settings.get(name), record[name]) for name in ("network", "network_answers")):
        return summary
    print(f"warning: {path} judges another network than this one; the model card leaves it out.", file=sys.stderr)
    return None


def _load(workdir, which):
    """What ``load_variables`` gives, and the checkpoint's record, both of one checkpoint."""
    from morel_jax.evaluation.trained import load_variables
    from morel_jax.training.checkpoint import load_record

    record = None
    while record != (record := load_record(workdir, which)):  # A run under way may save another between the two.
        loaded = load_variables(workdir, which)
    return *loaded, record


def _export(workdir, which, out):
    import jax

    from morel_jax.evaluation.trained import as_logits_fn
    from morel_jax.files import write_atomically
    from morel_jax.interop import stablehlo, torch_file
    from morel_jax.interop.model_card import model_card, to_markdown
    from morel_jax.interop.torch import export_state_dict
    from morel_jax.training.workdir import load_content

    run = load_content(workdir)
    model, variables, config, dataset, record = _load(workdir, which)
    if dataset is None:
        raise ValueError(f"{workdir} was trained on its caller's own data set; export it with the functions of "
                         "morel_jax.interop.")
    logits_fn = as_logits_fn(model, variables)
    image_shape = dataset.test.images.shape[1:]
    out.mkdir(parents=True, exist_ok=True)
    files = {}
    for form in dict.fromkeys(_FORMAT.value):
        if form == "stablehlo":
            name = "model.stablehlo"
            files[name] = (f"for `jax.export.deserialize`, on {', '.join(_PLATFORMS.value)}, batches of any size, "
                           f"weights inside{', differentiable once' if _GRADIENTS.value else ''}")
            content = stablehlo.serialise(logits_fn, image_shape, _PLATFORMS.value, _GRADIENTS.value)
            write = partial(write_atomically, out / name, content)
        else:
            name = {"safetensors": "model.safetensors", "torch": "model.pt"}[form]
            files[name] = _STATE_DICT
            write = partial(torch_file.write, out / name, export_state_dict(
                variables, config.model.name, mean=model.mean, std=model.std, sub_block1=_SUB_BLOCK1.value))
        for card in ("model_card.json", "model_card.md"):  # Of an earlier export: it must not stand beside new weights.
            (out / card).unlink(missing_ok=True)
        write()
    card = model_card(
        run, which, record, _summary(workdir / "evaluation" / which, logits_fn, dataset.test),
        sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        {"name": dataset.name, "num_classes": dataset.num_classes, "image_shape": list(image_shape),
         "train": len(dataset.train.labels), "test": len(dataset.test.labels)}, files)
    write_atomically(out / "model_card.json", json.dumps(card, indent=1))
    write_atomically(out / "model_card.md", to_markdown(card))
    print(f"exported: {', '.join(str(out / name) for name in [*files, 'model_card.md'])}")


def _main():
    from morel_jax.files import local_path

    workdir = local_path(_WORKDIR.value, "workdir")
    out = workdir / "exported" / _WHICH.value if _OUT.value is None else local_path(_OUT.value, "out")
    _export(workdir, _WHICH.value, out)


def main(argv):
    """Exports. Exit status: see :func:`morel_jax.command.exit_status`."""
    del argv
    return command.exit_status(_main)


def run():
    """Entry point of the console script."""
    command.run(main, required=["workdir"])


if __name__ == "__main__":
    run()
