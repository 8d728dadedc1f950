"""The command line: parse arguments, run a verb, print a table, exit with a code.

Exit codes: 0 done; 1 the run failed; 2 a fault in the command, the settings, the data or the work
directory; 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP, 138 by SIGUSR1; 141 standard output
was closed by its reader. torch is imported only when a stage runs.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Sequence

from gvbsm._version import __version__
from gvbsm.cli.exchange import collect_verb, export_verb, merge_verb, train_verb
from gvbsm.cli.help import VERBS
from gvbsm.cli.parsing import last_value, start_log
from gvbsm.cli.planning import plan_verb
from gvbsm.cli.reading import list_verb, report_verb, show_verb
from gvbsm.cli.settings import settings_verb
from gvbsm.cli.signals import Handler, Stopped
from gvbsm.cli.stages import stage_verb
from gvbsm.cli.starting import Others, end_with_first
from gvbsm.cli.streams import BROKEN_PIPE, flush_streams, lost_reader, prepare_streams
from gvbsm.cli.sweep import sweep_verb
from gvbsm.config import ConfigError
from gvbsm.config.keys import closest
from gvbsm.engine.launch import STARTED, Launch, read_launch
from gvbsm.engine.progress.log import json_line, log_style
from gvbsm.engine.progress.stopping import STOPPING

COMMANDS: dict[str, Callable[[list[str]], int]] = {  # of several processes the first runs them
    "plan": plan_verb,
    "report": report_verb,
    "show": show_verb,
    "list": list_verb,
    "settings": settings_verb,
    "export": export_verb,
    "collect": collect_verb,
    "merge": merge_verb,
    "train": train_verb,
}
RESUME = "the same command goes on from the last checkpoint"
WITHOUT_CHECKPOINTS = {*COMMANDS} - {"train"}  # begin anew after a stop


def entry() -> None:
    """Entry point of the `gvbsm` command; takes over the signals of its process for good."""
    # OpenMP threads that wait for each other spin. By default they spin so long that, where other
    # processes use the cores too, they take the time of the threads that they wait for. With 2,000
    # turns a run alone takes 1.1 times as long, with none 1.4 times. torch's import reads this.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    prepare_streams()
    handler = Handler(ends_without_word=STARTED in os.environ)
    handler.install()
    if STARTED in os.environ:
        end_with_first(handler)
    try:
        code = flush_streams(main(sys.argv[1:], Others(handler)))
    except Stopped as stopped:  # after the command itself has ended
        code = stopped.code
    gc.freeze()  # else Python searches all of torch for garbage before it ends, for a second
    sys.exit(code)


def main(argv: Sequence[str], others: Others | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        argv: The arguments.
        others: Starts and ends the other processes of the command; None starts none.
    """
    others, code = others or Others(), None
    try:
        code = _run(argv, others)
        return code
    except Stopped:  # by the end of another process, while the same fault was handled here
        if not others.have_stopped_this or (failure := others.failure()) is None:
            raise
        code = _report(*failure)
        return code
    finally:
        others.end(done=code == 0)


def _run(argv: Sequence[str], others: Others) -> int:
    launch, verb = Launch(), next(iter(argv), "")
    try:
        if not argv or argv[0] in ("-h", "--help"):
            print(_overview())
            return 0 if argv else 2
        if argv[0] == "--version":
            print(f"gvbsm {__version__}")
            return 0
        launch = read_launch()
        if launch.world > 1:  # else torch prints its C++ stack when another process ends
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        return _dispatch(argv[0], list(argv[1:]), others)
    except KeyboardInterrupt as interrupt:
        return _interrupted(interrupt, launch, others, verb)
    except BrokenPipeError as error:
        return BROKEN_PIPE if lost_reader() else _failed(error, launch, others, verb)
    except Exception as error:
        return _failed(error, launch, others, verb)


