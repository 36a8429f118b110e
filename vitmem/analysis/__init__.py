"""The registry of analyses.

To add one, write a file with a class of ``contract.Analysis`` and one line in ``analyses()``; another package registers
it in the entry-point group ``vitmem.analyses``.
"""

from vitmem.analysis.contract import Analysis, AnalysisData, AnalysisResult
from vitmem.registry import Registry, registered

__all__ = ["Analysis", "AnalysisData", "AnalysisResult", "analyses"]


def analyses() -> Registry[type[Analysis]]:
    """Return the registered analyses by name: ours, and those that plug-ins add (group ``vitmem.analyses``)."""
    from vitmem.analysis.bands import Bands
    from vitmem.analysis.detection import Detection
    from vitmem.analysis.directions import Directions
    from vitmem.analysis.dynamics import Dynamics
    from vitmem.analysis.localise import Localise
    from vitmem.analysis.ownership import Ownership
    from vitmem.analysis.similarity import Similarity

    builtin: dict[str, type[Analysis]] = {
        "bands": Bands,
        "ownership": Ownership,
        "detection": Detection,
        "localise": Localise,
        "similarity": Similarity,
        "directions": Directions,
        "dynamics": Dynamics,
    }
    return registered("vitmem.analyses", builtin)
