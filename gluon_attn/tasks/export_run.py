"""What ``tools/export.py`` does beside the float32 export: its further forms, and a summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from gluon_attn.export.precision import require_cpu
from gluon_attn.export.sidecar import read_sidecar
from gluon_attn.export.writer import add_variants
from gluon_attn.tasks.base import refuse_forms, task_of_export


class Forms(NamedTuple):
    """Which further forms of a graph are wanted, and what they are made from.

    Attributes:
        int8, bf16, onnx: Whether each is wanted.
        calib: Data set for int8, and to score bf16; None if there is none.
        calib_split, score_split, calib_num: See
            :func:`gluon_attn.train.calibrate.calibration_data`.
        max_drop: Points of mAP that int8 may lose.
    """

    int8: bool = False
    bf16: bool = False
    onnx: bool = False
    calib: Any = None
    calib_split: Any = None
    score_split: Any = None
    calib_num: int = 256
    max_drop: float = 0.5

    @property
    def wanted(self):
        """Whether anything is."""
        return self.int8 or self.bf16 or self.onnx


def check_forms(forms):
    """Raise what would keep the forms from being made, before any work is done.

    Raises:
        ValueError: int8 without data.
        ExportError: bf16 on a processor that cannot run it; ONNX without its packages.
    """
    if forms.int8 and not forms.calib:
        raise ValueError("--int8 needs --calib DATA: the data set to calibrate and to score with")
    if forms.bf16:
        require_cpu("bf16")
    if forms.onnx:
        from gluon_attn.export.onnx import require_packages

        require_packages()


def make_variants(forms, classes, entry, activation="sigmoid", *, recipe=None):
    """Return the list of variants for :func:`gluon_attn.export.export_model`.

    Args:
        forms: :class:`Forms`.
        classes: Names of the logits.
        entry: The sidecar's ``input`` entry.
        activation: The sidecar's.
        recipe: Of the net, which says how the data are read.

    Raises:
        ValueError, ExportError, FileNotFoundError: See :func:`check_forms` and
            :func:`gluon_attn.train.calibrate.calibration_data`.
    """
    check_forms(forms)
    variants, data = [], None
    if forms.calib and (forms.int8 or forms.bf16):
        from gluon_attn.train.calibrate import calibration_data

        data = calibration_data(
            forms.calib, classes, entry, activation, forms.calib_split, forms.score_split,
            forms.calib_num, recipe=recipe,
        )  # fmt: skip
    if forms.int8:
        from gluon_attn.export.int8 import Int8Variant

        variants.append(
            Int8Variant(
                data.images, data.score, max_drop=forms.max_drop, fingerprint=data.fingerprint
            )
        )
    if forms.bf16:
        from gluon_attn.export.precision import Bf16Variant

        variants.append(Bf16Variant(data.score if data else None))
    if forms.onnx:
        from gluon_attn.export.onnx import OnnxVariant

        variants.append(OnnxVariant())
    return variants


def extend(directory, forms, out=None):
    """Add forms to an export that is there; return its directory.

    Raises:
        ValueError: No form is wanted, an output directory is given, or nets of this task do not
            have such a form.
    """
    if not forms.wanted:
        raise ValueError(f"what is to be added to {directory}? Give --int8, --bf16 or --onnx")
    if out:
        raise ValueError("--export adds to the export that is there; leave --out away")
    task, sidecar = task_of_export(directory)
    if task:
        refuse_forms(forms, task.FORMS)
    variants = make_variants(
        forms, tuple(sidecar["classes"]), sidecar["input"], sidecar["activation"],
        recipe=sidecar.get("extra", {}).get("recipe"),
    )  # fmt: skip
    return add_variants(directory, variants)


def summary(directory):
    """Return the lines that tell what an export directory holds: sizes, parity, drops."""
    sidecar = read_sidecar(directory)
    lines = [
        f"{entry['bytes'] / 1e6:9.2f} MB  {Path(directory) / entry['file']}"
        for entry in sidecar["files"].values()
    ]
    if "parity" in sidecar:
        difference = sidecar["parity"]["max_abs_diff"]
        lines.append(f"parity with plain MXNet: largest difference {difference:.2e}")
    for name in ("int8", "bf16"):
        if name in sidecar:
            lines += _precision_lines(name, sidecar[name])
    if "onnx" in sidecar:
        entry = sidecar["onnx"]
        lines.append(
            f"onnx: opset {entry['opset']}, ONNX Runtime's largest difference "
            f"{entry['max_abs_diff']:.2e}"
        )
    return lines


def _precision_lines(name, entry):
    parity = f"parity with plain MXNet {entry['parity']['max_abs_diff']:.2e}"
    if entry["drop"] is None:
        return [f"{name}: {parity}; its score was not measured (no --calib)"]
    lines = [
        f"{name}: mAP {entry['float32_score']:.2f} in float32, {entry['score']:.2f} in {name}: "
        f"drop {entry['drop']:.2f}, allowed {entry['max_drop']:g}; {parity}"
    ]
    if name == "int8":
        count = len(entry["excluded"])
        lines.append(
            f"int8: calibration {entry['mode']} on {entry['calibration']['images']} images, "
            f"{entry['layers'] - count} of {entry['layers']} layers int8"
        )
        lines += [f"int8: left in float32: {', '.join(entry['excluded'])}"] if count else []
        unsafe = entry.get("unsafe")  # exports of before have none
        lines += [f"int8: always float32: {', '.join(unsafe)}"] if unsafe else []
    return lines
