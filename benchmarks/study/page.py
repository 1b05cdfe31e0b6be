"""Tables and figures of ``docs/study.md``, from the stored results alone."""
import re
from dataclasses import dataclass

import numpy as np
from scipy import stats
from tabulate import tabulate

from benchmarks.study.design import JOINED, OF_THREE
from benchmarks.study.results import ROOT, verdicts
from benchmarks.study.statistics import difference

PAGE, IMAGES = ROOT / "docs" / "study.md", ROOT / "docs" / "images" / "study"
# A clean accuracy that no network without a use for its images has: there are ten classes.
LEARNED = 0.2
GREY, RED, BLUE = "#7f8c9b", "#c0392b", "#2471a3"


@dataclass(frozen=True)
class Comparison:
    """Two groups whose networks have the same seeds, one by one."""
    label: str
    one: str
    other: str
    under: str = "fast"


COMPARISONS = (
    Comparison("MOREL over MART, 1,000 images", "morel_mart", "mart"),
    Comparison("MOREL over MART, 300 images", "morel_mart_overfit", "mart_overfit"),
    Comparison("MOREL over MART, 9,500 images", "morel_mart_short", "mart_short"),
    Comparison("MOREL over TRADES, 1,000 images", "morel_trades", "trades"),
)
CONFIRMED = (
    Comparison("chosen setting over MART", "chosen", "chosen_mart", "pgd20"),
    Comparison("over its terms off", "chosen", "chosen_off", "pgd20"),
    Comparison("second setting over MART", "second", "chosen_mart", "pgd20"),
    Comparison("second over its terms off", "second", "second_off", "pgd20"),
    Comparison("the same under `fast`", "second", "second_off"),
)
# Groups of the confirmation, as the page calls them.
FRESH = {"chosen_mart": "MART", "chosen": "chosen setting", "chosen_off": "its terms off", "second": "second setting",
         "second_off": "second, terms off"}
BATCHES = (
    *(Comparison(f"batch {size}, as many {length}", f"morel_mart_batch{size}_{length}", f"mart_batch{size}_{length}",
                 "pgd20") for size in (8, 128) for length in ("updates", "epochs")),
)
READINGS = (
    Comparison("`reference`: mean over natural rows", "morel_mart_reference", "morel_mart", "pgd20"),
    Comparison("the package: mean over all rows", "morel_mart_package", "morel_mart", "pgd20"),
)
WAYS = (*(Comparison(name, f"joined_{name}", "joined_conic", "pgd20") for name in JOINED[1:]),
        *(Comparison(f"{name}, three losses", f"joined_{name}_three", "joined_conic", "pgd20") for name in OF_THREE))
REGIMES = {"mart_short": "MART, 9,500 images", "morel_mart_short": "MOREL over MART, 9,500 images",
           "mart": "MART, 1,000 images", "morel_mart": "MOREL over MART, 1,000 images",
           "mart_overfit": "MART, 300 images", "morel_mart_overfit": "MOREL over MART, 300 images"}
SHOWN = {"own": "an attacked image and itself", "same_class": "and others of its class",
         "other_class": "and other classes"}
PULLS = {"cosine_share": "{:.3%}".format, "contrastive_share": "{:.3%}".format, "cosine_cosine": "{:+.2f}".format,
         "contrastive_cosine": "{:+.2f}".format}


def there(results, comparisons):
    """The comparisons whose groups have been run."""
    return [one for one in comparisons if one.one in results and one.other in results]


def paired(results, pair):
    """Networks of both groups, those of the seeds that both have, in one order."""
    by_seed = [{network["settings"]["seed"]: network for network in results[name]} for name in (pair.one, pair.other)]
    shared = sorted(set(by_seed[0]) & set(by_seed[1]))
    return [[networks[seed] for seed in shared] for networks in by_seed]


def _plus_minus(mean, half):
    return f"{mean:+.2f} ± {half:.2f}"


def _compared(results, comparisons):
    rows = []
    for pair in there(results, comparisons):
        one, other = paired(results, pair)
        found, clean = (difference(verdicts(one, under), verdicts(other, under)) for under in (pair.under, "clean"))
        means = [f"{100 * verdicts(group, pair.under).mean():.2f}" for group in (other, one)]
        rows.append([pair.label, len(one), *means, _plus_minus(found.mean, found.half),
                     f"± {found.half_same_images:.2f}", _plus_minus(clean.mean, clean.half)])
    return _table(["", "seeds", "base, %", "other, %", "difference", "these images", "difference, clean"], rows)


def _table(heads, rows):
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True) if rows else ""


def _spreads(results):
    rows = []
    for pair in there(results, COMPARISONS):
        found = difference(*(verdicts(networks, pair.under) for networks in paired(results, pair)))
        rows.append([pair.label, *(f"{value:.2f}" for value in (found.by_seed.std(ddof=1), *found.spreads))])
    return _table(["", "of seeds' means", "seed", "image", "rest"], rows)


