"""The hosts under whose names the server answers."""

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from latentworks.server import encoding

HOST = re.compile(r"(?P<name>\[[^]]*\]|[^:]*)(:\d+)?")
MISDIRECTED = 421


class Hosts:
    """Middleware that refuses a request for another host than an IP address or `names`.

    A web page can give its own host name the address of this server (DNS rebinding). The browser
    then lets the page read the answers, as if both were one site. Its requests name that host.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        self.app = app
        self.names = {"localhost", *map(str.lower, names)}
        self.is_allowed = lru_cache(1000)(self._is_allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosts = [value for name, value in scope.get("headers", ()) if name == b"host"]
        if all(map(self.is_allowed, hosts)):
            await self.app(scope, receive, send)
            return
        shown = hosts[0].decode("latin-1")[:100]
        fault = f"This server does not answer for the host {shown!r}. See --allowed-hosts."
        await encoding.response(MISDIRECTED, {"error": fault})(scope, receive, send)

    def _is_allowed(self, host: bytes) -> bool:
        found = HOST.fullmatch(host.decode("latin-1"))
        if found is None:
            return False
        name = found["name"]
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name.lower() in self.names
        return True
