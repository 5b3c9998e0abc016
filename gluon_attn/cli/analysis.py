"""What trained nets look at and how their channels behave: numbers and figures of one split.

Every kind of analysis takes several nets, so that a method can be put beside its baseline:

* ``attention``: attention maps of each image's five most probable classes (ICASC's supplement);
* ``overlap``: how much the maps of the true and of the most confusing class overlap (ICASC);
* ``selectivity``: class selectivity index per layer (supplement of AutoLA, Figure 1);
* ``tsne``: features of a layer in the plane (same, Figure 2);
* ``gradcam``: Grad-CAM and guided back-propagation side by side (same, Figure 3), and Grad-CAM
  pairs (supplement of DREAL, Figures 2 and 3);
* ``gates``: attention vectors of channel gates (same, Figure 1);
* ``critic``: critique and reward over training (same, Figure 4); from the run's log alone;
* ``localisation``: whether maps look where masks say that the attribute is.
"""

from __future__ import annotations

import argparse
import os
from typing import Any, Callable, Sequence

from gluon_attn.cli.analysis_features import (
    Models,
    Settings,
    analyse_critic,
    analyse_gates,
    analyse_selectivity,
    analyse_tsne,
)
from gluon_attn.cli.analysis_maps import analyse_attention, analyse_gradcam, analyse_overlap
from gluon_attn.cli.localisation import analyse_localisation
from gluon_attn.core.registry import unknown_name
from gluon_attn.core.schema import Schema
from gluon_attn.papers.icasc.attention import MAPS
from gluon_attn.task import Exported, Result, Trained
from gluon_attn.tasks.data import check_same_data, reading_of
from gluon_attn.train import trained as load
from model_zoo import outside, store

KINDS: dict[str, Callable[[Models, Any, Settings], Result]] = {
    "attention": analyse_attention, "overlap": analyse_overlap, "selectivity": analyse_selectivity,
    "tsne": analyse_tsne, "gradcam": analyse_gradcam, "gates": analyse_gates,
    "critic": analyse_critic, "localisation": analyse_localisation,
}  # fmt: skip
OF_MAPS = ("attention", "gradcam")  # KIND:MAP
FLAGS = {"attention": ("attention", "overlap"), "localisation": ("localisation",)}
NUMBERS: dict[str, Any] = {"overlap": float, "tsne": int}


def parse_kind(text: str) -> tuple[str, Any]:
    """Return ``(kind, choice)`` of ``KIND`` or ``KIND:CHOICE``.

    ``attention`` and ``gradcam`` take the kind of map (``grad_cam``, ``channel_weighted``),
    ``overlap`` the threshold, ``tsne`` the number of the stage.
    """
    kind, colon, choice = text.partition(":")
    if kind not in KINDS:
        raise ValueError(unknown_name("kind of analysis", kind, KINDS))
    if not colon:
        return kind, None
    if kind in OF_MAPS:
        if choice not in MAPS:
            raise ValueError(unknown_name(f"map of '{kind}'", choice, MAPS))
        return kind, choice
    if kind not in NUMBERS:
        raise ValueError(f"'{text}': {kind} takes nothing behind a colon")
    try:
        return kind, NUMBERS[kind](choice)
    except ValueError:
        raise ValueError(f"'{text}': {choice!r} is no {NUMBERS[kind].__name__}") from None


def analyse(
    models: Models, dataset: Any, kinds: Sequence[str], settings: Settings
) -> dict[str, Result]:
    """Run kinds of analysis one after another.

    ``models`` are by name, baselines first, as they are to stand in the figures; ``dataset`` is the
    split, whose columns are the nets' classes; ``kinds`` are texts for :func:`parse_kind`.
    """
    parsed = [parse_kind(text) for text in kinds]
    for name, trained in models.items():
        if tuple(trained.classes) != tuple(dataset.names):
            raise ValueError(
                f"'{name}' has {len(trained.classes)} classes ({', '.join(trained.classes[:3])}, "
                f"…), not the {len(dataset.names)} of the data ({', '.join(dataset.names[:3])}, …)"
            )
    os.makedirs(settings.out, exist_ok=True)
    return {
        kind: KINDS[kind](models, dataset, settings._replace(choice=choice))
        for kind, choice in parsed
    }


def analyse_from_flags(
    args: argparse.Namespace, source: Trained | Exported, dataset: Any, *, ctx: list[Any], out: str
) -> str:
    """Do what the flags of the evaluation say; return the text for the console."""
    kinds = list(dict.fromkeys(
        [*args.analyse, *(k for flag, found in FLAGS.items() if vars(args)[flag] for k in found)]
    ))  # fmt: skip
    if not kinds:
        raise ValueError("--compare needs --analyse KIND, --attention or --localisation")
    if isinstance(source, Exported):
        raise ValueError("an export cannot be differentiated; give --run or --model")
    if not source.task.explained:
        raise ValueError(f"--analyse, --attention: not for nets of the task {source.task.name}")
    models, runs = load_models(source, args.run, args.compare, ctx, outside.pixels_of(args))
    if not args.dataset:
        reading = reading_of(source.extra.get("recipe"))
        check_same_data(models, dataset, args.data_dir, reading)
    settings = Settings(
        out, args.split, ctx[0], batch_size=args.batch_size, workers=args.num_workers, runs=runs
    )
    found = analyse(models, dataset, kinds, settings).values()
    return "\n\n".join(
        "\n".join([part.text, *(f"wrote {path}" for path in part.files)]) for part in found
    )


def load_models(
    main: Trained, main_run: str | None, others: Sequence[str], ctx: list[Any],
    pixels: outside.Pixels | None = None,
) -> tuple[Models, dict[str, str]]:  # fmt: skip
    """Load the nets to compare with and name them all.

    ``main`` is the net that is analysed; it comes last in figures. ``others`` are run folders, zoo
    names with published weights, or ``ZOO_NAME=FILE`` for a zoo model with its weights, fed as
    known, else by ``pixels``. Returns nets by name, and run folders by name. A net is called after
    its run folder, else by its zoo name; equal names get a number.
    """
    found: list[tuple[str, Trained, str | None]] = []
    for text in others:
        name, equals, path = text.partition("=")
        if equals and not os.path.isdir(text):
            found.append((name, _same_classes(name, path, main, ctx, pixels), None))
        else:
            run = text if os.path.isdir(text) else None
            found.append((_base(text), load.from_run_or_zoo(text, ctx), run))
    found.append((_base(main_run) if main_run else main.name, main, main_run))
    models: Models = {}
    runs: dict[str, str] = {}
    for name, trained, run in found:
        number, free = 2, name
        while free in models:
            free, number = f"{name} ({number})", number + 1
        models[free] = trained
        if run:
            runs[free] = run
    return models, runs


def _same_classes(
    name: str, path: str, main: Trained, ctx: list[Any], pixels: outside.Pixels | None
) -> Trained:
    """Return a zoo net with weights of its own data if these are known, else of ``main``'s."""
    known = store.entry_of_file(path) or outside.described(path)
    schema = main.extra.get("schema")
    classes = Schema.from_json(schema) if schema else main.classes
    trained = load.from_zoo(
        name, path, ctx, None if known and known.classes else classes,
        pixels=None if known and (known.recipe or known.pixels) else pixels,
    )  # fmt: skip
    if trained.classes != main.classes:
        raise ValueError(f"{path} was made for other classes than {main.name}")
    return trained


def _base(folder: str) -> str:
    return os.path.basename(os.path.abspath(folder))
