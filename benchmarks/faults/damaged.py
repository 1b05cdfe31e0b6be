"""One file of a folder is damaged, and the command given again: repaired, or one clear line that names the file."""
import collections
import random

from benchmarks.faults.compare import differences, snapshot
from benchmarks.faults.damage import DAMAGES, candidates
from benchmarks.faults.scenarios import ARCHIVES, Watch, copy

ALLOWED = ("repaired", "reported", "refused")


def interrupt(children, unbroken, folder, late):
    """Makes ``folder`` what a kill leaves after a third of a command's changes, or two thirds."""
    copy(unbroken.start, folder)
    watch = Watch(folder)
    child = children.command(unbroken.scenario.module, unbroken.scenario.arguments, folder)
    watch.until(child, changes=unbroken.changes * (2 if late else 1) // 3)
    child.kill()


def plan(states, number, seed):
    """Which file of which folder is damaged how, all kinds of files and damages as evenly as the number lets.

    Args:
        states: {(scenario's name, state): folder}.
        number: of damages.
        seed: of the choice.

    Returns:
        list of (scenario's name, state, relative Path, damage's name).
    """
    draw = random.Random(seed)
    pairs = {}
    for key, folder in states.items():
        kinds = candidates(folder)
        pairs[key] = [(kind, damage) for kind in sorted(kinds) for damage in DAMAGES
                      # Of an archive that is not there the network would be asked.
                      if not (kinds[kind][0].parts[0] == ARCHIVES and damage in ("remove", "replace_by_folder"))]
        draw.shuffle(pairs[key])
        pairs[key] = [(draw.choice(kinds[kind]), damage) for kind, damage in pairs[key]]
    chosen = []
    while len(chosen) < number and any(pairs.values()):
        for (scenario, state), left in pairs.items():
            if left and len(chosen) < number:
                chosen.append((scenario, state, *left.pop()))
    return chosen


def damaged_item(name):
    """What is damaged with a file: the folder of its kind of checkpoints, ``.../checkpoints/best``, else the file."""
    parts = name.parts
    return "/".join(parts[:parts.index("checkpoints") + 2]) if "checkpoints" in parts else str(name)


def judge(ended, unlike, name):
    """What became of a damage.

    Args:
        ended: Ended.
        unlike: differences from the unbroken end, each beginning with a file's name and a colon.
        name: relative Path of the damaged file.

    Returns:
        (outcome, whether a line names the file or, of a checkpoint, its folder). Outcomes: ``repaired`` (status 0 and
        an equal end), ``reported`` (status 0, a line names it, and nothing else differs), ``refused`` (status 2 and
        one error that names it, or a folder it is in), or what is wrong; ``left damaged`` is a file that nobody read
        or wrote again, with no line about it.
    """
    names = {str(name)}
    if "checkpoints" in name.parts:
        names.add("/".join(name.parts[:name.parts.index("checkpoints") + 3]))
    named = any(one in ended.stderr for one in names)
    if ended.hung or ended.crashed:
        return "hang" if ended.hung else "traceback", named
    if ended.status == 0:
        if not unlike:
            return "repaired", named
        if not all(one.startswith(f"{damaged_item(name)}:") for one in unlike):
            return "another end", named
        return "reported" if named else "left damaged", named
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if ended.status != 2 or len(errors) != 1:
        return f"status {ended.status}, {len(errors)} lines of error", named
    # What a line lists is indented below it.
    if not all(line.startswith("  ") for line in lines[errors[0] + 1:]):
        return "more than one line", named
    if not named and not any(str(folder) in lines[errors[0]] for folder in list(name.parents)[:-1]):
        return "names no file", named
    return "refused", named


def case(children, unbroken, source, folder, choice, seed):
    """One damage: dict of plain values with its ``outcome`` and, where that is not allowed, enough to repeat it."""
    _, state, name, damage = choice
    copy(source, folder)
    DAMAGES[damage](folder / name, random.Random(seed))
    scenario = unbroken.scenario
    ended = children.command(scenario.module, scenario.arguments, folder).wait(unbroken.timeout)
    unlike = [f"{scenario.result}/{one}"
              for one in differences(unbroken.result, snapshot(folder / scenario.result))]
    outcome, named = judge(ended, unlike, name)
    if outcome in ("another end", "left damaged") and damage == "remove" and str(name).startswith(scenario.optional):
        outcome = "repaired"  # What is not there is left out.
    result = {"scenario": scenario.name, "state": state, "file": str(name), "damage": damage, "seed": seed,
              "outcome": outcome, "names_the_file": named}
    if outcome != "repaired":
        result |= {"status": ended.status, "stderr": ended.stderr[-2000:], "differences": unlike[:20]}
    return result


def count(results):
    """Figures of a list of :func:`case` results: dict of plain values."""
    outcomes = collections.Counter(result["outcome"] for result in results)
    return {
        "damages": len(results), "outcomes": dict(sorted(outcomes.items())),
        "allowed": sum(outcomes[name] for name in ALLOWED),
        "refused_naming_only_the_folder": sum(result["outcome"] == "refused" and not result["names_the_file"]
                                              for result in results),
        "by_command": {name: f"{sum(r['outcome'] in ALLOWED for r in results if r['scenario'] == name)} of {total}"
                       for name, total in collections.Counter(r["scenario"] for r in results).items()},
    }
