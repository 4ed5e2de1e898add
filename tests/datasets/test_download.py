"""Downloads from a loopback S3 server, through a forwarder that cuts, stalls, refuses and lies."""

from __future__ import annotations

import errno
import hashlib
import http.client
import io
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import boto3
import numpy as np
import pytest
from boto3.s3.transfer import TransferConfig
from moto.server import ThreadedMotoServer

from synbrain_cli.datasets import download, s3
from synbrain_cli.datasets.download import check_space, fetch, missing
from synbrain_cli.datasets.s3 import BUCKET, Bucket, RemoteFile
from synbrain_cli.errors import InputError, MissingError, SynbrainError

BETAS = "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR/"
SESSION = BETAS + "betas_session01.nii.gz"
OTHER = BETAS + "betas_session02.nii.gz"
DESIGN = "nsddata/experiments/nsd/nsd_expdesign.mat"
STIMULI = "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
EMPTY = "nsddata/ppdata/subj01/empty.txt"
PRIVATE = "nsddata/private.mat"
PIECE, CHUNK = 4000, 500
PER_PIECE = PIECE // CHUNK
MIB = 1 << 20


def content(name: str, size: int) -> bytes:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
    return np.random.default_rng(seed).bytes(size)


OBJECTS = {
    SESSION: content(SESSION, 10 * PIECE + 777),
    OTHER: content(OTHER, 3 * PIECE),
    DESIGN: content(DESIGN, 123),
    EMPTY: b"",
}
STIMULI_CONTENT = content(STIMULI, 11 * MIB)


# --------------------------------------------------------------------------- the servers


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # the client may leave when it likes
            super().handle_error(request, client_address)


