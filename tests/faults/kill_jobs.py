"""Work that is killed: each job can be begun again and again in one folder, until it is done.

    python tests/faults/kill_jobs.py JOB FOLDER SECONDS [VICTIM]

runs a job and ends the process after so many seconds of its own processor time, between any two
instructions as SIGKILL would, so that it does not matter how busy the machine is; 0 lets it finish.
Of a job of two workers, the one with the number VICTIM is ended, counted from when it has joined.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import training_helpers as helpers  # noqa: E402
from export_helpers import export, make_net  # noqa: E402
from process_helpers import ROOT as TREE  # noqa: E402

import gluon_attn  # noqa: E402, F401 (before MXNet)
from gluon_attn.core.files import sha256_of  # noqa: E402
from gluon_attn.core.recipe import Recipe  # noqa: E402
from gluon_attn.core.text import read_json  # noqa: E402
from gluon_attn.data import open_dataset, pack  # noqa: E402
from gluon_attn.export.sidecar import read_sidecar, read_verified  # noqa: E402
from gluon_attn.train import load_checkpoint, read_json_lines  # noqa: E402
from gluon_attn.train.run import Settings  # noqa: E402
from gluon_attn.workers import current, join  # noqa: E402
from model_zoo import get_model, outside, store, transfer  # noqa: E402
from model_zoo.adapters.convert import convert  # noqa: E402

NET = "vaa_resnet18_w16_clothing"
TIMES = ("seconds", "samples_per_second")  # what no two runs have in common


class Job:
    """What is done in a folder; ``begin`` is made once, by the test, before the first kill."""

    def begin(self, folder):
        pass

    def run(self, folder, seconds, victim):
        """Work, for so many seconds if they are not 0, and say how many it took; return 0."""
        begun = sum(os.times()[:2])
        if seconds:
            signal.setitimer(signal.ITIMER_PROF, seconds)
        self.work(folder)
        if current().is_first:
            print("took", sum(os.times()[:2]) - begun, flush=True)
        return 0

    def work(self, folder):
        raise NotImplementedError

    def check(self, folder):
        """Check that whatever has its final name is whole."""

    def result(self, folder):
        """Return what must be the same, whether the job was killed or not."""
        return {p.name: sha256_of(p) for p in files(folder / "out")}


def files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file() and not hidden(p, folder))


def hidden(path, folder):
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


class Train(Job):
    """A run of a few epochs, resumed."""

    epochs, counted, kvstore = 5, "started", None

    def begin(self, folder):
        helpers.write_data(folder / "data")

    def work(self, folder):
        self.count(folder)
        self.train(folder)

    def train(self, folder):
        helpers.run(
            helpers.recipe(epochs=self.epochs), folder / "data", folder / "out", workers=1,
            resume=True, kvstore=self.kvstore,
        )  # fmt: skip

    def count(self, folder):
        """Note the beginning of each epoch, so that the kill cannot hide it."""
        fit = sys.modules["gluon_attn.train.fit"]
        seed = fit.seed_everything

        def noted(*args):
            (folder / self.counted).open("a").write(".")
            seed(*args)

        fit.seed_everything = noted

    def check(self, folder):
        noted = folder / self.counted
        begun = len(noted.read_text()) if noted.exists() else 0
        done = 0
        if (folder / "out" / "last.ckpt").exists():
            arrays, meta = load_checkpoint(str(folder / "out" / "last.ckpt"))
            done = meta["epoch"] + 1
            assert any(name.startswith("net/") for name in arrays)
        # The epoch that was going on is lost, no other; the next run begins behind the checkpoint.
        assert done >= begun - 1, f"{begun} epochs were begun, {done} are saved"
        noted.write_text("." * done)
        for path in (folder / "out").glob("*.json"):
            read_json(path)
        if (folder / "out" / "best.params").exists():
            assert helpers.mx.nd.load(str(folder / "out" / "best.params"))

    def result(self, folder):
        out = folder / "out"
        log = [
            {k: r[k] for k in r if k not in TIMES} for r in read_json_lines(str(out / "log.jsonl"))
        ]
        arrays = helpers.checkpoint_arrays(out / "last.ckpt")
        best = helpers.mx.nd.load(str(out / "best.params"))
        return {
            "log": log, **{name: array.tobytes() for name, array in arrays.items()},
            **{f"best/{name}": array.asnumpy().tobytes() for name, array in best.items()},
        }  # fmt: skip


class Search(Train):
    """A search of AutoLA, resumed."""

    epochs = 3

    def begin(self, folder):
        rng = helpers.np.random.default_rng(0)
        for split, count in (("train", 12), ("val", 4)):
            for name in "abc":
                (folder / "data" / split / name).mkdir(parents=True)
                for number in range(count):
                    image = rng.integers(0, 255, (16, 16, 3)).astype("uint8")
                    path = folder / "data" / split / name / f"{number}.png"
                    helpers.cv2.imwrite(str(path), image)

    def train(self, folder):
        from gluon_attn.train.search import search

        recipe = Recipe(
            method="autola", model="autola_search_resnet20", model_options={"width": 8, "depth": 8},
            input_size=16, resize=16, augment="pad", pad=2, eval_crop=16, batch_size=4,
            epochs=self.epochs, lr=0.05, schedule="cosine", score="top1", keep="last",
        )  # fmt: skip
        settings = Settings(str(folder / "data"), str(folder / "out"), resume=True, workers=1,
                            console=False, test=False)  # fmt: skip
        search(recipe, settings)

    def result(self, folder):
        edges = read_json(folder / "out" / "genotype.json")["edges"]
        return {"genotype": edges, **super().result(folder)}


class Worker(Train):
    """One worker of two, each a process of the launcher, which is the process of the job."""

    kvstore = "dist_sync"

    def run(self, folder, seconds, victim):
        """Start the group, or be a member of it."""
        if "DMLC_ROLE" not in os.environ:
            from gluon_attn.cli.launch import launch

            os.environ["PYTHONPATH"] = str(Path(__file__).parent)
            return launch(["kill_jobs", "worker", str(folder), str(seconds), str(victim)], 2)
        chosen = join(self.kvstore).rank == victim
        return super().run(folder, seconds if chosen else 0, victim)

    def count(self, folder):
        if current().is_first:
            super().count(folder)


class Pack(Job):
    """Packing of a split."""

    def begin(self, folder):
        helpers.write_data(folder / "data", train=600)

    def work(self, folder):
        pack(open_dataset(folder / "data", "train"), folder / "out" / "train", 160, workers=2,
             train_size=128, progress=False)  # fmt: skip

    def check(self, folder):
        if (folder / "out" / "train.json").exists():
            open_dataset(folder / "out", "train").verify()


class Export(Job):
    """An export that replaces another one."""

    def begin(self, folder):
        export(make_net(1), folder / "out")

    def work(self, folder):
        export(make_net(), folder / "out", overwrite=True, with_maps=True)

    def check(self, folder):
        if (folder / "out").exists():
            for entry in read_sidecar(folder / "out")["files"].values():
                read_verified(folder / "out", entry)
        else:  # killed between two renames: the next call puts it back first
            assert list(folder.glob(".out.old-*"))


class Convert(Job):
    """Weights converted, with their record."""

    model = "cifar_resnet20_cifar10"

    def begin(self, folder):
        net = get_model(self.model)
        helpers.mx.random.seed(0)
        net.initialize(helpers.mx.init.Xavier())
        net(helpers.mx.nd.zeros((1, 3, 32, 32)))
        net.save_parameters(str(folder / "in.params"))

    def work(self, folder):
        (folder / "out").mkdir(exist_ok=True)
        convert(
            str(folder / "in.params"), str(folder / "out" / "net.params"), self.model,
            pixels={"mean": (120.0,) * 3, "std": (60.0,) * 3, "resize": 32},
        )  # fmt: skip

    def check(self, folder):
        path = folder / "out" / "net.params"
        if path.exists():
            helpers.mx.nd.load(str(path))
        outside.described(str(path))


class Download(Job):
    """A weight file from a mirror; the address is in the environment."""

    def begin(self, folder):
        (folder / "mirror").mkdir()
        (folder / "mirror" / "big.params").write_bytes(os.urandom(24 << 20))

    def entry(self, folder):
        path = folder / "mirror" / "big.params"
        size, digest = path.stat().st_size, sha256_of(path)
        return transfer.WeightEntry("big", "big-12345678.params", digest, size=size,
                                    remote="big.params")  # fmt: skip

    def work(self, folder):
        transfer.fetch(self.entry(folder), os.environ["MIRROR"], str(folder / "out"))

    def check(self, folder):
        path = folder / "out" / "big-12345678.params"
        if path.exists():
            assert transfer.mismatch(str(path), self.entry(folder)) is None


class Copy(Download):
    """A weight file from a folder."""

    def work(self, folder):
        transfer.fetch(self.entry(folder), str(folder / "mirror"), str(folder / "out"))


class Cache(Job):
    """The export of published weights that is kept beside them."""

    def work(self, folder):
        from model_zoo.predictor import load_predictor

        load_predictor(NET, root=str(folder / "out"))

    def check(self, folder):
        for side in (folder / "out" / "exports").glob("[!.]*"):
            for entry in read_sidecar(side)["files"].values():
                read_verified(side, entry)

    def result(self, folder):
        found = read_sidecar(next((folder / "out" / "exports").glob("[!.]*")))
        return {key: entry["sha256"] for key, entry in found["files"].items()}


class Publish(Job):
    """Other weights in the place of published ones, in a copy of the zoo's folder."""

    def begin(self, folder):
        import shutil

        zoo = TREE / "model_zoo"
        for name in ("weights", "cards"):
            shutil.copytree(zoo / name, folder / "out" / name)
        shutil.copy(zoo / "weights.json", folder / "out")

    def work(self, folder):
        from tools.site.publish import _write

        known = read_json(store.BUILTIN)["weights"]
        source = folder / "new.params"
        arrays = helpers.mx.nd.load(os.path.join(store.PACKAGED, known[NET]["file"]))
        helpers.mx.nd.save(str(source), {name: array + 0 for name, array in arrays.items()})
        with source.open("r+b") as file:  # other numbers: the last byte of the first array
            file.seek(100)
            byte = file.read(1)
            file.seek(100)
            file.write(bytes([byte[0] ^ 1]))
        digest = sha256_of(source)
        entry = dict(known[NET], file=f"{NET}-{digest[:8]}.params", sha256=digest,
                     size=source.stat().st_size)  # fmt: skip
        _write(str(folder / "out"), NET, {**known, NET: entry}, str(source))

    def check(self, folder):
        table = (folder / "out" / "weights.json").read_bytes()
        for entry in transfer.parse_table(table, "weights.json").values():
            path = folder / "out" / "weights" / entry.file
            assert transfer.mismatch(str(path), entry) is None


JOBS = {kind.__name__.lower(): kind() for kind in
        (Train, Worker, Search, Pack, Export, Convert, Download, Copy, Cache, Publish)}  # fmt: skip


def main(name, folder, seconds, victim="0"):
    """Run a job of the command line; return the exit status."""
    return JOBS[name].run(Path(folder), float(seconds), int(victim))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
