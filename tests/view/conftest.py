"""Run folders in every state, written file by file, and a server over them."""

import datetime
import importlib.util
import json
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from prefeval import records
from prefeval.harness.serve.server import Server, open_server

START = 1_700_000_000  # seconds since the epoch


def iso(seconds: float) -> str:
    when = datetime.datetime.fromtimestamp(START + seconds, datetime.UTC)
    return when.isoformat(timespec="seconds")


class Folder:
    """A run folder that grows as a sweep's does."""

    def __init__(self, path: Path, trials: list[str], **config: Any) -> None:
        self.path = path
        path.mkdir(parents=True)
        (path / ".run").write_text("hash")
        (path / ".lock").write_text("")
        methods = list(dict.fromkeys(t.partition("-")[0] for t in trials))
        settings = {"methods": methods, "model": "lab", "data": "lab", **config}
        manifest = {"trials": trials, "created": iso(0), "config_hash": "h", "config": settings}
        manifest["command"] = "prefeval sweep --name it"
        records.write_json(path / "manifest.json", manifest)
        (path / "reference").mkdir()
        (path / "reference" / "train_pairs.jsonl").write_text("{}\n" * 64)

    def log(self, seconds: float, event: str, **fields: Any) -> None:
        with (self.path / "journal.jsonl").open("a") as handle:
            handle.write(json.dumps({"time": iso(seconds), "event": event, **fields}) + "\n")

    def train(self, trial: str, *steps: int, done: bool = False, **numbers: float) -> Path:
        """Rows of the log; ``done`` adds its key."""
        folder = self.path / "trials" / trial
        folder.mkdir(parents=True, exist_ok=True)
        method, beta = trial.split("-")[0], float(trial.split("-")[1][1:])
        settings = {"batch_size": 32, "epochs": 5}  # of 64 examples: 10 steps
        about = {"method": method, "beta": beta, "seed": 0, "settings": settings}
        records.write_json(folder / "trial.json", about)
        with (folder / "train.jsonl").open("a") as handle:
            for step in steps:
                row = {"step": step, "loss": 1 / step, "delta_chosen": -step, "kl": step / 10}
                handle.write(json.dumps(row | numbers) + "\n")
        if done:
            (folder / ".train.jsonl.key").write_text("key")
        return folder

    def checkpoint(self, trial: str, step: int, lc: float | None = None) -> None:
        """A saved checkpoint, measured where ``lc`` is given."""
        folder = self.path / "trials" / trial / f"checkpoint-{step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        if lc is not None:
            ends = {"ci_low": lc - 4, "ci_high": lc + 4, "n": 100}
            found = [{"name": "lc_win_rate", "value": lc, **ends}, {"name": "kl", "value": 1.5}]
            records.write_json(folder / "metrics.json", {"metrics": found})

    def finish(self, trial: str, lc: float = 55.0) -> None:
        self.train(trial, *range(1, 11), done=True)
        self.checkpoint(trial, 10, lc)
        records.write_json(self.path / "trials" / trial / "costs.json", {"trial": trial})


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Ask = Callable[..., Answer]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def make_run(root: Path) -> Callable[..., Folder]:
    def make(name: str = "it", trials: list[str] | None = None, **config: Any) -> Folder:
        return Folder(root / name, trials or ["dpo-b0.1-s0-aa", "dpo-b0.3-s0-bb"], **config)

    return make


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """The maker of whole runs in the tests of reports."""
    path = Path(__file__).parents[1] / "reports" / "synthetic.py"
    spec = importlib.util.spec_from_file_location("synthetic_run", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Server]]:
    """``serve(folder)``: a server on a free port, closed when the test ends."""
    opened: list[tuple[Server, threading.Thread]] = []

    def start(folder: Path) -> Server:
        server = open_server(folder, "127.0.0.1", 0)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        opened.append((server, thread))
        return server

    yield start
    for server, thread in opened:
        server.shutdown()
        server.server_close()
        thread.join(5)


@pytest.fixture
def ask(serve: Callable[[Path], Server], root: Path) -> Iterator[Ask]:
    """``ask("/path")``: what the server over ``root`` answers."""
    server = serve(root)
    connections: list[HTTPConnection] = []

    def send(path: str, method: str = "GET", **headers: str) -> Answer:
        connection = HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        connections.append(connection)
        connection.request(
            method, path, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        found = connection.getresponse()
        return Answer(found.status, dict(found.getheaders()), found.read())

    yield send
    for connection in connections:
        connection.close()