class Proxy:
    """Forward to the S3 server; what it does to the answers about a key is in ``faults``."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.lock = threading.Lock()
        self.reset()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                with proxy.lock:
                    proxy.active += 1
                    proxy.most_active = max(proxy.most_active, proxy.active)
                try:
                    proxy.answer(self)
                finally:
                    with proxy.lock:
                        proxy.active -= 1

            do_HEAD = do_GET

            def log_message(self, *arguments) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def reset(self) -> None:
        self.seen, self.faults = [], {}
        self.active = self.most_active = 0
        self.gate = None
        self.part_number = "told"
        self.forgets_conditions = False
        self.page = None

    def on(self, key, action, *, after=0, times=1000):
        """Treat so many GETs of a key (None: listings) with ``action``, after some good ones."""
        self.faults[key] = iter([None] * after + [action] * times)

    def ranges(self, key):
        """(first byte, end) of the GETs of a key, in order."""
        found = [re.fullmatch(r"bytes=(\d+)-(\d+)", s.headers["Range"]) for s in self.gets(key)]
        return [(int(r[1]), int(r[2]) + 1) for r in found]

    def gets(self, key=None):
        return [s for s in self.seen if s.method == "GET" and s.key and key in (None, s.key)]

    def answer(self, handler) -> None:
        target = handler.path
        key = unquote(urlsplit(target).path).removeprefix(f"/{BUCKET}").strip("/") or None
        headers = {k: v for k, v in handler.headers.items() if k.lower() != "connection"}
        with self.lock:
            self.seen.append(SimpleNamespace(method=handler.command, key=key, headers=headers))
            is_get = handler.command == "GET"
            action = next(self.faults.get(key, iter(())), None) if is_get else None
        if self.gate and key and is_get:
            self.gate()
        if self.page and key is None:
            target += f"&max-keys={self.page}"
        if self.part_number == "ignored":
            target = target.replace("partNumber=1", "")
        if self.forgets_conditions:
            headers.pop("If-Match", None)
        upstream = http.client.HTTPConnection(self.upstream, timeout=20)
        upstream.request(handler.command, target, headers=headers)
        reply = upstream.getresponse()
        body = reply.read()
        upstream.close()
        sent_headers = {name.lower(): value for name, value in reply.getheaders()}
        answer = SimpleNamespace(status=reply.status, headers=sent_headers, body=body)
        if self.part_number == "refused" and "partNumber" in target:
            answer.status = 405
        sent = action(answer) if action else None
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            if name not in ("connection", "date", "server"):
                handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(answer.body[:sent])
        if sent is not None:
            handler.close_connection = True


def cut(after):
    """Send so many bytes of the body, then close the connection."""
    return lambda answer: after


def shorten(to):
    """Send so many bytes and say that they are all."""

    def action(answer):
        start, total = re.fullmatch(
            r"bytes (\d+)-\d+/(\d+)", answer.headers["content-range"]
        ).groups()
        answer.body = answer.body[:to]
        answer.headers["content-length"] = str(len(answer.body))
        answer.headers["content-range"] = f"bytes {start}-{int(start) + to - 1}/{total}"

    return action


def empty(answer):
    answer.body, answer.headers["content-length"] = b"", "0"


def corrupt(answer):
    answer.body = bytes([answer.body[0] ^ 1]) + answer.body[1:]


def whole(answer):
    """As a server that knows no ranges."""
    answer.status = 200
    del answer.headers["content-range"]


def refuse(status, code="Fault"):
    def action(answer):
        answer.status = status
        answer.body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        answer.headers = {"content-length": len(answer.body), "content-type": "application/xml"}

    return action


def login_page(answer):
    answer.status, answer.body = 200, b"<html><body>Welcome to the guest network<br></html>"
    answer.headers = {"content-length": len(answer.body), "content-type": "text/html"}


@pytest.fixture(scope="module")
def servers():
    """Loopback S3 with NSD's bucket, the forwarder, and a client that may write."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("AWS_") or n.lower().endswith("_proxy")]:
            patch.delenv(name)
        patch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_ACCESS_KEY_ID", "secret-id")  # must not be sent
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
        server.start()
        url = "http://{}:{}".format(*server.get_host_and_port())
        owner = boto3.client("s3", region_name="us-east-2", endpoint_url=url)
        owner.create_bucket(
            Bucket=BUCKET,
            ACL="public-read",
            CreateBucketConfiguration={"LocationConstraint": "us-east-2"},
        )
        for key, body in OBJECTS.items():
            owner.put_object(Bucket=BUCKET, Key=key, Body=body, ACL="public-read")
        proxy = Proxy(url)
        patch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        patch.setattr(s3, "CALL_RETRIES", 0)  # boto3 sleeps before each
        yield proxy, owner, Bucket()
        proxy.server.shutdown()
        proxy.server.server_close()
        owner.delete_objects(
            Bucket=BUCKET,
            Delete={
                "Objects": [
                    {"Key": entry["Key"]}
                    for entry in owner.list_objects_v2(Bucket=BUCKET)["Contents"]
                ]
            },
        )
        owner.delete_bucket(Bucket=BUCKET)
        server.stop()


@pytest.fixture
def owner(servers):
    return servers[1]


@pytest.fixture
def proxy(servers, monkeypatch):
    """The forwarder, with small pieces and no waiting between tries."""
    proxy = servers[0]
    proxy.reset()
    for name, value in {
        "PIECE": PIECE,
        "BACKOFF": 0,
        "RECORD_EVERY": 0,
        "PROGRESS_EVERY": 0,
        "STOPPING": 1.0,
    }.items():
        monkeypatch.setattr(download, name, value)
    monkeypatch.setattr(s3, "CHUNK", CHUNK)
    return proxy


@pytest.fixture
def bucket(servers, proxy):
    return servers[2]


@pytest.fixture
def session(bucket):
    return bucket.find(SESSION)


