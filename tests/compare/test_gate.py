"""`prefeval gate` on runs with planted differences: outcomes, files, refusals, exit codes."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefeval.harness import cli
from prefeval.harness.executors import JobFailed
from prefeval.harness.gate import baseline as gate_baseline
from prefeval.harness.gate import command as gate
from prefeval.harness.gate import policy as gate_policy
from prefeval.metrics.gate.policy import Policy
from prefeval.records import PrefevalError, read_json, write_json

RunWriter = Callable[..., Path]
At = Callable[[Path, float, int], Path]
FEW = "version: 1\nmetrics:\n  win_rate: {margin: 12}\n  json: {margin: 8}\n"


@pytest.fixture(autouse=True)
def no_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Margins that 60 prompts can decide."""
    path = tmp_path / "gate.yaml"
    path.write_text(FEW)
    return path


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            cli.main(["gate", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return stop.value.code, out, err

    return run


Say = Callable[..., tuple[int, str, str]]


def test_a_checkpoint_passes_its_own_baseline(run: Path, at: At, tmp_path: Path, say: Say) -> None:
    """Even under the usual margins, that 60 prompts cannot decide: no answer is another."""
    file = tmp_path / "base.json"
    assert say(at(run, 0.3, 20), "--save-baseline", file)[0] == 0
    code, out, err = say(at(run, 0.3, 20), "--baseline", file)
    assert (code, err) == (0, "")
    assert out.startswith("PASS")
    assert "every answer is the baseline's" in out


def test_one_that_lost_json_fails_and_is_named(
    run: Path, at: At, tmp_path: Path, say: Say, policy: Path
) -> None:
    code, out, _ = say(at(run, 0.1, 20), "--baseline", at(run, 0.3, 20), "--policy", policy)
    assert code == 1
    assert out.startswith("FAIL: shown worse than its limit: json")
    assert "✓  raw win rate" in out


def test_too_few_prompts_are_inconclusive_with_the_n_that_would_do(
    write_run: RunWriter, at: At, say: Say
) -> None:
    small = write_run("small", {(0.3, 10): {}, (0.3, 20): {}}, prompts=12)
    code, out, _ = say(at(small, 0.3, 20), "--baseline", at(small, 0.3, 10))
    assert code == 4
    assert out.startswith("INCONCLUSIVE")
    assert "about 52 prompts would pass it" in out
    assert "json n = 52 (now 12)" in out


@pytest.mark.parametrize(("mapped", "code"), [("pass", 0), ("fail", 1)])
def test_inconclusive_may_count_as_pass_or_fail(
    write_run: RunWriter, at: At, say: Say, mapped: str, code: int
) -> None:
    small = write_run("small", {(0.3, 10): {}, (0.3, 20): {}}, prompts=12)
    given = (at(small, 0.3, 20), "--baseline", at(small, 0.3, 10), "--inconclusive", mapped)
    found, out, _ = say(*given)
    assert (found, f"counts as {mapped}" in out) == (code, True)


def test_what_has_no_number_counts_as_no_pass(
    write_run: RunWriter, at: At, say: Say, tmp_path: Path
) -> None:
    small = write_run("blind", {(0.3, 10): {}, (0.3, 20): {}}, oracle=False)
    asks = tmp_path / "gate.yaml"
    asks.write_text("version: 1\nmetrics: {true_win_rate: {margin: 90}, json: {margin: 90}}\n")
    junit = tmp_path / "gate.xml"
    given = (at(small, 0.3, 20), "--baseline", at(small, 0.3, 10), "--policy", asks)
    code, out, _ = say(*given, "--inconclusive", "pass", "--junit", junit)
    assert code == 4
    assert "what has no number is no pass" in out
    assert junit.read_text().count("<skipped") == 1
    assert say(*given, "--inconclusive", "fail")[0] == 1


def test_a_recommended_checkpoint_meets_the_reference_on_prompts_that_did_not_choose_it(
    run: Path, say: Say, tmp_path: Path
) -> None:
    asks = tmp_path / "gate.yaml"
    asks.write_text("version: 1\nmetrics: {win_rate: {margin: 3, floor: 40}}\n")
    _, out, _ = say(run, "--baseline", "reference", "--policy", asks, "--json")
    found = json.loads(out)
    assert [c["n"] for c in found["checks"]] == [30, 30]
    assert any("was recommended out of several" in note for note in found["notes"])


def test_a_run_is_its_recommended_checkpoint_on_prompts_that_did_not_choose_it(
    run: Path, at: At, say: Say, policy: Path
) -> None:
    code, out, _ = say(run, "--baseline", at(run, 0.3, 10), "--policy", policy, "--json")
    found = json.loads(out)
    assert found["exit_code"] == code
    assert "step 20" in found["checkpoint"]
    assert any("recommended out of several" in note for note in found["notes"])
    assert {c["name"]: c["n"] for c in found["checks"]} == {"win_rate": 30, "json": 60}


def test_json_has_every_check_with_its_bounds(run: Path, at: At, say: Say, policy: Path) -> None:
    _, out, _ = say(at(run, 0.1, 20), "--baseline", at(run, 0.3, 20), "--policy", policy, "--json")
    found = json.loads(out)
    assert (found["outcome"], found["schema"], found["level"]) == ("fail", 1, 0.95)
    lost = next(c for c in found["checks"] if c["name"] == "json")
    assert lost["low"] < lost["value"] < lost["high"] < lost["limit"] == -8.0
    assert lost["why"].startswith("upper bound")


def test_the_reference_is_a_baseline_with_floors(
    run: Path, at: At, tmp_path: Path, say: Say
) -> None:
    path = tmp_path / "floor.yaml"
    path.write_text("version: 1\nmetrics:\n  win_rate: {floor: 55}\n  kl: {ceiling: 2}\n")
    code, out, _ = say(at(run, 0.1, 20), "--baseline", "reference", "--policy", path)
    assert code == 1
    assert "✓  raw win rate, floor" in out
    assert "✗  KL, ceiling" in out


# -- files ----------------------------------------------------------------------------------------


def test_a_baseline_file_is_the_checkpoint_and_has_equal_bytes(
    run: Path, at: At, tmp_path: Path
) -> None:
    saved = gate.load(str(at(run, 0.1, 20)))
    first, second, packed = (tmp_path / n for n in ("a.json", "b.json", "c.json.gz"))
    gate_baseline.write(first, saved)
    gate_baseline.write(second, gate_baseline.read(first))
    gate_baseline.write(packed, saved)
    assert first.read_bytes() == second.read_bytes()
    assert gzip.decompress(packed.read_bytes()) == first.read_bytes()
    other = gate.gate(gate.load(str(at(run, 0.3, 20))), saved, Policy())
    again = gate.gate(gate.load(str(at(run, 0.3, 20))), gate_baseline.read(packed), Policy())
    assert other == again


def test_a_baseline_file_holds_no_answer_and_no_path(
    run: Path, at: At, tmp_path: Path, hostile: tuple[str, ...]
) -> None:
    file = tmp_path / "base.json"
    gate_baseline.write(file, gate.load(str(at(run, 0.1, 20))))
    text = file.read_text()
    assert str(tmp_path) not in text
    for answer in (*hostile, "harbour", "Tell me of person"):
        assert answer not in text
    assert json.dumps(hostile[0])[1:-1] not in text


@pytest.mark.parametrize("change", ["cut", "edit", "kind", "version", "binary", "list"])
def test_a_baseline_that_is_not_whole_is_refused(
    run: Path, at: At, tmp_path: Path, say: Say, change: str
) -> None:
    file = tmp_path / "base.json"
    gate_baseline.write(file, gate.load(str(at(run, 0.1, 20))))
    text = file.read_text()
    new = {
        "cut": text[: len(text) // 2],
        "edit": text.replace('"passed":[0', '"passed":[1', 1),
        "kind": "{}",
        "version": text.replace('"schema":1', '"schema":7', 1),
        "binary": "\x1f\x8bno gzip",
        "list": "[1]",
    }[change]
    assert new != text
    file.write_bytes(new.encode("latin-1") if change == "binary" else new.encode())
    code, out, err = say(at(run, 0.1, 20), "--baseline", file)
    assert (code, out) == (2, "")
    assert str(file) in err
    assert err.count("\n") == 1
    expected = {"edit": "checksum", "version": "version 7", "kind": "no baseline",
                "list": "no baseline"}.get(change, "no whole baseline")  # fmt: skip
    assert expected in err


def test_a_packed_baseline_with_bytes_overwritten_is_refused_in_one_line(
    run: Path, at: At, tmp_path: Path, say: Say
) -> None:
    file = tmp_path / "base.json.gz"
    gate_baseline.write(file, gate.load(str(at(run, 0.1, 20))))
    whole = file.read_bytes()
    for place in range(12, len(whole), len(whole) // 25):
        file.write_bytes(whole[:place] + b"\xff" * 8 + whole[place + 8 :])
        code, out, err = say(at(run, 0.1, 20), "--baseline", file)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"judge": "lab:seed=9"}, "judge"),
        ({"hashes": {"reference": "other"}}, "reference"),
        ({"hashes": {"template": "other"}}, "chat template"),
        ({"sizes": {"max_new_tokens": 7}}, "max new tokens"),
        ({"sizes": {"diverse_samples": 2}}, "samples a prompt"),
        ({"length_unit": "tokens"}, "length unit"),
        ({"changed_prompts": 3}, "another suite: 6 prompts have other content"),
        ({"prompts": 70}, "another suite: the baseline lacks 20"),
    ],
)
def test_another_suite_judge_or_template_is_refused_saying_which(
    run: Path, at: At, write_run: RunWriter, tmp_path: Path, say: Say, more: Any, what: str
) -> None:
    file = tmp_path / "base.json"
    gate_baseline.write(file, gate.load(str(at(run, 0.3, 20))))
    other = write_run("other", {(0.3, 20): {}}, **more)
    xml = tmp_path / "out.xml"
    code, _, err = say(at(other, 0.3, 20), "--baseline", file, "--junit", xml)
    assert code == 2
    assert what in err
    assert "--save-baseline" in err
    assert "<error" in xml.read_text()


