"""Files that version 0.1 wrote still work: packed data, a checkpoint, a folder of a run.

``tests/fixtures/first_edition`` holds AWMT on synthetic people, stopped after two of four epochs,
and the predictions with which version 0.1 ended.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from gluon_attn.core.recipe import Recipe
from gluon_attn.data import open_dataset
from gluon_attn.train.run import Settings, train
from gluon_attn.train.trained import from_run

FIRST = Path(__file__).resolve().parents[1] / "fixtures" / "first_edition"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The run of version 0.1, resumed and ended here."""
    run = tmp_path_factory.mktemp("first") / "run"
    shutil.copytree(FIRST / "run", run)
    recipe = Recipe.from_dict(json.loads((run / "recipe.json").read_text())["recipe"])
    train(recipe, Settings(str(FIRST / "packed"), str(run), resume=True, workers=1, console=False))
    return run


def test_packed_data_open():
    dataset = open_dataset(FIRST / "packed", "test")
    assert len(dataset) == 26 and dataset.names[0] == "Male"
    image, label, mask, index = dataset[3]
    assert image.ndim == 3 and image.dtype == np.uint8 and label.shape == mask.shape == (5,)
    dataset.verify()


def test_a_checkpoint_is_resumed_and_ends_with_the_same_predictions(finished):
    ours, theirs = np.load(finished / "test_predictions.npz"), np.load(FIRST / "expected.npz")
    assert sorted(ours.files) == sorted(theirs.files)
    for name in theirs.files:  # other processors round otherwise
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-4, err_msg=name)


def test_the_net_of_a_run_opens():
    trained = from_run(str(FIRST / "run"), [mx.cpu()])
    logits = trained.net(mx.nd.zeros((1, 3, 32, 32)))
    assert trained.classes[0] == "Male" and logits.shape == (1, len(trained.classes))
