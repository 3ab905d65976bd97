"""The server: what it gives out, and what it refuses."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from types import ModuleType
from typing import Any

import filelock
import pytest
from typer.testing import CliRunner

from prefeval.harness.cli import app
from prefeval.harness.serve import server as serving
from prefeval.harness.serve.report import Reports
from prefeval.harness.serve.runs import Site
from prefeval.harness.serve.server import Server, open_server
from prefeval.records import PrefevalError

A, B = "dpo-b0.1-s0-aa", "dpo-b0.3-s0-bb"
HOSTILE = "</script><img src=x onerror=alert(1)>&\"'"


@pytest.fixture
def whole(synthetic: ModuleType, root: Path) -> Path:
    """A finished run with a report's data."""
    return synthetic.write_run(root / "whole", grid={"dpo": (0.05, 0.3)})


# -- what it gives out -------------------------------------------------------------------------


def test_runs_are_found_two_folders_deep_and_named_by_their_path(
    make_run: Callable[..., Any], ask: Any
) -> None:
    for name in ("a", "study/b", "study/deep/c"):
        make_run(name)
    assert {row["name"] for row in ask("/api/runs").json} == {"a", "study/b"}
    page = ask("/run/study/b/")
    assert page.status == 200
    assert ask("/api/run/study/b").json["run"]["name"] == "study/b"


def test_a_run_alone_may_be_served(make_run: Callable[..., Any], serve: Any) -> None:
    run = make_run("only")
    server = serve(run.path)
    connection = HTTPConnection("127.0.0.1", server.server_port)
    connection.request("GET", "/run/only/")
    assert connection.getresponse().status == 200
    connection.close()


def test_runs_at_work_come_first_then_the_newest(make_run: Callable[..., Any], ask: Any) -> None:
    for day, name in enumerate(("old", "mid", "new"), 1):
        run = make_run(name)
        manifest = json.loads((run.path / "manifest.json").read_text())
        manifest["created"] = f"2025-01-0{day}T00:00:00+00:00"
        (run.path / "manifest.json").write_text(json.dumps(manifest))
    with filelock.FileLock(run.path.parent / "mid" / ".lock"):
        assert [row["name"] for row in ask("/api/runs").json] == ["mid", "new", "old"]


def test_a_row_says_what_its_run_is(whole: Path, ask: Any) -> None:
    (row,) = ask("/api/runs").json
    summary = json.loads((whole / "summary.json").read_text())
    best = summary["selection"]["recommended"]
    assert row["state"] == "finished"
    assert (row["done"], row["total"], row["methods"]) == (2, 2, "DPO")
    assert row["best"]["lc"]["value"] == best["pooled"]["lc_win_rate"]
    assert row["best"]["lc"]["low"] == best["pooled"]["ci_low"]
    assert f"step {best['step']}" in row["best"]["name"]


def test_a_live_run_shows_its_trials_and_checkpoints(
    make_run: Callable[..., Any], ask: Any
) -> None:
    run = make_run()
    run.finish(A, lc=61.3)
    run.train(B, 1, 2, 3, 4)
    with filelock.FileLock(run.path / ".lock"):
        os.utime(run.path / ".lock", (1, 1))
        found = ask("/api/run/it").json
    assert [t["state"] for t in found["trials"]] == ["training", "finished"]  # at work first
    training = found["trials"][0]
    assert (training["step"], training["steps"]) == (4, 10)
    assert training["curves"]["loss"]["points"] == [1, 0.5, 0.33333, 0.25]
    assert training["curves"]["delta_chosen"]["text"] == "−4.00"
    (checkpoint,) = found["checkpoints"]
    assert checkpoint["lc"]["text"] == "61.3 [57.3, 65.3]"
    assert checkpoint["raw"]["value"] is None  # not measured: null, never 0


def test_a_finished_run_gives_its_report_and_a_running_one_its_live_page(
    whole: Path, ask: Any
) -> None:
    report = ask("/run/whole/")
    assert b'id="verdict"' in report.body
    assert (whole / "report.html").read_bytes() == report.body
    assert b'data-kind="run"' in ask("/run/whole/live").body
    (whole / "report.html").unlink()
    with filelock.FileLock(whole / ".lock"):
        assert b'data-kind="run"' in ask("/run/whole/").body
        assert b'id="verdict"' in ask("/run/whole/report.html").body
        assert not (whole / "report.html").exists()  # never written while it is in use


