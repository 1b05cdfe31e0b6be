"""How the number of a cell is made."""
from morel_jax.configuration import flatten
from morel_jax.reproduction.cells import printed
from morel_jax.reproduction.estimate import estimate
from morel_jax.reproduction.grid import protocol
from morel_jax.reproduction.plan import values
from morel_jax.reproduction.scales import PROTOCOLS
from morel_jax.training.workdir import load_content


def _number(value):
    return "none" if value is None else f"{value:.2f} %"


def explain(plan, cell):
    """Text: the cell's numbers, and for each run its folder, commit, config and how it was judged."""
    grid, name = plan.grid, protocol(cell)
    lines = [f"cell       {cell.name}", f"paper      {_number(printed()[cell])}"]
    network = grid.network(cell)
    if network is None:
        return "\n".join([*lines, f"ours       nothing stands for it at scale {grid.scale.name}"])
    found = values(plan, cell)
    ours = estimate(list(found.values()))
    interval = f", 95 % interval ± {ours.half:.2f} over {ours.count} seeds" if ours and ours.half is not None else ""
    lines += [f"ours       {_number(ours and ours.mean)}{interval}",
              f"judged by  {', '.join(PROTOCOLS[name[0]])} on {grid.scale.examples[name[0]] or 'all'} test images, "
              f"checkpoint {cell.checkpoint}; the number is {name[1]!r} of summary.json"]
    if cell.threat == "transfer":
        lines.append(f"surrogate  {plan.surrogate_of(network).folder}")
    for run in plan.runs_of(network):
        judgement = run.judgement(cell.checkpoint, name[0])
        written = load_content(run.folder) if (run.folder / "config.json").exists() else {}
        lines += ["", f"seed {run.seed}     {_number(found.get(run.seed))}", f"  run      {run.folder}",
                  f"  results  {judgement.folder}",
                  f"  commit   {written.get('commit') or 'not run yet'}"]
        if run.diverged_at() is not None:
            lines.append(f"  diverged at step {run.diverged_at()}")
    config = flatten(plan.runs_of(network)[0].member.config)
    spec = f"{network.architecture},{network.method},{grid.variant}"
    lines += ["", f"config     {grid.configs}/{network.source}.py:{spec}",
              *(f"  {field} = {value!r}" for field, value in config.items())]
    return "\n".join(lines)
