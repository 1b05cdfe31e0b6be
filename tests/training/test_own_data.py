"""A run on a user's own files."""
import json

import numpy as np
import PIL.Image
import pytest

from morel_jax.evaluation.trained import load_variables
from morel_jax.training import fit
from tests.small import small_dataset, without_clocks

from .steps import tiny_config
