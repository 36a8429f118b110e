"""Terms of tables, figures and the report: one source, which experiments/README.md and every report list."""

ACCURACIES = (
    "Accuracies are fractions in [0, 1], with n and a 95 % Wilson interval (one seed) or mean ± sample sd "
    "(several seeds)."
)
# term, or terms with commas between -> meaning; code stands in backticks
GLOSSARY = {
    "noisy, clean example": "a training example whose given label is wrong, or right; `noise.csv` says which",
    "given, true label": "what the model was trained on, and what the image shows",
    "memorized": "share of the noisy examples for which the model's answer is the given, wrong label",
    "ground truth": "share of the noisy examples for which the answer is the true label",
    "other": "share of the noisy examples for which it is neither",
    "clean train": "accuracy on the clean training examples",
    "validation": (
        "accuracy on held-out examples; `held out` is the half (odd indices) that neither edits nor tuning may see"
    ),
    "base, clean, retrain, early_stop": (
        "the unedited model; one trained on the true labels; one trained without the noisy examples (the gold "
        "standard of unlearning); one whose training ended where half of validation was best"
    ),
    "recovered": "ground truth over that of retrain: 1 is what leaving the examples out would have given",
    "known, unseen": (
        "methods with a forget set are told a share of the wrong labels (`--known`, half by default); the others "
        "are unseen, and count for comparisons"
    ),
    "track": (
        "what an edit may read: label-free (images at most), initial weights (those that training started from, no"
        " data), right labels, known noisy examples, and a bound that is told the true labels too"
    ),
    "forget, retain, test": (
        "the field's names: accuracy on what is to be forgotten, agreement with the given labels on the rest, "
        "accuracy on test images (without a test split, held-out validation); `*_gap` is the difference to retrain"
        " of the same seed"
    ),
    "ToW, ToW-MIA": (
        "(1 - |forget gap|)(1 - |retain gap|)(1 - |test gap|), 1 for retrain (Zhao et al. 2024); with the gap in "
        "membership AUC in place of the forget gap"
    ),
    "of the update": "the filter is applied to W - W0, what training made of the initial weights W0, instead of to W",
    "rho": "share of the curvature mass that a K-FAC edit keeps; lower removes more",
    "g, exponent": (
        "steepness of the graded filter P^g / (P^g + tau^g); 1 is Wiener's, infinity the published hard rule"
    ),
    "keep, ratio, lr": "the main option of other edits, carried by the names of their results (`svd-keep0.1`)",
    "draws": "labels sampled from the model for each image, where curvature is sampled",
    "point": (
        "an operating point that tuning chooses: best (highest ground truth with validation at most 0.01 below "
        "base), at0.2 and at0.05 (memorized nearest to that; with `tuner: bisect` at0.4, at0.3, at0.2 and at0.1)"
    ),
    "matched strength": (
        "`tuner: bisect`: the share that a method keeps where memorized first crosses a point on the tuning half, "
        "from the mild side; the same ladder and as many trials for every method"
    ),
    "basis, masses": (
        "axes in which an edit multiplies weights (eigenvectors of the factors, single weights, singular vectors, "
        "random), and by what it ranks them (ag both factors, a inputs, g gradients, size the weights' own, obd "
        "size times ag)"
    ),
    "trials": "settings that tuning tried for a method and seed",
    "passes": "training examples that an edit was served, in training sets",
    "status": (
        "ok, at chance (validation no better than guessing), diverged or failed with the reason; only ok counts as"
        " forgetting"
    ),
    "Δ, above": "difference to K-FAC, paired over seeds, with a 95 % t interval; in how many seeds it is positive",
    "frontier": "ground truth (or validation) against memorized as an edit's strength varies",
    "recovery": "of an attack: memory brought back, 0 as in retrain, 1 as in base",
    "prototype": (
        "attack: the classifier's rows move to the mean features of a few examples of each wrong label, without a"
        " gradient"
    ),
    "steer": (
        "attack: a vector is added to what a block says: the mean difference to base, or towards a class; above retrain"
        " and above other wrong labels it finds memory"
    ),
    "lost, near, far": (
        "of over_unlearning: share of base's right answers that an edit does not give, on images at a distance eps from"
        " the examples to be forgotten, from the clean ones nearest to them, and from clean ones far from all of them;"
        " `divergence` is that of the answers (Jensen-Shannon, nats), the wrong label left out"
    ),
    "within": (
        "of relearn: where weights may go: removed (leading singular vectors of what the edit took from each matrix),"
        " complement (all else), random (as removed, of the same rank, drawn at random)"
    ),
    "verbatim, views, privacy, utility, scale, sustained": (
        "criteria of the scorecard, 1 is best: memory gone on the images, on altered views of them, by membership "
        "inference; validation kept; the worse of two noise rates; the edit repeated"
    ),
    "durable, not durable, not removed, open": (
        "verdict of the scorecard about the wrong labels that no edit knew, for every edit alike (of all, where "
        "those were not measured, which `population` says): durable if the 95 % intervals of what is left and of "
        "what the strongest attack brought back lie below their thresholds, not if one lies above; open otherwise."
        " Over seeds t intervals; of one seed over examples, conservative. Thresholds in "
        "`vitmem/evaluation/durability.py`"
    ),
    "detectable": (
        "true mean difference that a paired two-sided t test at 0.05 with these seeds finds with power 0.8, given "
        "the sd of the differences"
    ),
    "below the bound": (
        "a choice whose validation is more than 0.01 below base's, which the oracle of a regret table may not make"
    ),
    "flipped": "said of a noisy example whose answer an edit turned from the given label to the true one",
    "margin, loss": (
        "of the unedited model on a training example: log p(given) - log p(true), and -log p(given), in nats; a "
        "margin needs the true label"
    ),
    "paired test": (
        "exact McNemar test that two edits are right about equally many of the same images: binomial over the "
        "images on which they differ, two-sided"
    ),
    "band": (
        "components of a layer by rank in an order: top 10 %, 10 to 25 %, 25 to 50 %, bottom half; `norm` is the "
        "whole input or output"
    ),
    "outside, kept pairs": (
        "share of an example's curvature, at its given label, along the eigen-pairs that an edit would drop"
    ),
    "coherence": (
        "squared norm of the mean gradient over the mean squared norm: 1 where all examples pull one way, 1 / n where "
        "they cancel"
    ),
    "participation": "how evenly examples share a pair's curvature: (sum c)^2 / (n sum c^2)",
    "summed loss": "an example's loss summed over the epochs of training; high where a label was learnt late",
    "missed at budget": (
        "share of the wrong labels that a score misses when as many examples are flagged as are wrong"
    ),
    "CKA": "similarity of two models' features of the same images, 0 to 1 (Kornblith et al. 2019)",
}


def entry(term: str) -> str | None:
    """Return the key of ``GLOSSARY`` that explains a term; None where none does."""
    return _ENTRIES.get(term)


_ENTRIES = {term: key for key in reversed(GLOSSARY) for term in (key, *key.split(", "))}