def test_a_report_older_than_its_results_is_made_again(whole: Path, ask: Any) -> None:
    first = ask("/run/whole/report.html").body
    kept = (whole / "report.html").stat()
    assert ask("/run/whole/report.html").body == first
    assert (whole / "report.html").stat().st_mtime_ns == kept.st_mtime_ns  # as it was
    later = kept.st_mtime + 5
    summary = json.loads((whole / "summary.json").read_text())
    summary["warnings"] = ["a warning of later"]
    (whole / "summary.json").write_text(json.dumps(summary))
    os.utime(whole / "summary.json", (later, later))
    assert b"a warning of later" in ask("/run/whole/report.html").body


def test_a_report_with_another_script_is_not_given_out(whole: Path, ask: Any) -> None:
    (whole / "report.html").write_text("<script>fetch('/api/runs')</script>")
    later = time.time() + 60
    os.utime(whole / "report.html", (later, later))
    body = ask("/run/whole/report.html").body
    assert b"<script>fetch(" not in body
    assert b'id="verdict"' in body


def test_a_folder_that_may_only_be_read_is_reported_all_the_same(
    whole: Path, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> Path:
        raise PermissionError(13, "read-only", str(folder))  # as root may write anywhere

    monkeypatch.setattr("prefeval.reports.write_report", refuse)
    for _ in range(2):
        assert b'id="verdict"' in ask("/run/whole/").body
    assert not (whole / "report.html").exists()


def test_an_unfinished_run_has_a_report_so_far(synthetic: ModuleType, root: Path, ask: Any) -> None:
    synthetic.write_run(root / "half", grid={"dpo": (0.05, 0.3)}, finished=False)
    assert ask("/api/runs").json[0]["state"] == "interrupted"
    assert b'data-kind="run"' in ask("/run/half/").body
    assert b"nfinished" in ask("/run/half/report.html").body


def test_a_run_whose_trials_all_failed_shows_their_reasons(
    make_run: Callable[..., Any], ask: Any
) -> None:
    run = make_run(trials=[A])
    run.train(A, 1)
    run.log(1, "failed", job=A, error="gradient norm is nan at step 2")
    run.log(2, "concluded", failed=[A])
    page = ask("/run/it/").body
    assert b'data-kind="run"' in page
    assert b"gradient norm is nan at step 2" in page


def test_a_run_without_anything_to_report_says_so(make_run: Callable[..., Any], ask: Any) -> None:
    make_run()
    answer = ask("/run/it/report.html")
    assert answer.status == 404
    assert b"holds no trial yet" in answer.body


def test_results_and_figures_are_given_out_by_name(whole: Path, ask: Any) -> None:
    (whole / "results.csv").write_text("a,b\n")
    (whole / "figures").mkdir()
    (whole / "figures" / "frontier.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert ask("/run/whole/results.csv").body == b"a,b\n"
    figure = ask("/run/whole/figures/frontier.svg")
    assert figure.headers["Content-Type"] == "image/svg+xml"
    assert "sandbox" in figure.headers["Content-Security-Policy"]
    assert ask("/run/whole/summary.json").headers["Content-Type"] == "application/json"
    for other in ("task.json", "journal.jsonl", ".lock", ".run", "data/prompts.jsonl", "trials"):
        assert ask(f"/run/whole/{other}").status == 404


def test_what_is_known_already_is_not_sent_again(make_run: Callable[..., Any], ask: Any) -> None:
    make_run()
    first = ask("/api/runs")
    again = ask("/api/runs", If_None_Match=first.headers["ETag"])
    assert (again.status, again.body) == (304, b"")
    make_run("other")
    assert ask("/api/runs", If_None_Match=first.headers["ETag"]).status == 200


def test_runs_that_come_change_and_go_are_seen(make_run: Callable[..., Any], ask: Any) -> None:
    assert ask("/api/runs").json == []
    run = make_run()
    run.finish(A)
    assert ask("/api/runs").json[0]["done"] == 1
    run.finish(B)
    run.log(9, "concluded", failed=[])
    assert ask("/api/runs").json[0]["state"] == "finished"
    os.rename(run.path, run.path.with_name("renamed"))
    assert [row["name"] for row in ask("/api/runs").json] == ["renamed"]


# -- what it refuses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/run/../../secret.txt",
        "/run/it/../../secret.txt",
        "/run/it/..%2f..%2fsecret.txt",
        "/run/it%2f..%2f..%2fsecret.txt",
        "/run/it/%2e%2e/%2e%2e/secret.txt",
        "/run/it/..%5c..%5csecret.txt",
        "/run/it/summary.md%00.html",
        "/run/..%252f..%252fsecret.txt",
        "/run//etc/passwd",
        "/etc/passwd",
        "//etc/passwd",
        "http://127.0.0.1/etc/passwd",
        "/run/%ff/",
        "/run/it/[",
        "/api/run/../it",
    ],
)
def test_no_path_leads_out_of_what_is_named(
    path: str, make_run: Callable[..., Any], root: Path, ask: Any
) -> None:
    make_run()
    (root.parent / "secret.txt").write_text("secret")
    answer = ask(path)
    assert answer.status == 404
    assert b"secret\n" not in answer.body
    assert b"root:" not in answer.body