def fetch_until(calls, bucket, files, root, fault=None):
    """Fetch with one worker that writes so many chunks and then meets a fault."""
    fault, left, pwrite = fault or KeyboardInterrupt(), itertools.count(calls, -1), os.pwrite

    def failing_pwrite(*arguments):
        if next(left) <= 0:
            raise fault
        return pwrite(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", failing_pwrite)
        fetch(bucket, files, root, workers=1)


def beside(root, key):
    path = root / key
    return path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.part.json")


def assert_whole(root, *keys):
    for key in keys:
        assert (root / key).read_bytes() == OBJECTS[key], key
        assert not any(path.exists() for path in beside(root, key))


def assert_goes_on(bucket, proxy, file, root, first_pieces):
    """What is left of an interrupted run, and that the next one downloads only the rest."""
    part, record = beside(root, file.key)
    assert not (root / file.key).exists()
    assert part.stat().st_size == file.size
    assert json.loads(record.read_text())["finished"] == list(range(first_pieces))
    proxy.seen.clear()
    fetch(bucket, [file], root, workers=1)
    starts = [start for start, _ in proxy.ranges(file.key)]
    assert starts == list(range(first_pieces * PIECE, file.size, PIECE))
    assert_whole(root, file.key)


# ---------------------------------------------------------------------------- what is there


def test_list(bucket, owner, proxy):
    owner.put_object(Bucket=BUCKET, Key=BETAS, Body=b"")  # a folder, as AWS's console makes it
    found = bucket.list(BETAS)
    assert found == {
        key: RemoteFile(key, len(OBJECTS[key]), hashlib.md5(OBJECTS[key]).hexdigest())
        for key in (SESSION, OTHER)
    }
    assert bucket.list("nsddata/nothing") == {}
    proxy.page, proxy.seen = 1, []
    assert bucket.list(BETAS) == found
    assert len(proxy.seen) == 3


def test_find(bucket):
    assert bucket.find(SESSION) == bucket.list(SESSION)[SESSION]
    assert bucket.find("nsddata/nothing") is None


def test_missing(bucket, tmp_path):
    files = [*bucket.list("nsddata").values()]
    assert missing(files, tmp_path) == files
    for file in files:
        (tmp_path / file.key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.key).write_bytes(bytes(file.size))
    assert missing(files, tmp_path) == []
    (tmp_path / OTHER).write_bytes(b"short")
    assert [file.key for file in missing(files, tmp_path)] == [OTHER]


@pytest.mark.parametrize("key", ["../x", "nsddata/../../x", "/etc/x", "nsddata/", ""])
def test_nothing_is_written_outside_the_root(bucket, tmp_path, key):
    with pytest.raises(InputError, match="name of a file"):
        fetch(bucket, [RemoteFile(key, 3, "0" * 32)], tmp_path)


def test_space(bucket, proxy, tmp_path, monkeypatch):
    files = [bucket.find(SESSION), bucket.find(OTHER)]
    size = sum(file.size for file in files)
    free = SimpleNamespace(free=size + 10)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: free)
    root = tmp_path / "not/yet/there"
    check_space(files, root, 10)
    with pytest.raises(InputError, match=r"expected .* GB of free space .* found 0\.0 GB: free"):
        check_space(files, root, 11)
    with pytest.raises(KeyboardInterrupt):
        fetch_until(20, bucket, files[:1], root)
    free.free = files[1].size  # the first has had its space
    check_space(files, root)
    free.free -= 1
    with pytest.raises(InputError):
        check_space(files, root)
    (root / OTHER).write_bytes(OBJECTS[OTHER])
    free.free = 0
    check_space(files, root)


# -------------------------------------------------------------------------------- downloads


def test_files_are_the_buckets(bucket, proxy, tmp_path):
    files = [*bucket.list("nsddata").values()]
    assert {file.key for file in files} >= set(OBJECTS)
    files = [file for file in files if file.key in OBJECTS]
    fetch(bucket, files, tmp_path)
    assert_whole(tmp_path, *OBJECTS)
    assert sorted(proxy.ranges(SESSION)) == [
        (start, min(start + PIECE, len(OBJECTS[SESSION])))
        for start in range(0, len(OBJECTS[SESSION]), PIECE)
    ]
    proxy.seen.clear()
    fetch(bucket, files, tmp_path)
    assert not proxy.seen
    here = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert here == set(OBJECTS)


def test_no_credentials_are_sent(bucket, proxy, session, tmp_path):
    bucket.list("nsddata")
    fetch(bucket, [session], tmp_path)
    assert len(proxy.seen) > 10
    for seen in proxy.seen:
        assert "secret-id" not in str(seen.headers)
        assert "authorization" not in map(str.lower, seen.headers)


