"""What ``tools/prepare_data.py`` does, without the command line."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path

from gluon_attn.core.errors import naming
from gluon_attn.data.base import DATASETS
from gluon_attn.data.check import check, missing_parts
from gluon_attn.data.counts import CountReport
from gluon_attn.data.packed import load_info
from gluon_attn.data.packing import make_plan, pack
from gluon_attn.data.scan import shortened

logger = logging.getLogger(__name__)


GENERATED = ("train", "val", "test")
# Official data sets, and folders of one's own, with the settings of their readers.
OFFICIAL = {
    "wider": (), "peta": ("partition", "uncertain", "seed", "split_file"),
    "rap": ("partition", "uncertain", "holdout", "seed"), "pa100k": ("uncertain",), "celeba": (),
    "market": ("attributes", "holdout", "seed"),
    "duke": ("attributes", "holdout", "seed", "repair"),
    "reid_market": ("holdout", "seed"), "reid_duke": ("holdout", "seed"),
    "voc": ("difficult",), "voc2007": ("difficult",),
    "cifar10": ("holdout", "seed"), "cifar100": ("holdout", "seed", "coarse"),
    "cub200": ("holdout", "seed"),
    "caltech256": ("per_class", "test_per_class", "holdout", "seed", "split_file"),
    "imagenet": (), "clothing_co_parsing": ("seed",), "clothing_dataset": ("seed",),
    "list": ("coding",), "folders": (), "coco": (), "coco_keypoints": (), "packed": (),
}  # fmt: skip
# Drawn sets: the module with IMAGES and write_<name>; what reads their pictures, and where.
GENERATORS = {
    "synthetic": ("people", "wider", "."), "tasks": ("synthetic_tasks", "wider", "scenes"),
    "digits": ("digits", "list", "."), "digits_single": ("digits_single", "folders", "."),
}  # fmt: skip
OWN = ("wider", "list", "folders", "coco_keypoints", "packed")  # without a tiny tree of their own
UNPACKED = ("coco", "coco_keypoints", "packed")  # images with boxes, or packed ones: only checked
SETTINGS = {
    "partition": {"type": int, "default": 1, "metavar": "N",
                  "help": "which of the file's random partitions, 1 to 5 (default: 1)"},
    "uncertain": {"choices": ("negative", "unspecified"), "default": "negative",
                  "help": "what label value 2 becomes, where the file has some: RAP does, PETA.mat "
                  "and PA-100K do not (default: negative)"},
    "holdout": {"type": float, "default": 0.1, "metavar": "SHARE",
                "help": "share of the training part that becomes the validation split where the "
                "authors give none (default: 0.1)"},
    "seed": {"type": int, "default": 0, "help": "seed of the choice of splits (default: 0)"},
    "attributes": {"metavar": "FILE", "help": "the .mat file, if it is not in the folder"},
    "repair": {"action": "store_true", "help": "fill in the two missing values of 'top'"},
    "difficult": {"choices": ("masked", "negative", "positive"), "default": "masked",
                  "help": "what difficult objects become (default: masked)"},
    "coarse": {"action": "store_true", "help": "take the 20 superclasses as labels"},
    "per_class": {"type": int, "default": 30, "metavar": "N",
                  "help": "training pictures of a class, 30 or 60 in the papers (default: 30)"},
    "test_per_class": {"type": int, "default": 25, "metavar": "N",
                       "help": "test pictures of a class (default: 25)"},
    "split_file": {"metavar": "FILE", "help": "JSON file of the split; Caltech-256's is written "
                   "beside the images if there is none"},
    "coding": {"choices": ("list", "wider"), "default": "list",
               "help": "list: 1, 0, -1 are positive, negative, unspecified; wider: 1, -1, 0 "
               "(default: list)"},
}  # fmt: skip


def run(options, say, write_tiny=None):
    """Carry out a parsed command and return the exit code.

    Args:
        options: The command line's namespace.
        say: Called with each piece of text for the user.
        write_tiny: Writer of miniature trees, for the command ``tiny``.

    Raises:
        OSError, ValueError: Whatever is wrong with the data, the arguments or the disk.
    """
    if options.command in (*GENERATORS, "tiny"):
        return generate(options, say, write_tiny)
    if options.command == "cifar10_png":
        from gluon_attn.data.cifar_png import convert

        convert(options.root, options.out, options.test_batches)
        say(open_splits("cifar10", options.out, ("train", "val", "test"))[1].text())
        return 0
    root = options.root or (options.check if isinstance(options.check, str) else None)
    if not root:
        raise ValueError("--root DIR is needed (or --check DIR)")
    if options.command in UNPACKED and not options.check:
        raise ValueError(f"{options.command} is read as it is, not packed; --check it")
    if not options.check and not options.out:
        raise ValueError("--out DIR is needed, unless --check only checks")
    kind = "wider_srn" if getattr(options, "srn", False) else options.command
    extra = {key: getattr(options, key) for key in getattr(options, "reader_options", ())}
    reader = DATASETS.get(kind)
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{root} is no folder")
    if options.check:
        found = check(kind, reader, root, options.splits or reader.expected_splits(root), **extra)
        say(found.text())
        return 0 if found.ok else 1
    existing = options.splits or existing_splits(kind, root, **extra)
    lost = missing_parts(reader, root, existing, **extra)
    if lost:
        raise FileNotFoundError("; ".join(lost))
    datasets, report = open_splits(kind, root, existing, options.on_bad_image, **extra)
    say(report.text())
    absent = [s for s in reader.expected_splits(root) if not options.splits and s not in existing]
    if absent:
        say(f"not there, so not packed: {', '.join(absent)}")
    settings = {key: getattr(options, key) for key in ("size", "quality", "workers", "overwrite")}
    for text in pack_splits(datasets, options.out, train_size=options.train_size, **settings):
        say(text)
    return 0


def generate(options, say, write_tiny=None):
    """Write a synthetic data set, read it back and show its counts."""
    given = {split: getattr(options, split) for split in GENERATED}
    if options.command == "tiny":
        return _generate_tiny(options, given, say, write_tiny)
    module, kind, place = GENERATORS[options.command]
    module = importlib.import_module(f"gluon_attn.data.synthetic.{module}")
    write = getattr(module, f"write_{options.command}")
    images = dict(module.IMAGES, **{split: n for split, n in given.items() if n is not None})
    extra = {"side": options.side} if options.command == "digits_single" else {}
    report = write(
        options.out,
        images=images,
        seed=options.seed,
        workers=options.workers,
        overwrite=options.overwrite,
        **extra,
    )
    expected = report["expected"]  # a handful of scenes may happen to show nobody
    filled = [s for s in GENERATED if kind != "wider" or expected[s]["boxes"]]
    say(open_splits(kind, Path(options.out) / place, filled)[1].text())
    say(f"written to {options.out}")
    return 0


def _generate_tiny(options, given, say, write_tiny):
    images = {split: n for split, n in given.items() if n is not None}
    extra = _version(options)
    write_tiny(options.name, options.out, images, options.seed, options.overwrite, **extra)
    splits = existing_splits(options.name, options.out)
    say(open_splits(options.name, options.out, splits)[1].text())
    say(f"written to {options.out}")
    return 0


def _version(options):
    """Return the version that a tiny tree is asked for, as an argument, if its format has some.

    Raises:
        ValueError: If it has none of that name.
    """
    versions = {
        "rap": {"1": 1, "2": 2},
        "peta": {"mat": "mat", "folders": "folders"},
        "cifar10": {"python": "python", "binary": "binary"},
    }
    versions["cifar100"] = versions["cifar10"]
    known = versions.get(options.name, {})
    if options.version is None:
        return {}
    if options.version not in known:
        raise ValueError(
            f"--version {options.version}: valid for {options.name} are "
            f"{', '.join(known) or '(none)'}"
        )
    return {"version": known[options.version]}


def existing_splits(kind, root, **options):
    """Return those of train, val and test (and query) whose lists or annotation exist.

    Args:
        kind: A name in ``DATASETS``.
        root: Folder of the data set.
        options: The reader's settings.

    Raises:
        FileNotFoundError: If none does; the message lists what was looked for, or is missing.
    """
    reader = DATASETS.get(kind)
    found = [split for split in reader.splits if reader.has_split(root, split, **options)]
    if not found:
        raise FileNotFoundError(f"no data set of kind '{kind}' in {root}: {reader.looks_for}")
    return found


def open_splits(kind, root, splits, on_bad_image="error", **options):
    """Return ``({split: dataset}, CountReport)``.

    Raises:
        FileNotFoundError, ValueError, BadImageError: As the reader does.
    """
    reader = DATASETS.get(kind)
    with naming(root):
        datasets = {
            split: reader(root, split, on_bad_image=on_bad_image, **options) for split in splits
        }
    return datasets, CountReport.join(dataset.report for dataset in datasets.values())


def pack_splits(datasets, out, size=256, quality=95, overwrite=False, **options):
    """Pack data sets into ``out/<split>.rec`` and yield one line of text per split when it is done.

    A split that is packed already from the same samples with the same settings is kept, so that an
    interrupted command can be repeated as it was; one that differs is refused.

    Raises:
        FileExistsError: If a packed split of other samples or settings is there.
        ValueError, BadImageError, OSError: As :func:`pack` does.
    """
    out = Path(out)
    plans = {split: make_plan(dataset, size, quality) for split, dataset in datasets.items()}
    kept = [] if overwrite else [s for s in datasets if _is_packed(out, s, plans[s])]
    for split, dataset in datasets.items():
        if split in kept:
            yield f"{out / split}.rec: packed already, kept (--overwrite packs it again)"
            continue
        info = pack(dataset, out / split, size, quality, overwrite=overwrite, **options)
        lines = [f"{out / split}.rec: {info['count']:,} samples, {info['rec_bytes'] / 1e6:,.1f} MB"]
        if info["skipped"]:
            lines.append(f"  {len(info['skipped'])} left out:")
            lines += shortened(
                [f"{item['id']}: {item['reason']}" for item in info["skipped"]], "    "
            )
        yield "\n".join(lines)


def _is_packed(out, split, plan):
    """Return whether a finished split is there; raise if it is another one."""
    if not (out / f"{split}.json").exists():
        return False
    info = load_info(out, split)
    other = [key for key, value in plan.items() if key != "encoder" and info.get(key) != value]
    if other:
        raise FileExistsError(
            f"{out / split}.json exists and differs in {', '.join(other)}; use --overwrite to "
            "replace it, or choose another folder"
        )
    return True
