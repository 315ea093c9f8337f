"""The server of --watch: it reads only, answers this machine only, and serves nothing but the page and the pictures."""

import http.client
import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgloop.errors import UserError
from imgloop.report.serve import HOST, PORT, Server, link, picture

CHAIN = "replace,train.images=8/seed0"
PAGE = "<!doctype html><title>a study</title>"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder with the pictures of a chain, other files, and links to what lies outside of it."""
    root = tmp_path_factory.mktemp("served")
    (root / "secret.png").write_bytes(b"secret")
    folder = root / "study" / CHAIN
    for name in ("curves.png", "evolution.png", "evolution.webp", "gen000/grid.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"picture {name}".encode())
    for name in ("config.yaml", "metrics.csv", "gen000/record.json", "gen000/pool.safetensors", "gen000/other.png"):
        (folder / name).write_bytes(b"secret")
    (root / "study" / "comparison.png").write_bytes(b"picture comparison.png")
    (folder / "gen001").mkdir()
    (folder / "gen001" / "grid.png").symlink_to(root / "secret.png")
    (folder / "gen002").symlink_to(root)
    (root / "grid.png").write_bytes(b"secret")
    (folder / "gen003").mkdir()
    (folder / "gen003" / "grid.png").symlink_to("grid.png")  # a circle
    (folder / "gen004" / "grid.png").mkdir(parents=True)
    return root / "study"


@pytest.fixture(scope="module")
def server(study):
    found = Server(study, 0)
    found.publish(PAGE)
    with found:
        yield found


def ask(server, path="/", method="GET", **headers):
    """(status, headers, body) of one request."""
    connection = http.client.HTTPConnection(HOST, server.server_address[1], timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def said(server, text: bytes) -> bytes:
    """What is answered to a request as it is written."""
    with socket.create_connection(server.server_address, timeout=10) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_the_page_is_sent_once_for_each_state_and_cannot_be_framed_or_kept(server):
    status, headers, body = ask(server)
    assert (status, body.decode(), headers["Content-Type"]) == (200, PAGE, "text/html; charset=utf-8")
    assert headers["Cache-Control"] == "no-store" and headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"] and "Python" not in headers["Server"]
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin" and "Access-Control-Allow-Origin" not in headers
    tag = headers["ETag"]
    assert ask(server, **{"If-None-Match": tag})[::2] == (304, b"")
    server.publish(PAGE + "<p>more")
    status, headers, body = ask(server, **{"If-None-Match": tag})
    assert status == 200 and body.decode() == PAGE + "<p>more" and headers["ETag"] != tag
    server.publish(PAGE)
    status, headers, body = ask(server, method="HEAD")
    assert (status, body, headers["Content-Length"], headers["ETag"]) == (200, b"", str(len(PAGE)), tag)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:{port}", "LocalHost:9000", "[::1]:1", "[::1]"])
def test_hosts_of_this_machine_are_answered(server, host):
    assert ask(server, Host=host.format(port=server.server_address[1]))[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "user@localhost",
     "localhost:", "localhost:80:80", "127.0.0.1:x", "0.0.0.0", "127.0.0.1, localhost", " ", "::1"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", f"/pictures/{CHAIN}/curves.png"])
def test_other_hosts_are_refused(server, host, path):
    status, _, body = ask(server, path, Host=host)
    assert status == 403 and body.startswith(b"This page is read as http://127.0.0.1:") and body.count(b"\n") == 1


def test_a_request_needs_one_host(server):
    assert said(server, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 403")
    assert said(server, b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n").startswith(b"HTTP/1.1 403")
    other = said(server, b"GET http://evil.example/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert other.startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "MOVE"])
def test_nothing_can_be_written(server, study, method):
    before = {p: p.lstat().st_mtime_ns for p in study.rglob("*")}
    for path in ("/", f"/pictures/{CHAIN}/curves.png", "/pictures/new.png"):
        status, headers, _ = ask(server, path, method)
        assert status == (501 if method == "MOVE" else 405) and (method == "MOVE" or headers["Allow"] == "GET, HEAD")
    assert {p: p.lstat().st_mtime_ns for p in study.rglob("*")} == before


def test_the_pictures_are_served(server, study):
    odd = study / os.fsdecode(b"\xff & <b>") / "seed0" / "curves.png"
    odd.parent.mkdir(parents=True)
    odd.write_bytes(b"picture of an odd name")
    assert ask(server, link(study, odd))[2] == b"picture of an odd name"
    for name in ("curves.png", "evolution.png", "evolution.webp", "gen000/grid.png"):
        status, headers, body = ask(server, link(study, study / CHAIN / name))
        assert status == 200 and body == f"picture {name}".encode() and headers["Content-Type"].startswith("image/")
    assert ask(server, "/pictures/comparison.png")[2] == b"picture comparison.png"
    status, headers, body = ask(server, "/pictures/comparison.png", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", "22")


OUTSIDE = [
    f"{CHAIN}/{name}"
    for name in ("gen001/grid.png", "gen002/grid.png", "gen003/grid.png", "gen004/grid.png", "gen005/grid.png",
                 "config.yaml", "metrics.csv", "gen000/record.json", "gen000/pool.safetensors", "gen000/other.png",
                 "gen000/../../../../secret.png", "gen000%2f..%2fcurves.png", "gen000/grid.png/", "gen000/grid.png%00")
]  # fmt: skip
OUTSIDE += ["../secret.png", "%2e%2e/secret.png", "..%2fsecret.png", "..%5csecret.png", "", ".", "/etc/passwd"]
OUTSIDE += [
    "%2fetc/seed0/curves.png",
    "../study/comparison.png",
    "%ff/seed0/curves.png",
    "x" * 300 + "/seed0/curves.png",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_nothing_else_is_served(server, path):
    for under in ("/pictures/", "/"):
        status, _, body = ask(server, under + path)
        assert status == (200 if under + path == "/" else 404) and b"secret" not in body and b"root:" not in body


PART = st.sampled_from(["..", ".", "", CHAIN.split("/")[0], "seed0", "gen000", "gen001", "gen002", "grid.png",
                        "curves.png", "comparison.png", "secret.png", "\0", "a\\b", "é"]) | st.text(max_size=5)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(PART, max_size=6))
def test_a_picture_is_a_file_inside_the_study(study, parts):
    found = picture(study, "/".join(parts))
    assert found is None or (found.is_relative_to(study.resolve()) and found.read_bytes().startswith(b"picture"))


def test_a_study_that_does_not_exist_has_no_pictures(tmp_path):
    assert picture(tmp_path / "none", "comparison.png") is None


def test_readers_that_go_away_cost_nothing(server, capfd):
    for text in (
        b"",
        b"GET",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n",
        b"\x16\x03\x01\x02\0" * 9,
        b"GET /" + b"x" * 99_999,
    ):
        with socket.create_connection(server.server_address, timeout=10) as connection:
            connection.sendall(text)
    assert ask(server)[0] == 200 and capfd.readouterr().err == ""


def test_a_port_that_cannot_be_had_is_named(server, study):
    taken = server.server_address[1]
    with pytest.raises(UserError, match=rf"--port {taken} .*in use.*--port 0 for any free one"):
        Server(study, taken)
    for port in (-1, 65536):
        with pytest.raises(UserError, match=f"--port {port}: give a number from 1024 to 65535, or 0"):
            Server(study, port)


def test_only_this_machine_can_connect(server):
    assert server.server_address[0] == "127.0.0.1" and 1024 <= PORT <= 65535


def test_a_port_is_free_again_when_the_watch_has_ended(study):
    first = Server(study, 0)
    port = first.server_address[1]
    with first:
        ask(first)
    with Server(study, port) as second:
        assert ask(second)[0] == 200