def test_links_that_lead_out_are_not_followed(
    make_run: Callable[..., Any], root: Path, tmp_path: Path, ask: Any
) -> None:
    run = make_run()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ".run").write_text("hash")
    (outside / "secret.csv").write_text("secret")
    (root / "linked").symlink_to(outside)
    (run.path / "stolen.csv").symlink_to(outside / "secret.csv")
    (run.path / "report.html").symlink_to(outside / "secret.csv")
    (run.path / "figures").symlink_to(outside)
    (run.path / "inside.csv").symlink_to(run.path / "manifest.json")
    assert [row["name"] for row in ask("/api/runs").json] == ["it"]
    for path in ("/run/linked/", "/run/it/stolen.csv", "/run/it/figures/secret.csv"):
        assert ask(path).status == 404
    assert b"secret" not in ask("/run/it/report.html").body
    assert ask("/run/it/inside.csv").status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_a_foreign_host_is_refused(host: str, make_run: Callable[..., Any], ask: Any) -> None:
    make_run()
    for path in ("/", "/api/runs", "/run/it/"):
        answer = ask(path, Host=host)
        assert answer.status == 403
        assert b"lab" not in answer.body


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:8765", "[::1]:8765"])
def test_own_hosts_are_answered_through_any_tunnel(host: str, ask: Any) -> None:
    assert ask("/api/runs", Host=host).status == 200


