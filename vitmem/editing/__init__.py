"""The contract and the registry of edits.

To add one, write a file with a class of ``contract.Edit`` and one line in ``edits()``; another package registers it in
the entry-point group ``vitmem.edits``.
"""

from vitmem.editing.contract import Edit, EditDiverged, EditResult
from vitmem.editing.data import EditData
from vitmem.registry import registered

__all__ = ["Edit", "EditData", "EditDiverged", "EditResult", "edits"]


def edits() -> dict[str, type[Edit]]:
    """Return the registered edits by name: ours, and those of installed packages (group ``vitmem.edits``)."""
    from vitmem.editing import distill, finetune, salun, subnet
    from vitmem.editing.auto import AutoEKFAC
    from vitmem.editing.dampening import SSD, Potion
    from vitmem.editing.features import Features
    from vitmem.editing.kfac import EKFAC, KFAC, InputFilter, RandomPairs, TopRemoved
    from vitmem.editing.polish import PolishedEKFAC
    from vitmem.editing.probe_head import ProbeHead
    from vitmem.editing.prune import Magnitude, Wanda
    from vitmem.editing.rewinds import FilteredRewind, RewindByBlock
    from vitmem.editing.sap import SAP
    from vitmem.editing.shrink import NormsOff, Rewind, Scale
    from vitmem.editing.svd import SVD
    from vitmem.editing.task_vector import TaskVector
    from vitmem.editing.weight_space import Midpoint, WeightDistance, WeightDistortion

    builtin = {
        "kfac": KFAC,
        "ekfac": EKFAC,
        "ekfac_auto": AutoEKFAC,
        "ekfac_polish": PolishedEKFAC,
        "input_filter": InputFilter,
        "svd": SVD,
        "scale": Scale,
        "norms_off": NormsOff,
        "rewind": Rewind,
        "rewind_filtered": FilteredRewind,
        "rewind_by_block": RewindByBlock,
        "random_pairs": RandomPairs,
        "top_removed": TopRemoved,
        # trained
        "bad_teacher": distill.BadTeacher,
        "balanced_subnet": subnet.BalancedSubnet,
        "cfk": finetune.CFk,
        "euk": finetune.EUk,
        "finetune": finetune.FineTune,
        "gradient_ascent": finetune.GradientAscent,
        "l1_sparse": finetune.L1Sparse,
        "neggrad": finetune.NegGrad,
        "npo": finetune.NPO,
        "oracle_labels": finetune.OracleLabels,
        "random_labels": finetune.RandomLabels,
        "salun": salun.SalUn,
        "scrub": distill.SCRUB,
        "subnet": subnet.Subnet,
        # closed-form and weight-space methods
        "features": Features,
        "magnitude": Magnitude,
        "midpoint": Midpoint,
        "potion": Potion,
        "probe_head": ProbeHead,
        "sap": SAP,
        "ssd": SSD,
        "task_vector": TaskVector,
        "wanda": Wanda,
        "weight_dist_reg": WeightDistance,
        "weight_distortion": WeightDistortion,
    }
    return registered("vitmem.edits", builtin)