def _interrupted(interrupt: KeyboardInterrupt, launch: Launch, others: Others, verb: str) -> int:
    """Print which signal has stopped the command; return the exit code."""
    if others.have_stopped_this and (failure := others.failure()):
        return _report(*failure)
    code, line = 130, "\nstopped"
    if isinstance(interrupt, Stopped):
        code, line = interrupt.code, f"gvbsm: stopped by {interrupt}"
    if launch.rank == 0:
        account = f"; {STOPPING.account}" * bool(STOPPING.account)
        resume = f"; {RESUME}" if verb not in WITHOUT_CHECKPOINTS else ""
        _complain(f"{line}{account}{resume}")
    return code


def _failed(error: Exception, launch: Launch, others: Others, verb: str) -> int:
    """Print a fault and return the exit code; a bug keeps its traceback."""
    code = _exit_code(error)
    if STOPPING.is_requested:  # and another process or a worker has stopped first
        return _interrupted(STOPPING.error, launch, others, verb)
    if others.have_started and _is_lost(error) and (failure := others.failure()):
        return _report(*failure)
    if code is None:
        if launch.name:  # one of several processes
            error.add_note(f"in {launch.name}")
        raise error
    _print_fault(error, launch)
    return code


def _report(code: int, message: str) -> int:
    """Print why another process has ended, unless it has done so itself; return the exit code."""
    if message:
        _complain(f"gvbsm: {message}")
    return code


def _print_fault(error: Exception, launch: Launch) -> None:
    """Print a fault with the number of the process; a fault of all processes once a machine."""
    if launch.local_rank and _is_common(error):
        return
    who = f"{launch.name}: " if launch.name else ""
    for line in str(error).splitlines() or [type(error).__name__]:
        _complain(f"gvbsm: {who}{line}")


def _complain(line: str) -> None:
    """Print a line to standard error, with control characters escaped.

    If standard error is closed, the exit code alone reports the fault.
    """
    line = "".join(
        sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode()
        for sign in line
    )
    if log_style() == "json":
        line = json_line(line.strip(), "ERROR")
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _is_lost(error: Exception) -> bool:
    """Whether the fault is that another process has ended."""
    from gvbsm.engine.processes import LostError

    return isinstance(error, LostError)


def _is_common(error: Exception) -> bool:
    """Whether the first process of the machine has the same fault and prints it."""
    from gvbsm.engine.processes import LostError, ProcessError

    if isinstance(error, LostError):
        return not error.leader
    return isinstance(error, (ConfigError, ProcessError))


def _exit_code(error: Exception) -> int | None:
    """2 for a fault in the input, 1 for a failed run, None for a bug (its traceback is kept)."""
    if isinstance(error, ConfigError):
        return 2
    if isinstance(error, OSError):
        return 1
    from gvbsm.files.artifacts import ArtifactError

    if isinstance(error, ArtifactError):
        return 2
    from gvbsm.data.pictures import DataError  # imports torch, as those that raise the others did
    from gvbsm.engine.device import RunError
    from gvbsm.engine.processes import ProcessError

    if isinstance(error, DataError):
        return 2
    return 1 if isinstance(error, (RunError, ProcessError)) else None


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = ["usage: gvbsm VERB ...", "", "verbs:"]
    lines += [f"  {verb:{width}}  {text}" for verb, text in VERBS.items()]
    lines += [
        "",
        "gvbsm VERB --help       how a verb is used",
        "gvbsm list presets      what gvbsm run can start from, besides your own pictures",
        "gvbsm --version",
        "",
        "example: gvbsm run digits --workdir runs/digits",
    ]
    return "\n".join(lines)


def _dispatch(verb: str, argv: list[str], others: Others) -> int:
    if last_value(argv, "--log-format") == "json":  # faults of other options, too
        start_log(quiet=True, style="json")
    if verb not in VERBS:
        hint = closest(verb, VERBS)
        raise ConfigError(f"there is no verb {verb!r}; {hint}verbs: {', '.join(VERBS)}")
    if verb in COMMANDS:
        return 0 if read_launch().rank else COMMANDS[verb](argv)
    if verb == "sweep":
        return sweep_verb(argv, others)
    return stage_verb(verb, argv, others)