@pytest.mark.parametrize("workers", [1, 4])
def test_pieces_of_one_file_come_so_many_at_a_time(bucket, proxy, session, tmp_path, workers):
    together, order = threading.Barrier(workers, timeout=10), itertools.count()
    proxy.gate = lambda: together.wait() if next(order) < workers else None
    fetch(bucket, [session], tmp_path, workers=workers)
    assert proxy.most_active == workers
    assert_whole(tmp_path, SESSION)


def test_progress_grows_to_the_total(bucket, proxy, tmp_path):
    files = [bucket.find(SESSION), bucket.find(OTHER)]
    total, told = sum(file.size for file in files), []
    with pytest.raises(KeyboardInterrupt):
        fetch_until(5 * PER_PIECE + 3, bucket, files, tmp_path)
    fetch(bucket, files, tmp_path, progress=lambda done, total: told.append((done, total)))
    done = [done for done, _ in told]
    assert {total for _, total in told} == {total}
    assert done == sorted(done)
    assert done[0] == 5 * PIECE + CHUNK  # a whole run's 5 pieces, and the first new chunk
    assert done[-1] == total
    assert len(done) > 50


def test_progress_is_told_seldom(bucket, session, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PROGRESS_EVERY", 1000)
    told = []
    fetch(bucket, [session], tmp_path, progress=lambda *numbers: told.append(numbers))
    assert len(told) <= 2
    assert told[-1] == (session.size, session.size)


def test_another_size_is_replaced_only_by_the_whole_file(bucket, proxy, session, tmp_path):
    path = tmp_path / SESSION
    path.parent.mkdir(parents=True)
    path.write_bytes(b"old")
    proxy.on(SESSION, corrupt)
    with pytest.raises(InputError):
        fetch(bucket, [session], tmp_path)
    assert path.read_bytes() == b"old"
    proxy.reset()
    contents = []
    fetch(bucket, [session], tmp_path, progress=lambda *_: contents.append(path.read_bytes()))
    assert contents[0] == b"old"
    assert set(contents) == {b"old", OBJECTS[SESSION]}
    assert_whole(tmp_path, SESSION)


# ----------------------------------------------------------------------------- verification


@pytest.fixture
def stimuli(bucket, owner, monkeypatch):
    """An object uploaded in parts of 8 MiB, as the command-line tool of AWS does it."""
    monkeypatch.setattr(download, "PIECE", 3 * MIB)
    monkeypatch.setattr(s3, "CHUNK", MIB)
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=8 * MIB)
    owner.upload_fileobj(
        io.BytesIO(STIMULI_CONTENT),
        BUCKET,
        STIMULI,
        ExtraArgs={"ACL": "public-read"},
        Config=config,
    )
    return bucket.find(STIMULI)


@pytest.mark.parametrize("part_number", ["told", "ignored", "refused"])
def test_upload_in_parts_is_verified(bucket, proxy, stimuli, tmp_path, part_number):
    assert stimuli.etag.endswith("-2")
    proxy.part_number = part_number
    fetch(bucket, [stimuli], tmp_path)
    assert (tmp_path / STIMULI).read_bytes() == STIMULI_CONTENT
    proxy.on(STIMULI, corrupt)
    with pytest.raises(InputError, match=rf"expected the checksum {stimuli.etag} .* found \w+-2 "):
        fetch(bucket, [stimuli], tmp_path / "again")
    assert not (tmp_path / "again" / STIMULI).exists()


def test_spoiled_once_is_downloaded_again(bucket, proxy, session, tmp_path):
    proxy.on(SESSION, corrupt, times=1)
    files, told = [session, bucket.find(OTHER)], []
    fetch(bucket, files, tmp_path, progress=lambda done, total: told.append(done))
    assert max(told) == told[-1] == sum(file.size for file in files)
    assert_whole(tmp_path, SESSION, OTHER)
    assert len(proxy.gets(SESSION)) == 2 * 11
    assert len(proxy.gets(OTHER)) == 3


