"""kill -9 at any moment: no file is ever half-written, and a resumed run ends with the same bits.

The runs that are killed are processes of ``tools/train.py``, as a user starts them; they end
themselves, so that it does not matter how busy the machine is. The run that is not killed takes
place in this process.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from process_helpers import finish, start
from training_helpers import checkpoint_arrays, recipe, write_data, write_recipe

from gluon_attn.core.recipe import Recipe
from gluon_attn.train import load_checkpoint, read_json_lines
from gluon_attn.train import trained as load
from gluon_attn.train.run import Settings, train

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
    calls = [0]
    def save_and_die(*args):
        save(*args)
        calls[0] += 1
        if calls[0] == count:
            die()
    fit.save_checkpoint = save_and_die
elif place == "at any moment":
    # In the processor time of this process, so that it does not matter how busy the machine is:
    # after `count` epochs SIGPROF ends it as SIGKILL would, between any two instructions.
    import time
    seed, times = fit.seed_everything, []  # called at the start of each epoch
    def seed_and_set_timer(*args):
        times.append(time.process_time())
        if len(times) == int(count) + 1:
            epoch = times[-1] - times[-2] if len(times) > 1 else 0.3
            signal.setitimer(signal.ITIMER_PROF, (count - int(count)) * epoch + 1e-4)
        seed(*args)
    fit.seed_everything = seed_and_set_timer
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

    def arguments(self):
        return ["--recipe", self.recipe, "--data-dir", self.data, "--save-dir", self.cut, "-j", "1",
                "--resume", "--no-test"]  # fmt: skip

    def start(self, *command):
        """Start a process of the tool."""
        command = [sys.executable, *command, *self.arguments()]
        return start(command, env=dict(os.environ, OMP_NUM_THREADS="1"))

    def run_undisturbed(self):
        """Make the run to compare with, once per number of epochs."""
        if not self.whole.exists():
            self.run_here(self.whole)

    def run_here(self, folder):
        """Run, or resume, in this process."""
        settings = Settings(
            str(self.data), str(folder), resume=folder == self.cut, workers=1, console=False,
            test=False,
        )  # fmt: skip
        train(Recipe.from_dict(recipe(epochs=self.epochs)), settings)

    def start_driver(self, place, count):
        """Start a process that will kill itself in a certain place."""
        driver = self.folder / "driver.py"
        driver.write_text(DRIVER)
        return self.start(driver, ROOT / "tools" / "train.py", place, count)


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
    """Compare the run that was killed with the one that was not."""
    first = checkpoint_arrays(runner.whole / "last.ckpt")
    second = checkpoint_arrays(runner.cut / "last.ckpt")
    assert first.keys() == second.keys()
    for kind in ("net/", "trainer/joint/", "trainer/attention/", "method/history"):
        assert any(name.startswith(kind) for name in first), kind
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    weights = [mx.nd.load(str(f / "best.params")) for f in (runner.whole, runner.cut)]
    assert weights[0].keys() == weights[1].keys()
    for name, array in weights[0].items():
        np.testing.assert_array_equal(array.asnumpy(), weights[1][name].asnumpy(), err_msg=name)
    bests = [json.loads((f / "best.json").read_text()) for f in (runner.whole, runner.cut)]
    assert bests[0] == bests[1]
    records = [saved_epochs(folder) for folder in (runner.whole, runner.cut)]
    assert [r["epoch"] for r in records[1]] == list(range(runner.epochs))  # each epoch once
    for one, other in zip(*records):
        assert {k: v for k, v in one.items() if k not in TIMES} == {
            k: v for k, v in other.items() if k not in TIMES
        }
    assert not [path.name for path in runner.cut.iterdir() if path.name.startswith(".")]
    assert load.from_run(str(runner.cut), [mx.cpu()]).extra["epoch"] == bests[0]["epoch"]


@pytest.mark.nightly
def test_killed_at_any_moment(data, tmp_path):
    runner, draw = Runner(data, tmp_path, epochs=24), random.Random()
    for _ in range(10):
        moment = draw.uniform(0, 1.8)  # in epochs from the start; not seeded: others every time
        code, _, err = finish(runner.start_driver("at any moment", moment))
        assert code == -signal.SIGPROF, f"{moment}: {err}"
        assert_all_files_are_whole(runner.cut)
    assert len(saved_epochs(runner.cut)) < 24
    code, _, err = finish(runner.start(ROOT / "tools" / "train.py"))
    assert code == 0, err
    runner.run_undisturbed()
    assert_same_end(runner)


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
    return {
        place: (runner, runner.start_driver(place, PLACES[place]))
        for place, runner in runners.items()
    }


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
    runner.run_here(runner.cut)
    runner.run_undisturbed()
    assert_same_end(runner)
