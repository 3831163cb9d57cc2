"""A Hugging Face hub on this machine, which serves the repositories of a folder for as long as a test needs it."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import numpy as np
from support.paths import GLUE

from stableft.catalog.tasks import TASKS
from stableft.data.sources import SourceSplit, read_from_folder

COMMIT = "c" * 40


class LocalHub(BaseHTTPRequestHandler):
    """The few addresses of a hub that its clients use to download a data set or a model.

    `root/datasets/OWNER/NAME` and `root/models/NAME` hold the files. Every revision is the same commit.
    """

    protocol_version = "HTTP/1.1"

    def __init__(self, root: Path, *arguments):
        self.root = root
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.strip("/")
        if path.startswith("api/"):
            self.answer_about(path.removeprefix("api/"))
            return
        repository, _, revision_and_file = path.partition("/resolve/")
        folder = self.root / ("" if repository.startswith("datasets/") else "models") / repository
        file = folder / revision_and_file.partition("/")[2]
        if file.is_file():
            self.send(200, file.read_bytes(), ETag=f'"{digest(file)}"')
        else:
            self.send(404, b"", **{"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET  # noqa: N815

    def answer_about(self, path: str) -> None:
        repository, is_tree, revision_and_folder = path.partition("/tree/")
        if is_tree:
            folder = self.root / repository
            files = [file for file in folder.joinpath(*revision_and_folder.split("/")[1:]).rglob("*") if file.is_file()]
            facts = [
                {"type": "file", "path": str(f.relative_to(folder)), "oid": digest(f), "size": f.stat().st_size}
                for f in files
            ]
        else:
            facts = {"id": path.partition("/revision/")[0].partition("/")[2], "sha": COMMIT}
        self.send(200, json.dumps(facts).encode())

    def send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "X-Repo-Commit": COMMIT, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments) -> None:
        """Say nothing about each request."""


def digest(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextmanager
def serve_hub(root: Path) -> Iterator[str]:
    """Serve the repositories of a folder. Yields the address for HF_ENDPOINT."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(LocalHub, root)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def make_glue_repository(datasets_root: Path) -> None:
    """Make the hub's GLUE data set, with made-up rows of RTE."""
    import datasets

    task = TASKS["rte"]
    assert task.hub
    folder = datasets_root / task.hub.repository
    folder.mkdir(parents=True)
    files = []
    splits: dict[SourceSplit, str] = {"train": "train", "dev": task.hub.dev}
    for part, split in splits.items():
        rows = read_from_folder(task, part, GLUE).take(np.arange(10))  # one step an epoch
        columns = dict(zip(task.text, rows.texts, strict=True))
        table = datasets.Dataset.from_dict({**columns, "label": rows.labels})
        table.cast_column("label", datasets.ClassLabel(names=list(task.labels))).to_parquet(folder / f"{split}.parquet")
        files.append({"split": split, "path": f"{split}.parquet"})
    header = json.dumps({"configs": [{"config_name": task.hub.config, "data_files": files}]})
    (folder / "README.md").write_text(f"---\n{header}\n---\n")
