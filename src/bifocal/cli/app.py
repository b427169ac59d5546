"""The command line: thin commands over the public functions, with progress for people and JSON for machines."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

# Before anything imports torch: idle threads that spin make two of them slower than one on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer
from typer.core import TyperGroup

from ..errors import BifocalError, extras_named
from .compare import compare
from .data import inspect, synth, unguard
from .decide import explain, predict, score
from .doctor import doctor
from .export import export
from .init import init
from .lab import lab
from .log import feedback_app, log_app
from .monitor import drift, robustness
from .policy import policy_app
from .promote import promote
from .retrain import retrain
from .run import evaluate, pack, run, train
from .serve import keys_app, lists_app, serve


class _WholeSentences(TyperGroup):
    """A group whose list of commands says each whole sentence, over as many lines as it takes."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        listed = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(limit=1000)) for name, command in listed if command]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _print_version(asked: bool) -> None:
    if asked:
        from .. import __version__

        typer.echo(f"bifocal {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=_WholeSentences,
    help="Train, fuse, calibrate and serve multimodal abuse classifiers. Begin with: bifocal init posts.csv",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    *(init, run, pack, train, evaluate),
    *(predict, explain, score, unguard),
    *(compare, drift, robustness),
    *(synth, inspect),
    *(lab, export, serve, retrain, promote, doctor),
):  # in the order of the help
    app.command()(command)
for name, group in (
    ("policy", policy_app),
    ("feedback", feedback_app),
    ("log", log_app),
    ("keys", keys_app),
    ("lists", lists_app),
):
    app.add_typer(group, name=name, cls=_WholeSentences)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


RESUMED = {"run", "pack", "train", "evaluate", "lab", "score"}
"""Commands that go on where they were stopped."""


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """A warning of ours as one line, as errors are told; others as Python shows them."""
    ours = category.__module__.startswith("bifocal.")
    told = f"warning: {message}" if ours else warnings.formatwarning(message, category, filename, lineno, line).rstrip()
    typer.echo(told, err=True)


@contextmanager
def _ctrl_c_is_heard() -> Iterator[None]:
    """Raise Ctrl-C again for as long as nobody handles it.

    Python drops an exception that is raised inside a finaliser or the callback of a weak reference, and a library's
    bare ``except`` around an import drops any: a training whose modules were just being imported went on to its end.
    What is raised afterwards is taken for its consequence: a library that was interrupted halfway may fail otherwise.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # a shell's background job ignores it
        yield
        return
    over = heard = False

    def interrupted(number: int, _: FrameType | None) -> None:
        nonlocal heard
        if not over:
            heard = True
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            if number == signal.SIGINT or not _is_ending():
                raise KeyboardInterrupt

    def dropped(event: sys.UnraisableHookArgs) -> None:
        if event.exc_type is not KeyboardInterrupt:
            hook(event)

    before, hook = signal.signal(signal.SIGALRM, interrupted), sys.unraisablehook
    signal.signal(signal.SIGINT, interrupted)
    sys.unraisablehook = dropped
    try:
        yield
    except Exception as error:
        if not heard:
            raise
        raise SystemExit(130) from error
    finally:
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = hook


def _is_ending() -> bool:
    """Whether what is under way is somebody's tidying up after Ctrl-C, which is not to be interrupted."""
    error = sys.exception()
    while error is not None and not isinstance(error, KeyboardInterrupt | GeneratorExit):
        error = error.__context__
    return error is not None


def main() -> None:
    """Entry point: an error of ours is one line and exit status 2; ``--debug`` anywhere shows the traceback.

    An error that nobody foresaw shows it always, and ends with 70 (``EX_SOFTWARE`` of sysexits): 1 and 3 are answers.
    """
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # workers, too, import nothing from the current folder
    for stream in (sys.stdout, sys.stderr):  # a terminal may not have our signs, nor a name of a file be UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # Pillow's own word on what we refuse by name
    warnings.showwarning = _show_warning
    try:
        with _ctrl_c_is_heard(), extras_named():
            app()
    except (BifocalError, OSError) as error:
        if debug:
            traceback.print_exc()
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        said = (isinstance(error, OSError) and error.strerror) or error
        typer.echo(f"error: {where}{said}", err=True)
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        sys.exit(70)
    except SystemExit as stop:
        if stop.code == 130:  # Ctrl-C, as typer reports it
            resumed = not RESUMED.isdisjoint(sys.argv[1:2])
            goes_on = ": the same command goes on from the last finished step" if resumed else ""
            typer.echo(f"stopped{goes_on}", err=True)
            exec("")  # one that came while a string was executed (a data class does) would end us by SIGINT after all
        raise
