"""Adoption of versions from before versions were signed: this machine signs them."""

from collections.abc import Iterator

from latentworks.errors import RegistryError
from latentworks.registry.registry import Registry
from latentworks.registry.signatures import KEY, SIGNATURE
from latentworks.registry.versions import Version


def adopt(registry: Registry, numbers: list[int]) -> Iterator[Version]:
    """Sign versions from before versions were signed, after a check of their hashes.

    Yield each version that was signed. Without `numbers`, sign all of them if this machine has
    signed nothing before: later, an unsigned version may be a stranger's, or have lost its
    signature. Raises RegistryError if the files of one are damaged.
    """
    store, name = registry.store, registry.name
    with registry.one_line("Run `latentworks keys adopt` again."):
        chosen = [store.get(name, number) for number in numbers]
        unsigned = [
            version
            for version in chosen or store.versions(name)
            if not {KEY, SIGNATURE} <= version.tags.keys()
        ]
        if unsigned and not numbers and store.keys.own:
            listed = " ".join(str(version.number) for version in unsigned)
            raise RegistryError(
                f"This machine signs versions already, so unsigned ones may be a stranger's. "
                f"If you registered them, run `latentworks keys adopt {listed}`."
            )
        for version in unsigned:
            store.fetch(version, unsigned=True)
            for tag, value in store.keys.sign(name, version.tags).items():
                store.tag(name, version.number, tag, value)
            with registry.aliases.lock("sign"):
                store.keep(name, [version.number])
            yield version
