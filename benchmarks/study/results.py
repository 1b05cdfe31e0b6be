"""The stored results: a file for each group of networks."""
import base64
import json
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "study"
TEST_IMAGES = 2000


def write(name, networks, environment):
    """Stores a group's networks, their verdicts as bits in base 64."""
    packed = [network | {"right": {under: base64.b64encode(np.packbits(flags).tobytes()).decode()
                                   for under, flags in network["right"].items()}} for network in networks]
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {"environment": environment, "networks": packed}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def read():
    """{group: its networks as ``runs.run`` returned them}, of the groups that are there."""
    found = {}
    for path in sorted(RESULTS.glob("*.json")):
        networks = json.loads(path.read_text())["networks"]
        for network in networks:
            for under, text in network["right"].items():
                bits = np.frombuffer(base64.b64decode(text), np.uint8)
                network["right"][under] = np.unpackbits(bits)[:TEST_IMAGES].astype(bool)
        found[path.stem] = networks
    return found


def verdicts(networks, under):
    """bool[networks, images], whether a network is right: ``clean``, or under an attack."""
    return np.stack([network["right"][under] for network in networks])