def test_spoiled_twice_is_refused(bucket, proxy, session, tmp_path):
    proxy.on(SESSION, corrupt)
    with pytest.raises(InputError, match=r"session01\.nii\.gz: expected the checksum") as fault:
        fetch(bucket, [session, bucket.find(OTHER)], tmp_path)
    spoiled = bytearray(OBJECTS[SESSION])
    for start in range(0, len(spoiled), PIECE):
        spoiled[start] ^= 1
    assert session.etag in str(fault.value)
    assert hashlib.md5(spoiled).hexdigest() in str(fault.value)
    assert_whole(tmp_path, OTHER)
    folder = (tmp_path / SESSION).parent
    assert [path.name for path in folder.iterdir()] == [Path(OTHER).name]


def test_damage_on_disk_is_found(bucket, proxy, session, tmp_path):
    """As after a power cut that lost data of recorded pieces."""
    with pytest.raises(KeyboardInterrupt):
        fetch_until(20, bucket, [session], tmp_path)
    part, _ = beside(tmp_path, SESSION)
    with part.open("r+b") as file:
        file.write(bytes(100))
    fetch(bucket, [session], tmp_path)
    assert_whole(tmp_path, SESSION)


def test_etag_that_is_no_checksum(bucket, proxy, session, tmp_path):
    """Then there is the size."""
    proxy.forgets_conditions = True
    part, _ = beside(tmp_path, SESSION)

    def lengthen(done, total):
        if not told:
            with part.open("ab") as file:
                file.write(b"long")
        told.append(done)

    told = [0]
    fetch(bucket, [RemoteFile(SESSION, session.size, "opaque")], tmp_path, progress=lengthen)
    assert len(proxy.gets(SESSION)) == 11
    assert_whole(tmp_path, SESSION)
    (tmp_path / SESSION).unlink()
    told.clear()
    fetch(bucket, [RemoteFile(SESSION, session.size, "opaque")], tmp_path, progress=lengthen)
    assert len(proxy.gets(SESSION)) == 11 + 22
    assert_whole(tmp_path, SESSION)


@pytest.mark.parametrize("listed", [1, PIECE], ids=["in the last piece", "a piece more"])
def test_object_shorter_than_listed(bucket, session, tmp_path, listed):
    longer = RemoteFile(SESSION, session.size + listed, session.etag)
    with pytest.raises(InputError, match=rf"session01.* the server sent .*/{session.size}:"):
        fetch(bucket, [longer], tmp_path, workers=1)
    assert not (tmp_path / SESSION).exists()


def test_server_without_ranges(bucket, proxy, session, tmp_path):
    proxy.on(SESSION, whole)
    with pytest.raises(InputError, match=f"expected bytes 0-3999/{session.size}, .* no range"):
        fetch(bucket, [session], tmp_path, workers=1)


def test_object_changed_meanwhile(bucket, proxy, owner, tmp_path):
    key = BETAS + "betas_session03.nii.gz"
    old, new = content("old", 10 * PIECE), content("new", 10 * PIECE)
    owner.put_object(Bucket=BUCKET, Key=key, Body=old, ACL="public-read")
    file = bucket.find(key)
    with pytest.raises(KeyboardInterrupt):
        fetch_until(20, bucket, [file], tmp_path)
    owner.put_object(Bucket=BUCKET, Key=key, Body=new, ACL="public-read")
    with pytest.raises(InputError, match=r"session03.* changed in the bucket .* the same"):
        fetch(bucket, [file], tmp_path)
    assert not (tmp_path / key).exists()
    proxy.seen.clear()
    fetch(bucket, [bucket.find(key)], tmp_path)
    assert (tmp_path / key).read_bytes() == new
    assert len(proxy.gets(key)) == 10
    owner.delete_object(Bucket=BUCKET, Key=key)


# ---------------------------------------------------------------------------- interruptions


