"""Start a program as a fork of the warm interpreter, or as a process of its own.

While the tests run, files `python`, `latentworks` and `dvc` with this text are first on PATH. The
client hands its arguments, folder, environment and open files to server.py, which forks. The client
passes signals on to the fork, and ends as the fork does. A program that the warm interpreter does
not know, or any program where LATENTWORKS_COLD has a value, gets an interpreter of its own. Every
start pays for the imports. `socket` and `signal` import `enum`, which takes as long as the start of
Python, so the modules below them are used.

The folder around `bin` is a virtual environment, whose `lib` is a link to that of the project. So
`sys.executable` is a file of this folder in every program, and programs that are started by this
name are warm, too.
"""

import _signal as signal
import _socket as socket
import marshal
import os
import sys

HERE = os.path.dirname(os.path.abspath(sys.argv[0]))  # `bin` of the virtual environment
FOLDER = os.path.dirname(HERE)
BIN = os.readlink(os.path.join(FOLDER, "real"))  # `bin` of the environment of the project
MLFLOW, TENSORFLOW = "mlflow", "tensorflow"  # the sockets of the two warm interpreters
MODULES = {  # run by `python -m`; another module has a reason to be in a process of its own
    "latentworks.stages": TENSORFLOW,
    **dict.fromkeys(("latentworks.cli", "latentworks.serving.preflight", "pipeline"), MLFLOW),
}
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def interpreter(call: list[str]) -> str:
    """The name of the warm interpreter that runs a command line. Empty if none does."""
    if os.environ.get("LATENTWORKS_COLD"):
        return ""
    if call[0] != "python":
        return MLFLOW
    options = [option for option in call[1:3] if option != "-P"]
    if options[:1] == ["-m"]:
        return MODULES.get(call[call.index("-m") + 1], "")
    return MLFLOW if options[:1] == ["-c"] else ""


def start_cold(call: list[str]) -> None:
    """Replace this process by a cold Python, which finds its environment by its first argument."""
    arguments = call[1:] if call[0] == "python" else [os.path.join(BIN, call[0]), *call[1:]]
    os.execv(os.path.join(BIN, "python"), [os.path.join(HERE, "python"), *arguments])


def main(call: list[str]) -> None:
    warm = interpreter(call)
    if not warm:
        start_cold(call)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(os.path.join(FOLDER, warm))
    except OSError:  # the warm interpreter has ended, with the tests
        start_cold(call)
    ignored = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN]
    if call[0] != "python":
        call = ["python", os.path.join(BIN, call[0]), *call[1:]]
    request = marshal.dumps((call[1:], os.getcwd(), dict(os.environ), ignored, HERE))
    handles = b"".join(handle.to_bytes(4, sys.byteorder) for handle in (0, 1, 2))
    size = len(request).to_bytes(8, "little")
    connection.sendmsg([size], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handles)])
    connection.sendall(request)
    answer = connection.recv(8)
    if not answer:
        sys.exit("the warm interpreter ended before it forked")
    pid = int.from_bytes(answer, "little")

    def tell(number: int, _: object) -> None:
        try:  # without `contextlib`, whose import is long
            os.kill(pid, number)
        except ProcessLookupError:
            return  # the fork has just ended

    for number in SIGNALS:
        if number not in ignored:
            signal.signal(number, tell)
    answer = connection.recv(8)
    if not answer:
        sys.exit("the warm interpreter ended before its fork")
    code = int.from_bytes(answer, "little", signed=True)
    if code < 0:
        if -code != signal.SIGKILL:  # which has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


main([os.path.basename(sys.argv[0]), *sys.argv[1:]])
