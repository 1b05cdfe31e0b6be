"""Command: ``python -m benchmarks.faults --kills=60 --damage=100 --hostile=50 --values=300 --out=FILE``.

Commands are killed, their files damaged, hostile files loaded and bad values given, all drawn with a seed. What comes
of it is counted, and every failure is written with what it takes to repeat it. A part whose number is 0 is left out;
its figures in an existing FILE stay.
"""
import argparse
import collections
import concurrent.futures
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.faults import config_values, damaged, flag_values, hostile, kills
from benchmarks.faults.children import Children
from benchmarks.faults.scenarios import SCENARIOS, run_unbroken, with_starts
from benchmarks.measure import environment

# Of the bad values those that are flags; the rest are fields of the config.
_FLAGS = 1 / 3
# A kill in a reproduction costs several of another command.
_WEIGHT = {"reproduce": 0.5}
# Changes into an unbroken run at which a kill leaves an interrupted folder.
_STATES = ("finished", "interrupted early", "interrupted late")


def killed_scenarios(names, number):
    """Which scenario each of ``number`` kills is for, in turn, those that take long less often."""
    names = [name for name in SCENARIOS if name in names and SCENARIOS[name].killed]
    due, chosen = dict.fromkeys(names, 0.0), []
    while len(chosen) < number:
        for name in names:
            due[name] += _WEIGHT.get(name, 1.0)
            if due[name] >= 1 and len(chosen) < number:
                due[name] -= 1
                chosen.append(name)
    return chosen


class Campaign:
    """What the parts share.

    Args:
        options: of the command line.
        root: folder to work in.
    """

    def __init__(self, options, root):
        self.options, self.root = options, root
        self.children = Children(root / "said")
        self._unbroken = {}

    def unbroken(self, names):
        """{name: Unbroken} of these scenarios and what they start from."""
        for scenario in with_starts(names):
            if scenario.name not in self._unbroken:
                say(f"unbroken: {scenario.name}")
                self._unbroken[scenario.name] = run_unbroken(
                    scenario, self._unbroken.get(scenario.after), self.children, self.root / "unbroken")
        return self._unbroken

    def each(self, part, work, cases):
        """[work(case, number, folder)] of cases, ``--workers`` at a time, or only the case ``--case``."""
        numbered = [(number, one) for number, one in enumerate(cases)
                    if self.options.case is None or number == self.options.case]

        def one(item):
            number, case = item
            folder = self.root / f"{part}{number}"
            folder.mkdir()
            result = {"case": number, **work(case, number, folder / "folder")}
            print(f"{part} {number}: " + ", ".join(f"{value}" for name, value in result.items() if name in (
                "scenario", "state", "file", "damage", "command", "flag", "value", "name", "fell", "failure",
                "outcome")), file=sys.stderr, flush=True)
            return result

        with concurrent.futures.ThreadPoolExecutor(self.options.workers) as pool:
            return list(pool.map(one, numbered))

    def kills(self, number):
        """Part: dict with ``counts`` and ``cases``."""
        chosen = killed_scenarios(self.options.scenarios, number)
        unbroken = self.unbroken(set(chosen))
        found = self.each("kill", lambda name, index, folder: kills.case(
            self.children, unbroken[name], folder, f"{self.options.seed} kill {index}"), chosen)
        return {"counts": kills.count(found), "cases": found,
                "failures": [result for result in found if result["failure"]],
                "unbroken": {name: {"seconds": one.seconds, "changes": one.changes}
                             for name, one in unbroken.items()}}

    def damage(self, number):
        """Part: dict with ``counts`` and ``cases``."""
        unbroken, states = self.unbroken(self.options.scenarios), {}
        for name in self.options.scenarios:
            for state in _STATES:
                folder = self.root / f"state {name}" / state
                if state == "finished":
                    folder = unbroken[name].end
                else:
                    damaged.interrupt(self.children, unbroken[name], folder, state.endswith("late"))
                states[name, state] = folder
        plan = damaged.plan(states, number, f"{self.options.seed} damage")
        found = self.each("damage", lambda choice, index, folder: damaged.case(
            self.children, unbroken[choice[0]], states[choice[:2]], folder, choice,
            f"{self.options.seed} damage {index}"), plan)
        return {"counts": damaged.count(found), "cases": found,
                "failures": [result for result in found if result["outcome"] not in damaged.ALLOWED]}

    def hostile(self, number):
        """Part: dict with ``counts`` and ``cases``."""
        there = range(len(hostile.corpus()))
        files = sorted(random.Random(f"{self.options.seed} hostile").sample(there, min(number, len(there))))
        found = self.each("hostile", lambda file, index, folder: hostile.case(self.children, folder.parent, file),
                          files)
        return {"counts": hostile.count(found), "cases": found,
                "failures": [result for result in found if result["outcome"] != "refused"]}

    def values(self, number):
        """Part: dict with ``counts`` and ``cases``."""
        seed = f"{self.options.seed} values"
        flags = flag_values.choose(flag_values.generate(self.children), round(_FLAGS * number), seed)
        pairs = config_values.choose(config_values.generate(config_values.base()), number - len(flags), seed)
        found = config_values.cases(self.children, self.root, pairs) if self.options.case is None else []
        prepared = self.root / "prepared"
        flag_values.prepare(self.unbroken(("evaluate", "reproduce")), prepared)
        found += self.each("flag", lambda triple, index, folder: flag_values.case(self.children, prepared, folder,
                                                                                  triple), flags)
        outcomes = collections.Counter(result["outcome"] for result in found)
        return {"counts": {"values": len(found), "config": len(pairs), "flags": len(flags),
                           "outcomes": dict(sorted(outcomes.items()))},
                "cases": found, "accepted": [result for result in found if result["outcome"] == "accepted"],
                "failures": [result for result in found if result["outcome"] not in ("refused", "accepted")]}


