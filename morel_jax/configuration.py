"""The tree of every setting, with MOREL's values, and the recipes that change it by method, network and variant.

Files in ``configs/`` start from :func:`recipe` and add what belongs to their data set. Plain values only; the
builders turn them into objects and check them.
"""
import difflib
import importlib.machinery
import importlib.util

import ml_collections

METHODS = ("standard", "pgd_at", "trades", "mart", "loat", "morel_trades", "morel_mart", "morel_loat")
VARIANTS = ("paper", "reference")


def defaults():
    """MOREL(<-MART) as the paper has it, ResNet18, CIFAR-10.

    Returns:
        ConfigDict, locked. Sources: "paper" is MOREL's text, "reference" its authors' PyTorch code.
    """
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.variant = "paper"  # Which reading the values below follow; where they differ is in `_reference`.
    config.method = "morel_mart"
    config.epochs = 100  # Paper, 4.1.
    config.batch_size = 8  # Paper, 4.1: all MOREL runs. An epoch's last, incomplete batch is dropped.
    config.accumulate = 1  # Equal parts of a batch that are attacked and differentiated one after another.
    config.ema_decay = 0.0  # Weights averaged over steps with this decay are what is judged; 0: off.
    # In its place the plain mean of weights, and of BatchNorm's statistics, over the steps since then; 0: off.
    # As SWA (arXiv:1803.05407), which takes a mean over epochs and computes the statistics anew.
    config.swa_first_epoch = 0

    config.data = ml_collections.ConfigDict(dict(
        name="cifar10",
        data_dir="",  # A prepared TFDS data_dir; empty: the cache, the archives or the network.
        archive_dir="",  # A folder with the data set's own archives.
        cache_dir="",  # Where decoded arrays are kept; empty: the user's cache folder.
        test_split="",  # Empty: the data set's own.
        crop_padding=4,  # Reference: random crop with padding 4 and flip.
        flip=True,
        cutmix=False,  # Rectangles from other images (arXiv:1905.04899); with TRADES: Rebuffi et al., NeurIPS 2021.
        cutmix_alpha=1.0,  # Of the Beta distribution of its shares; CutMix's own.
        extra="",  # An .npz file of further training images, such as generated ones (arXiv:2110.09468).
        extra_share=0.0,  # Of each batch that they make up.
        placement="auto",  # Training images: "device", "host" (streamed), or "auto" by their size.
    ))
    config.model = ml_collections.ConfigDict(dict(
        name="resnet18",
        dtype="float32",  # Of the computation; parameters and statistics are always float32.
        mean=(),  # Per channel, of images in [0, 1]. Reference: no normalisation.
        std=(),
        remat=False,  # Less memory in the update: residual blocks' insides are computed twice, not kept.
    ))
    config.embedding = ml_collections.ConfigDict(dict(embed_dim=128, num_heads=2))  # Paper, 4.1: b and m.
    config.batch_norm = ml_collections.ConfigDict(dict(
        momentum=0.9,  # PyTorch's 0.1, counted the other way.
        moves=("natural", "adversarial"),  # Whose statistics move the running ones each step, in this order.
    ))
    config.attack = ml_collections.ConfigDict(dict(
        epsilon=8 / 255,  # Paper, 4.1: PGD-10, 8/255, epsilon/4, random start.
        step_size=2 / 255,
        num_steps=10,
        start="uniform",
        loss="ce",  # Reference: cross-entropy for MART, KL for TRADES.
        batch_norm="running",  # Reference: the attack sees running statistics.
    ))
    config.loss = ml_collections.ConfigDict(dict(
        beta=6.0,  # Paper, 4.1: 1/lambda, for TRADES and MART.
        label_smoothing=0.0,  # Of the cross-entropy in `standard`, `pgd_at` and TRADES (arXiv:1512.00567).
        awp=False,  # Adversarial weight perturbation (arXiv:2004.05884): gradients are taken at perturbed weights.
        awp_gamma=0.005,  # Its size as a share of each layer's norm; AWP's own for TRADES.
        awp_first_epoch=1,  # Without it before.
        loat_theta=0.1,  # Yin and Ruan's ResNet18 run.
        loat_gamma=0.05,
        loat_kind="mse",
        loat_base="mart",
        loat_last_epoch=100,  # The last phase begins with this epoch, counted from 1.
    ))
    config.morel = ml_collections.ConfigDict(dict(
        scalarization="conic",  # Or "weighted_sum"; "mgda", "pcgrad", "cagrad", "nash" join gradients, without k.
        preference=(0.1, 0.9),  # Paper, 4.1: k. The first weighs the representation loss.
        reference_point=(0.0, 0.0),  # Paper, 4.1: a.
        augmentation=2e-5,  # Paper, 4.1: gamma.
        cosine_weight=1.0,  # Not in the paper: what the contrastive loss does alone.
        contrastive_weight=1e-5,  # Paper, 4.1: alpha.
        temperature=0.1,  # Not in the paper; reference.
        contrastive_rows="both",  # Eq. 9 runs over 2n rows.
        contrastive_reduction="sum",  # Eq. 9 is printed as a sum.
    ))
    config.optimizer = ml_collections.ConfigDict(dict(
        learning_rate=0.001,  # Paper, 4.1: ResNet18.
        momentum=0.9,
        weight_decay=1e-4,
        schedule="drops",  # Or "cosine": half a cosine down to 0 after the last epoch (arXiv:1608.03983).
        warmup_epochs=0,  # In which the rate rises linearly to the initial one (arXiv:1706.02677).
        drop_epochs=(75, 90),  # Counted from 1: the first epochs at the lower rates.
        drop_factors=(0.1, 0.01),  # Of the initial rate.
    ))
    config.validation = ml_collections.ConfigDict(dict(
        split="test",  # Reference: `best` is chosen on the test set. "holdout": on training images kept out.
        holdout=1000,  # How many those are, of each class in proportion; none is kept out when split is "test".
        examples=0,  # Only so many images of the split, of each class in proportion; 0: all.
        every=1,  # Epochs between validations; the last epoch always has one.
        batch_size=128,
        epsilon=8 / 255,  # Paper, 4.1: PGD-20; epsilon/10 is its test step (4.2).
        step_size=0.8 / 255,
        num_steps=20,
        start="uniform",  # Not in the paper; reference.
        loss="ce",
    ))
    config.mesh = ml_collections.ConfigDict(dict(
        data=0,  # Devices with a whole copy of the parameters each, among which the batch is cut; 0: all there are.
        fsdp=1,  # Devices that share one copy; the batch is cut among them too.
        fsdp_min_size=1024,  # Arrays of fewer elements stay whole.
    ))
    config.checkpoint = ml_collections.ConfigDict(dict(
        every_seconds=600.0,  # Between saves of `last` within an epoch; each epoch's end is saved anyway.
    ))
    return config.lock()


