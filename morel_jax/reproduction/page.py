"""The report as one HTML page that needs no other file, and as Markdown."""
import base64
import json

import jinja2

from morel_jax.evaluation.figures import png
from morel_jax.files import write_atomically
from morel_jax.reproduction.drawings import draw
from morel_jax.reproduction.report import QUESTIONS, STUDY_LOSSES


def captions(report):
    """{figure's number: what it shows, and what of it was measured}."""
    found, figures = {}, report["figures"]

    def volumes(data):
        return "; ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in data["hypervolume"].items())

    if "2" in figures:
        data = figures["2"]
        found["2"] = (f"{data['method']}: losses at the end of training as the preference changes, with hypervolume "
                      f"({volumes(data)}; the worst of each loss is the reference), accuracy under PGD-20 against k1, "
                      "and against the batch size at one and the same learning rate.")
    if "3" in figures:
        numbers = "; ".join(
            f"{method}: own image {data['own']:.3f}, same class {data['same_class']:.3f}, other classes "
            f"{data['other_class']:.3f}" for method, data in figures["3"].items() if data)
        found["3"] = ("Cosine similarity between the features of attacked and of natural images, PGD-20, images drawn "
                      "at random and ordered by class (lines part the classes): the diagonal from bottom left to top "
                      f"right is an image and its own attacked copy. Means: {numbers or 'none yet'}.")
    if "4" in figures:
        found["4"] = ("Conic scalarization against the weighted sum. With a = 0 the two minimise the same sum but for "
                      f"weights that differ by gamma. Hypervolume: {volumes(figures['4'])}.")
    return found


def _with_interval(number, style=".2f"):
    """Text of an estimate as a report has it; empty for None."""
    if not number:
        return ""
    return f"{number['mean']:{style}}" + ("" if number["half"] is None else f" ± {number['half']:.2f}")


def _cell_text(cell):
    text = _with_interval(cell["ours"])
    if not text:
        text = "diverged" if cell["diverged"] else "not yet" if cell["at_this_scale"] else "none"
    paper = "?" if cell["paper"] is None else f"{cell['paper']:.2f}"
    difference = "" if cell["difference"] is None else f", {cell['difference']:+.2f}"
    return f"{text} ({paper}{difference})"


STUDY_HEADS = ("clean, %", "AutoAttack, %", "difference under AutoAttack, points", "against",
               *(name.replace("_", " ") for name in STUDY_LOSSES))


def study_texts(row):
    """What a row of the study has under STUDY_HEADS."""
    return [_with_interval(row["clean"]), _with_interval(row["autoattack"]), _with_interval(row["difference"], "+.2f"),
            row["against"] or "", *(f"{row[name]['mean']:.4g}" if row[name] else "" for name in STUDY_LOSSES)]


def to_markdown(report):
    """The report as Markdown; figures are links to the files beside it."""
    lines = [f"# MOREL, reproduced: {report['scale']}, {report['variant']}", "",
             f"{report['title']}. Seeds {', '.join(map(str, report['seeds']))}. Each cell: ours, mean over seeds ± "
             "half of its 95 % confidence interval; in brackets the paper's number and the difference to it.", "",
             "| the paper's | here |", "|---|---|"]
    lines += [f"| {paper} | {ours or 'nothing at this scale'} |" for paper, ours in report["stand_ins"].items()]
    lines += ["", "Images judged: " + ", ".join(f"{name} {count or 'all'}" for name, count in
                                                report["examples"].items()) + "."]
    for table in report["tables"]:
        heads = [f"{attack}, {which}" for attack in table["attacks"] for which in table["checkpoints"]]
        lines += ["", f"## Table {table['table']}: {table['title']}. {table['architecture']}, {table['dataset']}", "",
                  f"| method | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
        lines += [f"| {row['method']} | {' | '.join(map(_cell_text, row['cells']))} |" for row in table["rows"]]
    for number, text in captions(report).items():
        lines += ["", f"## Figure {number}", "", f"![Figure {number}](figure_{number}.png)", "", text]
    for question, rows in report["study"].items():
        lines += ["", f"## {QUESTIONS[question]}", "", f"![{QUESTIONS[question]}](figure_{question}.png)", "",
                  "| " + " | ".join(["", *STUDY_HEADS]) + " |", "|---" * (1 + len(STUDY_HEADS)) + "|"]
        lines += [f"| {row['label']} | {' | '.join(study_texts(row))} |" for row in rows]
    if report["claims"]:
        lines += ["", "## What the paper says of its tables", "",
                  "| claim | section | the paper's numbers | ours | beyond chance |", "|---|---|---|---|---|"]
        for claim in report["claims"]:
            paper, ours = ({"verdict": one["verdict"], "of": f"{one['met']} of {one['measured']}"}
                           for one in (claim["paper"], claim["ours"]))
            lines.append(f"| {claim['text']} | {claim['place']} | {paper['verdict']}, {paper['of']} | "
                         f"{ours['verdict']}, {ours['of']} | {claim['ours']['beyond_chance']} |")
    lines += ["", "## Where the two readings differ", "", "| field | paper | reference |", "|---|---|---|"]
    lines += [f"| `{line['field']}` | {line['paper']} | {line['reference']} |" for line in report["variants"]]
    return "\n".join(lines) + "\n"


def to_html(report, images):
    """The page.

    Args:
        report: what :func:`~morel_jax.reproduction.report.build` returned.
        images: {figure's number: PNG bytes}.
    """
    environment = jinja2.Environment(loader=jinja2.PackageLoader("morel_jax.reproduction", "."), autoescape=True,
                                     undefined=jinja2.StrictUndefined)
    encoded = {number: base64.b64encode(content).decode() for number, content in images.items()}
    environment.filters["interval"] = _with_interval
    return environment.get_template("page.html.j2").render(report=report, images=encoded, captions=captions(report),
                                                           questions=QUESTIONS, study_heads=STUDY_HEADS,
                                                           study_texts=study_texts)


def write(report, folder):
    """Writes ``report.json``, ``report.md``, ``report.html`` and the figures into ``folder``, a Path."""
    folder.mkdir(parents=True, exist_ok=True)
    images = {}
    for number, figure in draw(report).items():
        images[number] = png(figure)
        write_atomically(folder / f"figure_{number}.png", images[number])
    write_atomically(folder / "report.json", json.dumps(report, indent=1))
    write_atomically(folder / "report.md", to_markdown(report))
    write_atomically(folder / "report.html", to_html(report, images))