@pytest.mark.parametrize("action", [cut(3 * CHUNK), shorten(3 * CHUNK)], ids=["cut", "short"])
def test_cut_body_goes_on_where_it_stopped(bucket, proxy, session, tmp_path, action):
    proxy.on(SESSION, action, times=2)
    fetch(bucket, [session], tmp_path, workers=1)
    assert proxy.ranges(SESSION)[:4] == [
        (0, PIECE),
        (3 * CHUNK, PIECE),
        (6 * CHUNK, PIECE),
        (PIECE, 2 * PIECE),
    ]
    assert_whole(tmp_path, SESSION)


def test_progress_between_cuts_renews_the_tries(bucket, proxy, session, tmp_path):
    proxy.on(SESSION, cut(CHUNK))
    fetch(bucket, [session], tmp_path)
    assert_whole(tmp_path, SESSION)
    assert len(proxy.gets(SESSION)) > 2 * download.RETRIES * 5


@pytest.mark.parametrize("action", [cut(0), empty], ids=["cut", "empty"])
def test_lost_connection_keeps_what_is_there(bucket, proxy, session, tmp_path, action):
    proxy.on(SESSION, action, after=4)
    with pytest.raises(SynbrainError, match=rf"session01.* lost after {4 * PIECE} of") as fault:
        fetch(bucket, [session], tmp_path, workers=1)
    assert "run the same command again, which continues where it stopped" in str(fault.value)
    assert len(proxy.gets(SESSION)) == 4 + 1 + download.RETRIES
    proxy.reset()
    assert_goes_on(bucket, proxy, session, tmp_path, 4)


@pytest.mark.parametrize(
    ("status", "code"),
    [(500, "InternalError"), (503, "SlowDown"), (429, "TooMany"), (400, "RequestTimeout")],
)
def test_busy_server_is_asked_again(bucket, proxy, session, tmp_path, status, code):
    proxy.on(SESSION, refuse(status, code), times=3)
    fetch(bucket, [session], tmp_path, workers=1)
    assert_whole(tmp_path, SESSION)
    proxy.on(SESSION, refuse(status, code))
    with pytest.raises(SynbrainError, match=rf"answered {status} \({code}\) after 0 of .* again"):
        fetch(bucket, [session], tmp_path / "again", workers=1)


def test_retries_wait_longer_each_time(bucket, proxy, session, tmp_path, monkeypatch):
    waits = []

    class Event(threading.Event):
        def wait(self, seconds=None):
            if seconds is None:
                return super().wait()
            waits.append(seconds)
            return False

    monkeypatch.setattr(download, "BACKOFF", 1.0)
    monkeypatch.setattr(threading, "Event", Event)
    proxy.on(SESSION, refuse(503))
    with pytest.raises(SynbrainError):
        fetch(bucket, [session], tmp_path, workers=1)
    assert waits == [1, 2, 4, 8, 16]


def start_fetch(file, root, setting):
    """Start a process that downloads a file with one worker, after some other lines of Python."""
    program = f"""
from pathlib import Path
from synbrain_cli.datasets import download, s3
download.PIECE, s3.CHUNK = {PIECE}, {CHUNK}
download.RECORD_EVERY, download.STOPPING = 0, 0.3
{setting}
file = s3.RemoteFile({file.key!r}, {file.size}, {file.etag!r})
download.fetch(s3.Bucket(), [file], Path({str(root)!r}), workers=1)
"""
    return subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)


def test_killed(bucket, proxy, session, tmp_path):
    setting = f"""
import itertools, os, signal
write, left = os.pwrite, itertools.count({3 * PER_PIECE + 4}, -1)
os.pwrite = lambda *a: write(*a) if next(left) else os.kill(os.getpid(), signal.SIGKILL)
"""
    with start_fetch(session, tmp_path, setting) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    assert_goes_on(bucket, proxy, session, tmp_path, 3)


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), GeneratorExit("a bug")], ids=repr)
def test_interrupted(bucket, proxy, session, tmp_path, fault, monkeypatch):
    monkeypatch.setattr(download, "RECORD_EVERY", 1000)  # the record is that of the end
    with pytest.raises(type(fault)):
        fetch_until(3 * PER_PIECE + 2, bucket, [session], tmp_path, fault)
    assert_goes_on(bucket, proxy, session, tmp_path, 3)


