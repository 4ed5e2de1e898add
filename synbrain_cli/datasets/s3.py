"""Access to a public S3 bucket: its objects, ranges of their bytes, and its errors."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from synbrain_cli.errors import InputError, MissingError, SynbrainError

BUCKET = "natural-scenes-dataset"
REGION = "us-east-2"
CHUNK = 256 << 10  # bytes that a worker holds in memory
CALL_RETRIES = 2  # by boto3, of a request that got no proper answer
CONNECT_TIMEOUT, READ_TIMEOUT = 20, 60  # seconds
CONNECTIONS = 64  # at most


@dataclass(frozen=True)
class RemoteFile:
    """An object in the bucket.

    Attributes
    ----------
    key : str
        Path below the bucket, and below the local root.
    size : int
        Bytes.
    etag : str
        Without quotes: the content's MD5, or that of its parts' MD5s (`<hex>-<parts>`).
    """

    key: str
    size: int
    etag: str


class Bucket:
    """Anonymous access to one bucket, from any number of threads.

    Credentials on this machine are not used. Environment variables of boto3 apply, such as
    ``AWS_ENDPOINT_URL_S3`` for another server.

    Parameters
    ----------
    name : str
        Name of the bucket.
    region : str
        Where it is.

    Attributes
    ----------
    faults : tuple of exception types
        Exceptions of the network and the server; see `explain`.

    Raises
    ------
    InputError
        When the AWS configuration of this machine is not valid.
    """

    def __init__(self, name: str = BUCKET, region: str = REGION) -> None:
        # Imported here, so that `synbrain --help` is immediate.
        from boto3.session import Session
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            ConnectionError,
            HTTPClientError,
            IncompleteReadError,
        )
        from urllib3.exceptions import HTTPError

        self.name = name
        self.faults = (
            ClientError,
            ConnectionError,
            HTTPClientError,
            HTTPError,
            IncompleteReadError,
        )
        config = Config(
            signature_version=UNSIGNED,
            max_pool_connections=CONNECTIONS,
            retries={"max_attempts": CALL_RETRIES, "mode": "standard"},
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            response_checksum_validation="when_required",  # the whole file is checked
        )
        try:
            self._client = Session().client("s3", region_name=region, config=config)
        except (BotoCoreError, ValueError) as error:
            raise InputError(
                f"s3://{name}: cannot prepare the access ({_one_line(error)}): check this "
                "machine's AWS configuration (AWS_ENDPOINT_URL, AWS_PROFILE, ~/.aws/config)"
            ) from error

    def list(self, prefix: str) -> dict[str, RemoteFile]:
        """Return all objects below a prefix, by key.

        Raises
        ------
        SynbrainError
            When the bucket cannot be reached, does not exist, or denies access.
        """
        listing = self._client.get_paginator("list_objects_v2")
        try:
            pages = [*listing.paginate(Bucket=self.name, Prefix=prefix)]
        except self.faults as error:
            raise self.explain(prefix, error) from error
        found = [entry for page in pages for entry in page.get("Contents", ())]
        return {
            entry["Key"]: RemoteFile(entry["Key"], entry["Size"], entry["ETag"].strip('"'))
            for entry in found
            if not entry["Key"].endswith("/")  # a console's mark for an empty folder
        }

    def find(self, key: str) -> RemoteFile | None:
        """Return an object by key; None where it does not exist.

        Raises
        ------
        SynbrainError
            When the bucket cannot be reached, or denies access.
        """
        try:
            head = self._client.head_object(Bucket=self.name, Key=key)
        except self.faults as error:
            if _answer(error)[0] == 404:
                return None
            raise self.explain(key, error) from error
        return RemoteFile(key, head["ContentLength"], head.get("ETag", "").strip('"'))

    def part_size(self, key: str) -> int | None:
        """Return the size in bytes of the first part of an object that was uploaded in parts.

        None where the server does not provide it.
        """
        try:
            head = self._client.head_object(Bucket=self.name, Key=key, PartNumber=1)
        except self.faults as error:
            if 400 <= _answer(error)[0] < 500:
                return None
            raise self.explain(key, error) from error
        return head["ContentLength"]

    def stream(self, file: RemoteFile, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from ``start`` up to ``end`` in chunks.

        Raises
        ------
        InputError
            When the server sends another range than was requested.
        one of ``faults``
            When the connection fails, or the answer ends early.
        """
        from botocore.exceptions import IncompleteReadError

        answer = self._client.get_object(
            Bucket=self.name,
            Key=file.key,
            Range=f"bytes={start}-{end - 1}",
            IfMatch=f'"{file.etag}"',
        )
        with contextlib.closing(answer["Body"]) as body:
            sent = answer.get("ContentRange", "no range")
            if not re.fullmatch(rf"bytes {start}-\d+/{file.size}", sent):
                raise InputError(
                    f"s3://{self.name}/{file.key}: expected bytes {start}-{end - 1}/{file.size}, "
                    f"the server sent {sent}: run the same command again; if it stays so, "
                    "something between here and the bucket is at fault"
                )
            at = start
            while at < end:
                chunk = body.read(min(CHUNK, end - at))
                if not chunk:
                    raise IncompleteReadError(actual_bytes=at - start, expected_bytes=end - start)
                at += len(chunk)
                yield chunk

    def explain(self, key: str, error: Exception, after: str = "") -> SynbrainError:
        """Return the error for one of `faults`, with what the user can do.

        Parameters
        ----------
        key : str
            Key of the object, or prefix.
        error : Exception
        after : str
            How much had been downloaded, for the message.
        """
        from botocore.exceptions import ConnectionError

        where = f"s3://{self.name}/{key}"
        again = "run the same command again, which continues where it stopped"
        status, code = _answer(error)
        if code == "NoSuchBucket":
            return MissingError(
                f"s3://{self.name}: {self._client.meta.endpoint_url} has no such bucket: check "
                "AWS_ENDPOINT_URL, or use a local copy with --root PATH --no-download"
            )
        if status == 404:
            return MissingError(f"{where} does not exist: it was removed, or the name is wrong")
        if status == 403:
            see = "see https://naturalscenesdataset.org and " if self.name == BUCKET else ""
            return SynbrainError(
                f"{where}: the server refused (403). The bucket is public and no AWS credentials "
                f"are used: check AWS_ENDPOINT_URL and the proxy; if it stays so, {see}use a local "
                "copy with --root PATH --no-download"
            )
        if status in (412, 416):
            return InputError(
                f"{where} changed in the bucket since it was listed: run the same command again"
            )
        if status:
            return SynbrainError(f"{where}: the server answered {status} ({code}){after}: {again}")
        if isinstance(error, ConnectionError):
            return SynbrainError(
                f"{where}: no connection to the bucket{after} ({_one_line(error)}): check the "
                f"network and {again}; or use a local copy with --root PATH --no-download"
            )
        return SynbrainError(f"{where}: connection lost{after} ({_one_line(error)}): {again}")


def _answer(error: Exception) -> tuple[int, str]:
    """Return HTTP status and S3 code of an error; status 0 where the server did not answer."""
    answer = getattr(error, "response", None) or {}
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status, answer.get("Error", {}).get("Code", "")


def is_transient(error: Exception) -> bool:
    """Return whether one of a bucket's ``faults`` may not occur at the next attempt."""
    status, code = _answer(error)
    return status in (0, 429) or status >= 500 or code == "RequestTimeout"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
