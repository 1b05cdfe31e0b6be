"""Model cards of exported networks: config, data, size, and accuracies with how each was measured."""
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from morel_jax.data.sources import own_place

_PLACES = ("data_dir", "archive_dir", "cache_dir")


def model_card(run: Mapping[str, Any], which: str, record: Mapping[str, Any], summary: Mapping[str, Any] | None,
               parameters: int, dataset: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """The facts about a network, as plain values for JSON.

    Args:
        run: content of the run's ``config.json``: ``config``, ``versions``, ``commit``.
        which: ``best`` or ``last``, the exported checkpoint.
        record: of that checkpoint, as :func:`~morel_jax.training.saved.load_record` gives it.
        summary: content of the checkpoint's ``evaluation/<which>/summary.json``, or None.
        parameters: number of parameters.
        dataset: ``name``, ``num_classes``, ``image_shape``, and ``train`` and ``test``, in images.
        files: {file's name: what it is}.
    """
    config = run["config"]
    history = record["history"]
    # The last line describes other weights than those of a `last` that was saved in mid-epoch.
    at = history[-1] if history and history[-1]["step"] == record["step"] else {}
    card = {
        "architecture": config["model"]["name"], "parameters": parameters, "method": config["method"],
        "variant": config["variant"], "data": dataset, "checkpoint": which, "step": record["step"],
        "epoch": at.get("epoch"), "epochs": config["epochs"], "files": files, "versions": run["versions"],
        "commit": run["commit"], "config": config,
    }
    if beginning := run.get("init_from"):
        card["init_from"] = {"run": PurePath(beginning["workdir"]).name, "which": beginning["which"]}
    if "robust_accuracy" in at:
        validation = config["validation"]
        card["validation"] = {
            "clean_accuracy": at["clean_accuracy"], "robust_accuracy": at["robust_accuracy"],
            "attack": f"PGD, {validation['num_steps']} steps of {validation['step_size']:.5g}", "norm": "linf",
            "epsilon": validation["epsilon"], "images": _validation_images(validation, dataset)}
    if summary:
        settings = summary["settings"]
        card["evaluation"] = {
            "images": summary["examples"], "norm": settings["norm"], "epsilon": settings["epsilon"],
            "seed": settings["seed"], "clean": _accuracy(summary["clean"]),
            "attacks": {name: _accuracy(entry) for name, entry in summary["attacks"].items()}}
        if "worst_case" in summary:
            card["evaluation"]["worst_case"] = _accuracy(summary["worst_case"])
    # Where a machine keeps its data says nothing about the network and would make equal exports differ.
    places = dict.fromkeys(_PLACES, "") | {"extra": PurePath(config["data"].get("extra", "")).name}
    if own_place(config["data"].get("name", "")):
        places["name"] = dataset["name"]
    card["config"] = config | {"data": config["data"] | places}
    return card


def _validation_images(validation: Mapping[str, Any], dataset: Mapping[str, Any]) -> str:
    if validation["split"] == "holdout":
        count, name = validation["holdout"], "training images held out"
    else:
        count, name = dataset["test"], "test images, on which the best checkpoint was also chosen"
    return f"{min(validation['examples'] or count, count)} {name}"


def _accuracy(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"accuracy": entry["accuracy"], "interval": entry["interval"]}


def to_markdown(card: Mapping[str, Any]) -> str:
    """The text of ``model_card.md``, from what :func:`model_card` returned."""
    data = card["data"]
    height, width, channels = data["image_shape"]
    lines = [
        f"# {card['architecture']}, {card['method']}, {data['name']}", "",
        f"Image classifier of {card['parameters']:,} parameters. Images are float32 in [0, 1], "
        f"[n, {height}, {width}, {channels}]" + _normalisation(card["config"]["model"]) + f"; {data['num_classes']} "
        "classes. The embedding space that MOREL trains with is not part of it.", "",
        "| | |", "|---|---|",
        f"| training | {card['method']}, variant {card['variant']}, {card['epochs']} epochs, batch size "
        f"{card['config']['batch_size']}"
        + (", from the weights of {run}, {which} |".format(**card["init_from"]) if "init_from" in card else " |"),
        f"| data | {data['name']}: {data['train']} training and {data['test']} test images |",
        f"| checkpoint | {card['checkpoint']}, step {card['step']}"
        + (f", epoch {card['epoch']} |" if card["epoch"] else " (in mid-epoch) |"),
        f"| commit | {card['commit'] or 'unknown'} |",
        "| versions | " + ", ".join(f"{name} {version}" for name, version in card["versions"].items()) + " |", "",
        "## Accuracy", ""]
    if "validation" in card:
        found = card["validation"]
        lines += [f"While training, on {found['images']}: clean {100 * found['clean_accuracy']:.2f} %, "
                  f"{100 * found['robust_accuracy']:.2f} % under {found['attack']} ({found['norm']}, epsilon "
                  f"{found['epsilon']:.5g}).", ""]
    if "evaluation" in card:
        found = card["evaluation"]
        rows = {"none (clean)": found["clean"]} | found["attacks"]
        if "worst_case" in found:
            rows["worst case over attacks"] = found["worst_case"]
        lines += [f"Evaluated by `morel evaluate` on {found['images']} test images, {found['norm']}, "
                  f"epsilon {found['epsilon']:.5g}, seed {found['seed']}:", "",
                  "| attack | accuracy, % | 95 % interval |", "|---|---|---|"]
        lines += [f"| {name} | {100 * entry['accuracy']:.2f} | {100 * entry['interval'][0]:.2f} to "
                  f"{100 * entry['interval'][1]:.2f} |" for name, entry in rows.items()]
    else:
        lines.append("Not evaluated by `morel evaluate` with these weights.")
    lines += ["", "## Files", "", *(f"- `{name}`: {what}" for name, what in card["files"].items()),
              "- `model_card.json`: this card, and the whole config"]
    return "\n".join(lines) + "\n"


def _normalisation(model: Mapping[str, Any]) -> str:
    return f", normalised inside with mean {model['mean']} and std {model['std']}" if model["mean"] else ""
