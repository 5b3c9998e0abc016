"""How many threads MXNet's CPU operators use.

On x86, MXNet 1.9.1 takes half of the processors it sees because it supposes that every core counts
twice (hyper-threading). Where it does not, in most virtual machines, half of the machine stays
idle. Setting ``OMP_NUM_THREADS`` to the number of cores before MXNet loads mends it: on two cores
without hyper-threading a VAA training step went from 1.1 to 2.2 images a second.
"""

from __future__ import annotations

import os
import sys

VARIABLE = "OMP_NUM_THREADS"


def count_cores(folder="/sys/devices/system/cpu", usable=None):
    """Return how many cores this process may use, counting the threads of one core once.

    Args:
        folder: Where Linux describes the processors.
        usable: Numbers of the processors that may be used; by default those of this process.
    """
    if usable is None:
        has_affinity = hasattr(os, "sched_getaffinity")
        usable = os.sched_getaffinity(0) if has_affinity else range(os.cpu_count() or 1)
    cores = set()
    for number in usable:
        try:
            path = os.path.join(folder, f"cpu{number}", "topology", "thread_siblings_list")
            with open(path, encoding="ascii") as file:
                cores.add(file.read().strip())
        except OSError:
            cores.add(number)
    return max(len(cores), 1)


def enable(environ=None, loaded=None, cores=None):
    """Set ``OMP_NUM_THREADS`` unless the user has, or MXNet is loaded already.

    Returns:
        Whether it was set.
    """
    environ = os.environ if environ is None else environ
    loaded = "mxnet" in sys.modules if loaded is None else loaded
    if loaded or environ.get(VARIABLE):
        return False
    environ[VARIABLE] = str(count_cores() if cores is None else cores)
    return True
