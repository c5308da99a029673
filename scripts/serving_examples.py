"""Write the answers in the examples of docs/serving.md, from the model of this checkout.

Run `python scripts/serving_examples.py` after the stages, with port 8000 free. A server with
models/servable as version 1 runs in this process. Each command of a marked example is given to
bash, in a folder that has `data/` of the checkout. The last digits of the answers depend on the
processor.
"""

import re
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from latentworks.repository import dag
from latentworks.server import app
from latentworks.server.model import Model, Named
from latentworks.server.service import Following, Service
from latentworks.serving.loading import SERVABLE
from latentworks.system import disk

DOC = Path("docs/serving.md")
START, END = "<!-- written by scripts/serving_examples.py -->", "<!-- up to here -->"
PORT = 8000  # of the examples
NAME = "autoencoder"
PICTURE = re.compile(r"(iVBORw0KGgo).*", re.DOTALL)  # a PNG file in base64: its start is kept
EXAMPLE = re.compile(r"```console\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"^\$ (?:.*\\\n)*.*\n", re.MULTILINE)  # with its further lines


def rewritten(text: str, answer: Callable[[str], str]) -> str:
    """Return a page whose marked examples have the output `answer(command)` of each command."""

    def example(found: re.Match[str]) -> str:
        lines = [f"{each}{answer(each[2:])}" for each in COMMAND.findall(found[1])]
        return f"```console\n{''.join(lines)}```"

    def part(found: re.Match[str]) -> str:
        return EXAMPLE.sub(example, found[0])

    return re.sub(f"{START}.*?{END}", part, text, flags=re.DOTALL)


@contextmanager
def answers(servable: Path, data: Path, port: int = PORT) -> Iterator[Callable[[str], str]]:
    """Serve a servable, and yield the function that runs a command and returns its output.

    Commands run in a folder of their own, with `data`. Raises SystemExit if one fails.
    """
    with tempfile.TemporaryDirectory() as temporary, socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except OSError:
            raise SystemExit(f"Port {port} is taken. End the server that uses it.") from None
        address = f"localhost:{listening.getsockname()[1]}"
        listening.listen()  # so that a command waits until the server accepts
        folder = Path(temporary)
        version = folder / "version"
        (version / SERVABLE).parent.mkdir(parents=True)
        (version / SERVABLE).symlink_to(servable.resolve())
        (version / "code").symlink_to(servable.resolve() / "code")
        (folder / "data").symlink_to(data.resolve())
        service = Service(Following(NAME, "champion"), max_waiting=1)
        service.swap(Model(Named(NAME, 1, ""), version))
        server = uvicorn.Server(uvicorn.Config(app.create(service), log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()

        def answer(command: str) -> str:
            done = subprocess.run(
                ["bash", "-ec", command.replace(f"localhost:{PORT}", address)],
                cwd=folder,
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
            if done.returncode:
                raise SystemExit(f"This command of {DOC} failed: {command.strip()}")
            output = PICTURE.sub(r"\1…", done.stdout.rstrip("\n"))
            return f"{output}\n" if output else ""

        try:
            yield answer
        finally:
            server.should_exit = True
            thread.join()


def main() -> None:
    root = dag.root()
    with answers(root / "models/servable", root / "data") as answer:
        text = rewritten((root / DOC).read_text(encoding="utf-8"), answer)
    with disk.replacing(root / DOC) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
