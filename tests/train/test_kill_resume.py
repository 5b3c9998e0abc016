"""kill -9 while saving: no file is ever half-written, and a resumed run ends with the same bits.

The random moments are in tests/faults/test_kills.py.

The runs that are killed are processes of ``tools/train.py``, as a user starts them; they end
themselves, so that it does not matter how busy the machine is. The run that is not killed takes
place in this process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from process_helpers import finish, start
from training_helpers import checkpoint_arrays, recipe, run, same, write_data, write_recipe

from gluon_attn.train import load_checkpoint, read_json_lines
from gluon_attn.train import trained as load

ROOT = Path(__file__).resolve().parents[2]
TIMES = ("seconds", "samples_per_second")  # what no two runs have in common

# Runs tools/train.py with one function replaced; argv: the tool, where, when, the tool's own.
DRIVER = '''
import os, runpy, signal, sys
tool, place, count = sys.argv[1], sys.argv[2], float(sys.argv[3])
sys.path.insert(0, os.path.dirname(os.path.dirname(tool)))
import gluon_attn
import numpy.lib.format, gluon_attn.train, gluon_attn.core.files as files
fit = sys.modules["gluon_attn.train.fit"]  # the package's `fit` is the function

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def at(owner, name, end):
    """Let the function work until its call number `count`; then end the process."""
    original, calls = getattr(owner, name), [0]
    def replacement(*args, **kwargs):
        calls[0] += 1
        if calls[0] == count:
            end(*args)
            die()
        return original(*args, **kwargs)
    setattr(owner, name, replacement)

def half_an_array(file, array, *more):
    data = array.tobytes()
    file.write(data[: len(data) // 2])
    os.sync()

def nothing(*args):
    pass

if place == "inside the checkpoint":
    at(numpy.lib.format, "write_array", half_an_array)
elif place == "before the name":
    at(files, "publish", nothing)
elif place == "between weights and record":
    at(fit, "write_json", nothing)
elif place == "behind the checkpoint":
    save = fit.save_checkpoint
    at(fit, "save_checkpoint", save)
else:
    raise SystemExit("where?")
sys.argv = [tool, *sys.argv[4:]]
runpy.run_path(tool, run_name="__main__")
'''


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "shapes")


class Runner:
    """The tiny recipe with a number of epochs: in this process, and to be killed."""

    def __init__(self, data, folder, epochs):
        self.data, self.folder, self.epochs = data, folder, epochs
        self.cut, self.whole = folder / "cut", data.parent / f"whole{epochs}"
        self.recipe = write_recipe(folder / "tiny.json", epochs=epochs)

    def start(self, *command):
        """Start a process of the tool."""
        command = [sys.executable, *command, "--recipe", self.recipe, "--data-dir", self.data,
                   "--save-dir", self.cut, "-j", "1", "--resume", "--no-test"]  # fmt: skip
        return start(command, env=dict(os.environ, OMP_NUM_THREADS="1"))

    def start_driver(self, place, count):
        """Start a process that will kill itself in a certain place."""
        driver = self.folder / "driver.py"
        driver.write_text(DRIVER)
        return self.start(driver, ROOT / "tools" / "train.py", place, count)

    def run_here(self, folder, **options):
        """Run, or resume, in this process."""
        run(recipe(epochs=self.epochs), self.data, folder, workers=1, **options)


def saved_epochs(folder):
    return read_json_lines(str(folder / "log.jsonl"))


def assert_all_files_are_whole(folder):
    """Whatever has its final name can be read; what was being written has a hidden name."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            assert path.name.endswith(".tmp")
        elif path.name == "last.ckpt":
            arrays, meta = load_checkpoint(str(path))
            assert meta["epoch"] >= 0 and any(name.startswith("net/") for name in arrays)
            assert all(array.size >= 0 for array in checkpoint_arrays(path).values())
        elif path.name == "best.params":
            arrays = mx.nd.load(str(path))
            assert len(arrays) > 50 and all(np.isfinite(a.asnumpy()).all() for a in arrays.values())
        elif path.suffix == ".json":
            json.loads(path.read_text())
        else:
            assert path.name in ("train.log", "log.jsonl", "curves.png")


def assert_same_end(runner):
    """Compare the run that was killed with one that was not, made once per number of epochs."""
    if not runner.whole.exists():
        runner.run_here(runner.whole)
    folders = (runner.whole, runner.cut)
    first, second = (checkpoint_arrays(folder / "last.ckpt") for folder in folders)
    same(second, first)
    for kind in ("net/", "trainer/joint/", "trainer/attention/", "method/history"):
        assert any(name.startswith(kind) for name in first), kind
    weights = [mx.nd.load(str(folder / "best.params")) for folder in folders]
    one, other = ({n: a.asnumpy() for n, a in arrays.items()} for arrays in weights)
    same(other, one)
    bests = [json.loads((folder / "best.json").read_text()) for folder in folders]
    assert bests[0] == bests[1]
    records = [saved_epochs(folder) for folder in folders]
    assert [r["epoch"] for r in records[1]] == list(range(runner.epochs))  # each epoch once
    one, other = ([{k: r[k] for k in r if k not in TIMES} for r in log] for log in records)
    assert one == other
    assert not [path.name for path in runner.cut.iterdir() if path.name.startswith(".")]
    assert load.from_run(str(runner.cut), [mx.cpu()]).extra["epoch"] == bests[0]["epoch"]


PLACES = {
    "inside the checkpoint": 300,  # one checkpoint has about 200 arrays: in the second
    "before the name": 9,
    "between weights and record": 1,
    "behind the checkpoint": 2,
}


@pytest.fixture(scope="module")
def dying(data, tmp_path_factory):
    """Processes that end themselves in each of the places, started together to save time."""
    runners = {place: Runner(data, tmp_path_factory.mktemp("run"), epochs=3) for place in PLACES}
    return {p: (runner, runner.start_driver(p, PLACES[p])) for p, runner in runners.items()}


@pytest.mark.parametrize("place", sorted(PLACES))
def test_killed_while_saving(dying, place):
    runner, process = dying[place]
    code, _, err = finish(process)
    assert code == -signal.SIGKILL, err
    assert_all_files_are_whole(runner.cut)
    left = [path.name for path in runner.cut.iterdir() if path.name.startswith(".")]
    if place in ("inside the checkpoint", "before the name"):
        assert left  # it did die while writing
    if place in ("inside the checkpoint", "behind the checkpoint"):
        # The previous checkpoint, or the one just finished, is there.
        meta = load_checkpoint(str(runner.cut / "last.ckpt"))[1]
        assert meta["epoch"] == (0 if place == "inside the checkpoint" else 1)
    runner.run_here(runner.cut, resume=True)
    assert_same_end(runner)