PARTS = ("kills", "damage", "hostile", "values")


def say(text):
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def table(found):
    """Markdown for people: what was tried and what came of it, and every failure in a line."""
    lines = ["| what | tried | right | what came of them |", "|---|---|---|---|"]
    for name in PARTS:
        if name in found:
            counts = found[name]["counts"]
            tried, right, rest = _row(name, counts, len(found[name]["failures"]))
            lines.append(f"| {name} | {tried} | {right} | {rest} |")
    return "\n".join(lines) + "\n"


def _row(name, counts, failures):
    def listed(values):
        return ", ".join(f"{value} {key}" for key, value in values.items())

    if name == "kills":
        return counts["kills"], f"{counts['equal_ends']} of {counts['ends']} ends equal", listed(counts["fell"])
    tried = counts[{"damage": "damages", "hostile": "files", "values": "values"}[name]]
    return tried, tried - failures, listed(counts["outcomes"])


def main(arguments=None):
    """Runs the parts. Exit status: 0 where everything is right, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part, number in zip(PARTS, (60, 100, 50, 300), strict=True):
        parser.add_argument(f"--{part}", type=int, default=number, help="how many; 0: none")
    parser.add_argument("--scenarios", type=lambda text: text.split(","), default=list(SCENARIOS),
                        help=f"of kills and damages; default {','.join(SCENARIOS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="only this case of each part")
    parser.add_argument("--workers", type=int, default=1, help="commands at a time")
    parser.add_argument("--root", type=Path, help="folder to work in, which is kept; default: one that is removed")
    parser.add_argument("--out", type=Path, help="JSON file with all figures and failures")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        root = (options.root or Path(folder)).resolve()
        root.mkdir(parents=True, exist_ok=True)
        campaign = Campaign(options, root)
        found = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
        for part in PARTS:
            number = getattr(options, part)
            if number:
                began = time.monotonic()
                found[part] = getattr(campaign, part)(number)
                found[part] |= {"seed": options.seed, "seconds": round(time.monotonic() - began, 1),
                                "environment": environment(" ".join(["python -m benchmarks.faults", *sys.argv[1:]]))}
                if options.out:
                    options.out.write_text(json.dumps(found, indent=1))
    print(table(found))
    failures = [(part, failure) for part in PARTS if part in found for failure in found[part]["failures"]]
    for part, failure in failures:
        print(part, json.dumps({name: value for name, value in failure.items() if name != "seed"}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
