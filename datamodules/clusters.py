"""Wrong labels that come in groups of images that look alike.

Legend: N training examples, n those of one class, F features.
"""

from dataclasses import dataclass

import numpy as np
from torch.nn import functional as F

from vitmem.datamodules.corruption import Noise
from vitmem.datamodules.sources import ImageData

_SIDE = 8  # pixels of the small images that are grouped
_CHUNK = 2**24  # pixel values that are read at once


@dataclass(frozen=True)
class Cluster(Noise):
    """Groups of images that look alike get the same wrong label, after the cluster noise of arXiv 2412.00244.

    The images of each class are grouped by k-means on their pixels, averaged to at most 8 x 8. Groups are taken in
    random order, each with one wrong label, drawn uniformly from the other classes, until ``rate`` of all labels are
    wrong; of the last group, only the images nearest to its middle. A wrong label can so be learnt as a rule, not as
    an exception alone. On another processor, k-means may round an image into another group.

    Args:
        rate: share of the training examples whose label is wrong, in [0, 1].
        seed: seed of the corruption, independent of the model's seed.
        exact: without effect: the rate is always exact.
        repeats: how often each noisy example occurs in the training set.
        canaries: so many of the other training examples get a label drawn uniformly from all classes.
        clusters: groups of each class, at least 1 and at most its number of images; 1 mislabels whole classes.
    """

    kind = "cluster"
    clusters: int = 20

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.clusters <= 10_000:
            raise ValueError(f"noise.clusters is {self.clusters}; it must be at least 1 and at most 10000")

    def given_labels(self, data):
        """Group the images of each class, then mislabel groups."""
        true, rng = data.train_label.numpy(), np.random.RandomState(self.seed)
        small_NF = _small(data)
        groups = []
        for y in range(data.num_classes):
            members = np.flatnonzero(true == y)
            groups += [(y, members[rows]) for rows in _groups(small_NF[members], self.clusters, self.seed)]
        order = rng.permutation(len(groups))
        shift = rng.randint(1, data.num_classes, size=len(groups))
        given, left, taken = true.copy(), round(self.rate * len(true)), 0
        for number in order:
            if not left:
                break
            y, members = groups[number]
            given[members[:left]] = (y + shift[number]) % data.num_classes
            left -= min(left, len(members))
            taken += 1
        return given, {"clusters": self.clusters, "num_groups": len(groups), "num_wrong_groups": taken}


def _small(data: ImageData) -> np.ndarray:
    """Return N F pixels of images that are averaged to at most 8 x 8."""
    count, (channels, height, width) = len(data.train_label), data.image_shape
    size = (min(height, _SIDE), min(width, _SIDE))
    found = np.empty((count, channels * size[0] * size[1]), dtype=np.float64)
    for rows in np.array_split(np.arange(count), 1 + count * channels * height * width // _CHUNK):
        found[rows] = F.adaptive_avg_pool2d(data.train_image[rows].double(), size).flatten(1).numpy()
    return found


def _groups(small_nF: np.ndarray, clusters: int, seed: int) -> list[np.ndarray]:
    """Return the rows of each group, nearest to its middle first."""
    from sklearn.cluster import KMeans

    if not len(small_nF):
        return []
    fitted = KMeans(min(clusters, len(np.unique(small_nF, axis=0))), n_init=1, random_state=seed).fit(small_nF)
    distance_n = np.linalg.norm(small_nF - fitted.cluster_centers_[fitted.labels_], axis=1)
    order = np.argsort(distance_n, kind="stable")
    return [order[fitted.labels_[order] == k] for k in range(fitted.n_clusters)]
