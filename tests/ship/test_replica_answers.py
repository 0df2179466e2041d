# SPDX-License-Identifier: MIT
"""Answers that no good store gives: a server with a script, one answer for each request."""
import contextlib
import email.utils
import http.server
import threading
import time

import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret-that-must-not-be-shown"}


def error(status, code):
    return status, {}, f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()


@contextlib.contextmanager
def scripted(*answers):
    """Gives these (status, headers, body) in turn, the last for ever; yields the endpoint and what was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((self.command, self.path, dict(self.headers), body))
            status, headers, content = answers[min(len(asked), len(answers)) - 1]
            self.send_response_only(status)
            for name, value in {"Content-Length": len(content), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def segment(tmp_path):
    path = tmp_path / "segment"
    path.write_bytes(b"x" * 1000)
    return path


def open_at(replica, endpoint):
    return replica(f"s3://bucket/p?endpoint={endpoint}&timeout-ms=2000", KEYS)


def test_redirects_are_not_followed(replica, segment):
    with scripted((200, {}, b"")) as (elsewhere, asked_elsewhere):
        for status in (301, 302, 307, 308):
            with scripted((status, {"Location": f"{elsewhere}/bucket/p"}, b"")) as (endpoint, _):
                result, why = open_at(replica, endpoint).put(0, 1, 1, segment)
                assert result == "DENIED" and "region or endpoint" in why
        assert asked_elsewhere == []


def test_a_wrong_clock_goes_by_the_store_s(replica):
    for hours in (-30, 5):
        there = time.time() + hours * 3600
        skewed = (403, {"Date": email.utils.formatdate(there, usegmt=True)},
                  error(403, "RequestTimeTooSkewed")[2])
        with scripted(skewed, (404, {}, b"")) as (endpoint, asked):
            assert open_at(replica, endpoint).look(0, 1, 1)[0] == "MISSING"
            assert len(asked) == 2
            signed = time.mktime(time.strptime(asked[1][2]["x-amz-date"], "%Y%m%dT%H%M%SZ")) - time.timezone
            assert abs(signed - there) < 600


def test_a_clock_that_stays_wrong_is_no_loop(replica):
    skewed = (403, {"Date": "Tue, 01 Jan 2030 00:00:00 GMT"}, error(403, "RequestTimeTooSkewed")[2])
    with scripted(skewed) as (endpoint, asked):
        result, why = open_at(replica, endpoint).look(0, 1, 1)
        assert result == "DENIED" and len(asked) == 2 and KEYS["AWS_SECRET_ACCESS_KEY"] not in why


@pytest.mark.parametrize("answer", [error(503, "SlowDown"), error(409, "ConditionalRequestConflict"),
                                    error(400, "RequestTimeout"), (429, {}, b""), (502, {}, b"<html>")])
def test_what_may_pass_is_tried_again(replica, segment, answer):
    with scripted(answer, answer, (200, {}, b"")) as (endpoint, asked):
        assert open_at(replica, endpoint).put(0, 1, 1, segment) == ["OK"]
        assert len(asked) == 3 and all(headers["if-none-match"] == "*" for _, _, headers, _ in asked)
    with scripted(answer) as (endpoint, asked):
        assert open_at(replica, endpoint).put(0, 1, 1, segment)[0] == "AGAIN"
        assert len(asked) == 5


@pytest.mark.parametrize("answer", [
    (206, {"Content-Range": "bytes 5-999/1000"}, b"x" * 995),     # another range
    (206, {"Content-Range": "bytes 0-1999/2000"}, b"x" * 2000),   # more than was asked for
    (206, {}, b"x" * 10),                                         # none that it names
    (200, {"Content-Range": "nonsense"}, b"x" * 2000),            # all of it
])
def test_other_bytes_than_were_asked_for(replica, tmp_path, answer):
    with scripted(answer) as (endpoint, _):
        assert open_at(replica, endpoint).get(0, 1, 1, tmp_path / "out", 10, 100)[0] == "CORRUPT"


def test_an_object_that_changes_meanwhile(replica, tmp_path):
    first = (206, {"Content-Range": "bytes 0-999/1000", "ETag": '"a"', "Content-Length": 1000}, b"x" * 500)
    other = (206, {"Content-Range": "bytes 500-999/1000", "ETag": '"b"'}, b"y" * 500)
    same = (206, {"Content-Range": "bytes 500-999/1000", "ETag": '"a"'}, b"y" * 500)
    for second, want in ((other, "CORRUPT"), (same, "OK")):
        with scripted(first, second) as (endpoint, asked):
            result, *_ = open_at(replica, endpoint).get(0, 1, 1, tmp_path / "out")
            assert result == want and asked[1][2]["range"].startswith("bytes=500-")
    assert (tmp_path / "out").read_bytes() == b"x" * 500 + b"y" * 500


def test_an_upload_that_cannot_be_read_back_is_tried_again(replica, segment):
    """Its ETag was garbled on the way, and then that of an answer in pieces: nobody knows, nobody is to blame."""
    stored = (200, {"ETag": f'"{"0" * 32}"'}, b"")
    first = (206, {"Content-Range": "bytes 0-999/1000", "ETag": '"a"', "Content-Length": 1000}, b"x" * 500)
    other = (206, {"Content-Range": "bytes 500-999/1000", "ETag": '"b"'}, b"x" * 500)
    with scripted(stored, first, other) as (endpoint, _):
        assert open_at(replica, endpoint).put(0, 1, 1, segment)[0] == "AGAIN"


def list_of(numbers, token=None):
    keys = "".join(f"<Contents><Key>p/0000/{n:016x}-{n:016x}.ltx</Key><Size>1</Size></Contents>"
                   for n in numbers)
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
    return 200, {}, f"<ListBucketResult>{keys}{more if token else ''}</ListBucketResult>".encode()


def test_lists_that_lie(replica):
    for answers in ([list_of([2, 1])], [list_of([1], "t"), list_of([1], "t")], [list_of([], "t")],
                    [(200, {}, b"<ListBucketResult><Contents>")],
                    [(200, {}, b"<L><IsTruncated>true</IsTruncated></L>")]):
        with scripted(*answers) as (endpoint, asked):
            handle = open_at(replica, endpoint)
            assert handle.ask("list", 0, 0)[-2] == "CORRUPT" and len(asked) < 200


def test_a_completion_that_is_an_error_inside(replica, tmp_path):
    large = tmp_path / "large"
    large.write_bytes(bytes(65 << 20))
    begun = (200, {}, b"<R><UploadId>u</UploadId></R>")
    part = (200, {"ETag": '"e"'}, b"")
    parts = [part, part] * 5  # an ETag that is no MD5 is asked for twice
    failed = (200, {}, error(200, "InternalError")[2])
    with scripted((404, {}, b""), begun, *parts, failed, (200, {}, b"<R/>")) as (endpoint, asked):
        assert open_at(replica, endpoint).put(9, 1, 1, large) == ["OK"]
        assert [a[0] for a in asked[-2:]] == ["POST", "POST"]
    with scripted((404, {}, b""), begun, *parts, failed) as (endpoint, asked):
        assert open_at(replica, endpoint).put(9, 1, 1, large)[0] == "AGAIN"


def test_a_store_that_keeps_no_promise(replica, segment):
    """It says 200 to the same create twice: then a put looks before it does."""
    with scripted((200, {}, b"")) as (endpoint, _):
        handle = open_at(replica, endpoint)
        assert handle.ask("probe")[0] == "UNFENCED"
    with scripted(error(501, "NotImplemented")) as (endpoint, _):
        handle = open_at(replica, endpoint)
        assert handle.ask("probe")[0] == "UNFENCED"
        assert handle.put(0, 1, 1, segment)[0] == "DENIED"
