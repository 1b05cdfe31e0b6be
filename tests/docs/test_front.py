"""The page on conditioned networks says what the benchmark stored."""
import json
import statistics
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_hypervolumes_are_the_stored_ones():
    found = json.loads((ROOT / "benchmarks" / "results" / "front_cpu.json").read_text())["found"]
    lines = [line for line in (ROOT / "docs" / "howto" / "preferences.md").read_text().splitlines()
             if line.startswith(("| nine networks", "| one conditioned"))]
    assert len(lines) == len(found) == 3
    for line, one in zip(lines, found.values(), strict=True):
        for axes, digits in (("errors", 1), ("losses", 5)):
            areas = one["hypervolume"][axes]
            seeds = ", ".join(f"{area:.{digits}f}" for area in areas)
            assert f"| {statistics.mean(areas):.{digits}f} ({seeds}) |" in line
