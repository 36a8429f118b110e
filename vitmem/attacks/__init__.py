"""The contract and the registry of attacks.

To add one, write a file with a class of ``contract.Attack`` and one line in ``attacks()``; another package registers it
in the entry-point group ``vitmem.attacks``.
"""

from vitmem.attacks.contract import Attack, AttackData, AttackResult
from vitmem.registry import registered

__all__ = ["Attack", "AttackData", "AttackResult", "attacks"]


def attacks() -> dict[str, type[Attack]]:
    """Return the registered attacks by name: ours, and those of installed packages (group ``vitmem.attacks``)."""
    from vitmem.attacks.compress import Compress
    from vitmem.attacks.connectivity import Connectivity
    from vitmem.attacks.membership import Membership
    from vitmem.attacks.over_unlearning import OverUnlearning
    from vitmem.attacks.probes import Imprint, Probes
    from vitmem.attacks.prototype import Prototype
    from vitmem.attacks.quantize import Quantize
    from vitmem.attacks.relearn import Relearn
    from vitmem.attacks.sequential import Sequential
    from vitmem.attacks.steer import Steer
    from vitmem.attacks.views import Views

    builtin: dict[str, type[Attack]] = {
        "relearn": Relearn,
        "quantize": Quantize,
        "views": Views,
        "compress": Compress,
        "sequential": Sequential,
        "membership": Membership,
        "connectivity": Connectivity,
        "probes": Probes,
        "imprint": Imprint,
        "prototype": Prototype,
        "steer": Steer,
        "over_unlearning": OverUnlearning,
    }
    return registered("vitmem.attacks", builtin)
