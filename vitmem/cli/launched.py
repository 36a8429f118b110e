"""Which launcher started this process beside others; without one, what clusters and images left behind is ignored.

Lightning and PyTorch believe variables such as ``LOCAL_RANK``: a process that has a rank but no peers would do nothing,
or wait for them without end.
"""

import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PARENT = "VITMEM_PARENT"  # the process whose children Lightning starts; they inherit it
_AGENT = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE")
_TORCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", *_AGENT)
_PLACE = ("MASTER_ADDR", "MASTER_PORT")
_SLURM = ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
_OTHERS = re.compile(r"(PMI|PMIX|OMPI_COMM_WORLD|MV2_COMM_WORLD|JSM_NAMESPACE|LSB_DJOB)_\w+|MPI_LOCALN?RANKID?S?")
_COUNTS = re.compile(r"(LOCAL_)?WORLD_SIZE|SLURM_NTASKS(_PER_NODE)?|\w+_(LOCAL_|UNIVERSE_)?SIZE")
_RANKS = re.compile(r"\w*RANK|SLURM_(PROCID|LOCALID|NODEID)")


@contextmanager
def alone_or_launched() -> Iterator[None]:
    """Take variables out of the environment that would make this process one of several, unless a launcher set them.

    Raises:
        ValueError: Lightning started this process, and the one that it belongs to has ended.
    """
    before = dict(os.environ)
    ignored = _left_behind()
    for name in ignored:
        del os.environ[name]
    if told := [name for name in ignored if _speaks_of_others(name, before[name])]:
        print(
            f"vitmem: {', '.join(told)} ignored: neither torchrun nor srun set them for this process",
            file=sys.stderr,
        )
    os.environ.setdefault(PARENT, str(os.getpid()))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _left_behind() -> list[str]:
    """Return the variables that no launcher stands behind."""
    if PARENT in os.environ:
        if os.environ[PARENT] != str(os.getppid()):
            raise ValueError(f"the process {os.environ[PARENT]} that started this one has ended; unset {PARENT}")
        return []
    if "TORCHELASTIC_RUN_ID" in os.environ and _numbers(*_TORCH[:3], "MASTER_PORT") and _answers():
        return []
    slurm = _numbers("SLURM_STEP_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
    slurm = slurm and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")  # a terminal in a job
    if not slurm:
        left = (*_TORCH, *_PLACE, *_SLURM)
        return [name for name in os.environ if name in left or _OTHERS.fullmatch(name)]
    if os.environ.get("RANK") == os.environ["SLURM_PROCID"]:  # a script told PyTorch what srun told it
        return []
    return [name for name in os.environ if name in _TORCH]


def _numbers(*names: str) -> bool:
    return all(os.environ.get(name, "").isdigit() for name in names)


def _answers() -> bool:
    """Tell whether the agent of torchrun is there, where it keeps the store of its processes."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    try:
        socket.create_connection((os.environ.get("MASTER_ADDR"), int(os.environ["MASTER_PORT"])), timeout=10).close()
    except OSError:
        return False
    return True


def _speaks_of_others(name: str, value: str) -> bool:
    """Tell whether a variable says that there are several processes, or that this is not the first."""
    return bool((_COUNTS.fullmatch(name) and value != "1") or (_RANKS.fullmatch(name) and value != "0"))
