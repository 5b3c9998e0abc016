"""What is installed, from which requirements, and how a checkout sets itself up; no network."""

from __future__ import annotations

import ast
import fnmatch
import glob
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from process_helpers import run

import gluon_attn

pytest.importorskip("setuptools")
requirements = pytest.importorskip("packaging.requirements")
versions = pytest.importorskip("packaging.version")

ROOT = str(Path(__file__).resolve().parents[2])
PYTHONS = ("3.8", "3.9", "3.10", "3.11", "3.12")
FILES = ("requirements-common.txt", "requirements.txt", "requirements-cu112.txt")

# Modules whose distribution has another name, and modules that only an extra brings.
DISTRIBUTION = {"cv2": "opencv-python-headless", "sklearn": "scikit-learn", "PIL": "pillow"}
OPTIONAL = {"onnx", "onnxruntime", "gluoncv", "tensorboardX", "openvino", "torch", "torchvision",
            "pycocotools", "cosmic_ray"}  # fmt: skip


def _load_setup():
    spec = importlib.util.spec_from_file_location("project_setup", os.path.join(ROOT, "setup.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SETUP = _load_setup()
METADATA = SETUP.METADATA


def _python_files(*folders):
    for folder in folders:
        for where, _, names in os.walk(os.path.join(ROOT, folder)):
            yield from (os.path.join(where, name) for name in names if name.endswith(".py"))


def _installed_files():
    for package in ("gluon_attn", "model_zoo"):
        for where, folders, names in os.walk(os.path.join(ROOT, package)):
            folders[:] = [name for name in folders if name[0] not in "._"]  # caches
            for name in names:
                if not name.endswith(".py"):
                    yield package, os.path.relpath(os.path.join(where, name), ROOT)


def _applies(requirement, python):
    environment = {"python_version": python, "python_full_version": python + ".9"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def _pins(name, python):
    """Return ``{distribution: version}`` of a requirements file for a Python version."""
    found = {}
    for line in SETUP.pins(name):
        requirement = requirements.Requirement(line)
        (pin,) = requirement.specifier
        assert pin.operator == "==", f"{name}: {line} is not pinned exactly"
        if _applies(requirement, python):
            assert requirement.name not in found, f"{name}: two {requirement.name} on {python}"
            found[requirement.name] = pin.version
    return found


# -- metadata ------------------------------------------------------------------------------------


def test_package_list_is_the_tree():
    found = {
        os.path.relpath(os.path.dirname(path), ROOT).replace(os.sep, ".")
        for path in _python_files("gluon_attn", "model_zoo")
    }
    assert sorted(METADATA["packages"]) == sorted(found)


def test_every_data_file_is_installed():
    for package, path in _installed_files():
        inside = os.path.relpath(path, package)
        patterns = METADATA["package_data"].get(package, [])
        assert any(fnmatch.fnmatch(inside, pattern) for pattern in patterns), f"{path} is left out"


def test_version_is_the_packages():
    assert METADATA["version"] == gluon_attn.__version__


def test_core_requirements_hold_no_backend():
    assert not [line for line in METADATA["install_requires"] if line.startswith("mxnet")]


def test_the_two_backends_exclude_each_other():
    extras = METADATA["extras_require"]
    assert extras["cpu"] == ["mxnet==1.9.1"]
    assert "mxnet-cu112==1.9.1" in extras["cu112"]
    assert not [line for line in extras["cu112"] if re.match(r"mxnet(?!-cu112)", line)]
    assert {"onnx", "test", "tensorboard", "downstream"} <= set(extras)


def test_every_cuda_library_has_its_package():
    from gluon_attn.env import libraries as _libraries

    names = {requirements.Requirement(line).name for line in METADATA["extras_require"]["cu112"]}
    assert names == {"mxnet-cu112"} | {p for _, p in _libraries.CUDA_LIBRARIES.values()}


# -- requirements --------------------------------------------------------------------------------


@pytest.mark.parametrize("python", PYTHONS)
def test_pins_are_exact_and_lie_within_the_ranges(python):
    pins = _pins("requirements-common.txt", python)
    core = [requirements.Requirement(line) for line in METADATA["install_requires"]]
    core = {item.name: item for item in core if _applies(item, python)}
    assert set(core) == set(pins)
    for name, version in pins.items():
        assert core[name].specifier.contains(versions.Version(version)), f"{name}=={version}"


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(
    "name",
    FILES[1:]
    + (
        "requirements-test.txt",
        "requirements-docs.txt",
        "requirements-downstream.txt",
        "constraints.txt",
    ),
)
def test_other_files_are_pinned_exactly_and_repeat_nothing(name, python):
    pins = _pins(name, python)
    assert pins
    assert not set(pins) & set(_pins("requirements-common.txt", python))


def test_both_stacks_share_the_common_file():
    for name in FILES[1:]:
        assert "-r requirements-common.txt" in SETUP.read(name)


def test_every_import_is_required():
    required = {requirements.Requirement(line).name for line in METADATA["install_requires"]}
    own = {"gluon_attn", "model_zoo", "tools", "formats", "mxnet"}
    for path in _python_files("gluon_attn", "model_zoo", "tools"):
        for module in _third_party(path) - own - OPTIONAL:
            name = DISTRIBUTION.get(module, module)
            assert name in required, f"{os.path.relpath(path, ROOT)} imports {module}"


def test_scripts_import_gluon_attn_before_mxnet():
    """The environment can be prepared only before MXNet is imported."""
    for path in glob.glob(os.path.join(ROOT, "tools", "*.py")):
        with open(path, encoding="utf-8") as file:
            body = ast.parse(file.read()).body
        names = [
            _top_level(node) for node in body if isinstance(node, (ast.Import, ast.ImportFrom))
        ]
        first = [name for name in names if name in ("mxnet", "gluon_attn", "model_zoo")][:1]
        assert first != ["mxnet"], f"{os.path.relpath(path, ROOT)} imports mxnet first"


def _top_level(node):
    name = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
    return (name or "").partition(".")[0]


def _third_party(path):
    """Return the top-level modules a file imports, without the standard library's and its own."""
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    beside = {name[:-3] for name in os.listdir(os.path.dirname(path)) if name.endswith(".py")}
    return {name for name in names - beside if not _in_standard_library(name)}


def _in_standard_library(name):
    if hasattr(sys, "stdlib_module_names"):
        return name in sys.stdlib_module_names
    spec = importlib.util.find_spec(name)
    return spec is not None and "site-packages" not in (spec.origin or "") + str(
        list(spec.submodule_search_locations or ())
    )


def test_licence_is_shipped():
    assert "Apache License" in SETUP.read("LICENSE") and "Version 2.0" in SETUP.read("LICENSE")


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
        shutil.copy(os.path.join(ROOT, "tools", "bootstrap.sh"), self.root / "tools")
        shutil.copytree(os.path.join(ROOT, ".ci"), self.root / ".ci")
        for name in FILES + ("requirements-test.txt", "constraints.txt", "setup.py"):
            shutil.copy(os.path.join(ROOT, name), self.root)
        self.commands = tmp_path / "bin"
        self.commands.mkdir()
        for name in (
            "sh cat cksum date dirname env grep head mkdir mv cp rm sed tail flock"
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


def test_no_suitable_python_is_one_line_that_says_what_to_install(checkout):
    code, errors = checkout.set_up()
    assert code == 2 and len(errors.splitlines()) == 1
    assert "install CPython 3.8-3.12" in errors and "PYTHON=" in errors


def test_python_without_venv_names_the_package(checkout):
    checkout.add_python()
    code, errors = checkout.set_up(FAKE_ANSWER="none 11")
    assert code == 2 and len(errors.splitlines()) == 1
    assert "apt-get install python3.11-venv" in errors


def test_unfit_choice_of_python_is_refused(checkout):
    python = checkout.add_python("other")
    code, errors = checkout.set_up(PYTHON=python, FAKE_ANSWER="unfit 3.7.1")
    assert code == 2 and len(errors.splitlines()) == 1 and python in errors
    assert not checkout.ready.exists()


def test_unknown_stack_is_refused(checkout):
    code, errors = checkout.set_up("cu99")
    assert code == 2 and "valid are cpu and cu112" in errors


def test_second_call_reuses_the_environment(checkout):
    checkout.add_python()
    assert checkout.set_up()[0] == 0
    assert checkout.installations() == 1
    assert checkout.set_up() == (0, "")
    assert checkout.log.read_text() == ""


def test_failed_installation_reads_well_and_is_done_again(checkout):
    checkout.add_python()
    code, errors = checkout.set_up(FAKE_PIP="1")
    assert code == 1 and "ERROR: no index" in errors and "PIP_INDEX_URL" in errors
    assert not checkout.ready.exists()
    (checkout.root / ".venv" / "half").write_text("")
    assert checkout.set_up()[0] == 0
    assert checkout.ready.exists() and not (checkout.root / ".venv" / "half").exists()


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
    path = os.path.join(ROOT, ".ci", "run")
    assert os.access(path, os.X_OK)
    with open(path) as file:
        assert "exec make test" in file.read()
