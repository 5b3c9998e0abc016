"""gluon_attn: five published visual-attention methods behind one Gluon API, on MXNet 1.9.1.

Importing the package first asks whether MXNet can run here and raises `UnsuitableEnvironment`, one
message with its remedy, if it cannot. Then it prepares the process: on numpy 1.24 to 1.26 the name
that MXNet misses is put back, the GPU wheel's CUDA libraries are loaded, and AMX is switched on
where the processor and the kernel have it. All of this must happen before ``import mxnet``, so
**import gluon_attn first**. MXNet itself is not imported here.

``python -m gluon_attn.runtime`` prints what was found; `gluon_attn.runtime` has the rest.
"""

from __future__ import annotations

from gluon_attn.env import environment as _environment
from gluon_attn.env.environment import UnsuitableEnvironment

__version__ = "0.2.0"
__all__ = ["UnsuitableEnvironment", "__version__"]

if not _environment.is_doctor():
    _environment.require()
    _environment.prepare()
