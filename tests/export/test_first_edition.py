"""An export that the first edition wrote, all its forms, opens and gives the stored numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gluon_attn.export import Predictor
from gluon_attn.export.sidecar import read_sidecar, read_verified
from gluon_attn.runtime import has_avx512

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "first_edition"
IMAGES = np.random.RandomState(7).randint(0, 256, (3, 40, 30, 3)).astype(np.uint8)
# One step of 8 bits more or less on another processor; float32 is float32.
TOLERANCES = {"mxnet": 1e-5, "mxnet-int8": 0.01, "mxnet-bf16": 0.01, "onnxruntime": 1e-5}


@pytest.mark.parametrize("backend", TOLERANCES)
def test_every_form_gives_the_stored_numbers(backend):
    if backend == "mxnet-bf16" and not has_avx512():
        pytest.skip("oneDNN has no bfloat16 without AVX-512")
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime")
    stored = json.loads((FOLDER / "export_numbers.json").read_text())
    predictor = Predictor(FOLDER / "export", backend=backend)
    expected = np.array(stored["probabilities"][backend])
    np.testing.assert_allclose(predictor(IMAGES), expected, rtol=0, atol=TOLERANCES[backend])
    maps = predictor.attention(IMAGES)["attention_stem"][:, :, 3, 4]
    expected = np.array(stored["attention at (3, 4)"]["attention_stem"])
    np.testing.assert_allclose(maps, expected, rtol=0, atol=TOLERANCES[backend])


def test_its_sidecar_and_all_files_are_as_they_were():
    contents = read_sidecar(FOLDER / "export")
    assert contents["classes"] == ["hat", "bag", "skirt", "logo"]
    assert contents["thresholds"] == [0.5, 0.4, 0.6, 0.5] and contents["extra"] == {"mAP": 71.5}
    for entry in contents["files"].values():
        assert len(read_verified(FOLDER / "export", entry)) == entry["bytes"]