def test_another_version_of_measuring_is_refused(
    run: Path, at: At, tmp_path: Path, say: Say
) -> None:
    for step, version in ((10, 1), (20, 2)):
        file = at(run, 0.3, step) / "metrics.json"
        write_json(file, read_json(file) | {"measuring": version})
    code, _, err = say(at(run, 0.3, 20), "--baseline", at(run, 0.3, 10))
    assert (code, "another measuring version (1) than the checkpoint (2)" in err) == (2, True)


def test_fewer_prompts_are_said_and_a_lost_behaviour_is_refused(
    run: Path, at: At, write_run: RunWriter, say: Say, policy: Path
) -> None:
    some = write_run("some", {(0.3, 20): {}}, prompts=40)
    code, out, _ = say(at(some, 0.3, 20), "--baseline", at(run, 0.3, 20), "--policy", policy)
    assert code in (0, 4)
    assert "80 of the baseline's 120 prompts are in both" in out
    (at(some, 0.3, 20) / "checks.jsonl").write_text("")
    code, _, err = say(at(some, 0.3, 20), "--baseline", at(run, 0.3, 20), "--policy", policy)
    assert (code, "has no json prompts" in err) == (2, True)


# -- the policy -----------------------------------------------------------------------------------


def test_the_printed_policy_is_the_usual_one(tmp_path: Path, say: Say) -> None:
    code, out, _ = say("--print-policy")
    path = tmp_path / "gate.yaml"
    path.write_text(out)
    assert (code, gate_policy.read(path)) == (0, Policy())
    everything = out.replace("  # ", "  ").replace("  Others, with their usual margins:\n", "")
    path.write_text("\n".join(x for x in everything.split("\n") if "behaviour of" not in x
                              and "floor: 50" not in x and "ceiling: 1.5" not in x))  # fmt: skip
    assert set(gate_policy.read(path).rules) > {"kl", "flip_rate", "refusal"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version: 1\nmetrics: {lc_winrate: {margin: 3}}", "did you mean 'lc_win_rate'"),
        ("version: 1\nmetrics: {jsno: {margin: 3}}", "did you mean 'json'"),
        ("version: 1\nmetrics: {json: {margn: 3}}", "did you mean 'margin'"),
        ("version: 1\nmetrcs: {json: {margin: 3}}", "did you mean 'metrics'"),
        ("version: 2\nmetrics: {json: {margin: 3}}", "version 2"),
        ("metrics: {json: {margin: 3}}", "version: 1"),
        ("version: 1\nmetrics: {json: {margin: -3}}", "must be > 0"),
        ("version: 1\nmetrics: {json: {margin: yes}}", "must be a number"),
        ("version: 1\nmetrics: {json: {margin: 5%}}", "write 5 without %"),
        ("version: 1\nmetrics: {length_ratio: {margin: 1}}", "share of the baseline"),
        ("version: 1\nmetrics: {json: {floor: .nan}}", "must be a number"),
        ("version: 1\nmetrics: {kl: {floor: 3, ceiling: 2}}", "below the ceiling"),
        ("version: 1\nmetrics: {distinct: {floor: 3}}", "no value of its own"),
        ("version: 1\nmetrics: {json: 3}", "must hold margin"),
        ("version: 1\nmetrics: {json: {margin: }}", "no limit"),
        ("version: 1\nlevel: 95\nmetrics: {json: {margin: 3}}", "between 0.5 and 1"),
        ("version: 1\nmetrics: []", "must hold metric"),
        (
            "version: 1\nmetrics:\n  json: {margin: 1}\n  json: {margin: 90}",
            "'json' twice (line 4)",
        ),
        ("version: 1\nmetrics: {json: {margin: 1, margin: 90}}", "'margin' twice"),
        ("version: 1\nmetrics: &a {json: *a}", "sets 'json', which is not known"),
        ("a: [", "not valid YAML at line"),
        ("- 1", "no policy"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_wrong_policy_is_refused_in_one_line(
    run: Path, at: At, tmp_path: Path, say: Say, text: str, words: str
) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text(text)
    code, out, err = say(at(run, 0.3, 20), "--baseline", at(run, 0.3, 10), "--policy", path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no checkpoint given"),
        (("CKPT",), "give one of --baseline and --save-baseline"),
        (("CKPT", "--baseline", "nowhere.json"), "nowhere.json"),
        (("CKPT", "--baseline", "reference", "--inconclusive", "maybe"), "use pass or fail"),
        (("CKPT", "--baseline", "reference", "--policy", "nowhere.yaml"), "cannot read"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    run: Path, at: At, say: Say, arguments: tuple[str, ...], words: str
) -> None:
    given = [str(at(run, 0.3, 20)) if a == "CKPT" else a for a in arguments]
    code, _, err = say(*given)
    assert (code, err.count("\n")) == (2, 1)
    assert words in err


# -- infrastructure, reports ----------------------------------------------------------------------


@pytest.mark.parametrize("error", [JobFailed("judge: no\x1b answer <&>"), RuntimeError("boom")])
def test_a_failing_judge_or_machine_is_code_5_and_a_junit_error(
    run: Path, at: At, tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    junitparser = pytest.importorskip("junitparser", reason="junitparser is in [test]")

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(gate, "load", fail)
    xml = tmp_path / "out.xml"
    code, _, err = say(at(run, 0.3, 20), "--baseline", at(run, 0.3, 10), "--junit", xml)
    assert code == 5
    assert str(error) in err
    (suite,) = junitparser.JUnitXml.fromfile(str(xml))
    assert (suite.errors, suite.failures, suite.tests) == (1, 0, 1)


def test_junit_is_read_by_another_parser_with_the_same_counts(
    run: Path, at: At, tmp_path: Path, say: Say
) -> None:
    """junitparser knows nothing of prefeval; names of behaviours come from a suite and are
    hostile."""
    junitparser = pytest.importorskip("junitparser", reason="junitparser is in [test]")
    evil = 'js<on>&"\x00\x1b[31m\ud800]]>'.encode("utf-8", "surrogatepass").decode("latin-1")
    for step in (10, 20):
        file = at(run, 0.3, step) / "checks.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows = [{**r, "behaviour": evil, "passed": int(step == 10)} for r in rows]
        file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    xml, md = tmp_path / "new" / "out.xml", tmp_path / "new" / "out.md"
    policy = tmp_path / "gate.yaml"
    policy.write_text(
        "version: 1\nmetrics: {behaviours: , eos_rate: , implicit_accuracy: {margin: 0.001}}"
    )
    given = ("--policy", policy, "--junit", xml, "--markdown", md, "--json")
    code, out, _ = say(at(run, 0.3, 20), "--baseline", at(run, 0.3, 10), *given)
    assert code == 1
    checks = json.loads(out)["checks"]
    (suite,) = junitparser.JUnitXml.fromfile(str(xml))
    outcomes = [c["outcome"] for c in checks]
    assert suite.tests == len(checks)
    assert suite.failures == outcomes.count("fail") > 0
    assert suite.skipped == outcomes.count("inconclusive") > 0
    assert suite.errors == 0
    failed = [c for c in suite if any(isinstance(r, junitparser.Failure) for r in c.result)]
    assert any('js<on>&"' in case.name for case in failed)
    assert "\x1b" not in xml.read_text()
    table = [x for x in md.read_text().splitlines() if x.startswith("| ")]
    assert "<on>" not in md.read_text().replace(r"\<on\>", "")
    assert len(table) == 1 + len(checks)


def test_markdown_goes_to_the_job_summary_after_what_is_there(
    run: Path, at: At, tmp_path: Path, say: Say, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    say(at(run, 0.1, 20), "--baseline", at(run, 0.3, 20), "--policy", policy)
    text = summary.read_text()
    assert text.startswith("before\n### prefeval gate: ✗ FAIL")
    assert "| ✗ | json |" in text


def test_equal_inputs_give_equal_files(
    run: Path, at: At, tmp_path: Path, say: Say, policy: Path
) -> None:
    made = []
    for name in ("one", "two"):
        xml, md = tmp_path / f"{name}.xml", tmp_path / f"{name}.md"
        say(at(run, 0.1, 20), "--baseline", at(run, 0.3, 20), "--junit", xml, "--markdown", md)
        made.append((xml.read_bytes(), md.read_bytes()))
    assert made[0] == made[1]


# -- adding judgments -----------------------------------------------------------------------------


def test_judgments_are_added_until_it_decides_and_another_comparison_is_refused(
    write_run: RunWriter, at: At, tmp_path: Path, say: Say
) -> None:
    plans: dict[tuple[float, int], Any] = {(0.3, 10): {}, (0.3, 20): {"win": -0.4}}
    big = write_run("big", plans, prompts=60)
    early = shutil.copytree(big, tmp_path / "early")
    file = at(early, 0.3, 20) / "judgments.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:6]))
    looks = tmp_path / "looks.json"
    given = ("--baseline", at(big, 0.3, 10), "--anytime", looks)
    assert say(at(early, 0.3, 20), *given)[0] == 4
    first = [cluster for cluster, _ in read_json(looks)["seen"]]
    code, out, _ = say(at(big, 0.3, 20), *given)
    assert code == 1
    assert "Decided after" in out
    assert "raw win rate alone" in out
    seen = [cluster for cluster, _ in read_json(looks)["seen"]]
    assert (seen[:6], len(seen)) == (first, 60)
    code, _, err = say(at(big, 0.3, 10), *given)
    assert (code, "are others than at the last look" in err) == (2, True)
    code, _, err = say(at(big, 0.3, 20), "--baseline", at(big, 0.3, 20), "--anytime", looks)
    assert (code, "another comparison" in err) == (2, True)
    looks.write_text("{}")
    assert say(at(big, 0.3, 20), *given)[0] == 2


def test_a_checkpoint_that_is_not_measured_is_refused_where_no_model_may_run(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(PrefevalError, match="prefeval eval"):
        gate.load(str(tmp_path))
