"""CIFAR-10 with generated images, as Wang et al. trained (arXiv:2302.04638).

    morel train --config=cifar10_generated --workdir=runs/generated \
        --config.data.extra=edm_data/cifar10

Settings of the command in their README (github.com/wzekai99/DM-Improves-AT) and the defaults of its parser, for 1
million images. Published for this network with 20 million: 67.31 % under AutoAttack (RobustBench, Linf, 8/255). Not
trained yet.
"""
from morel_jax.configuration import ConfigDict, recipe


def get_config(spec: str = "") -> ConfigDict:
    """Config of "architecture,method,variant", by default wide_resnet28_10_silu,trades,paper."""
    config = recipe(spec or "wide_resnet28_10_silu,trades,paper")
    config.data.update(dict(name="cifar10", extra="1m.npz", extra_share=0.7))
    config.epochs = 400
    config.batch_size = 512
    if config.method == "trades":
        config.loss.update(dict(beta=5.0, label_smoothing=0.1))
    config.attack.batch_norm = "batch"
    config.batch_norm.momentum = 0.99  # PyTorch's 0.01. Theirs is 1 in the first step.
    config.ema_decay = 0.995  # Theirs begins after 2.5 % of the steps, and more slowly.
    # Theirs rises along a cosine, from a 25th of the rate.
    config.optimizer.update(dict(learning_rate=0.2, nesterov=True, weight_decay=5e-4, schedule="cosine",
                                 warmup_epochs=9))
    # CIFAR-10's, which are inside their network.
    config.model.mean, config.model.std = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
    # `best` is chosen on 1,024 training images that are kept out, under PGD-40 on the margin.
    config.validation.update(dict(split="holdout", holdout=1024, num_steps=40, step_size=2 / 255, loss="margin"))
    return config
