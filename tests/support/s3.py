# SPDX-License-Identifier: MIT
"""An S3 server for tests (support/rgw.sh), and a small client of it: a second writing of the signature."""
import contextlib
import datetime
import hashlib
import hmac
import http.client
import os
import pathlib
import re
import subprocess
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent


class Server:
    """Where it is, and how to ask it directly."""

    def __init__(self, endpoint, access_key, secret_key, region="us-east-1"):
        self.endpoint, self.access_key, self.secret_key = endpoint, access_key, secret_key
        self.region = region
        self.address = urllib.parse.urlsplit(endpoint).netloc

    def environment(self):
        """The credentials as a program takes them."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    def url(self, bucket, prefix, endpoint=None, **options):
        """The URL of a replica."""
        options = {"endpoint": endpoint or self.endpoint, **options}
        return f"s3://{bucket}/{prefix}?" + "&".join(f"{k}={v}" for k, v in options.items())

    def ask(self, method, path, query=None, body=b"", headers=None):
        """One signed request: status, headers, body."""
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        path = urllib.parse.quote(path, safe="/-._~")
        query = "&".join(f"{urllib.parse.quote(k, safe='-._~')}={urllib.parse.quote(v, safe='-._~')}"
                         for k, v in sorted((query or {}).items()))
        digest = hashlib.sha256(body).hexdigest()
        signed = {"host": self.address, "x-amz-content-sha256": digest, "x-amz-date": now,
                  **(headers or {})}
        names = sorted(signed)
        canonical = "\n".join([method, path, query, *(f"{n}:{signed[n]}" for n in names), "",
                               ";".join(names), digest])
        scope = f"{now[:8]}/{self.region}/s3/aws4_request"
        to_sign = "\n".join(["AWS4-HMAC-SHA256", now, scope,
                             hashlib.sha256(canonical.encode()).hexdigest()])
        key = b"AWS4" + self.secret_key.encode()
        for part in (*scope.split("/"), to_sign):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        signed["Authorization"] = (f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope},"
                                   f"SignedHeaders={';'.join(names)},Signature={key.hex()}")
        del signed["host"]
        connection = http.client.HTTPConnection(self.address, timeout=30)
        connection.request(method, path + ("?" + query if query else ""), body, signed)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, content

    def make_bucket(self, bucket):
        status, _, body = self.ask("PUT", f"/{bucket}")
        assert status in (200, 409), body

    def keys(self, bucket, prefix=""):
        """All keys under a prefix."""
        found, token = [], None
        while True:
            query = {"list-type": "2", "prefix": prefix}
            if token:
                query["continuation-token"] = token
            status, _, body = self.ask("GET", f"/{bucket}", query)
            assert status == 200, body
            text = body.decode()
            found += re.findall(r"<Key>([^<]*)</Key>", text)
            token = next(iter(re.findall(r"<NextContinuationToken>([^<]*)<", text)), None)
            if not token:
                return found


@contextlib.contextmanager
def server(script="rgw.sh"):
    """The one of the stage (LITEFUNNEL_TEST_S3, the line of rgw.sh), else one of our own."""
    shared = os.environ.get("LITEFUNNEL_TEST_S3")
    if shared and script == "rgw.sh":
        yield Server(*shared.split())
        return
    process = subprocess.Popen(["bash", HERE / script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line, "no S3 server"
        yield Server(*line.split())
    finally:
        process.stdin.close()
        process.wait(60)
