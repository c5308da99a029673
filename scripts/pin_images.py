"""Pin the container images of docker/ and of the workflows by digest.

`python scripts/pin_images.py` asks the registry of each image for the digest that its tag has now,
and writes the reference as `name:tag@sha256:…`. The digest stands for all platforms of the image.
If one digest is missing, no file changes and the exit code is 1. `skopeo` asks the registries,
those on 127.0.0.1 and localhost without TLS.
"""

import hashlib
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from latentworks.system.disk import replacing

ROOT = Path(__file__).resolve().parents[1]
FILES = ("docker/Dockerfile", "docker/compose.yaml", ".github/workflows/*.yml")
IMAGE = re.compile(
    r"""^((?:ARG\ BASE=|FROM\ +|\ *(?:-\ +)?(?:image|container):\ +)["']?)
    ((?:[\w.-]+(?::\d+)?/)?[\w./-]+:[\w.-]+)  # host, name and tag
    (?:@(sha256:[0-9a-f]{64}))?
    (?=["']?(?:\s|$))""",
    re.MULTILINE | re.VERBOSE,
)
LOCAL = ("127.0.0.1:", "localhost:")


class NoDigest(Exception):
    """The digest of an image cannot be found out."""


def files(root: Path) -> list[Path]:
    return [path for pattern in FILES for path in sorted(root.glob(pattern))]


def references(texts: list[str]) -> dict[str, set[str]]:
    """Return each `name:tag` with the digests that the texts give it; "" is no digest."""
    found: dict[str, set[str]] = {}
    for text in texts:
        for _, image, digest in IMAGE.findall(text):
            found.setdefault(image, set()).add(digest)
    return found


def digest_of(image: str) -> str:
    """Return the digest of an image: the SHA-256 of the manifest that its tag has now."""
    call = ["skopeo", "--command-timeout", "60s", "inspect", "--raw"]
    call += [f"--tls-verify={str(not image.startswith(LOCAL)).lower()}", f"docker://{image}"]
    try:
        done = subprocess.run(call, capture_output=True)
    except FileNotFoundError:
        raise NoDigest("skopeo is missing. Install the package skopeo") from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().rpartition("msg=")[2].strip('"')
        reason = reason.rpartition(f'{image}\\": ')[2].replace('\\"', '"')
        raise NoDigest(f"{image} has no answer: {reason}. Check the tag, or try again online")
    return f"sha256:{hashlib.sha256(done.stdout).hexdigest()}"


def main() -> int:
    texts = {path: path.read_text(encoding="utf-8") for path in files(ROOT)}
    known = references([*texts.values()])
    try:
        now = {image: digest_of(image) for image in known}
    except NoDigest as reason:
        print(f"Cannot pin the images, so their files stay: {reason}.", file=sys.stderr)
        return 1
    with ExitStack() as written:  # all files are written before the first is renamed
        for path, text in texts.items():
            pinned = IMAGE.sub(lambda found: f"{found[1]}{found[2]}@{now[found[2]]}", text)
            if pinned != text:
                written.enter_context(replacing(path)).write_text(pinned, encoding="utf-8")
    for image, digest in now.items():
        print(f"{image} {'still has' if known[image] == {digest} else 'now has'} {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
