"""The four accuracies class by class, and what each model says about each example that is to be forgotten."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vitmem.evaluation.metrics import accuracy, right_and_asked
from vitmem.evaluation.predict import ExampleTable

BY = {  # what an example's class is -> the accuracies that are told so
    "true": ("memorized_accuracy", "ground_truth_accuracy", "clean_train_accuracy", "validation_accuracy"),
    "given": ("memorized_accuracy",),
}
PARTS = ("value", "low", "high", "n")


def class_rows(table: ExampleTable, names: Sequence[str]) -> list[dict]:
    """Return the four accuracies of each class, with their Wilson intervals; the memorized one by given class, too.

    Examples whose true class is unknown count by given class alone.

    Args:
        table: of one model.
        names: of the K classes.

    Returns:
        A row for each meaning of class and each class: ``by`` (true or given), ``class``, ``class_name``, and as in
        ``results.csv`` each accuracy with ``_low``, ``_high`` and ``_n``.
    """
    rows = []
    asked = right_and_asked(table)
    for by, metrics in BY.items():
        label_N = table.true if by == "true" else table.given
        for number, name in enumerate(names):
            row: dict = {"by": by, "class": number, "class_name": name}
            for metric in metrics:
                right, whom = asked[metric]
                found = dataclasses.asdict(accuracy(right[whom & (label_N == number)]))
                row |= {metric if part == "value" else f"{metric}_{part}": found[part] for part in PARTS}
            rows.append(row)
    return rows


def flip_rows(tables: Sequence[tuple[str, ExampleTable]], files: Sequence[str] = ()) -> list[dict]:
    """Return what each model says about each example on which memory is measured.

    Args:
        tables: id and table of each model, by index, of those on which memory is measured, over the same examples.
        files: names of the training examples, by index; none where they have none.

    Returns:
        A row for each example, by index: ``index``, ``file``, ``given``, ``true`` (-1 where it is unknown), and by id
        the class that the model says; -1 where its logits are not finite.

    Raises:
        ValueError: the tables are not of the same examples.
    """
    if not tables:
        return []
    first, one = tables[0]
    for name, table in tables:
        if any(not np.array_equal(getattr(table, key), getattr(one, key)) for key in ("index", "given", "true")):
            raise ValueError(f"{name} was measured on other examples or labels than {first}")
    columns = {key: getattr(one, key).tolist() for key in ("index", "given", "true")}
    columns["file"] = [files[i] if files else "" for i in columns["index"]]
    columns |= {name: table.prediction.tolist() for name, table in tables}
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
