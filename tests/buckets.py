"""A bucket of Google Cloud Storage on this machine: the storage emulator, with what it was asked written down."""

import contextlib
import logging
import os
import pathlib
import threading
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
            self.send_error(403, "you may not") if bucket.forbidden else super().do_GET()

        def do_POST(self):
            # gcsfs would ask again and again for what is not implemented; so it copies and deletes.
            self.send_error(400) if "/moveTo/" in self.path else super().do_POST()

        def end_headers(self):
            # TensorStore wants to know which generation it has read.
            name = unquote(self.path.partition("/o/")[2].partition("?")[0])
            if "alt=media" in self.path and name in storage.objects["bucket"]:
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
