"""What the page of an export shows beside the net: sample images, and what the net is for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import model_zoo
from gluon_attn.core.text import read_text
from gluon_attn.data.synthetic import digits, people
from gluon_attn.export.onnx import OnnxVariant, require_packages
from gluon_attn.export.sidecar import ExportError, trained_on
from gluon_attn.export.web import WebVariant, find_runtime
from gluon_attn.export.writer import Variant
from gluon_attn.task import Exported, Trained

SAMPLES = 3
# As docs/responsible_use.md has it, for nets without a card.
MUST_NOT = (
    "Must not be used for surveillance, for identifying or tracking persons, in law enforcement or "
    "border control, for decisions about employment, education, credit, insurance, housing or "
    "access, or to infer sex or gender, ethnicity, age, religion, health, orientation or any other "
    "sensitive trait of real people. Probabilities are not calibrated, and a map is no explanation."
)


def web_variant(
    source: Trained | Exported, runtime: str | None, weights: str = "fp16"
) -> WebVariant:
    """Return the page of a net, with synthetic samples; ``runtime``: onnxruntime-web's folder."""
    return WebVariant(runtime, samples(_made_with(source.extra)), about(source.extra), weights)


def offered(source: Trained | Exported) -> list[Variant]:
    """Return the forms of a page that runs: npm installed its engine here, ONNX is there."""
    runtime = find_runtime()
    try:
        require_packages()
    except ExportError:
        runtime = None
    if runtime is None:
        return []
    return [OnnxVariant(), web_variant(source, str(runtime))]


def about(extra: dict[str, Any]) -> list[str]:
    """Return paragraphs on training and use: of the card, where the weights have one."""
    recipe = extra.get("recipe") or {}
    name = extra.get("model", recipe.get("model"))
    card = Path(model_zoo.__file__).parent / "cards" / f"{name}.md"
    if extra.get("params") == "pretrained" and card.is_file():
        use = read_text(card).partition("## Intended use, limits\n")[2]
        text = re.sub(r"\*\*|`", "", use)
        paragraphs = [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
        return [f"Trained on {trained_on(extra)}: {_made_with(extra)}.", *paragraphs]
    known = trained_on(extra) or "data that this export does not name"
    return [f"Trained by {recipe.get('method', 'a method')} on {known}.", MUST_NOT]


def samples(made_with: str) -> dict[str, bytes]:
    """Return synthetic scenes by file name: digits for nets of digits, else people.

    None for a net of ours that has learnt from photographs, of which none can be shown.
    """
    found: dict[str, bytes] = {}
    if made_with and "prepare_data.py digits" not in made_with:
        return found
    for number in range(1, SAMPLES + 1):
        rng = np.random.default_rng(number)
        if "digits" in made_with:
            scene = digits.draw_scene(rng, digits.split_samples("test"), digits.class_odds(0))
        else:
            scene = people.draw_scene(rng)
        ok, data = cv2.imencode(".jpg", scene[0][..., ::-1])
        found[f"sample{number}.jpg"] = data.tobytes() if ok else b""
    return found


def _made_with(extra: dict[str, Any]) -> str:
    return str((extra.get("data") or {}).get("made_with", ""))
