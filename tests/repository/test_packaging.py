"""What is installed, from which requirements, and how a checkout sets itself up; no network."""

from __future__ import annotations

import ast
import fnmatch
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from process_helpers import run

import gluon_attn

requirements = pytest.importorskip("packaging.requirements")
versions = pytest.importorskip("packaging.version")
tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.8", "3.9", "3.10", "3.11", "3.12")
STACKS = ("requirements.txt", "requirements-cu112.txt")
OTHERS = ("requirements-test.txt", "requirements-docs.txt", "requirements-downstream.txt",
          "constraints.txt")  # fmt: skip
EXTRAS = {"cpu": STACKS[0], "cu112": STACKS[1], "test": "requirements-test.txt"}

# Modules whose distribution has another name, and modules that only an extra brings.
DISTRIBUTION = {"cv2": "opencv-python-headless", "sklearn": "scikit-learn", "PIL": "pillow"}
OPTIONAL = {"onnx", "onnxruntime", "gluoncv", "tensorboardX", "openvino", "torch", "torchvision",
            "pycocotools", "cosmic_ray", "horovod"}  # fmt: skip

CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, SETUPTOOLS = CONFIG["project"], CONFIG["tool"]["setuptools"]
CORE = [requirements.Requirement(line) for line in PROJECT["dependencies"]]


