"""Whose curvature lies outside of the kept pairs, and whether that tells which labels an edit removes."""

from pathlib import Path

from vitmem.figures import style
from vitmem.figures.over_seeds import estimate, grouped, of_base, seeds_of

SHARES = {
    "outside_memorised": ("memorised", style.VERMILLION, "o"),
    "outside_clean": ("clean", style.BLUE, "s"),
    "outside_random_memorised": ("random pairs", style.GREY, "^"),
}
SCORES = {
    "outside": ("curvature outside", style.VERMILLION),
    "outside_random": ("outside random pairs (null)", style.GREY),
    "curvature": ("trace", style.PURPLE),
    "loss": ("loss", style.BLUE),
    "margin": ("margin", style.GREEN),
    "summed_loss": ("summed loss", "#E69F00"),
}
NUMBERS = {
    "edit": ("auroc", "auroc_permuted"),
    "layer": (
        *SHARES,
        "outside_random_clean",
        "coherence_memorised",
        "coherence_clean",
        "participation_memorised",
        "participation_clean",
    ),
}
HEADER = ["id", "measure", "layer", "edit", "score", "number", "mean", "low", "high", "seeds"]


@style.look()
def draw(rows: list[dict], out: Path, name: str) -> list[Path]:
    """Draw, of the base model, shares by layer, and areas under the ROC curve by score.

    See ``vitmem.figures.analyses``.
    """
    base = of_base(rows)
    layers = grouped((row for row in base if row["measure"] == "layer"), "layer")
    edits = [row for row in base if row["measure"] == "edit"]
    figure, (left, right) = style.panels(2, max(2.6, 0.17 * len(layers) + 0.7), legend=0.2, least=3.2)
    names = [layer for (layer,) in layers][::-1]
    for number, (column, (words, color, marker)) in enumerate(SHARES.items()):
        for y, layer in enumerate(names):
            at = estimate(layers[layer,], column)
            left.errorbar(
                at.mean, y + 0.2 * (1 - number), xerr=at.errors, color=color, marker=marker, linewidth=0.9,
                label=words if y == 0 else None,
            )  # fmt: skip
    left.set_yticks(range(len(names)), [n.removeprefix("blocks.") for n in names])
    left.set(xlabel="share of an example's curvature\noutside the kept pairs", ylim=(-0.7, len(names) - 0.3))
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=0.8, handletextpad=0.3)
    for y, (score, (_, color)) in enumerate(reversed(SCORES.items())):
        for own in grouped((row for row in edits if row["score"] == score), "edit").values():
            right.plot(estimate(own, "auroc").mean, y, marker=".", color=color, alpha=0.35, linestyle="", label=None)
        by_seed = grouped((row for row in edits if row["score"] == score), "seed")
        means = [{"seed": seed, "auroc": sum(r["auroc"] for r in own) / len(own)} for (seed,), own in by_seed.items()]
        at = estimate(means, "auroc")
        right.errorbar(at.mean, y, xerr=at.errors, color=color, marker="D", markeredgecolor="black", linewidth=1.4)
    right.set_yticks(range(len(SCORES)), [words for words, _ in reversed(SCORES.values())])
    right.axvline(0.5, color="black", linestyle=":", linewidth=0.7)
    right.set(
        xlabel="AUROC: removed against kept labels\n(dots: edits; diamond: mean over edits)",
        ylim=(-0.7, len(SCORES) - 0.3),
    )
    figure.suptitle(seeds_of(base), fontsize=7)
    table = [
        (key[0], *key[1:], number, *estimate(own, number))
        for key, own in grouped(rows, *HEADER[:5]).items()
        for number in NUMBERS[key[1]]
    ]
    return [style.save(figure, out, name, HEADER, table)]