def flatten(config):
    """Nested ConfigDict (or dict) -> {"section.field": value}, lists as tuples."""
    flat = {}
    for name, value in config.items():
        if hasattr(value, "items"):
            flat |= {f"{name}.{field}": inner for field, inner in flatten(value).items()}
        else:
            flat[name] = tuple(value) if isinstance(value, list) else value
    return flat


def unknown_field(field):
    """What to say of a field that no config has, with the fields that were probably meant."""
    section, _, name = field.rpartition(".")

    def likeness(known):
        known_section, _, known_name = known.rpartition(".")
        # People shorten learning_rate to lr.
        shortened = name == "".join(word[0] for word in known_name.split("_"))
        alike = max(difflib.SequenceMatcher(None, *pair).ratio() for pair in ((name, known_name), (field, known)))
        return (0.9 if shortened and "_" in known_name else alike) + 0.1 * (section == known_section)

    nearest = sorted(flatten(defaults()), key=likeness, reverse=True)[:3]
    likely = [known for known in nearest if likeness(known) >= max(0.6, likeness(nearest[0]) - 0.1)] or nearest
    return (f"config.{field} is not a field of this library's configs; nearest: "
            f"{', '.join(f'config.{known}' for known in likely)}.")


def load_file(path, *spec):
    """What ``get_config(*spec)`` of a Python file returns; whatever the file raises comes through."""
    loader = importlib.machinery.SourceFileLoader("morel_jax_config", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{path} must have a function get_config(spec=''); it has none.")
    return module.get_config(*spec)


def recipe(spec, architectures=None):
    """Settings for "architecture,method,variant", such as ``resnet18,morel_mart,paper``.

    Args:
        spec: one to three names, separated by commas; what is left out is ``resnet18``, ``morel_mart``, ``paper``.
        architectures: learning rates and drops by network where a config knows more of them than this module.

    Returns:
        ConfigDict, locked.

    Raises:
        ValueError: too many names, or an unknown method or variant.
    """
    names = [name.strip() for name in (spec or "").split(",") if name.strip()]
    if len(names) > 3:
        raise ValueError(f'a config takes "architecture,method,variant"; got {spec!r}.')
    architecture, method, variant = (*names, *("resnet18", "morel_mart", "paper")[len(names):])
    if method not in METHODS:
        raise ValueError(f"config.method must be one of {', '.join(METHODS)}; got {method!r}.")
    if variant not in VARIANTS:
        raise ValueError(f"config.variant must be one of {', '.join(VARIANTS)}; got {variant!r}.")
    config = defaults()
    config.model.name = architecture
    config.method = method
    config.variant = variant
    if method.startswith("morel"):
        rates = MOREL_RATES | (architectures or {})
        config.optimizer.update(rates.get(architecture, MOREL_RATES["resnet18"]))
    else:
        config.optimizer.update(dict(drop_epochs=(75, 90, 100), drop_factors=(0.1, 0.01, 0.001)))
        _BASELINES[method](config)
    if method in ("trades", "morel_trades"):
        config.attack.loss = "kl"
    if method in ("standard", "pgd_at"):
        config.batch_norm.moves = ("natural",) if method == "standard" else ("adversarial",)
    if variant == "reference":
        _reference(config)
    return config


# Paper, 4.1: initial rate, and its divisions by 100 (WRN) or 10 (ResNet18) at epochs 75 and 90.
MOREL_RATES = {
    "resnet18": dict(learning_rate=0.001, drop_epochs=(75, 90), drop_factors=(0.1, 0.01)),
    "wide_resnet34_10": dict(learning_rate=0.01, drop_epochs=(75, 90), drop_factors=(0.01, 0.0001)),
}


def _standard(config):
    """A surrogate for transfer, as the paper's ResNet50: 200 epochs on clean images; the rest is not given there."""
    config.epochs = 200
    config.batch_size = 128
    config.optimizer.update(dict(learning_rate=0.1, weight_decay=5e-4,
                                 drop_epochs=(100, 150), drop_factors=(0.1, 0.01)))


def _pgd_at(config):
    """Rice et al., arXiv:2002.11569, who follow Madry et al."""
    config.epochs = 110
    config.batch_size = 128
    config.optimizer.update(dict(learning_rate=0.1, weight_decay=5e-4,
                                 drop_epochs=(100, 105), drop_factors=(0.1, 0.01)))


def _trades(config):
    """TRADES's own script, over the 100 epochs of MOREL's comparison."""
    config.batch_size = 128
    config.optimizer.update(dict(learning_rate=0.1, weight_decay=2e-4))


def _mart(config):
    """MART's own scripts for ResNet18 and WideResNet; beta 6 as in MOREL's comparison."""
    config.batch_size = 128
    if config.model.name.startswith("wide_resnet"):
        config.epochs = 76
        config.optimizer.update(dict(learning_rate=0.1, weight_decay=2e-4))
    else:
        config.epochs = 120
        config.optimizer.update(dict(learning_rate=0.01, weight_decay=3.5e-3))


def _loat(config):
    """LOAT's ResNet18 run on top of MART: batch 512, 110 epochs."""
    _mart(config)
    config.batch_size = 512
    config.epochs = 110


_BASELINES = {"standard": _standard, "pgd_at": _pgd_at, "trades": _trades, "mart": _mart, "loat": _loat}


def _reference(config):
    """Every place where the authors' code reads differently from the paper."""
    config.attack.update(dict(epsilon=0.031, step_size=0.007, start="normal"))
    config.validation.update(dict(epsilon=0.031, step_size=0.003))
    config.morel.update(dict(contrastive_rows="natural", contrastive_reduction="mean"))
    if config.method.startswith("morel"):
        config.optimizer.update(dict(learning_rate=0.01, drop_epochs=(75, 90), drop_factors=(0.01, 0.0001)))
    # Each forward pass in training mode moves PyTorch's running statistics, the redundant ones too.
    if config.method.endswith("trades"):
        config.batch_norm.moves = ("natural", "adversarial", "natural", "natural", "adversarial")
    elif config.method.endswith(("mart", "loat")):
        config.batch_norm.moves = ("natural", "adversarial", "natural", "adversarial")
