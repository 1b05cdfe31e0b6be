"""Bad values of every command's flags: status 2 and one line that names the flag or the value."""
import importlib
import json
import random
import shutil
from pathlib import Path

from benchmarks.faults.scenarios import CONFIG, CONFIGS, copy

ROOT = Path(__file__).parents[2]
_TIMEOUT = 120
_TEXTS = ("", " ", "nothing", "back\\slash", "~/home", "gs://bucket/nothing", "n" * 5000, "/dev/null/nothing", "-1")
_BY_KIND = {
    "bool": ("", "maybe", "2"),
    "int": ("", "nan", "inf", "-1", "0.5", "1e3", str(2**31), str(2**32), str(2**63), "9" * 400, "text"),
    "float": ("", "nan", "inf", "-inf", "-1", "0", "100", "1e39", "1e-46", "text", "1,2"),
    "string": _TEXTS,
    "string enum": ("", "nothing", "BEST", "a,b"),
    "comma separated list of strings": ("", ",", "nothing", "best,nothing", "best,best", "cpu,", "fgsm,,pgd20",
                                        "pgd3000000000", "pgd-1", "pgd20x0", "n" * 5000),
    "config object": ("", "nothing.py", ".", "syntax.py", "raises.py", "empty.py", f"{CONFIGS}/smoke.py:nothing",
                      f"{CONFIGS}/smoke.py:a,b,c,d", f"{CONFIGS}/smoke.py:convnet_small,nothing"),
    "function": ("", ":", "f", ".:f", "nothing.py:f", "syntax.py:f", "raises.py:f", "empty.py:f", f"{CONFIGS}/smoke.py",
                 f"{CONFIGS}/smoke.py:nothing", f"{CONFIGS}/smoke.py:__doc__"),
}
_BY_NAME = {
    "sweep": ("", ":", "seed", "seed:", "seed:1..2", "seed:1..2:0", "seed:0..300000000:300000001", "nothing:1",
              "batch_size:8,16", "optimizer.learning_rate:1e39", "optimizer.learning_rate:float('nan')", "seed:0.5",
              "seed:-1", f"seed:{2**32}", "morel.preference:((((1", "seed:" + "(" * 2000, "seed:" + "9" * 5000,
              "preference:nan..1:3", "seed:1,1"),
    "sweep_file": ("", "nothing.json", ".", "deep.json", "text.json", "number.json", "members.json"),
    "shard": ("", "1", "0/1", "2/1", "1/0", "1/1/1", "-1/2", "a/b", "1/" + "9" * 400),
    "explain": ("", "nothing", "1/nothing", "////", "1/cifar10/resnet18/white-box/morel_mart/pgd20/nothing"),
    "coordinator": ("", "nothing", "localhost", "localhost:99999999", ":", "localhost:-1"),
}
# Values of a number that mean nothing, whatever it is.
_NONSENSE = ("nan", "inf", "-inf")
_FILES = {"syntax.py": "def get_config(:\n", "raises.py": "def get_config():\n    raise RuntimeError('on purpose')\n",
          "empty.py": "", "deep.json": "[" * 100_000, "text.json": "text", "number.json": "3",
          "members.json": '[{"seed": "0"}, 3]'}
# {command: its flags but for the bad one}, of those that end soon.
_COMMANDS = {
    "train": {"config": CONFIG.partition("=")[2], "workdir": "trained"},
    "sweep": {"config": CONFIG.partition("=")[2], "workdir": "swept", "sweep": "seed:0"},
    "evaluate": {"workdir": "trained", "which": "best", "attacks": "fgsm", "examples": "20", "report_card": "0",
                 "output": "judged"},
    "export": {"workdir": "trained", "platforms": "cpu", "out": "exported"},
    "reproduce": {"configs": str(CONFIGS), "scale": "smoke", "table": "3", "root": "reproduced"},
    "quickstart": {"config": CONFIG.partition("=")[2], "workdir": "quick"},
}
_SILENT = ("train", "sweep", "evaluate", "reproduce")  # Those with --noprogress.


def list_flags(module):
    """In the child: the flags that a command defines, as JSON."""
    importlib.import_module(module)
    from absl import flags
    print(json.dumps([(flag.name, flag.flag_type()) for flag in flags.FLAGS.flags_by_module_dict()[module]]))


def generate(children):
    """[(command, flag, text)]: every hostile text of every flag that the commands define."""
    triples = []
    for command in _COMMANDS:
        ended = children.start(list_flags, (f"morel_jax.{command}",), ROOT).wait(_TIMEOUT)
        for name, kind in json.loads(ended.stdout):
            triples += [(command, name, text)
                        for text in _BY_NAME.get(name) or _BY_KIND[kind.removeprefix("multi ")]]
    return triples


def choose(triples, number, seed):
    """``number`` of the triples, flags in turn, in an order drawn with ``seed``."""
    draw, by_flag = random.Random(seed), {}
    for command, name, text in triples:
        by_flag.setdefault((command, name), []).append(text)
    for texts in by_flag.values():
        draw.shuffle(texts)
    flags, chosen = list(by_flag), []
    draw.shuffle(flags)
    while len(chosen) < number and any(by_flag.values()):
        chosen += [(*flag, by_flag[flag].pop()) for flag in flags if by_flag[flag]]
    return chosen[:number]


def prepare(unbroken, folder):
    """Finished runs for the commands, so that what is accepted ends soon, and hostile files that flags can name."""
    copy(unbroken["evaluate"].end, folder)
    shutil.copytree(unbroken["reproduce"].end / "reproduced", folder / "reproduced")
    shutil.copytree(ROOT / "configs", folder / "configs")
    for name, text in _FILES.items():
        (folder / name).write_text(text)


def judge(ended, name, text):
    """What became of a flag's value: ``refused``, ``accepted``, or what is wrong."""
    if ended.hung or ended.crashed:
        return "hang" if ended.hung else "traceback"
    if ended.status == 0:
        return "nonsense accepted" if text in _NONSENSE else "accepted"
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    if ended.status != 2:
        return f"status {ended.status}"
    if len(lines) != 1 or not lines[0].startswith("error: "):
        return "not one line"
    # Of --sweep the field is what is wrong, of --config its argument.
    parts = text.split(":", 1) if ":" in text else []
    named = (name in lines[0] or (text.strip() and text[:50] in lines[0])
             or any(part.strip() and part in lines[0] for part in parts))
    return "refused" if named else "names nothing"


def case(children, prepared, folder, triple):
    """One value, given in a copy of a prepared folder: dict of plain values."""
    command, name, text = triple
    copy(prepared, folder)
    arguments = ({"progress": "false"} if command in _SILENT else {}) | _COMMANDS[command] | {name: text}
    if name == "sweep_file":
        del arguments["sweep"]
    given = [f"--{flag}={value}" for flag, value in arguments.items()]
    ended = children.command(f"morel_jax.{command}", given, folder).wait(_TIMEOUT)
    outcome = judge(ended, name, text)
    return {"command": command, "flag": name, "value": text[:200], "outcome": outcome, "status": ended.status,
            "message": ended.stderr.strip()[-500:] if outcome != "accepted" else ended.stdout.strip()[-200:]}
