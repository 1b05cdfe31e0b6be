"""Command: ``python -m morel_jax.export --workdir=runs/a --which=best --format=stablehlo --out=exported``."""
import json
import sys
from pathlib import Path

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


def _summary(folder, logits_fn):
    """The checkpoint's summary.json, or None where there is none, or one of other weights."""
    import jax

    from morel_jax.evaluation.ledger import fingerprint

    path = folder / "summary.json"
    if not path.exists():
        return None
    summary = json.loads(path.read_text())
    if summary["settings"]["network"] == fingerprint(jax.tree.leaves(logits_fn)):
        return summary
    print(f"warning: {path} judges other weights than these; the model card leaves it out.", file=sys.stderr)
    return None


def _history(workdir):
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _export(workdir, which, out):
    import jax

    from morel_jax.evaluation.trained import as_logits_fn, load_variables
    from morel_jax.files import write_atomically
    from morel_jax.interop import stablehlo
    from morel_jax.interop.model_card import model_card, to_markdown
    from morel_jax.interop.torch import save_checkpoint

    model, variables, config, dataset = load_variables(workdir, which)
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
            write_atomically(out / name, content)
        else:
            name = {"safetensors": "model.safetensors", "torch": "model.pt"}[form]
            files[name] = _STATE_DICT
            save_checkpoint(out / name, variables, config.model.name, mean=model.mean, std=model.std,
                            sub_block1=_SUB_BLOCK1.value)
    card = model_card(
        json.loads((workdir / "config.json").read_text()), which, _history(workdir),
        _summary(workdir / "evaluation" / which, logits_fn),
        sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        {"name": dataset.name, "num_classes": dataset.num_classes, "image_shape": list(image_shape),
         "train": len(dataset.train.labels), "test": len(dataset.test.labels)}, files)
    write_atomically(out / "model_card.json", json.dumps(card, indent=1))
    write_atomically(out / "model_card.md", to_markdown(card))
    print(f"exported: {', '.join(str(out / name) for name in [*files, 'model_card.md'])}")


def main(argv):
    """Exports. Exit status: see :func:`morel_jax.command.exit_status`."""
    del argv
    workdir = Path(_WORKDIR.value)
    out = Path(_OUT.value or workdir / "exported" / _WHICH.value)
    return command.exit_status(lambda: _export(workdir, _WHICH.value, out))


def run():
    """Entry point of the console script."""
    command.run(main, required=["workdir"])


if __name__ == "__main__":
    run()
