"""The environment check, its doctor, AMX, devices and seeds, on stacks that are simulated.

A broken stack is a folder of fake packages: metadata folders and stand-ins for files, in front of
the search path (`stack`) or instead of it (``-S`` leaves site-packages out).
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import sys
from pathlib import Path

import pytest
from process_helpers import run, run_python

from gluon_attn import runtime
from gluon_attn.env import cpu as _cpu
from gluon_attn.env import environment as _environment
from gluon_attn.env import gpu as _gpu
from gluon_attn.env import libraries as _libraries

import mxnet as mx  # isort: skip  (after gluon_attn, as its users should)
import numpy as np  # isort: skip

ROOT = str(Path(__file__).resolve().parents[2])
AMX_FLAGS = "flags\t\t: fpu sse2 amx_bf16 avx512_bf16 amx_tile amx_int8\n"


@pytest.fixture
def stack(tmp_path):
    """Return a maker of fake packages and a runner of Python on them."""
    return Stack(tmp_path)


class Stack:
    """A folder of fake packages, commands and libraries."""

    def __init__(self, folder):
        self.site = folder / "site"
        self.site.mkdir()
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith(("GLUON", "DNNL"))}
        self.environ["PYTHONPATH"] = os.pathsep.join((str(self.site), ROOT))

    def distribution(self, name, version):
        info = self.site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        return self

    def mxnet(self, name="mxnet"):
        """Install a fake MXNet that cannot be imported: the check must come first."""
        self.distribution(name, "1.9.1")
        folder = self.site / "mxnet"
        folder.mkdir()
        (folder / "__init__.py").write_text("raise RuntimeError('from inside MXNet')\n")
        for soname in _libraries.SYSTEM_LIBRARIES:
            (folder / soname).write_bytes(b"")
        return self

    def cuda(self, missing=()):
        """Install stand-ins (copies of libm) for the driver and the CUDA libraries."""
        source = _path_of_libm()
        driver = self.site / "driver"
        driver.mkdir()
        shutil.copy(source, driver / _libraries.DRIVER)
        self.environ["LD_LIBRARY_PATH"] = str(driver)
        for soname, (folder, _) in _libraries.CUDA_LIBRARIES.items():
            if soname not in missing:
                target = self.site / "nvidia" / folder / "lib"
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target / soname)
        return self

    def nvidia_smi(self, *lines):
        folder = self.site / "bin"
        folder.mkdir()
        command = folder / "nvidia-smi"
        command.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
        command.chmod(0o755)
        self.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
        return self

    def python(self, *arguments):
        return run([sys.executable, *arguments], env=self.environ, cwd=self.site)

    def output(self, *arguments):
        """Run Python, which must end well; return what it prints."""
        code, output, errors = self.python(*arguments)
        assert code == 0, errors
        return output

    def message(self, *options):
        """Import the package, which must fail with the one clear error; return its text."""
        code, _, errors = self.python(*options, "-c", "import gluon_attn")
        assert code == 1
        assert "UnsuitableEnvironment: gluon_attn cannot run in this environment" in errors
        assert errors.count("Traceback") == 1, errors  # no chain from inside anything
        assert "from inside MXNet" not in errors
        return errors


def _path_of_libm():
    ctypes.CDLL("libm.so.6")
    with open("/proc/self/maps") as maps:
        return next(line.split()[-1] for line in maps if "/libm.so" in line or "/libm-" in line)


# -- importing the package on broken stacks ------------------------------------------------------


def test_import_is_cheap_and_leaves_mxnet_alone(stack):
    program = "import sys, gluon_attn; print('mxnet' in sys.modules, 'numpy' in sys.modules)"
    output = stack.output("-c", program)
    if tuple(map(int, np.__version__.split(".")[:2])) < (1, 24):
        assert output.split() == ["False", "False"]
    else:  # the alias is put back, which needs numpy
        assert output.split() == ["False", "True"]


def test_numpy_2_is_refused(stack):
    message = stack.distribution("numpy", "2.1.3").message()
    assert "numpy: 2.1.3: MXNet 1.9.1 needs numpy < 2" in message
    assert "pip install numpy==1." in message
    code, _, errors = stack.python("-c", "import model_zoo")  # which asks first as well
    assert code == 1 and "UnsuitableEnvironment" in errors and "mxnet/" not in errors


def test_nothing_installed_names_numpy_and_the_backend(stack):
    message = stack.message("-S")
    assert "numpy: not installed" in message
    assert "no MXNet is installed" in message
    assert "requirements-cu112.txt" in message


def test_a_wheel_names_its_extras_and_a_checkout_its_files(tmp_path):
    assert _environment.what_to_install("cpu", str(tmp_path)) == '"gluon_attn[cpu]"'
    (tmp_path / "requirements-cu112.txt").touch()
    assert _environment.what_to_install("cu112", str(tmp_path)) == "-r requirements-cu112.txt"
    assert _environment.CPU == "-r requirements.txt", "here is a checkout"


@pytest.mark.parametrize(
    "found, folder, status, text",
    [
        ({"mxnet": "1.9.1"}, "x", "ok", "CPU wheel"),
        ({"mxnet-cu112": "1.9.1"}, "x", "ok", "GPU wheel"),
        ({"mxnet (custom build)": "?"}, "x", "warn", "in x"),
        ({"mxnet": "1.8.0"}, "x", "warn", "mxnet 1.8.0"),
        ({"mxnet": "2.0.0b1"}, "x", "fail", "Gluon 1"),
        ({"mxnet": "1.9.1"}, None, "fail", "its files are gone"),
        ({"mxnet": "1.9.1", "mxnet-cu112": "1.9.1"}, "x", "fail", "overwrite each other's files"),
        ({}, None, "fail", "no MXNet is installed"),
    ],
)
def test_exactly_one_whole_mxnet_of_the_right_version(found, folder, status, text):
    check = _environment.check_backend(found, folder)
    assert check.status == status and text in check.detail
    assert (check.status == "ok") == (check.remedy == "")


def test_gpu_wheel_without_a_driver(stack):
    stack.distribution("numpy", "1.23.5").mxnet("mxnet_cu112")
    if _libraries.loads(_libraries.DRIVER):
        pytest.skip("this machine has NVIDIA's driver")
    message = stack.message("-S")
    assert "libcuda.so.1 not found" in message
    assert "pip uninstall -y mxnet-cu112; pip install mxnet==1.9.1" in message


def test_gpu_wheel_names_the_missing_cuda_libraries(stack):
    stack.distribution("numpy", "1.23.5").mxnet("mxnet_cu112")
    stack.cuda(missing=("libcudnn.so.8", "libnccl.so.2")).nvidia_smi("NVIDIA A10, 8.6")
    message = stack.message("-S")
    assert "missing: libcudnn.so.8, libnccl.so.2" in message
    assert "libcublas" not in message


def test_gpu_newer_than_the_wheel(stack):
    stack.distribution("numpy", "1.23.5").mxnet("mxnet_cu112").cuda()
    message = stack.nvidia_smi("NVIDIA H100 80GB HBM3, 9.0").message("-S")
    assert "GPU 0 NVIDIA H100 80GB HBM3 (compute capability 9.0) NOT supported" in message
    assert "use the CPU wheel" in message


@pytest.mark.parametrize("gpus", [("NVIDIA L4, 8.9",), ("Quadro P400, 6.1", "H200, 9.0")])
def test_gpu_that_the_wheel_has_code_for_passes_and_libraries_are_preloaded(stack, gpus):
    stack.distribution("numpy", "1.23.5").mxnet("mxnet_cu112").cuda().nvidia_smi(*gpus)
    program = (
        "import gluon_attn; text = open('/proc/self/maps').read()\n"
        f"print([n for n in {list(_libraries.CUDA_LIBRARIES)} if n not in text])"
    )
    assert stack.output("-S", "-c", program).strip() == "[]"


def test_missing_system_library_has_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(_libraries, "loads", lambda name: False)
    check = _environment.check_system_libraries(str(tmp_path))
    assert check.status == "fail"
    assert "missing: libgomp.so.1, libquadmath.so.0" in check.detail
    assert "apt-get install libgomp1 libquadmath0" in check.remedy


def test_system_libraries_are_linked_from_other_wheels(tmp_path):
    folder = tmp_path / "mxnet"
    folder.mkdir()
    libs = tmp_path / "scikit_learn.libs"
    libs.mkdir()
    (libs / "libgomp-a34b3233.so.1.0.0").write_bytes(b"gomp")
    (folder / "libgomp.so.1").symlink_to("../gone.libs/libgomp-old.so")
    linked = _libraries.link_system_libraries(str(folder), list(_libraries.SYSTEM_LIBRARIES))
    assert linked["libquadmath.so.0"] is None
    assert (folder / "libgomp.so.1").read_bytes() == b"gomp"


# -- numpy's alias -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "version, python, status",
    [(None, (3, 11), "fail"), ("1.19.5", (3, 8), "warn"), ("1.23.5", (3, 11), "ok"),
     ("1.26.4", (3, 12), "ok"), ("2.0.0", (3, 12), "fail"), ("2.3.0rc1", (3, 12), "fail")],
)  # fmt: skip
def test_numpy_versions(version, python, status):
    check = _environment.check_numpy(version, python)
    assert check.status == status
    assert (check.status == "ok") == (check.remedy == "")


@pytest.mark.parametrize("version, has", [("1.26.4", "True"), ("1.23.5", "False")])
def test_alias_is_put_back_only_where_numpy_dropped_it(stack, version, has):
    stack.distribution("numpy", version).mxnet()
    (stack.site / "numpy").mkdir()
    (stack.site / "numpy" / "__init__.py").write_text(f"__version__ = '{version}'\n")
    program = "import gluon_attn, numpy; print(getattr(numpy, 'bool', None) is bool)"
    assert stack.output("-S", "-c", program).strip() == has


# -- AMX -----------------------------------------------------------------------------------------


def _cpuinfo(tmp_path, text=AMX_FLAGS):
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    return str(path)


@pytest.fixture
def amx(monkeypatch, tmp_path):
    """Return `enable_amx` on a processor with AMX and a granting kernel, without side effects."""
    monkeypatch.setattr(_cpu, "_remembered", [])
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))

    def enable(environ, loaded=False, granted=True, flags=AMX_FLAGS):
        asked = []

        def request():
            asked.append(True)
            return granted, "granted" if granted else "refused"

        state = _cpu.enable_amx(environ, _cpuinfo(tmp_path, flags), request, loaded)
        return state, bool(asked)

    return enable


def test_amx_needs_processor_and_kernel(amx):
    assert amx({})[0].status == "on"
    state, asked = amx({}, flags="flags : fpu amx_tile\n")
    assert (state.status, asked) == ("not available", False)
    state, asked = amx({}, granted=False)
    assert (state.status, state.reason, asked) == ("not available", "refused", True)
    assert state.remedy


def test_amx_opt_outs_are_respected(amx):
    assert amx({"GLUON_ATTN_AMX": "0"})[0].status == "off"
    environ = {"DNNL_MAX_CPU_ISA": "AVX2"}
    state, asked = amx(environ)
    assert (state.status, asked, environ) == ("off", False, {"DNNL_MAX_CPU_ISA": "AVX2"})


def test_amx_of_ones_own_gets_the_permission_it_needs(amx):
    environ = {"DNNL_MAX_CPU_ISA": "AVX512_CORE_AMX"}
    state, asked = amx(environ)
    assert (state.status, asked) == ("on", True)
    assert environ == {"DNNL_MAX_CPU_ISA": "AVX512_CORE_AMX"}


def test_mxnet_imported_first_is_warned_about(amx):
    with pytest.warns(RuntimeWarning, match="import gluon_attn first"):
        state, asked = amx({}, loaded=True)
    assert (state.status, asked) == ("off", False)


def test_variable_reaches_onednn_but_no_child_process(tmp_path, stack):
    # SSE41 in the place of AMX: every x86-64 processor that MXNet runs on has it.
    program = f"""
