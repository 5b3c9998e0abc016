"""Checking, packing and generating data sets: what the command line does, without it.

``run`` carries out a parsed command. ``check`` looks for missing parts, broken images and counts
that differ from the published ones.
"""

from __future__ import annotations

import importlib
import logging
import os
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Sequence

from gluon_attn.core.errors import naming
from gluon_attn.core.files import sha256_of
from gluon_attn.core.shards import Shard
from gluon_attn.data import DATASETS, LATER
from gluon_attn.data.base import AttributeDataset
from gluon_attn.data.cifar import WRITTEN, convert_png
from gluon_attn.data.images import BadImageError, NoOverlapError
from gluon_attn.data.layout import Located, PathLike, lacking
from gluon_attn.data.packed import load_info
from gluon_attn.data.packing import make_plan, pack
from gluon_attn.data.published_sizes import CountReport
from gluon_attn.data.scan import shortened

logger = logging.getLogger(__name__)

GENERATED = ("train", "val", "test")
# Official data sets, and folders of one's own, with those settings of their readers that the
# command line offers.
OFFICIAL = {
    **{kind: DATASETS.get(kind).settings for kind in DATASETS.names()
       if kind not in (*LATER, "wider_srn", "garments")},
    **dict.fromkeys(LATER, ()),
}  # fmt: skip
# Synthetic sets: the module with write_<name> and IMAGES[<name>]; what reads their images, where.
GENERATORS = {
    "synthetic": ("people", "wider", "."),
    "tasks": ("people", "wider", "scenes"),
    "digits": ("digits", "list", "."),
    "digits_single": ("digits", "folders", "."),
}
OWN = ("wider", "list", "folders", "coco_keypoints", "packed")  # without a tiny tree of their own
UNPACKED = ("coco", "coco_keypoints", "packed")  # images with boxes, or packed ones: only checked
# How the command line offers a setting: arguments of ``add_argument``.
SETTINGS: Mapping[str, Mapping[str, Any]] = {
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
                  "help": "training images of a class, 30 or 60 in the papers (default: 30)"},
    "test_per_class": {"type": int, "default": 25, "metavar": "N",
                       "help": "test images of a class (default: 25)"},
    "split_file": {"metavar": "FILE", "help": "file of the split: JSON, of the clothing sets CSV "
                   "(photo,split); theirs and Caltech-256's is written if there is none, by "
                   "default beside the images"},
    "coding": {"choices": ("list", "wider"), "default": "list",
               "help": "list: 1, 0, -1 are positive, negative, unspecified; wider: 1, -1, 0 "
               "(default: list)"},
}  # fmt: skip


def run(
    options: Any, say: Callable[[str], Any], write_tiny: Callable[..., Any] | None = None
) -> int:
    """Carry out a parsed command and return the exit code.

    ``say`` is called with each piece of text for the user, ``write_tiny`` for the command ``tiny``.
    """
    kind = options.command
    if kind in (*GENERATORS, "tiny"):
        return generate(options, say, write_tiny)
    if kind == "cifar10_png":
        convert_png(options.root, options.out, options.test_batches, overwrite=options.overwrite)
        say(open_splits("cifar10", options.out, GENERATED)[1].text())
        say(f"written to {options.out}: {', '.join(WRITTEN)}")
        return 0
    root = options.root or (options.check if isinstance(options.check, str) else None)
    if not root:
        raise ValueError("--root DIR is needed (or --check DIR)")
    if kind in UNPACKED and not options.check:
        raise ValueError(f"{kind} is read as it is, not packed; --check it")
    if not options.check and not options.out:
        raise ValueError("--out DIR is needed, unless --check only checks")
    kind = "wider_srn" if getattr(options, "srn", False) else kind
    extra = {key: getattr(options, key) for key in getattr(options, "reader_options", ())}
    reader = DATASETS.get(kind)
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{root} is no folder")
    if options.check:
        found = check(kind, reader, root, options.splits or reader.expected_splits(root), **extra)
        say(found.text())
        return 0 if found.ok else 1
    if Path(options.out).resolve() == Path(root).resolve():
        raise ValueError(
            f"--out {options.out} is the folder of the data themselves, of which later only the "
            "packed copy would be read: give another"
        )
    existing = options.splits or existing_splits(kind, root, **extra)
    lost = missing_parts(reader, root, existing, **extra)
    if lost:
        raise FileNotFoundError("; ".join(lost))
    datasets, report = open_splits(kind, root, existing, options.on_bad_image, **extra)
    say(report.text())
    absent = [s for s in reader.expected_splits(root) if not options.splits and s not in existing]
    if absent:
        say(f"not there, so not packed: {', '.join(absent)}")
    names = ("size", "quality", "workers", "overwrite", "train_size", "shard")
    for text in pack_splits(datasets, options.out, **{n: getattr(options, n) for n in names}):
        say(text)
    return 0