def test_ctrl_c_does_not_wait_for_a_silent_server(bucket, proxy, session, tmp_path):
    released = threading.Event()

    def stall(answer):
        process.send_signal(signal.SIGINT)
        released.wait(30)

    proxy.on(SESSION, stall, after=3)
    # A shell that starts the tests in the background makes them ignore SIGINT.
    setting = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    process = start_fetch(session, tmp_path, setting)
    try:
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    released.set()
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    proxy.reset()
    assert_goes_on(bucket, proxy, session, tmp_path, 3)


def test_fault_of_one_worker_stops_the_others(bucket, proxy, tmp_path, monkeypatch):
    files = [bucket.find(SESSION), bucket.find(OTHER)]
    written, stopped, events = [], [], []
    pwrite, three_written = os.pwrite, threading.Event()

    class Event(threading.Event):
        def __init__(self):
            super().__init__()
            events.append(self)  # the first is that which stops the run

    def watched_pwrite(*arguments):
        written.append(arguments)
        if len(written) == 3:
            three_written.set()
            stopped.append(events[0].wait(10))
        return pwrite(*arguments)

    def refuse_late(answer):
        three_written.wait(10)
        refuse(403)(answer)

    monkeypatch.setattr(download, "PIECE", MIB)
    monkeypatch.setattr(threading, "Event", Event)
    monkeypatch.setattr(os, "pwrite", watched_pwrite)
    proxy.on(OTHER, refuse_late)
    with pytest.raises(SynbrainError, match=r"session02.* refused \(403\)"):
        fetch(bucket, files, tmp_path, workers=2)
    assert stopped == [True]
    assert len(written) == 3


def test_file_is_on_the_disk_before_it_has_its_name(bucket, session, tmp_path, monkeypatch):
    named = []
    monkeypatch.setattr(os, "fsync", lambda file: named.append((tmp_path / SESSION).exists()))
    fetch(bucket, [session], tmp_path)
    assert named == [False]


