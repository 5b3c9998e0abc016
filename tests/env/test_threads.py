"""One compute thread per core, whatever MXNet supposes about hyper-threading."""

from __future__ import annotations

import os

from process_helpers import run_python

from gluon_attn.env import cpu as _cpu


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


def test_importing_the_package_sets_it_before_mxnet():
    script = "import os; print(os.environ['OMP_NUM_THREADS'])"
    environ = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    code, out, err = run_python(script, env=environ)
    assert (code, out.strip()) == (0, str(_cpu.count_cores())), err
