"""How well scores find the wrong labels."""

from pathlib import Path

from vitmem.figures import style
from vitmem.figures.over_seeds import estimate, grouped, of_base, seeds_of

NUMBERS = {
    "auroc": "area under the ROC curve",
    "average_precision": "average precision",
    "missed_at_budget": "wrong labels missed, when as many\nare flagged as are wrong (share)",
}
HEADER = ["id", "score", "number", "mean", "low", "high", "seeds"]


@style.look()
def draw(rows: list[dict], out: Path, name: str) -> list[Path]:
    """Draw, of the base model, three measures of each score, best area first.

    See ``vitmem.figures.analyses``.
    """
    base = of_base(rows)
    scores = {score: own for (score,), own in grouped(base, "score").items()}
    order = sorted(scores, key=lambda score: estimate(scores[score], "auroc").mean)
    figure, panels = style.panels(len(NUMBERS), 0.16 * len(order) + 0.9, legend=0.2, sharey=True)
    for axes, (number, words) in zip(panels, NUMBERS.items(), strict=True):
        for y, score in enumerate(order):
            at = estimate(scores[score], number)
            color = style.GREY if score == "random" else style.BLUE
            axes.errorbar(at.mean, y, xerr=at.errors, color=color, marker="o", linewidth=1.0)
        axes.set(xlabel=words, xlim=(-0.02, 1.02))
        if number == "auroc":
            axes.axvline(0.5, color="black", linestyle=":", linewidth=0.7)
    panels[0].set_yticks(range(len(order)), [score.replace("_", " ") for score in order])
    figure.suptitle(seeds_of(base), fontsize=7)
    table = [
        (*key, number, *estimate(own, number))
        for key, own in grouped(rows, "id", "score").items()
        for number in (*NUMBERS, "auroc_permuted")
    ]
    return [style.save(figure, out, name, HEADER, table)]
