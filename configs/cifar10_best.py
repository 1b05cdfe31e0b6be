"""CIFAR-10, ResNet18, no extra data, everything that is known to help: aims at the best published robustness.

    morel train --config=cifar10_best --workdir=runs/best

The best published ResNet18 without extra data has 52.48 % under AutoAttack (RobustBench, Linf, 8/255). Not trained yet.
"""
from morel_jax.configuration import ConfigDict, recipe


def get_config(spec: str = "") -> ConfigDict:
    """Config of "architecture,method,variant,threat", by default resnet18,trades,paper; CutMix if it can."""
    config = recipe(spec or "resnet18,trades,paper")
    config.data.name = "cifar10"
    config.epochs = 200  # AWP's.
    config.batch_size = 128
    config.ema_decay = 0.995  # Rebuffi et al., NeurIPS 2021.
    config.data.cutmix = config.method == "trades"
    config.loss.awp = True
    # AWP's authors: 0.005 from epoch 10 on for TRADES, 0.01 from the first for plain PGD-AT.
    if config.method == "pgd_at":
        config.loss.awp_gamma = 0.01
    else:
        config.loss.awp_first_epoch = 10
    config.optimizer.update(dict(learning_rate=0.1, weight_decay=5e-4, schedule="cosine", warmup_epochs=5))
    # `best` is chosen on images that are neither trained nor tested on.
    config.validation.split, config.validation.holdout = "holdout", 1024
    return config
