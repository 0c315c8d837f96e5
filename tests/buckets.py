"""A bucket of Google Cloud Storage on this machine: the storage emulator, with what it was asked written down."""

import contextlib
import logging
import os
import pathlib
import socket
import threading
import types
from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer
from urllib.parse import unquote

import fsspec
import pytest

URL = "gs://bucket"


class Bucket:
    """The bucket at `URL`. This process and those that it starts find there what they look for on gs://."""

    def __init__(self):
        self.requests: list[str] = []  # "GET /download/storage/v1/b/bucket/o/..."
        self.forbidden = False  # whether every request is refused
        self.trouble: tuple[str, int] | None = None  # part of a question, and the status that answers it; 0: none does

    @property
    def files(self) -> fsspec.AbstractFileSystem:
        return fsspec.filesystem("gs", use_listings_cache=False)

    def copy(self, folder: pathlib.Path, name: str) -> str:
        """Copies a folder there, as `gcloud storage cp -r` does; returns its URL."""
        self.files.put(f"{folder}/", f"{URL}/{name}/", recursive=True)
        return f"{URL}/{name}"

    def reads(self, name: str = "tokens.bin") -> int:
        """How often the content of a file of this name was asked for, in whole or in part."""
        return sum(request.startswith("GET /download/") and f"{name}?" in request for request in self.requests)


def impatient(patch: pytest.MonkeyPatch) -> None:
    """Lets gcsfs and TensorStore, which go on asking for minutes, give up at once."""
    import gcsfs.retry
    from orbax.checkpoint._src.serialization import tensorstore_utils

    async def sleep(seconds):
        pass

    patch.setattr(gcsfs.retry, "asyncio", types.SimpleNamespace(sleep=sleep))
    once = {"max_retries": 1, "initial_delay": "1ms", "max_delay": "1ms"}
    patch.setitem(tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT, "gcs_request_retries", once)


@contextlib.contextmanager
def emulated() -> Iterator[Bucket]:
    """Serves a bucket; skips the test without the extra `checks`."""
    # Read when gcsfs is imported, which would otherwise ask Google what kind of bucket this is.
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
    pytest.importorskip("gcsfs", reason="needs the extra checks")
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="needs the extra checks")
    from gcp_storage_emulator.handlers import buckets
    from gcp_storage_emulator.storage import Storage

    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)  # it calls each missing object an error
    bucket, storage = Bucket(), Storage(use_memory_fs=True)
    buckets.create_bucket("bucket", storage)

    class Handler(emulator.RequestHandler):
        def do_GET(self):
            if bucket.forbidden:
                self.send_error(403, "you may not")
            elif not self.in_trouble():
                super().do_GET()

        def do_POST(self):
            if "/moveTo/" in self.path:
                self.send_error(400)  # gcsfs would ask again and again for what is not implemented; so it copies
            elif not self.in_trouble():
                super().do_POST()

        def in_trouble(self) -> bool:
            part, status = bucket.trouble or (None, 0)
            found = part is not None and part in unquote(self.path)
            if found and status:
                self.send_error(status, "invalid" if status == 400 else "you may not")
            elif found:
                self.connection.shutdown(socket.SHUT_RDWR)
            return found

        def end_headers(self):
            # TensorStore wants to know which generation it has read.
            name = unquote(self.path.partition("/o/")[2].partition("?")[0])
            if "alt=media" in self.path and name in storage.objects.get("bucket", {}):  # none before the first object
                self.send_header("x-goog-generation", storage.objects["bucket"][name]["generation"])
            super().end_headers()

        def log_message(self, format, *args):
            bucket.requests.append(f"{self.command} {self.path}")

    class Listener(HTTPServer):
        request_queue_size = 256

        def handle_error(self, request, address):
            """Says nothing: gcsfs hangs up on questions that another answer has settled."""

    with Listener(("127.0.0.1", 0), partial(Handler, storage)) as listener, pytest.MonkeyPatch.context() as patch:
        address = f"http://127.0.0.1:{listener.server_port}"
        patch.setenv("STORAGE_EMULATOR_HOST", address)  # for gcsfs
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield bucket
        finally:
            listener.shutdown()
            thread.join()