def applies(requirement, python):
    environment = {"python_version": python, "python_full_version": python + ".9"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def lines_of(name):
    """Return the requirements of a file itself, without those that it includes."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [line for line in lines if line and not line.startswith("-")]


def pins(name, python):
    """Return ``{distribution: version}`` of a requirements file for a Python version."""
    found = {}
    for line in lines_of(name):
        requirement = requirements.Requirement(line)
        (pin,) = requirement.specifier
        assert pin.operator == "==", f"{name}: {line} is not pinned exactly"
        if applies(requirement, python):
            assert requirement.name not in found, f"{name}: two {requirement.name} on {python}"
            found[requirement.name] = pin.version
    return found


# -- metadata ------------------------------------------------------------------------------------
def test_every_file_of_the_packages_is_installed():
    left_out = []
    for package, patterns in SETUPTOOLS["package-data"].items():
        for path in (ROOT / package).rglob("*"):
            inside = path.relative_to(ROOT / package).as_posix()
            if path.is_dir() or "__pycache__" in inside or "/." in f"/{inside}":
                continue
            module = path.suffix == ".py" and (path.parent / "__init__.py").exists()
            if not module and not any(fnmatch.fnmatch(inside, pattern) for pattern in patterns):
                left_out.append(str(path))
    assert not left_out
    assert SETUPTOOLS["packages"]["find"]["include"] == ["gluon_attn*", "model_zoo*"]


def test_the_two_backends_exclude_each_other():
    assert not [item for item in CORE if item.name.startswith("mxnet")]
    for name, backend in zip(STACKS, ("mxnet==1.9.1", "mxnet-cu112==1.9.1")):
        assert [line for line in lines_of(name) if line.startswith("mxnet")] == [backend]
        assert "-r requirements-common.txt" in (ROOT / name).read_text()


def test_every_cuda_library_has_its_package():
    from gluon_attn.env import libraries

    names = {requirements.Requirement(line).name for line in lines_of(STACKS[1])}
    assert names == {"mxnet-cu112"} | {p for _, p in libraries.CUDA_LIBRARIES.values()}


@pytest.mark.parametrize("python", PYTHONS)
def test_pins_are_exact_and_lie_within_the_ranges(python):
    common = pins("requirements-common.txt", python)
    core = {item.name: item for item in CORE if applies(item, python)}
    assert set(core) == set(common)
    for name, version in common.items():
        assert core[name].specifier.contains(versions.Version(version)), f"{name}=={version}"
    for file in (*STACKS, *OTHERS):
        found = pins(file, python)
        assert found and not set(found) & set(common), file


# -- imports -------------------------------------------------------------------------------------
def imports(path):
    """Return the top-level modules that a file imports, in order."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]


def in_standard_library(name):
    if hasattr(sys, "stdlib_module_names"):
        return name in sys.stdlib_module_names
    spec = importlib.util.find_spec(name)
    where = str([spec and spec.origin, *(spec and spec.submodule_search_locations or ())])
    return spec is not None and "site-packages" not in where


def test_every_import_is_required():
    known = {"gluon_attn", "model_zoo", "tools", "formats", "mxnet", *OPTIONAL}
    known |= {item.name for item in CORE}
    wrong = []
    for path in (path for top in ("gluon_attn", "model_zoo", "tools")
                 for path in (ROOT / top).rglob("*.py")):  # fmt: skip
        beside = {other.stem for other in path.parent.glob("*.py")}
        for module in set(imports(path)) - beside:
            if DISTRIBUTION.get(module, module) not in known and not in_standard_library(module):
                wrong.append(f"{path} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_scripts_only_call_the_package():
    """What they do belongs to gluon_attn.cli, tools.bench, …; MXNet comes behind gluon_attn."""
    wrong = []
    for path in (ROOT / "tools").glob("*.py"):
        ours = [name for name in imports(path) if name in ("mxnet", "gluon_attn", "model_zoo")]
        wrong += [f"{path} imports mxnet first"] if ours[:1] == ["mxnet"] else []
        wrong += [f"{path} is long"] if len(path.read_text().splitlines()) > 15 else []
    assert not wrong, "\n".join(wrong)


# -- the wheel -----------------------------------------------------------------------------------
@pytest.mark.nightly
def test_an_installed_wheel_does_the_main_job(tmp_path):
    """Training, evaluation, export and prediction from an empty folder, without the checkout."""
    pytest.importorskip("wheel")
    source, venv, empty = tmp_path / "source", tmp_path / "venv", tmp_path / "empty"
    source.mkdir()
    empty.mkdir()
    for name in ("gluon_attn", "model_zoo"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(str(ROOT / name), str(source / name), ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(str(ROOT / name), str(source))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"

    def call(*command, code=0, **options):
        found, out, err = run(command, cwd=empty, env={**environment, **options})
        assert found == code, out + err
        return out + err

    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    call(
        *pip, "wheel", source, "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path,
        PYTHONPATH=os.environ.get("PYTHONPATH", ""),
    )  # fmt: skip
    call(sys.executable, "-m", "venv", "--without-pip", venv)
    python = venv / "bin" / "python"
    site = call(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip()
    (wheel,) = tmp_path.glob("*.whl")
    call(*pip, "install", wheel, "--no-deps", "-q", "--prefix", venv)
    # MXNet and the rest are those of this environment; its link to the checkout is not followed.
    (Path(site) / "rest.pth").write_text(
        "".join(f"{path}\n" for path in sys.path if path.endswith("-packages"))
    )
    script = venv / "bin" / "gluon-attn"
    script.write_text(re.sub("^#!.*", f"#!{python}", script.read_text()))
    where = call(python, "-c", "import gluon_attn; print(gluon_attn.__file__)").strip()
    assert where.startswith(site)

    assert "vaa_wider_resnet101 " in call(script, "recipes")
    assert "usable" in call(script, "doctor")
    assert "vaa_resnet101_wider\n" in call(python, "-m", "gluon_attn", "models")
    sizes = ("--train", "48", "--val", "24", "--test", "24")
    call(script, "prepare", "synthetic", "--out", "data", *sizes)
    said = call(
        script, "train", "--recipe", "vaa_synthetic_resnet18", "--data-dir", "data", "--save-dir",
        "run", "-j", "1", "epochs=2", "phase0_epochs=1", "phase1_epochs=0",
    )  # fmt: skip
    assert "next:    gluon-attn export --run run --out EXPORT" in said
    assert "mean over attributes" in call(script, "evaluate", "--run", "run", "--data-dir", "data")
    said = call(script, "export", "--run", "run", "--out", "export", "--with-maps")
    assert "next: gluon-attn predict export" in said
    image = str(next((empty / "data").rglob("*test*/**/*.jpg")))
    assert "longHair" in call(script, "predict", "export", image, "--heatmaps", "maps")
    assert "gluon" in call(script, "convert", "run/best.params")
    call(script, "predict", "nothing", image, code=2)
    call(
        python,
        "-c",
        "import model_zoo.predictor as p; p.load_predictor('vaa_resnet18_w16_clothing')",
    )
    assert sorted(p.name for p in empty.iterdir()) == ["data", "export", "maps", "run",
                                                       "run_evaluation"]  # fmt: skip


# -- setting up a checkout -----------------------------------------------------------------------
# Stands in for Python: what the script asks of it, without installing anything.
FAKE_PYTHON = """#!/bin/sh
echo "$*" | head -n 1 >> "$FAKE_LOG"
case "$1 $2" in
    --version*) echo "Python 3.11.0" ;;
    "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip") echo "ERROR: no index" >&2; exit "${FAKE_PIP:-0}" ;;
    "-m gluon_attn.runtime") exit 0 ;;
    "-m pytest") echo "3 tests on ${0#*-matrix/}"; case "$0" in *"$FAKE_RED"*) exit 1 ;; esac ;;
    "-c import sys; sys.exit"*) exit 0 ;;
    "-c import sysconfig"*) mkdir -p .venv/site; echo .venv/site ;;
    -c*) echo "${FAKE_ANSWER:-venv}" ;;
esac
"""


class Checkout:
    """A copy of what the set-up script reads, in a folder whose name has a space."""

    def __init__(self, tmp_path):
        self.root = tmp_path / "a checkout"
        (self.root / "tools").mkdir(parents=True)
        shutil.copy(str(ROOT / "tools" / "bootstrap.sh"), str(self.root / "tools"))
        shutil.copytree(str(ROOT / ".ci"), str(self.root / ".ci"))
        for path in [*ROOT.glob("requirements*.txt"), ROOT / "constraints.txt"]:
            shutil.copy(str(path), str(self.root))
        self.commands = tmp_path / "bin"
        self.commands.mkdir()
        for name in (
            "sh cat chmod cksum date dirname env grep head mkdir mv cp rm sed tail flock"
        ).split():
            if shutil.which(name):
                (self.commands / name).symlink_to(shutil.which(name))
        self.log = tmp_path / "log"
        self.ready = self.root / ".venv" / ".ready"

    def add_python(self, name="python3.11"):
        path = self.commands / name
        path.write_text(FAKE_PYTHON)
        path.chmod(0o755)
        return str(path)

    def set_up(self, *arguments, **environ):
        """Run the script with nothing but the fake commands; return (code, error output)."""
        code, _, err = self.run("tools/bootstrap.sh", ".venv", *arguments, **environ)
        return code, err

    def run(self, *command, **environ):
        """Run a shell script with nothing but the fake commands; return (code, output, errors)."""
        self.log.write_text("")
        environ.update(PATH=str(self.commands), HOME=str(self.root), FAKE_LOG=str(self.log))
        return run([self.commands / "sh", *command], cwd=self.root, env=environ)

    def installations(self):
        lines = self.log.read_text().splitlines()
        return sum("-m pip" in line and "--no-deps" not in line for line in lines)


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_what_does_not_fit_is_refused(checkout):
    def refused(*arguments, **environ):
        code, errors = checkout.set_up(*arguments, **environ)
        assert code == 2 and len(errors.splitlines()) == 1
        return errors

    errors = refused()
    assert "install CPython 3.8-3.12" in errors and "PYTHON=" in errors
    assert "valid are cpu and cu112" in refused("cu99")
    python = checkout.add_python()
    assert "apt-get install python3.11-venv" in refused(FAKE_ANSWER="none 11")
    assert python in refused(PYTHON=python, FAKE_ANSWER="unfit 3.7.1")
    assert not checkout.ready.exists()


def test_second_call_reuses_the_environment(checkout):
    checkout.add_python()
    code, errors = checkout.set_up(FAKE_PIP="1")
    assert code == 1 and "ERROR: no index" in errors and "PIP_INDEX_URL" in errors
    assert not checkout.ready.exists()
    (checkout.root / ".venv" / "half").write_text("")
    assert checkout.set_up()[0] == 0
    assert checkout.ready.exists() and not (checkout.root / ".venv" / "half").exists()
    assert checkout.installations() == 1
    command = checkout.root / ".venv" / "bin" / "gluon-attn"
    assert os.access(str(command), os.X_OK)
    assert f'"{command.parent}/python" "$0"' in command.read_text()
    assert checkout.set_up() == (0, "")
    assert checkout.log.read_text() == ""


def test_changed_requirements_are_installed_on_top(checkout):
    checkout.add_python()
    checkout.set_up()
    (checkout.root / ".venv" / "kept").write_text("")
    with open(str(checkout.root / "requirements.txt"), "a") as file:
        file.write("# changed\n")
    assert checkout.set_up()[0] == 0
    assert checkout.installations() == 1 and (checkout.root / ".venv" / "kept").exists()


def test_another_stack_or_python_starts_over(checkout):
    python = checkout.add_python()
    checkout.set_up("cpu")
    (checkout.root / ".venv" / "old").write_text("")
    assert checkout.set_up("cu112")[0] == 0
    assert "requirements-cu112.txt" in checkout.log.read_text()
    assert not (checkout.root / ".venv" / "old").exists()
    assert checkout.set_up() == (0, "")  # without a choice: what is there
    assert checkout.set_up(PYTHON=python)[0] == 0
    assert checkout.installations() == 1
    assert checkout.set_up(PYTHON=python) == (0, "")


def test_the_matrix_names_what_failed_and_what_is_missing(checkout):
    for minor in (8, 12):
        checkout.add_python(f"python3.{minor}")
    code, out, err = checkout.run(".ci/matrix", "-n", "1", FAKE_RED="/3.12/")
    assert code == 1, err
    assert out.splitlines()[-5:] == [
        "3.8  3 tests on 3.8/bin/python", *(
            f"3.{minor}  not run: no python3.{minor} found" for minor in (9, 10, 11)
        ), "3.12  3 tests on 3.12/bin/python",
    ]  # fmt: skip
    assert sum(line == "-m pytest -n 1" for line in checkout.log.read_text().splitlines()) == 2
    code, out, _ = checkout.run(".ci/matrix", FAKE_RED="none", VERSIONS="3.8 3.9")
    assert code == 0 and len(out.splitlines()) == 3
    assert checkout.installations() == 0, "the environment is kept"
    assert checkout.run(".ci/matrix", FAKE_RED="none", VERSIONS="3.9")[0] == 2
    code, out, _ = checkout.run(".ci/matrix", FAKE_PIP="1", FAKE_RED="none", VERSIONS="3.12")
    assert code == 0, "it is there already"
    shutil.rmtree(str(checkout.root / ".venv-matrix"))
    code, out, err = checkout.run(".ci/matrix", FAKE_PIP="1", FAKE_RED="none", VERSIONS="3.12")
    assert code == 1 and out.splitlines()[-1] == "3.12  the set-up failed (see above)"


def test_ci_runs_the_tests():
    assert os.access(str(ROOT / ".ci" / "run"), os.X_OK)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_description_of_the_project():
    assert SETUPTOOLS["dynamic"]["version"] == {"attr": "gluon_attn.__version__"}
    # setuptools reads it without an import, which would ask for MXNet.
    assert f'\n__version__ = "{gluon_attn.__version__}"\n' in Path(gluon_attn.__file__).read_text()
    module, _, name = PROJECT["scripts"]["gluon-attn"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    extras = PROJECT["optional-dependencies"]
    wanted = {"cpu", "cu112", "onnx", "bench", "test", "pretrained", "tensorboard", "coco"}
    assert set(extras) == {*wanted, "downstream"} and extras["downstream"] == extras["coco"]
    for extra, name in EXTRAS.items():
        assert extras[extra] == lines_of(name)