import importlib.util, os, gluon_attn
from gluon_attn.env import cpu as _cpu
del os.environ["GLUON_ATTN_AMX"]
_cpu.AMX_ISA = "SSE41"
print(_cpu.enable_amx(cpuinfo={_cpuinfo(tmp_path)!r}, request=lambda: (True, "granted")).status)
importlib.util.find_spec("mxnet")
assert "DNNL_MAX_CPU_ISA" not in os.environ
import mxnet as mx
assert "DNNL_MAX_CPU_ISA" not in os.environ
x = mx.nd.ones((1, 8, 8, 8))
mx.nd.Convolution(x, mx.nd.ones((8, 8, 3, 3)), no_bias=True, kernel=(3, 3), num_filter=8).asnumpy()
"""
    stack.environ.update(GLUON_ATTN_AMX="0", DNNL_VERBOSE="1", OMP_NUM_THREADS="1")
    output = stack.output("-c", program)
    assert output.split()[0] == "on"
    assert "isa:Intel SSE4.1" in output


def tiles(rows, columns):
    """Return how many tiles a map has, and how many oneDNN 2.4.4's AMX kernel computes of it.

    As in jit_avx512_core_amx_1x1_conv_kernel.cpp (init_conf) and jit_avx512_core_amx_1x1_
    convolution.cpp (execute_forward); nothing where it leaves the map to another kernel.
    """
    split = rows if rows >= 32 else rows * columns
    width = max(size for size in range(1, 17) if split % size == 0)
    if width <= 8:
        return 0, 0
    found = rows * columns // width
    step = 4 if found > 2 else 1
    whole = -(-found // step) == 1  # one chunk, which is not looked at for its end
    return found, step if whole else found


def test_maps_of_three_tiles_are_kept_from_amx():
    plain = {"kernel": "(1, 1)", "num_filter": "8"}
    for rows in range(1, 64):
        for columns in range(1, 64):
            found, computed = tiles(rows, columns)
            expected = computed > found
            assert _cpu.overruns_with_amx(plain, (2, 8, rows, columns)) == expected
    assert _cpu.overruns_with_amx({**plain, "stride": "()", "dilate": "(1, 1)"}, (1, 8, 6, 8))
    for name, value in (
        ("kernel", "(3, 3)"), ("stride", "(2, 2)"), ("dilate", "(2, 2)"), ("num_group", "2"),
    ):  # fmt: skip
        assert not _cpu.overruns_with_amx({**plain, name: value}, (1, 8, 6, 8))


# -- threads -------------------------------------------------------------------------------


def processors(folder, siblings):
    for number, listed in enumerate(siblings):
        path = folder / f"cpu{number}" / "topology"
        path.mkdir(parents=True)
        (path / "thread_siblings_list").write_text(listed + "\n")
    return str(folder)


def test_threads_of_one_core_count_once(tmp_path):
    folder = processors(tmp_path / "smt", ["0,2", "1,3", "0,2", "1,3"])
    assert _cpu.count_cores(folder, range(4)) == 2
    assert _cpu.count_cores(folder, [0, 2]) == 1
    folder = processors(tmp_path / "plain", ["0", "1"])
    assert _cpu.count_cores(folder, range(2)) == 2
    assert _cpu.count_cores(str(tmp_path / "absent"), range(3)) == 3


def test_the_users_choice_and_a_loaded_mxnet_are_left_alone():
    mine = {"OMP_NUM_THREADS": "7"}
    assert not _cpu.set_threads(mine, loaded=False, cores=2) and mine["OMP_NUM_THREADS"] == "7"
    late = {}
    assert not _cpu.set_threads(late, loaded=True, cores=2) and not late
    fresh = {}
    assert _cpu.set_threads(fresh, loaded=False, cores=2) and fresh == {"OMP_NUM_THREADS": "2"}


def test_a_large_copy_starts_no_thread():
    script = (
        "import os, gluon_attn, mxnet as mx, numpy as np; mx.nd.ones(1).asnumpy();"
        "count = lambda: len(os.listdir('/proc/self/task')); before = count();"
        "mx.nd.array(np.zeros(10**6, np.float32)).asnumpy(); print(count() - before)"
    )
    environ = dict(os.environ, OMP_NUM_THREADS="2")  # MXNet's own way starts one here
    environ.pop("MXNET_CPU_PARALLEL_SIZE", None)
    code, out, err = run_python(script, env=environ)
    assert code == 0 and int(out) == 0, err


def test_importing_the_package_sets_it_before_mxnet():
    script = "import os; print(os.environ['OMP_NUM_THREADS'])"
    environ = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    code, out, err = run_python(script, env=environ)
    assert (code, out.strip()) == (0, str(_cpu.count_cores())), err


# -- GPUs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "capability, supported",
    [((3, 7), False), ((5, 0), True), ((7, 5), True), ((8, 9), True), ((9, 0), False),
     ((10, 0), False)],
)  # fmt: skip
def test_architectures_of_the_wheel(capability, supported):
    assert _gpu.Gpu(0, "x", capability).supported is supported


def test_cuda_visible_devices_limits_what_is_checked():
    gpus = [_gpu.Gpu(0, "old", (8, 6)), _gpu.Gpu(1, "new", (9, 0))]
    assert _environment.check_gpus(gpus).status == "warn"
    assert _environment.check_gpus(gpus).remedy == "CUDA_VISIBLE_DEVICES=0"
    assert _gpu.visible(gpus, {"CUDA_VISIBLE_DEVICES": "1"}) == gpus[1:]
    assert _gpu.visible(gpus, {"CUDA_VISIBLE_DEVICES": ""}) == []
    assert _gpu.visible(gpus, {"CUDA_VISIBLE_DEVICES": "GPU-8f2c"}) == gpus
    assert _environment.check_gpus([]).status == "warn"
    assert _environment.check_gpus(None).status == "warn"


def test_nvidia_smi_that_fails_is_no_answer(monkeypatch, stack):
    stack.nvidia_smi('Field "compute_cap" is not a valid field to query.')
    monkeypatch.setenv("PATH", stack.environ["PATH"])
    assert _gpu._from_nvidia_smi() is None


# -- the doctor ----------------------------------------------------------------------------------


def test_doctor_on_this_stack():
    found = runtime.checks(trial=True)
    assert [check for check in found if check.status == "fail"] == []
    names = [check.name for check in found]
    for name in ("Python", "numpy", "MXNet", "CUDA libraries", "GPU", "AMX", "onnx", "gluoncv"):
        assert name in names
    assert found[-1].name == "Trial run" and "1.9.1" in found[-1].detail


def test_doctor_prints_its_table_on_a_broken_stack(stack):
    code, output, errors = stack.python("-S", "-m", "gluon_attn.runtime")
    assert (code, errors) == (1, "")
    assert "fail  numpy" in output and "fail  MXNet" in output
    assert output.rstrip().endswith("NOT usable: see the lines marked 'fail'")


def test_doctor_as_json(stack):
    stack.distribution("numpy", "2.0.0").distribution("onnx", "1.19.0")
    (stack.site / "onnx.py").write_text("")
    code, output, _ = stack.python("-m", "gluon_attn.runtime", "--json", "--quick")
    report = json.loads(output)
    status = {check["name"]: check["status"] for check in report["checks"]}
    assert code == 1 and report["usable"] is False
    assert (status["numpy"], status["onnx"]) == ("fail", "warn")
    assert all(set(check) == {"name", "status", "detail", "remedy"} for check in report["checks"])


@pytest.mark.parametrize(
    "line, module",
    [
        ("python -m gluon_attn.runtime --json", "gluon_attn.runtime"),
        ("python -W ignore -mgluon_attn.runtime", "gluon_attn.runtime"),
        ("python -m pytest -m gluon_attn.runtime", "pytest"),
        ("python tool.py -m gluon_attn.runtime", None),
        ("python -c code -m gluon_attn.runtime", None),
        ("python", None),
    ],
)
def test_module_named_on_a_command_line(line, module):
    assert _environment.module_run(line.split()) == module


# -- devices, seeds, versions --------------------------------------------------------------------


def test_cpu_contexts():
    assert runtime.contexts() == runtime.contexts("cpu:1") == [mx.cpu(0)]
    assert runtime.contexts("cpu:2") == [mx.cpu(0), mx.cpu(1)]


@pytest.mark.parametrize("spec", ["tpu", "cpu:0", "cpu:1,2", "cpu:x", "gpu:0,0", "0,", "-1", None])
def test_bad_devices_are_named(spec):
    with pytest.raises(ValueError, match="device"):
        runtime.contexts(spec)


@pytest.mark.skipif(mx.runtime.Features().is_enabled("CUDA"), reason="needs the CPU wheel")
@pytest.mark.parametrize("spec", ["gpu", "0", "0,1", "gpu:1"])
def test_gpu_on_the_cpu_wheel_says_what_to_install(spec):
    with pytest.raises(ValueError, match="runs on the CPU only.*requirements-cu112.txt"):
        runtime.contexts(spec)


def test_seed_repeats_all_three_generators():
    def draw():
        runtime.seed_everything(3)
        return random.random(), np.random.rand(), mx.nd.random.uniform(shape=4).asnumpy().tolist()

    first = draw()
    assert draw() == first
    runtime.seed_everything(4)
    assert (random.random(), np.random.rand()) != first[:2]


@pytest.mark.parametrize("seed", [-1, 2**31, 1.5, True])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        runtime.seed_everything(seed)


def test_versions_can_be_saved_beside_a_run():
    found = runtime.versions()
    assert json.loads(json.dumps(found)) == found
    assert found["numpy"] == np.__version__ and "mxnet" in " ".join(found)
