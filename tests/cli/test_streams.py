"""The standard streams of a command: closed, narrow, full, or read by nobody."""

import os
import subprocess
import sys

import pytest

from support.launch import environment
from support.workdirs import write_arrays

GVBSM = f"{sys.executable} -m gvbsm"


def shell(command, folder, **more):
    """Run a command of the shell in a folder."""
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["sweep", "--help"], ["run", "--help"]])
def test_a_reader_that_leaves_ends_the_command_without_a_traceback(arguments, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed_pipe:
        done = subprocess.run(
            [sys.executable, "-m", "gvbsm", *arguments],
            stdout=closed_pipe,
            stderr=subprocess.PIPE,
            env=environment(PYTHONUNBUFFERED=unbuffered),
            text=True,
            timeout=120,
            check=False,
        )
    assert done.stderr == ""
    # argparse prints the help of settings, and ignores that nobody reads it.
    assert done.returncode == 141 or (arguments[0], done.returncode) == ("run", 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")  # noqa: PTH110
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_cannot_be_written_is_one_line(unbuffered, tmp_path):
    done = shell(f"{GVBSM} --help > /dev/full", tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1
    assert done.stderr.startswith("gvbsm: ")
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_stop_no_work_and_lend_their_numbers_to_no_file(closed, tmp_path):
    program = "import os, sys\nfrom gvbsm.cli.streams import prepare_streams\nprepare_streams()\n"
    program += "print('out')\nprint('err', file=sys.stderr)\nsys.stdin.read()\n"
    program += "child = os.system(': <&0 && : >&1 && : >&2')\n"  # open for other programs too
    program += "file = os.open('file', os.O_CREAT | os.O_WRONLY)\nsys.exit(child or file < 3)\n"
    (tmp_path / "program.py").write_text(program)
    assert shell(f"{sys.executable} program.py {closed}", tmp_path).returncode == 0


def test_a_run_without_a_standard_error_stream_is_made(tmp_path):
    write_arrays(tmp_path / "data.npz")
    settings = "--squeeze.backbones [convnet8_d1] --squeeze.epochs 1 --device cpu --workdir w"
    done = shell(f"{GVBSM} squeeze npz --data-root data.npz {settings} 2>&-", tmp_path)
    assert done.returncode == 0
    assert len(list((tmp_path / "w" / "squeeze").glob("*.safetensors"))) == 1


def test_a_table_is_printed_where_the_encoding_lacks_its_signs(tmp_path):
    program = "import gvbsm.cli as cli\ncli.main = lambda *_: print('57.6 \\u00b1 0.2')\n"
    done = shell(f'{sys.executable} -c "{program}cli.entry()"', tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "57.6 \\xb1 0.2\n"), done.stderr
