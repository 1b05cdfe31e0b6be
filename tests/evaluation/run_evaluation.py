"""An evaluation for another process: ``python -m tests.evaluation.run_evaluation FOLDER ATTACKS EXAMPLES [BATCH]``."""
import sys

from morel_jax.evaluation import evaluate
from tests.evaluation.network import EPSILON, data, network


def run(folder, attacks, examples, batch_size=None):
    """The summary; everything else is in the folder."""
    logits_fn = network()
    images, labels = data(logits_fn, 40)
    return evaluate(logits_fn, images, labels, attacks.split(","), folder, epsilon=EPSILON, examples=examples,
                    batch_size=batch_size, save_images=True)


if __name__ == "__main__":
    run(*sys.argv[1:3], *map(int, sys.argv[3:]))
