"""Which of several processes this one is."""

import pytest

from gvbsm.config import ConfigError
from gvbsm.engine.launch import FIRST_PORT, PORTS, Launch, first_node, read_launch

WHOLE = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "host",
    "MASTER_PORT": "1",
}


@pytest.mark.parametrize("environment", [{}, {"RANK": "3"}, {**WHOLE, "WORLD_SIZE": "1"}])
def test_without_others__it_is_alone(environment):
    assert read_launch(environment) == Launch(0, 1, 0, 1)
    assert Launch().name == ""


def test_the_launcher_is_believed():
    assert read_launch(WHOLE) == Launch(5, 8, 1, 8)
    assert read_launch({**WHOLE, "LOCAL_WORLD_SIZE": "2"}) == Launch(5, 8, 1, 2)
    assert read_launch(WHOLE).name == "process 5 of 8"
    by_hand = {name: value for name, value in WHOLE.items() if name != "LOCAL_RANK"}
    assert read_launch(by_hand).local_rank == 0


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"RANK": ""}, "RANK is not set"),
        ({"MASTER_PORT": ""}, "MASTER_PORT"),
        ({"RANK": "8"}, "RANK=8"),
        ({"RANK": "-1"}, "'-1'"),
        ({"WORLD_SIZE": "two"}, "'two'"),
        ({"LOCAL_WORLD_SIZE": ""}, "LOCAL_WORLD_SIZE must be a number"),
        ({"LOCAL_WORLD_SIZE": "1"}, "LOCAL_RANK=1 less than LOCAL_WORLD_SIZE=1"),
        ({"LOCAL_WORLD_SIZE": "9"}, "LOCAL_WORLD_SIZE=9"),
    ],
)
def test_a_fault_is_one_line(changed, word):
    with pytest.raises(ConfigError, match=word) as fault:
        read_launch(WHOLE | changed)
    assert "\n" not in str(fault.value)


# Slurm

# A step of `srun -N 3 -n 7`, as task 5 of it, the second of the second machine, sees it.
STEP = {
    "SLURM_JOB_ID": "812",
    "SLURM_STEP_ID": "3",
    "SLURM_NTASKS": "7",
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_STEP_TASKS_PER_NODE": "3,2(x2)",
    "SLURM_STEP_NODELIST": "gpu[07-08,11]",
}
BATCH = {"SLURM_JOB_ID": "812", "SLURM_NTASKS": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


def test_processes_of_srun_know_each_other_and_where_to_meet():
    launch = read_launch(STEP)
    assert launch[:4] == (5, 7, 1, 2)
    host, port = launch.meeting
    assert host == "gpu07"
    assert FIRST_PORT <= port < FIRST_PORT + PORTS
    assert read_launch({**STEP, "SLURM_STEP_ID": "4"}).meeting != launch.meeting
    assert read_launch({**STEP, "SLURM_NODEID": "0"}).local_world == 3
    here = {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_TASKS_PER_NODE": "7", "SLURM_NODEID": "0"}
    assert read_launch({**STEP, **here}).meeting == ("127.0.0.1", port)
    assert read_launch({**STEP, **here}).local_world == 7
    own = {"MASTER_ADDR": "head", "MASTER_PORT": "77"}
    assert read_launch({**STEP, **own}).meeting == ("head", 77)


@pytest.mark.parametrize(
    "environment",
    [
        BATCH,  # a batch script, or the shell of salloc: one process, whatever was allocated
        {**BATCH, "SLURM_STEP_NUM_TASKS": "1"},  # srun --pty bash
        {**STEP, "WORLD_SIZE": "1"},
        {"OMPI_COMM_WORLD_SIZE": "1", "PMI_SIZE": "1"},
    ],
)
def test_one_task_is_alone(environment):
    assert read_launch(environment) == Launch()


def test_torchrun_inside_a_step_is_believed():
    assert read_launch(STEP | WHOLE) == read_launch(WHOLE)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"),
        ("a,b[1-3]", "a"),
        ("gpu[007-010,13],cpu1", "gpu007"),
        ("gpu[4,7]", "gpu4"),
        ("rack[1-2]node[10-12]", "rack1node10"),
        ("login-1.example.org,x", "login-1.example.org"),
    ],
)
def test_the_first_node_of_a_list(nodes, first):
    assert first_node(nodes) == first


@pytest.mark.parametrize(
    ("environment", "word"),
    [
        ({**STEP, "SLURM_PROCID": ""}, "SLURM_PROCID is not set"),
        ({**STEP, "SLURM_STEP_NODELIST": ""}, "SLURM_STEP_NODELIST is not set"),
        ({**STEP, "SLURM_PROCID": "7"}, "SLURM_PROCID=7"),
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "many"}, "SLURM_STEP_TASKS_PER_NODE must be"),
        ({**STEP, "SLURM_NODEID": "3"}, "SLURM_STEP_TASKS_PER_NODE must be a number"),
        ({**STEP, "MASTER_PORT": "here"}, "MASTER_PORT must be a number, got 'here'"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "mpirun has started several processes"),
        ({"PMI_SIZE": "4"}, "start them with torchrun or srun"),
    ],
)
def test_a_fault_of_another_launcher_is_one_line(environment, word):
    with pytest.raises(ConfigError, match=word) as fault:
        read_launch(environment)
    assert "\n" not in str(fault.value)