def _overfitting(results):
    rows = []
    for name, label in REGIMES.items():
        if name not in results:
            continue
        networks = results[name]
        held_out = np.array([[line["robust_accuracy"] for line in network["validated"]] for network in networks])
        rows.append([label, f"{np.mean([network['own_images'] for network in networks]):.1f}",
                     f"{100 * verdicts(networks, 'pgd20').mean():.1f}",
                     *(f"{100 * value:.1f}" for value in (held_out.mean(0).max(), held_out[:, -1].mean()))])
    return _table(["", "training images", "test images", "held-out, best epoch", "held-out, last"], rows)


def _mechanism(results):
    rows = []
    for name in ("mart", "morel_mart", "mart_overfit", "morel_mart_overfit"):
        stages = list(results[name][0]["stages"]) if name in results else []
        for epochs in stages[::max(len(stages) - 1, 1)]:  # The first and the last.
            looks = [network["stages"][epochs] for network in results[name]]
            mean = {key: np.mean([look[key] for look in looks]) for key in looks[0]}
            rows.append([REGIMES[name], epochs, *(f"{mean[key]:.4f}" for key in SHOWN), f"{mean['margin']:.3f}",
                         *(form(mean[key]) if key in mean else "" for key, form in PULLS.items())])
    return _table(["", "epoch", *SHOWN.values(), "margin", "cosine term's gradient", "contrastive",
                   "angle's cosine, cosine term", "contrastive"], rows)


def _screening(results):
    """Least squares of accuracy on the four numbers, k1 with its square, over the networks that learned something."""
    networks = [one for one in results.get("screening", []) if one["settings"]["morel.cosine_weight"]
                and one["right"]["clean"].mean() > LEARNED]
    if not networks:
        return ""
    values, accuracy = screened_values(networks), 100 * verdicts(networks, "pgd20").mean(1)
    k = values[:, 0] - 0.5
    design = np.column_stack([np.ones(len(k)), k, k ** 2, values[:, 1:] - values[:, 1:].mean(0)])
    beta, *_ = np.linalg.lstsq(design, accuracy, rcond=None)
    freedom = len(k) - design.shape[1]
    spread = np.sqrt(((accuracy - design @ beta) ** 2).sum() / freedom * np.diag(np.linalg.inv(design.T @ design)))
    half = stats.t.ppf(0.975, freedom) * spread
    names = ["at k1 = 0.5, the others at their means", "k1, from 0 to 1", "(k1 - 0.5)², per unit", "alpha, ten times",
             "temperature, ten times", "weight of the cosine term, ten times"]
    return _table(["", "points"], [[name, _plus_minus(*one)] for name, *one in zip(names, beta, half, strict=True)])


def _learned(results):
    """How many networks of the confirmation learned something, and how right those are."""
    rows = []
    for name, label in FRESH.items():
        if name in results:
            learned = [one for one in results[name] if one["right"]["clean"].mean() > LEARNED]
            accuracies = 100 * np.array([one["right"]["pgd20"].mean() for one in learned])
            rows.append([label, f"{len(learned)} of {len(results[name])}", f"{accuracies.mean():.1f}",
                         f"{accuracies.min():.1f} to {accuracies.max():.1f}",
                         f"{np.mean([one['own_images'] for one in learned]):.1f}"])
    return _table(["", "learned something", "accuracy of these, %", "least to greatest", "images trained on"], rows)


def screened_values(networks):
    """float[n, 4]: k1 and the decimal logarithms of alpha (of a mean over rows), temperature and cosine weight."""
    settings = [one["settings"] for one in networks]
    logarithms = np.log10([[100 * one["morel.contrastive_weight"], one["morel.temperature"], one["morel.cosine_weight"]]
                           for one in settings])
    return np.column_stack([[one["morel.preference"][0] for one in settings], logarithms])


def tables(results):
    """{name: Markdown} of the tables between ``<!-- name -->`` and ``<!-- end -->`` on the page."""
    return {"compared": _compared(results, COMPARISONS), "spreads": _spreads(results),
            "overfitting": _overfitting(results), "mechanism": _mechanism(results), "screening": _screening(results),
            "learned": _learned(results), "confirmed": _compared(results, CONFIRMED),
            "batches": _compared(results, BATCHES), "readings": _compared(results, READINGS),
            "ways": _compared(results, WAYS)}


def with_tables(text, results):
    """The page's text with its tables made anew."""
    for name, table in tables(results).items():
        before, after = f"<!-- {name} -->\n", "<!-- end -->"
        made = f"{before}\n{table}\n\n{after}" if table else before + after
        text = re.sub(f"{before}.*?{after}", lambda _, made=made: made, text, flags=re.DOTALL)
    return text
