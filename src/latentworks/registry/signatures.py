"""Signatures of versions, by keys outside the registry.

A version runs its own code, so whoever may write in the registry could run code in every checkout
and server that loads a version. `latentworks register` therefore signs a version with Ed25519 (RFC
8032), and nothing of a version is loaded before its signature was checked against the keys that the
user trusts. The signature covers the name of the model, the checksum of the version's files, and
the commit, which `latentworks rebuild` runs.
"""

import base64
import binascii
import hashlib
import os
import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from latentworks.errors import LatentworksError, Tampered, Untrusted
from latentworks.system import disk, locks

FOLDER = "LATENTWORKS_KEYS"  # environment variable: the folder of the keys
SIGNATURE, KEY = "signature", "signature.key"  # tags of a version; KEY is the id of a public key
COVERED = ("sha256", "git.commit")  # tags of a version that its signature covers
PRIVATE, TRUSTED = "private.pem", "trusted"  # file, and folder of public keys, in the folder
COMMENT = "latentworks"


@dataclass(frozen=True)
class Keys:
    """The private key that signs versions on this machine, and the public keys that are trusted."""

    folder: Path

    @classmethod
    def of_user(cls) -> "Keys":
        """Return the keys in the folder that LATENTWORKS_KEYS names, or in the user's settings."""
        settings = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
        return cls(Path(os.environ.get(FOLDER) or f"{settings}/latentworks/keys").absolute())

    # --- the private key -------------------------------------------------------------------------

    def make(self) -> Ed25519PrivateKey:
        """Return the private key. If there is none, make one, and trust its public key."""
        path = self.folder / PRIVATE
        with locks.exclusive(f"keys-{_digest(str(self.folder).encode())}", "make a key"):
            if not path.exists():
                key = Ed25519PrivateKey.generate()
                text = key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
                self._trust(key.public_key())
                with disk.replacing(path) as temporary:
                    temporary.touch(mode=0o600)
                    temporary.write_bytes(text)
                print(f"Made the key that signs versions, {path}. Keep a copy.", file=sys.stderr)
            return self._private()

    @property
    def own(self) -> str:
        """The id of the key that signs on this machine; empty if there is none yet."""
        return key_id(self._private().public_key()) if (self.folder / PRIVATE).exists() else ""

    def _private(self) -> Ed25519PrivateKey:
        path = self.folder / PRIVATE
        if path.stat().st_mode & 0o077:
            raise LatentworksError(
                f"{path} can be read by others. Run `chmod 600 {path}` if nobody read it, else "
                "remove it: the next `latentworks register` makes another key."
            )
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise LatentworksError(
                f"{path} is no Ed25519 key in PEM format. Restore it, or move it away: the next "
                "`latentworks register` makes another key."
            )
        return key

    def sign(self, name: str, tags: Mapping[str, str]) -> dict[str, str]:
        """Sign a version of the model `name` with the covered `tags`; return two more tags."""
        key = self.make()
        own = key_id(key.public_key())
        if self._trusted(own) is None:
            raise LatentworksError(
                f"The key {own} signs here, but is not trusted. Trust it again with `latentworks "
                f"keys trust`, or move {self.folder / PRIVATE} away: the next `latentworks "
                "register` makes another key."
            )
        return {KEY: own, SIGNATURE: base64.b64encode(key.sign(_message(name, tags))).decode()}

    # --- trust -----------------------------------------------------------------------------------

    def trusted(self) -> dict[str, Ed25519PublicKey]:
        """Read the trusted public keys, by id. Raises LatentworksError if a file is none."""
        folder = self.folder / TRUSTED
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        keys = [self._read(folder / name) for name in names if name.endswith(".pub")]
        return {key_id(key): key for key in keys}

    def trust(self, file: Path) -> str:
        """Trust the public key in a file; return its id."""
        key = read_public_key(file)
        self._trust(key)
        return key_id(key)

    def _trust(self, key: Ed25519PublicKey) -> None:
        folder = self.folder / TRUSTED
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not folder.is_dir():
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)  # a container of another user may read it, whatever the umask is
        with disk.replacing(folder / f"{key_id(key)}.pub") as temporary:
            temporary.write_text(f"{public_text(key)} {COMMENT}\n")
            temporary.chmod(0o644)

    def _trusted(self, name: str) -> Ed25519PublicKey | None:
        """Return the trusted key with the id `name`, or None.

        The file is read each time, so that a server learns of a new key without a restart.
        """
        path = self.folder / TRUSTED / f"{name}.pub"
        if not re.fullmatch("[0-9a-f]{16}", name) or not path.exists():
            return None
        key = self._read(path)
        return key if key_id(key) == name else None

    def _read(self, path: Path) -> Ed25519PublicKey:
        for each in (path, path.parent):
            if each.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise LatentworksError(
                    f"Others can change {each}, which says whom you trust. Look at it, and run "
                    f"`chmod go-w {each}`."
                )
        return read_public_key(path)

    def check(self, version: str, name: str, tags: Mapping[str, str]) -> None:
        """Raise Untrusted unless a trusted key signed the covered `tags` for the model `name`.

        Raises Tampered if the signature is that of other files.
        """
        if not {KEY, SIGNATURE} <= tags.keys():
            raise Untrusted(
                f"{version} is not signed. If you registered it, before versions were signed, run "
                "`latentworks verify`, then `latentworks keys adopt`."
            )
        key = self._trusted(tags[KEY])
        if key is None:
            raise Untrusted(
                f"{version} is signed by key {tags[KEY][:16]!a}, which is not trusted here. If you "
                "know its owner, ask for the public key, and run `latentworks keys trust FILE`."
            )
        try:
            key.verify(base64.b64decode(tags[SIGNATURE], validate=True), _message(name, tags))
        except (InvalidSignature, binascii.Error, ValueError):
            raise Tampered(
                f"The signature of {version} is not that of its files: the registry was changed. "
                "Do not use this version; run `latentworks register` in a checkout that has the "
                "result."
            ) from None


def read_public_key(file: Path) -> Ed25519PublicKey:
    """Read a public key in the format of OpenSSH: `ssh-ed25519 AAAA… comment`."""
    try:
        key = serialization.load_ssh_public_key(file.read_bytes())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise LatentworksError(f"{file} is no public key of Ed25519. Expected: ssh-ed25519 AAAA….")
    return key


def public_text(key: Ed25519PublicKey) -> str:
    return key.public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    ).decode()


def key_id(key: Ed25519PublicKey) -> str:
    """The first 16 characters of the SHA-256 of a public key, in hexadecimal."""
    return _digest(key.public_bytes_raw())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _message(name: str, tags: Mapping[str, str]) -> bytes:
    lines = [f"latentworks version of {name}", *(f"{tag} {tags.get(tag, '')}" for tag in COVERED)]
    return "\n".join(lines).encode()
