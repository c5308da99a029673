"""Make the folder of programs that start warm, and start the warm interpreter.

`python start.py FOLDER PID` returns when the programs in FOLDER/bin can be used. The warm
interpreter ends when the process PID has ended. The programs use the environment of this Python.
"""

import os
import shutil
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent


def main(folder: Path, owner: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "real").symlink_to(BIN)
    (folder / "lib").symlink_to(BIN.parent / "lib")
    shutil.copy(BIN.parent / "pyvenv.cfg", folder)
    client = (HERE / "client.py").read_text()
    (folder / "bin").mkdir()
    for name in ("python", "latentworks", "dvc"):
        (folder / "bin" / name).write_text(f"#!{BIN / 'python'} -IS\n{client}")
        (folder / "bin" / name).chmod(0o755)
    log = (folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    # With the output of this process, whoever reads that would wait for the end of the interpreter.
    output = [(os.POSIX_SPAWN_OPEN, number, *log) for number in (1, 2)]
    call = [sys.executable, str(HERE / "server.py"), str(folder), owner]
    server = os.posix_spawn(call[0], call, os.environ, file_actions=output)
    while not (folder / "tensorflow").exists():  # its socket, where programs wait until it is ready
        if os.waitpid(server, os.WNOHANG)[0]:
            sys.exit(f"the warm interpreter has ended:\n{(folder / 'log').read_text()}")
        time.sleep(0.02)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