def test_full_disk_is_met_before_anything_is_downloaded(
    bucket, proxy, session, tmp_path, monkeypatch
):
    def no_space(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", no_space)
        with pytest.raises(SynbrainError, match=r"write .*01\.nii\.gz.*No space left.*free"):
            fetch(bucket, [session], tmp_path)
    assert not proxy.gets()
    assert not any(path.is_file() for path in tmp_path.rglob("*"))  # nor half of the space taken
    monkeypatch.delattr(os, "posix_fallocate")  # macOS
    fetch(bucket, [session], tmp_path)
    assert_whole(tmp_path, SESSION)


def test_disk_that_fills_up(bucket, proxy, session, tmp_path):
    fault = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(SynbrainError, match=r"write .*01\.nii\.gz.*No space left .* is kept"):
        fetch_until(2 * PER_PIECE + 5, bucket, [session], tmp_path, fault)
    assert_goes_on(bucket, proxy, session, tmp_path, 2)


def test_fault_of_the_callers_progress_is_its_own(bucket, session, tmp_path):
    def progress(done, total):
        raise BrokenPipeError("nobody reads")

    with pytest.raises(BrokenPipeError, match="nobody reads"):
        fetch(bucket, [session], tmp_path, progress=progress)


def test_chunks_written_by_halves(bucket, session, tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[: CHUNK // 2], at))
    fetch(bucket, [session], tmp_path)
    assert_whole(tmp_path, SESSION)


@pytest.mark.parametrize(
    "damage",
    [
        lambda part, record: record.write_text("{"),
        lambda part, record: record.write_text("[1]"),
        lambda part, record: record.write_text(record.read_text().replace("4000", "4096")),
        lambda part, record: part.write_bytes(b"short"),
        lambda part, record: part.write_bytes(part.read_bytes() + b"long"),
        lambda part, record: part.unlink(),
        lambda part, record: record.unlink(),
    ],
    ids=["no JSON", "no record", "other pieces", "short file", "long file", "no file", "none"],
)
def test_doubtful_records_are_thrown_away(bucket, proxy, session, tmp_path, damage):
    with pytest.raises(KeyboardInterrupt):
        fetch_until(20, bucket, [session], tmp_path)
    damage(*beside(tmp_path, SESSION))
    proxy.seen.clear()
    fetch(bucket, [session], tmp_path)
    assert_whole(tmp_path, SESSION)
    assert len(proxy.gets(SESSION)) == 11


def test_folder_that_cannot_be_made(bucket, session, tmp_path):
    (tmp_path / "nsddata_betas").write_text("a file")
    with pytest.raises(SynbrainError, match=r"cannot write .*betas_session01.*: Not a directory"):
        fetch(bucket, [session], tmp_path)


# -------------------------------------------------------------------------------- refusals


def test_private_object(bucket, owner, tmp_path):
    owner.put_object(Bucket=BUCKET, Key=PRIVATE, Body=b"0123", ACL="private")
    with pytest.raises(SynbrainError, match=r"private\.mat: the server refused \(403\).*--root"):
        bucket.find(PRIVATE)
    file = bucket.list(PRIVATE)[PRIVATE]
    with pytest.raises(SynbrainError, match=r"private\.mat: the server refused \(403\).*--root"):
        fetch(bucket, [file], tmp_path)
    assert not (tmp_path / PRIVATE).exists()


def test_object_that_is_gone(bucket, proxy, session, tmp_path):
    gone = RemoteFile("nsddata/gone.mat", 5, session.etag)
    with pytest.raises(MissingError, match=r"nsddata/gone\.mat does not exist"):
        fetch(bucket, [gone], tmp_path)
    assert len(proxy.gets(gone.key)) == 1


@pytest.mark.parametrize(
    ("status", "code", "kind", "message"),
    [
        (403, "AccessDenied", SynbrainError, r"refused \(403\)"),
        (404, "NoSuchKey", MissingError, "does not exist"),
        (412, "PreconditionFailed", InputError, "changed in the bucket"),
        (416, "InvalidRange", InputError, "changed in the bucket"),
        (400, "Strange", SynbrainError, r"answered 400 \(Strange\)"),
    ],
)
def test_refusals_are_final(bucket, proxy, session, tmp_path, status, code, kind, message):
    proxy.on(SESSION, refuse(status, code))
    with pytest.raises(kind, match=rf"^s3://{BUCKET}/{SESSION}.*{message}") as fault:
        fetch(bucket, [session], tmp_path, workers=1)
    assert "\n" not in str(fault.value)
    assert len(proxy.gets(SESSION)) == 1


def test_no_such_bucket(proxy):
    with pytest.raises(MissingError, match=r"s3://another: http://127.* no such bucket.*--root"):
        Bucket("another").list("nsddata")
    assert Bucket("another").find(DESIGN) is None


def test_no_server(proxy, session, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
    nobody = Bucket()
    for call in (
        lambda: nobody.list("nsddata"),
        lambda: nobody.find(DESIGN),
        lambda: fetch(nobody, [session], tmp_path),
    ):
        with pytest.raises(SynbrainError, match=r"no connection to the bucket.*--root PATH --no-d"):
            call()


def test_network_that_wants_a_login(bucket, proxy, session, tmp_path):
    proxy.on(None, login_page)
    with pytest.raises(SynbrainError, match=r"answered 500 .*: run the same command again"):
        bucket.list("nsddata")
    proxy.on(SESSION, login_page)
    with pytest.raises(InputError, match="the server sent no range"):
        fetch(bucket, [session], tmp_path)


@pytest.mark.parametrize(
    ("variable", "value"), [("AWS_PROFILE", "none"), ("AWS_ENDPOINT_URL_S3", "no url")]
)
def test_bad_configuration(proxy, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=rf"cannot prepare the access.*{value}.*check"):
        Bucket()


def test_either_variable_names_the_server(bucket, proxy, session, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url.replace("127.0.0.1", "localhost"))
    proxy.seen.clear()
    assert Bucket().find(SESSION) == session
    assert len(proxy.seen) == 1


def test_module_is_light():
    program = "import sys, synbrain_cli.datasets.s3; print('boto3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
