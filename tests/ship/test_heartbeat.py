# SPDX-License-Identifier: MIT
"""The heartbeat of a drill over TLS: who is believed, and what is said when nobody is."""
import contextlib
import http.server
import json
import os
import ssl
import subprocess
import threading

import pytest

import chains


class Authority:
    """A certificate authority, made with openssl."""

    def __init__(self, place, name):
        self.name = place / name
        self.bundle = f"{self.name}.pem"
        self._request(self.bundle, f"{self.name}.key", "/CN=" + name)

    @staticmethod
    def _request(certificate, key, subject, *more):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", subject,
                        "-out", certificate, "-keyout", key, *more], check=True, capture_output=True)

    def certify(self, host):
        """Files of a certificate and its key."""
        files = f"{self.name}-host.pem", f"{self.name}-host.key"
        self._request(*files, "/CN=a host", "-CA", self.bundle, "-CAkey", f"{self.name}.key",
                      "-addext", f"subjectAltName={host}")
        return files


class Ear:
    """An HTTPS server on 127.0.0.1 that notes what it is asked for."""

    def __init__(self, certificate):
        self.seen = seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                seen.append(self.path)
                self.send_response(302 if self.path.endswith("moved") else 200)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, host="127.0.0.1", path="secret"):
        return f"https://{host}:{self.server.server_port}/{path}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def ours(tmp_path):
    return Authority(tmp_path, "ours")


@pytest.fixture
def ear(ours):
    with contextlib.closing(Ear(ours.certify("IP:127.0.0.1"))) as made:
        yield made


def drill(program, replica, url, bundle):
    """What stands on stderr of a drill that passes: a heartbeat that fails changes no verdict."""
    env = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}
    if bundle is not None:
        env["AWS_CA_BUNDLE"] = bundle
    done = subprocess.run([program, "drill", replica, "--heartbeat", url, "--json"], env=env,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and json.loads(done.stdout)["verdict"] == "pass", done.stderr
    assert "secret" not in done.stderr
    return done.stderr


def test_the_certificate_is_verified(litefunnel, tmp_path, ours, ear):
    replica = chains.ship_walk(tmp_path).url
    other = Authority(tmp_path, "other")
    for bundle in (None, other.bundle, str(tmp_path / "none.pem")):
        said = drill(litefunnel, replica, ear.url(), bundle)
        assert "heartbeat failed" in said and "certificate" in said and "AWS_CA_BUNDLE" in said
    said = drill(litefunnel, replica, ear.url(host="localhost"), ours.bundle)
    assert "heartbeat failed" in said and "localhost" in said
    assert ear.seen == []
    assert drill(litefunnel, replica, ear.url(), ours.bundle) == ""
    assert ear.seen == ["/secret"]
    assert "it answers 302" in drill(litefunnel, replica, ear.url(path="secret/moved"), ours.bundle)
    assert ear.seen == ["/secret", "/secret/moved"]


def test_the_daemon_tells_a_heartbeat_that_failed(daemon, tmp_path, ours, ear):
    other = Authority(tmp_path, "other")
    for bundle, heard in ((ours.bundle, ["/secret"]), (other.bundle, [])):
        ear.seen.clear()
        served = daemon(replica=f"file://{tmp_path}/{len(heard)}", drill_heartbeat=ear.url(),
                        env={"AWS_CA_BUNDLE": bundle})
        served.write(["CREATE TABLE t(a)"])
        with served.wire() as wire:
            result = wire.call("drill", timeout=120 * served.slow)
        assert dict(zip(result["columns"], result["rows"][0]))["verdict"] == "pass"
        assert ear.seen == heard
        assert ("the heartbeat of a drill failed" in served.log()) == (heard == [])
        assert "secret" not in served.log()
