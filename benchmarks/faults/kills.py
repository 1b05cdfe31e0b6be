"""``kill -9`` at random moments, then the same command until it ends, and a comparison of the ends."""
import collections
import random

from benchmarks.faults.compare import differences, snapshot
from benchmarks.faults.scenarios import Watch, copy

# Of the kills, those that come right after a change in the folder instead of at any moment: most of a command's time
# goes by without one, and what is half done is so for a short while.
_AIMED = 0.5
# Kills that are followed by another in the run that goes on.
_AGAIN = 0.25
# Seconds after a change in which an aimed kill comes.
_AFTER = 0.01
_MOST_TRIES = 20


def kill(children, unbroken, folder, moment, aimed=None):
    """Gives the command in ``folder`` and kills it.

    Args:
        children: Children.
        unbroken: Unbroken.
        folder: the command's.
        moment: random.Random.
        aimed: whether right after a change; by default drawn.

    Returns:
        where it fell, or None where the command ended before.
    """
    aimed = moment.random() < _AIMED if aimed is None else aimed
    watch = Watch(folder)
    child = children.command(unbroken.scenario.module, unbroken.scenario.arguments, folder)
    if aimed:
        watch.until(child, changes=moment.randint(1, max(1, unbroken.changes)))
        watch.until(child, moment.uniform(0, _AFTER))
    else:
        watch.until(child, moment.uniform(0, unbroken.seconds))
    alive = child.is_alive()
    child.kill()
    return watch.found() if alive else None


def case(children, unbroken, folder, seed):
    """One or two kills of a command, and its end.

    Returns:
        dict of plain values: scenario, where the kills ``fell``, and what is wrong (``failure``, empty if nothing).
    """
    moment, fell = random.Random(seed), []
    for _ in range(_MOST_TRIES):
        copy(unbroken.start, folder)
        found = kill(children, unbroken, folder, moment)
        if found:
            fell.append(found)
            break
    if fell and moment.random() < _AGAIN:
        again = kill(children, unbroken, folder, moment)
        fell += [again] if again else []
    ended = children.command(unbroken.scenario.module, unbroken.scenario.arguments, folder).wait(unbroken.timeout)
    result = {"scenario": unbroken.scenario.name, "seed": seed, "fell": fell, "failure": ""}
    unlike = differences(unbroken.result, snapshot(folder / unbroken.scenario.result))
    if ended.hung:
        result["failure"] = "hang"
    elif ended.crashed:
        result["failure"] = "traceback"
    elif ended.status:
        result["failure"] = f"status {ended.status}"
    elif unlike:
        result["failure"] = "another end"
    elif not fell:
        result["failure"] = "always ended before it was killed"
    if result["failure"]:
        result |= {"stderr": ended.stderr[-2000:], "differences": unlike[:20]}
    return result


def count(results):
    """Figures of a list of :func:`case` results: dict of plain values."""
    fell = collections.Counter(where for result in results for where in result["fell"])
    return {
        "kills": fell.total(), "fell": dict(sorted(fell.items())), "ends": len(results),
        "equal_ends": sum(not result["failure"] for result in results),
        "by_command": {name: f"{sum(not r['failure'] for r in results if r['scenario'] == name)} of {total}"
                       for name, total in collections.Counter(r["scenario"] for r in results).items()},
    }
