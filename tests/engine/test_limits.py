"""Cores and memory of a process, read from files of Linux as this test writes them."""

import pytest

from gvbsm.engine.machine import limits


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Call it with paths and contents of files below /; the process may use 8 cores."""
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)

    def write(contents):
        for name, content in contents.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return write


GROUPS = "proc/self/cgroup"
V1, V2 = "sys/fs/cgroup/{}/jobs/", "sys/fs/cgroup/jobs/one/"


def test_without_groups_the_affinity_alone_limits_the_cores(files):
    assert limits.usable_cores() == 8
    assert limits.available_memory() is None
    assert not limits.may_have_gpu()


def test_processes_divide_the_cores_and_have_one_each_at_least(files):
    assert [limits.cores_each(processes) for processes in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]
    assert limits.cores_each(2, cores=6) == 3


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("1 9", 1)]
)
def test_a_quota_of_version_2_limits_the_cores(quota, cores, files):
    files({GROUPS: "0::/jobs/one\n", V2 + "cpu.max": quota})
    assert limits.usable_cores() == cores


def test_the_least_quota_of_the_groups_above_counts(files):
    files({GROUPS: "0::/jobs/one\n", V2 + "cpu.max": "600000 100000"})
    files({"sys/fs/cgroup/jobs/cpu.max": "300000 100000"})
    assert limits.usable_cores() == 3


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("400000", 4)])
def test_a_quota_of_version_1_limits_the_cores(quota, cores, files):
    folder = V1.format("cpu")
    files({GROUPS: "3:cpu,cpuacct:/jobs\n2:pids:/jobs\n"})
    files({f"{folder}cpu.cfs_quota_us": quota, f"{folder}cpu.cfs_period_us": "100000"})
    assert limits.usable_cores() == cores


def test_a_container_finds_its_quota_at_the_root_of_the_groups(files):
    files({GROUPS: "0::/of/the/host\n", "sys/fs/cgroup/cpu.max": "100000 100000"})
    assert limits.usable_cores() == 1


def test_memory_is_the_least_of_the_machine_and_the_groups(files):
    files({"proc/meminfo": "MemTotal: 900 kB\nMemAvailable: 500 kB\n"})
    assert limits.available_memory() == 500 * 1024
    files({GROUPS: "0::/jobs/one\n4:memory:/jobs\n"})
    files({V2 + "memory.max": "max", V2 + "memory.current": "1000"})
    assert limits.available_memory() == 500 * 1024
    files({V2 + "memory.max": "300000", V2 + "memory.stat": "anon 1\ninactive_file 400\n"})
    assert limits.available_memory() == 300_000 - (1000 - 400)
    folder = V1.format("memory")
    files({f"{folder}memory.limit_in_bytes": "2000", f"{folder}memory.usage_in_bytes": "3000"})
    assert limits.available_memory() == 0


def test_a_device_of_a_driver_may_be_a_gpu(files):
    files({"dev/nvidiactl": ""})
    assert limits.may_have_gpu()
