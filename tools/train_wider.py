"""Train VAA (or another recipe) on WIDER-Attribute.

python tools/train_wider.py --data-dir WIDER --save-dir RUN --base-params resnet101_v1.params
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gluon_attn.cli import common as cli  # noqa: E402
from gluon_attn.cli import train  # noqa: E402

if __name__ == "__main__":
    cli.run(lambda: train.main(None, __doc__, "vaa_wider_resnet101"))
