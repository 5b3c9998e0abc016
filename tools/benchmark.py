"""Measure speed and memory as ratios in one run.

python tools/benchmark.py train                   one VAA training step, three ways
python tools/benchmark.py awmt                    an AWMT step against a basic-model step
python tools/benchmark.py data --data-dir PACKED  the loader against OpenCV alone
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gluon_attn.workflows import cli  # noqa: E402


def flags():
    """Return the command's flags."""
    parser = cli.parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="one training step")
    train.add_argument("--model", default="vaa_resnet101", help="default: vaa_resnet101")
    train.add_argument("--size", type=int, default=224, help="input side in pixels; default: 224")
    train.add_argument("--batch-size", type=int, default=8, help="default: 8")
    train.add_argument("--rounds", type=int, default=5, help="turns of each variant; default: 5")
    awmt = commands.add_parser("awmt", help="a step with adaptive weights against fixed ones")
    awmt.add_argument("--model", default="awmt_resnet50", help="default: awmt_resnet50")
    awmt.add_argument("--size", type=int, default=224, help="input side in pixels; default: 224")
    awmt.add_argument("--images", type=int, default=20, help="images per step; default: 20")
    awmt.add_argument("--rounds", type=int, default=5, help="turns of each; default: 5")
    data = commands.add_parser("data", help="data loading")
    data.add_argument("--data-dir", required=True, help="packed folder (tools/prepare_data.py)")
    data.add_argument("--split", default="train", help="default: train")
    data.add_argument("-j", "--num-workers", type=int, default=2, help="threads; default: 2")
    data.add_argument("--rounds", type=int, default=5, help="default: 5")
    for command in (train, awmt, data):
        command.add_argument("--json", metavar="FILE", help="also write all figures here")
    return parser


def main():
    """Measure and print."""
    args = flags().parse_args()
    from gluon_attn.workflows import benchmark as work

    if args.command == "train":
        result = work.benchmark_training(
            args.model, args.size, args.batch_size, args.rounds,
            report=lambda line: print(line, file=sys.stderr),
        )  # fmt: skip
        print(work.training_table(result))
    elif args.command == "awmt":
        from gluon_attn.workflows.benchmark_awmt import benchmark_weights, weights_table

        result = benchmark_weights(
            args.model, args.size, args.images, args.rounds,
            report=lambda line: print(line, file=sys.stderr),
        )  # fmt: skip
        print(weights_table(result))
    else:
        from gluon_attn.data import open_dataset
        from gluon_attn.data.bench import loader_rate

        dataset = open_dataset(args.data_dir, args.split, kind="packed")
        result = loader_rate(dataset, workers=args.num_workers, rounds=args.rounds)
        print(work.data_table(result))
    if args.json:
        from gluon_attn.files import write_text

        write_text(args.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main)