def generate(
    options: Any, say: Callable[[str], Any], write_tiny: Callable[..., Any] | None = None
) -> int:
    """Write a synthetic data set or a miniature tree, read it back and show its counts."""
    given = {split: getattr(options, split) for split in GENERATED}
    images = {split: n for split, n in given.items() if n is not None}
    if options.command == "tiny" and write_tiny is not None:
        kind, root, version = options.name, Path(options.out), options.version
        write_tiny(kind, root, images, options.seed, options.overwrite, version=version)
        splits = existing_splits(kind, root)
    else:
        module, kind, place = GENERATORS[options.command]
        generator = importlib.import_module(f"gluon_attn.data.synthetic.{module}")
        write, root = getattr(generator, f"write_{options.command}"), Path(options.out) / place
        extra = {"side": options.side} if options.command == "digits_single" else {}
        expected = write(
            options.out,
            images={**generator.IMAGES[options.command], **images},
            seed=options.seed,
            workers=options.workers,
            overwrite=options.overwrite,
            **extra,
        )["expected"]
        # A handful of scenes may happen to show no one.
        splits = [s for s in GENERATED if kind != "wider" or expected[s]["boxes"]]
    say(open_splits(kind, root, splits)[1].text())
    say(f"written to {options.out}")
    return 0


def existing_splits(kind: str, root: PathLike, **options: Any) -> list[str]:
    """Return those of a reader's splits whose lists or annotation exist; at least one."""
    reader = DATASETS.get(kind)
    found = [split for split in reader.splits if reader.has_split(root, split, **options)]
    if not found:
        raise FileNotFoundError(f"no data set of kind '{kind}' in {root}: {reader.looks_for}")
    return found


def open_splits(
    kind: str, root: PathLike, splits: Sequence[str], on_bad_image: str = "error", **options: Any
) -> tuple[dict[str, Any], CountReport]:
    """Return ``({split: dataset}, CountReport)``."""
    reader = DATASETS.get(kind)
    options["on_bad_image"] = on_bad_image
    with naming(root):
        datasets = {split: reader(root, split, **options) for split in splits}
    return datasets, CountReport.join(dataset.report for dataset in datasets.values())


def pack_splits(
    datasets: Mapping[str, AttributeDataset],
    out: PathLike,
    size: int = 256,
    quality: int = 95,
    *,
    overwrite: bool = False,
    shard: Shard | None = None,
    **options: Any,
) -> Iterator[str]:
    """Pack data sets into ``out/<split>.rec``; yield one line of text per split when it is done.

    With ``shard`` it is that part of each. A split that is packed already from the same samples
    with the same settings is kept, so that an interrupted command can be repeated as it was; of
    others FileExistsError.
    """
    out = Path(out)
    names = {split: shard.named(split) if shard else split for split in datasets}
    plans = {split: make_plan(data, size, quality, shard) for split, data in datasets.items()}
    kept = [] if overwrite else [s for s in datasets if _is_packed(out, names[s], plans[s])]
    for split, dataset in datasets.items():
        path = out / f"{names[split]}.rec"
        if split in kept:
            yield f"{path}: packed already, kept (--overwrite packs it again)"
            continue
        info = pack(
            dataset, out / split, size, quality, overwrite=overwrite, shard=shard, **options
        )
        lines = [f"{path}: {info['count']:,} samples, {info['rec_bytes'] / 1e6:,.1f} MB"]
        if info["skipped"]:
            lines.append(f"  {len(info['skipped'])} left out:")
            reasons = [f"{item['id']}: {item['reason']}" for item in info["skipped"]]
            lines += shortened(reasons, "    ")
        yield "\n".join(lines)


def _is_packed(out: Path, split: str, plan: Mapping[str, Any]) -> bool:
    """Return whether a finished split is there; raise if it is another one."""
    if not (out / f"{split}.json").exists():
        return False
    info = load_info(out, split)
    wanted = {"shard": None, **plan}
    other = [key for key, value in wanted.items() if key != "encoder" and info.get(key) != value]
    if other:
        raise FileExistsError(
            f"{out / split}.json exists and differs in {', '.join(other)}; use --overwrite to "
            "replace it, or choose another folder"
        )
    return True