def raw(server: Server, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", b" 403 "),  # no host
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", b" 403 "),
        (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", b" 403 "),
        (b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n", b" 501 "),
        (b"GET / HTTP/9.9\r\n\r\n", b"Invalid HTTP version"),
        (b"nonsense\r\n\r\n", b"Bad request syntax"),
        (b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n", b" 414 "),
    ],
)
def test_odd_requests_get_one_line_and_no_traceback(
    request_text: bytes, status: bytes, serve: Any, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = raw(serve(root), request_text)
    assert status in answer.partition(b"\r\n")[0]
    if status.strip().isdigit():
        assert b"Content-Security-Policy: default-src 'none'" in answer
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_reading_is_allowed(method: str, ask: Any) -> None:
    answer = ask("/api/runs", method)
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"


def test_head_is_get_without_its_body(make_run: Callable[..., Any], ask: Any) -> None:
    make_run()
    for path in ("/", "/api/runs", "/run/it/", "/none"):
        head, got = ask(path, "HEAD"), ask(path)
        assert (head.status, head.body) == (got.status, b"")
        assert head.headers["Content-Length"] == str(len(got.body))


def test_every_answer_has_the_headers_that_keep_it_to_itself(
    make_run: Callable[..., Any], whole: Path, ask: Any
) -> None:
    make_run()
    paths = ("/", "/api/runs", "/api/run/it", "/run/it/", "/run/whole/", "/run/it/manifest.json")
    for path in (*paths, "/none", "/run/it"):
        headers = ask(path).headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe-eval" not in policy
        assert "script-src 'unsafe" not in policy


def test_hostile_names_are_shown_as_text(
    make_run: Callable[..., Any], root: Path, ask: Any
) -> None:
    name = HOSTILE.replace("/", "")
    run = make_run(name, [f"dpo-b0.1-s0-{name}"], model=HOSTILE, data=HOSTILE)
    run.log(1, "failed", job=HOSTILE, error=HOSTILE)
    pages = [ask("/").body.decode(), ask(ask("/api/runs").json[0]["href"]).body.decode()]
    for page in pages:
        assert "<img" not in page
        assert page.count("</script>") == 2  # the data's, and the script's
        data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
        assert data is not None
        assert HOSTILE in json.dumps(json.loads(data[1]), ensure_ascii=False).replace('\\"', '"')


def test_a_name_that_is_no_text_is_reached_by_its_link(
    make_run: Callable[..., Any], ask: Any
) -> None:
    name = os.fsdecode(b"caf\xe9 50%")
    try:
        make_run(name)
    except OSError:
        pytest.skip("this file system takes text alone")
    (row,) = ask("/api/runs").json
    assert ask(row["href"]).status == 200


# -- the command -------------------------------------------------------------------------------


def test_a_port_in_use_is_one_line_and_the_usual_one_gives_way(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PrefevalError, match=f"port {port} is in use; choose another --port"):
            open_server(root, "127.0.0.1", port)
        monkeypatch.setattr(serving, "PORT", port)
        with open_server(root, "127.0.0.1", None) as server:
            assert server.server_port != port


def test_a_folder_that_is_not_there_is_one_line() -> None:
    result = CliRunner().invoke(app, ["view", "nowhere"])
    assert isinstance(result.exception, PrefevalError)
    assert "there is no folder nowhere" in str(result.exception)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_without_a_traceback(number: int, make_run: Any) -> None:
    run = make_run()
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "prefeval", "view", str(run.path), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    assert re.search(r"http://127\.0\.0\.1:\d+/run/it/ \(Ctrl-C ends\)", line)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")


def test_looking_writes_nothing_into_a_run(make_run: Callable[..., Any], ask: Any) -> None:
    run = make_run()
    run.train(A, 1, 2)
    before = sorted((p, p.stat().st_mtime_ns) for p in run.path.rglob("*"))
    with filelock.FileLock(run.path / ".lock"):
        locked = (run.path / ".lock").stat().st_mtime_ns
        for path in ("/", "/api/runs", "/api/run/it", "/run/it/", "/run/it/report.html"):
            ask(path)
        assert (run.path / ".lock").stat().st_mtime_ns == locked
    after = sorted((p, p.stat().st_mtime_ns) for p in run.path.rglob("*") if p.name != ".lock")
    assert after == [entry for entry in before if entry[0].name != ".lock"]


def test_many_ask_while_a_run_is_written(make_run: Callable[..., Any], root: Path) -> None:
    run, site = make_run(), Site(root)
    wrong: list[Exception] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            try:
                site.runs()
                site.detail("it", run.path)
            except Exception as error:
                wrong.append(error)
                return

    threads = [threading.Thread(target=look) for _ in range(4)]
    for t in threads:
        t.start()
    for step in range(1, 60):
        run.train(A, step)
        run.checkpoint(A, step, lc=50 + step / 10)
        run.log(step, "started", job=A)
    done.set()
    for t in threads:
        t.join()
    assert wrong == []
    assert len(site.detail("it", run.path)["checkpoints"]) == 59


def test_two_hundred_runs_answer_at_once(synthetic: ModuleType, root: Path) -> None:
    one = synthetic.write_run(root / "run000", grid={"dpo": (0.05, 0.3)})
    for number in range(1, 200):
        folder = root / f"run{number:03d}"
        folder.mkdir()
        for name in ("manifest.json", "summary.json", "results.parquet"):
            os.link(one / name, folder / name)
        (folder / ".run").write_text("hash")
        (folder / ".lock").write_text("")
    site = Site(root)
    assert len(site.runs()) == 200
    took = []
    for _ in range(5):
        start = time.perf_counter()
        rows = site.runs()
        took.append(time.perf_counter() - start)
    assert {row["state"] for row in rows} == {"finished"}
    assert min(took) < 0.1


def test_reports_are_made_once_for_many_who_ask(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefeval import reports

    made = []
    write = reports.write_report
    monkeypatch.setattr(reports, "write_report", lambda f: made.append(f) or write(f))
    pages = Reports()
    threads = [threading.Thread(target=pages.get, args=(whole,)) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert made == [whole]
    assert stat.S_ISREG((whole / "report.html").stat().st_mode)
