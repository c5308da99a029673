"""The warm interpreter: two processes that have imported the libraries, run nothing, and fork.

`python server.py FOLDER PID` answers the clients of FOLDER until the process PID has ended. A fork
differs from a new process in four ways: its parent is the warm interpreter, /proc shows the warm
interpreter's command line, modules are imported that the program may not need, and they are not
cleared at the end. A test in which one of these matters starts its programs cold.
"""

import atexit
import contextlib
import gc
import importlib
import marshal
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import types
from pathlib import Path
from typing import Any

LIBRARIES = {  # the second process has the libraries of the first, too
    "mlflow": (
        *("numpy", "pandas", "pyarrow.parquet", "scipy.stats", "PIL.Image"),
        *("mlflow", "mlflow.pyfunc", "mlflow.system_metrics.system_metrics_monitor"),
        *("mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store"),
        *("sqlalchemy.dialects.sqlite", "alembic.config", "configobj", "pyarrow.dataset"),
        *("cryptography.hazmat.primitives.asymmetric.ed25519", "pandas.io.parquet"),
        *("cryptography.hazmat.primitives.serialization", "typer.rich_utils"),
        *("alembic", "sqlalchemy", "pydantic", "ruamel.yaml", "typer", "psutil", "requests"),
        *("dvc.cli", "dvc.repo", "dvc.commands.repro", "dvc.commands.status", "dvc.stage"),
        *("dvc.cli.parser", "dvc.scm", "dvc.repo.datasets", "dvc.repo.plots", "dvc.dirs"),
        *("sklearn.mixture", "skimage.metrics", "matplotlib.pyplot", "tqdm"),
        # Prefect itself reads its settings at its import. These are the libraries that it imports.
        *("trio", "griffe", "cyclopts", "httpx", "httpcore", "coolname", "websockets"),
        *("referencing", "pendulum", "pydantic_settings", "jsonschema", "h2", "prometheus_client"),
        *("slugify", "amplitude", "anyio", "asgi_lifespan", "humanize"),
    ),
    "tensorflow": ("tensorflow", "keras"),
}


def main(folder: Path, watched: int) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # as latentworks/engine/backend.py does
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    gc.set_threshold(100_000)
    doors = {}
    for name in LIBRARIES:
        doors[name] = socket.socket(socket.AF_UNIX)
        doors[name].bind(str(folder / f".{name}"))
        doors[name].listen(64)
        (folder / f".{name}").rename(folder / name)
    for library in LIBRARIES["mlflow"]:
        importlib.import_module(library)
    if os.fork() == 0:
        doors.pop("mlflow").close()
        for library in LIBRARIES["tensorflow"]:
            importlib.import_module(library)
        serve(doors["tensorflow"], watched)
    else:
        doors.pop("tensorflow").close()
        serve(doors["mlflow"], watched)


def serve(door: socket.socket, watched: int) -> None:
    """Fork for every client. Send the client the process id and, later, the exit code."""
    gc.collect()
    gc.freeze()  # a fork shares these pages as long as no process writes to them
    clients: dict[int, socket.socket] = {}  # by the process id of the fork
    signal.signal(signal.SIGCHLD, lambda *_: None)
    hears, told = os.pipe()
    for end in (hears, told):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    waiting = selectors.DefaultSelector()
    waiting.register(door, selectors.EVENT_READ)
    waiting.register(hears, selectors.EVENT_READ)
    while _is_there(watched):
        for key, _ in waiting.select(timeout=1.0):
            if key.fileobj is door:
                client, _ = door.accept()
                pid = _fork(client, [waiting, door, *clients.values()], [hears, told])
                if pid:
                    clients[pid] = client
                    waiting.register(client, selectors.EVENT_READ, pid)
                else:
                    client.close()
            elif key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(hears, 4096)
            elif key.data in clients:  # clients send one request: this client has ended
                _end(key.data)
        while clients:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            client = clients.pop(pid, None)
            if client is not None:
                waiting.unregister(client)
                code = os.waitstatus_to_exitcode(status)
                with contextlib.suppress(OSError), client:
                    client.sendall(code.to_bytes(8, "little", signed=True))
    for pid in clients:
        _end(pid)
    os._exit(0)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _end(pid: int) -> None:
    """Kill a fork and all processes that the fork started in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _fork(client: socket.socket, ours: list[Any], pipe: list[int]) -> int:
    """Read a request and fork. Only the warm interpreter returns from this function.

    Returns 0 if the client was killed before it had sent its request.
    """
    head, handles, _, _ = socket.recv_fds(client, 8, 3)
    size = int.from_bytes(head, "little")
    with client.makefile("rb") as stream:
        content = stream.read(size)
    pid = os.fork() if len(head) == 8 and len(content) == size and len(handles) == 3 else -1
    if pid:
        for handle in handles:
            os.close(handle)
        if pid > 0:
            with contextlib.suppress(OSError):
                client.sendall(pid.to_bytes(8, "little"))
        return max(pid, 0)
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for handle, number in zip(handles, (0, 1, 2), strict=True):
        os.dup2(handle, number)
    for each in (client, *ours):
        each.close()
    for handle in (*handles, *pipe):
        os.close(handle)
    _become(*marshal.loads(content))
    raise AssertionError


def _become(
    call: list[str], folder: str, environment: dict[str, str], ignored: list[int], here: str
) -> None:
    """Run a program as `python CALL` would in this environment, and end as the program does."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        initial = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in ignored else initial)
    os.environ.clear()
    os.environ.update(environment)
    if "LATENTWORKS_DVC" in environment:  # the process that must be the parent of a stage
        os.environ["LATENTWORKS_DVC"] = str(os.getppid())
    os.chdir(folder)
    sys.executable = os.path.join(here, "python")
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.stdout.reconfigure(write_through="PYTHONUNBUFFERED" in environment)
    sys.stderr.reconfigure(line_buffering=True)
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    if call[0] == "-P":
        call = call[1:]
    elif call[0] in ("-m", "-c"):
        sys.path.insert(0, folder)
    code: Any = None
    try:
        _run(call)
    except SystemExit as end:
        code = end.code
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    _end_as_python(code or 0)


def _run(call: list[str]) -> None:
    if call[0] == "-m":
        sys.argv = call[1:]
        runpy.run_module(call[1], run_name="__main__", alter_sys=True)
    elif call[0] == "-c":
        sys.argv = ["-c", *call[2:]]
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(call[1], "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        sys.path.insert(0, os.path.dirname(call[0]))
        sys.argv = call
        runpy.run_path(call[0], run_name="__main__")


def _end_as_python(code: int) -> None:
    """End as Python does, but leave the modules and the memory to the kernel.

    Python clears all modules at its end. A fork would first copy every page that it shares with
    the warm interpreter, which takes ten times as long as a small program.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 0xFF)
    sys.exit(code)  # Python itself reports output that cannot be written


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file
    main(Path(sys.argv[1]), int(sys.argv[2]))