class Check:
    """Everything about a data set that ``--check`` tells; ``text()`` begins with the summary.

    ``missing`` is a line per part; all images of ``datasets`` are read. Then ``lost`` are sample
    ids whose image does not exist, ``broken`` ``[(sample id, reason)]``, ``total`` all images;
    ``leaks`` are lines by split about its images that are in training or validation, too: of
    folders and lists also copies of them, byte for byte (official sets have some).
    """

    def __init__(
        self,
        kind: str,
        missing: Sequence[str],
        report: CountReport | None,
        datasets: Sequence[Any] = (),
        *,
        progress: bool = True,
    ) -> None:
        self.kind, self.missing, self.report = kind, list(missing), report
        self.lost: list[str] = []
        self.broken: list[tuple[str, str]] = []
        self.total = 0
        self._places: dict[str, dict[str, str]] = {}  # of each split, {what tells an image: path}
        for dataset in datasets:
            self._read(dataset, progress)
        found = {split: self._known(split) for split in self._places}
        self.leaks = {split: lines for split, lines in found.items() if lines}

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self._faults()

    def text(self) -> str:
        """Return the summary, a line per fault (the first of many), and the report."""
        faults = self._faults()
        if not faults:
            lines = [f"{self.kind}: complete; {self.total:,} images read, 0 cannot be read"]
        else:
            lines = [f"{self.kind}: not as it should be: {', '.join(faults)}"]
            lines += [f"  {line}" for line in self.missing]
            if len(self.lost) < self.total:
                lines += shortened([f"{name}: does not exist" for name in self.lost])
            lines += shortened([f"{name}: {reason}" for name, reason in self.broken])
            for leaks in self.leaks.values():
                lines += shortened(leaks)
        return "\n".join(lines) + (f"\n\n{self.report.text()}" if self.report else "")

    def _faults(self) -> list[str]:
        empty = len(self.report.faults) if self.report else 0
        differences = len(self.report.differences()) if self.report else 0
        missing, lost, broken = len(self.missing), len(self.lost), len(self.broken)
        example = f", such as {self.lost[0]}" if lost == self.total and lost else ""
        leaks = sum(map(len, self.leaks.values()))
        faults = [
            (leaks, f"{leaks:,} image{'' if leaks == 1 else 's'} of both training and test"),
            (missing, f"{missing} part{' is' if missing == 1 else 's are'} missing"),
            (lost, f"{lost:,} of {self.total:,} images are missing{example}"),
            (broken, f"{broken:,} image{'' if broken == 1 else 's'} cannot be read"),
            (empty, f"classes without images in {empty} split{'' if empty == 1 else 's'}"),
            (differences, f"{differences:,} count{' differs' if differences == 1 else 's differ'}"),
        ]
        return [fault for count, fault in faults if count]

    def _known(self, split: str) -> list[str]:
        """Return a line for each image of a split that is in one that is learnt from, too."""
        before = {"train": (), "trainval": (), "val": ("train",)}
        others = before.get(split, ("train", "val", "trainval"))
        known = {key: (path, o) for o in others for key, path in self._places.get(o, {}).items()}
        lines = []
        for key, path in self._places[split].items():
            if key in known:
                first, other = known[key]
                copied = "" if first == path else f", as {first}"
                lines.append(f"{path}: of {split} and of {other}{copied}")
        return sorted(lines)

    def _read(self, dataset: Any, progress: bool) -> None:
        """Read every image of a data set; one that several samples show counts once."""
        from tqdm import tqdm

        seen: set[str] = set()
        images = self._places[dataset.split] = {}
        positions = range(len(dataset))
        for i in tqdm(positions, f"check {dataset.split}", disable=None if progress else True):
            name = dataset.sample_ids[i]
            try:
                path = str(dataset.path(i))
            except NotImplementedError:  # all images are in one file
                path = f"{dataset.split}: {name}"
            first = path not in seen
            seen.add(path)
            if first:
                copies = self.kind in ("list", "folders") and os.path.isfile(path)
                images[sha256_of(path) if copies else path] = path
            try:
                dataset.read(i)
            except NoOverlapError:
                continue
            except BadImageError as error:
                if first and not os.path.exists(error.path):
                    self.lost.append(name)
                elif first:
                    self.broken.append((name, error.reason))
        self.total += len(seen)


def missing_parts(
    reader: type[Located], root: PathLike, splits: Sequence[str], **options: Any
) -> list[str]:
    """Return a line per part of a data set that is missing, with the splits that need it."""
    needed: dict[str, list[str]] = {}
    places = {}
    for split in splits:
        found = reader.locate(root, split, **options)
        for part in found.missing:
            needed.setdefault(part.name, []).append(split)
            given = options.get(part.option) if part.option else None
            places[part.name] = given or found.path(part)
    return [
        f"{name} {lacking(places[name])} ({', '.join(who)}): looked for {places[name]}"
        for name, who in needed.items()
    ]


def check(
    kind: str,
    reader: type[Any],
    root: PathLike,
    splits: Sequence[str],
    *,
    progress: bool = True,
    **options: Any,
) -> Check:
    """Check a data set; ``splits`` are those that should be there, ``options`` the settings."""
    if not any(reader.locate(root, split, **options).paths for split in splits):
        raise FileNotFoundError(f"no data set of kind '{kind}' in {root}: {reader.looks_for}")
    missing = missing_parts(reader, root, splits, **options)
    opened, reports = [], []
    for split in splits:
        if not reader.has_split(root, split, **options):
            continue
        complete = not reader.locate(root, split, **options).missing
        try:
            dataset = reader(root, split, on_bad_image="skip", **options)
        except FileNotFoundError as error:  # not a part, but one of several ways to give a list
            missing += [str(error)] if complete else []
            continue
        reports.append(dataset.report)
        opened += [dataset] if complete else []
    report = CountReport.join(reports) if reports else None
    return Check(kind, missing, report, opened, progress=progress)
