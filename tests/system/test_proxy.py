"""docker/nginx.conf, in Debian's nginx: TLS, a login and limits in front of the server."""

import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from checkouts import ROOT, Project
from servers import closed_port, server_of, until

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore:Unverified HTTPS request")]

HOST = "models.example.org"
LOGIN = ("you", "secret")


class Proxy:
    """nginx on this machine, asked under the name HOST."""

    def __init__(self, http: int, https: int) -> None:
        self.http, self.https = f"http://127.0.0.1:{http}", f"https://127.0.0.1:{https}"

    def ask(
        self,
        path: str,
        login: tuple[str, str] | None = LOGIN,
        source: str = "127.0.0.1",
        **body: Any,
    ) -> requests.Response:
        """Send a request from the address `source` of this machine; with a body, a POST."""
        with requests.Session() as session:
            pool = session.get_adapter(self.https)
            pool.init_poolmanager(1, 1, source_address=(source, 0))
            call = session.post if body else session.get
            headers = {"Host": HOST}
            # The certificate of the test is its own authority.
            return call(
                f"{self.https}{path}", auth=login, headers=headers, verify=False, timeout=60, **body
            )


@pytest.fixture(scope="module")
def proxy(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("nginx")
    options = ("--root-path", "/ml", "--allowed-hosts", HOST)
    with server_of(project.server, folder / "home", *options) as url:
        https, http = closed_port(), closed_port()
        text = (ROOT / "docker/nginx.conf").read_text()
        for old, new in {
            "127.0.0.1:8000": url.removeprefix("http://"),
            "listen 443": f"listen 127.0.0.1:{https}",
            "listen 80": f"listen 127.0.0.1:{http}",
            "/etc/nginx/": f"{folder}/",
            "rate=20r/s": "rate=1r/s",  # so that a slow machine reaches it, too
        }.items():
            assert old in text
            text = text.replace(old, new)
        (folder / "latentworks.conf").write_text(text)
        files = "".join(
            f"{name}_temp_path {folder}/{name};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;\n" if os.getuid() == 0 else ""  # the workers read the password file
        (folder / "nginx.conf").write_text(
            f"{user}pid {folder}/pid;\nerror_log stderr;\nevents {{}}\n"
            f"http {{\naccess_log off;\n{files}include {folder}/latentworks.conf;\n}}\n"
        )
        key = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={HOST}"]
        key += ["-keyout", "latentworks.key", "-out", "latentworks.pem"]
        subprocess.run(key, cwd=folder, check=True, capture_output=True)
        hashed = subprocess.run(
            ["openssl", "passwd", "-6", "secret"], check=True, capture_output=True, text=True
        ).stdout
        (folder / "latentworks.htpasswd").write_text(f"you:{hashed}")
        call = ["/usr/sbin/nginx", "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(call, stderr=log)
        try:
            found = Proxy(http, https)

            def answers() -> bool:
                assert process.poll() is None, (folder / "log").read_text()
                try:
                    return found.ask("/ml/live").ok
                except requests.ConnectionError:
                    return False

            until(answers)
            yield found
        finally:
            process.terminate()
            process.wait(30)


def test_the_proxy_asks_for_a_login_and_redirects_to_tls(proxy: Proxy) -> None:
    assert proxy.ask("/ml/version", login=None).status_code == 401
    assert proxy.ask("/ml/version", login=("you", "wrong")).status_code == 401
    assert proxy.ask("/ml/version").status_code == 200
    headers = {"Host": HOST}
    plain = requests.get(f"{proxy.http}/ml/x", headers=headers, allow_redirects=False, timeout=60)
    assert (plain.status_code, plain.headers["Location"]) == (301, f"https://{HOST}/ml/x")


def test_the_pages_and_their_files_work_below_the_prefix(proxy: Proxy) -> None:
    for page in ("/ml/", "/ml/docs"):
        answer = proxy.ask(page)
        assert answer.status_code == 200
        assert "max-age" in answer.headers["Strict-Transport-Security"]
        files = re.findall(r'(?:src|href)="([^"#:]+)"', answer.text)
        assert files
        for file in files:
            assert not file.startswith("/"), file
            assert proxy.ask(f"{page.rpartition('/')[0]}/{file}").ok, file


def test_calls_pass_and_large_bodies_and_floods_do_not(proxy: Proxy) -> None:
    answer = proxy.ask("/ml/sample", json={"num": 2, "seed": 0})
    assert len(answer.json()["outputs"]) == 2
    assert proxy.ask("/ml/encode", data=b"0" * 17_000_000).status_code == 413
    codes = [proxy.ask("/ml/live", source="127.0.0.2").status_code for _ in range(100)]
    assert set(codes) == {200, 429}
