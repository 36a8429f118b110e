"""What the page's scripts show of single images: labels, answers, counts, orders and thumbnails of a sample."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vitmem.files import Damaged
from vitmem.models.weights import read_description
from vitmem.report import pictures
from vitmem.report.answers import Answers, read
from vitmem.report.families import families
from vitmem.report.packed import code_type, codes, text
from vitmem.report.scores import found_at_budget, order, ranks, scores
from vitmem.runs.trained import TrainedRun

LARGEST_ANSWERS = 2_000_000  # of all models, about single images


def explorer(
    runs: Mapping[int, Path], rows: Sequence[Mapping], names: Sequence[str], place: str | None, notes: list[str]
) -> dict | None:
    """Return the data of the page's scripts; None where no run has answers about single images.

    Args:
        runs: run folders by seed.
        rows: of the results table.
        names: file names of the training images; empty where they have none.
        place: where the data are now, if they were moved.
        notes: what had to be left out is added here.
    """
    read_ones = (read(path, seed, [r for r in rows if r["seed"] == seed], notes) for seed, path in runs.items())
    found = [answers for answers in read_ones if answers is not None]
    if other := [str(answers.seed) for answers in found if len(answers.given) != len(found[0].given)]:
        notes.append(f"Seeds {', '.join(other)} are left out where single images are shown: they had other data")
        found = [answers for answers in found if str(answers.seed) not in other]
    if not found:
        return None
    scored = [scores(answers, notes) for answers in found]
    most = LARGEST_ANSWERS // sum(len(answers.answer) for answers in found)
    orders = [order(score) for one in scored for score in one.values()]
    shown, drawn = pictures.choose(found, orders, min(pictures.MOST_ASKED, most))
    path = found[0].path
    classes = _class_names(path, found)
    return {
        "classes": classes,
        "total": len(found[0].given),
        "shown": len(shown),
        "drawn": drawn,
        "index": text(shown.astype(np.uint32)),
        "names": [_readable(names[i]) for i in shown] if names else [],
        "code_bytes": np.dtype(code_type(len(classes))).itemsize,
        "thumbnails": _thumbnails(path, shown, place, notes),
        "families": families(rows),
        "seeds": [_seed(*both, shown, drawn, len(classes), rows) for both in zip(found, scored, strict=True)],
    }


def _seed(
    answers: Answers,
    scored: Mapping[str, np.ndarray],
    shown: np.ndarray,
    drawn: int,
    num_classes: int,
    rows: Sequence[Mapping],
) -> dict:
    """Return what the page knows of one seed; answers are of the asked images that were drawn, in their order."""
    asked = shown[:drawn][answers.asked[shown[:drawn]]]
    status = {row["id"]: row.get("status") or "" for row in rows if row["seed"] == answers.seed}
    return {
        "seed": answers.seed,
        "given": codes(answers.given[shown], num_classes),
        "true": codes(answers.true[shown], num_classes),
        "asked": text(answers.asked[shown].astype(np.uint8)),
        "num_asked": int(answers.asked.sum()),
        "models": [
            {
                "id": name,
                "status": status[name],
                "count": {what: list(pair) for what, pair in answers.count[name].items()},
                "answer": codes(answer[asked], num_classes),
            }
            for name, answer in answers.answer.items()
        ],
        "shared": {measure: text(answers.shared(measure)) for measure in ("truth", "gone")},
        "scores": [
            {
                "name": name,
                "value": text(score[shown].astype(np.float32)),
                "rank": text(ranks(score)[shown]),
                "found": found_at_budget(score, answers.asked),
            }
            for name, score in scored.items()
        ],
    }


def _class_names(path: Path, found: Sequence[Answers]) -> list[str]:
    """Return the names of the classes, numbers where the model does not say them."""
    largest = max(int(max(answers.given.max(), answers.true.max())) for answers in found) + 1
    try:
        names = [_readable(str(name)) for name in read_description(path).get("classes") or []]
    except ValueError:
        names = []
    return names if len(names) >= largest else [*names, *map(str, range(len(names), largest))]


def _readable(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()


def _thumbnails(path: Path, shown: np.ndarray, place: str | None, notes: list[str]) -> dict | None:
    try:
        image_SCHW = TrainedRun.open(path, place=place).data.data.train_image[shown].cpu().numpy()
    except (OSError, ValueError, Damaged) as error:
        notes.append(f"There are no thumbnails, since the data are not at hand: {error}")
        return None
    if image_SCHW.dtype != np.uint8:
        image_SCHW = (image_SCHW.clip(0, 1) * 255).round().astype(np.uint8)
    if image_SCHW.shape[1] not in (1, 3):
        image_SCHW = image_SCHW[:, :1]
    return pictures.thumbnails(image_SCHW)
