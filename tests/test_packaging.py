"""What is shipped and what is promised: package data, version, the README's commands and links."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest

import prefeval
from prefeval.harness import cli

ROOT = Path(__file__).resolve().parents[1]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS: dict[str, str] = SETUP["tool"]["setuptools"]["package-dir"]
PAGES = sorted(
    p for folder in ("", "docs", "benchmarks", "examples") for p in (ROOT / folder).glob("*.md")
)
NAMES = [p.relative_to(ROOT).as_posix() for p in PAGES]
SHELL_BLOCK = re.compile(r"^ *```sh\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def shell_lines(page: str) -> list[str]:
    """The commands in the ``sh`` blocks of a page."""
    blocks = SHELL_BLOCK.findall(page)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [command.strip() for line in lines for command in line.split("&&") if command.strip()]


def data_files() -> list[tuple[str, Path]]:
    """Every file that is no module, by the package that ships it (the longest folder wins)."""
    packages = sorted(FOLDERS, key=lambda name: -len(FOLDERS[name]))
    found: list[tuple[str, Path]] = []
    taken: set[Path] = set()
    for package in packages:
        for path in sorted((ROOT / FOLDERS[package]).rglob("*")):
            if path.is_file() and path not in taken and path.suffix not in (".py", ".pyc"):
                found.append((package, path))
            taken.add(path)
    return found


def test_package_data_globs_ship_every_file_that_is_no_module() -> None:
    globs: dict[str, list[str]] = SETUP["tool"]["setuptools"]["package-data"]
    files = data_files()
    kinds = {path.suffix for _, path in files}
    assert {".jsonl", ".html", ".css", ".js"} <= kinds
    for package, path in files:
        name = path.relative_to(ROOT / FOLDERS[package]).as_posix()
        assert any(fnmatch.fnmatch(name, glob) for glob in globs.get(package, [])), path


def test_no_package_data_glob_is_idle() -> None:
    for package, globs in SETUP["tool"]["setuptools"]["package-data"].items():
        for glob in globs:
            assert list((ROOT / FOLDERS[package]).glob(glob)), f"{package}: {glob}"


@pytest.mark.parametrize(
    ("package", "path"), data_files(), ids=lambda x: x.name if isinstance(x, Path) else ""
)
def test_imported_package_holds_its_data_files(package: str, path: Path) -> None:
    """Of an installed package this is what its wheel brought."""
    base = Path(str(import_module(package).__file__)).parent
    shipped = base / path.relative_to(ROOT / FOLDERS[package])
    assert shipped.read_bytes() == path.read_bytes()


def test_version_is_the_same_everywhere() -> None:
    stated = SETUP["project"]["version"]
    assert prefeval.__version__ == stated
    assert f"## [{stated}]" in text("CHANGELOG.md")


def test_installed_package_is_what_pyproject_says() -> None:
    try:
        asked = requires("prefeval") or []
    except PackageNotFoundError:
        pytest.skip("prefeval is not installed here (PYTHONPATH=.typing)")
    assert version("prefeval") == SETUP["project"]["version"]
    base = {re.split(r"[<>=;\[ ]", r)[0].lower() for r in asked if "extra ==" not in r}
    stated = SETUP["project"]["dependencies"]
    assert base == {re.split(r"[<>=;\[ ]", r)[0].lower() for r in stated}


def test_every_import_is_a_declared_dependency() -> None:
    """By distribution; a library that only another one brings may leave with it. What an extra
    brings is imported where it is used, with an error that names the extra."""
    names = {
        "huggingface-hub": "huggingface_hub", "pyyaml": "yaml", "if-verifiable": "if_verifiable",
        "mlflow-skinny": "mlflow",
    }  # fmt: skip
    extras = SETUP["project"]["optional-dependencies"]
    used = ("endpoint", "ifeval", "mlflow", "wandb", "trackio", "tensorboard")
    needed = [*SETUP["project"]["dependencies"], *(r for name in used for r in extras[name])]
    declared = {re.split(r"[<>=;\[ ]", r)[0] for r in needed}
    modules = {names.get(name, name) for name in declared}
    pattern = re.compile(r"^\s*(?:from|import) (\w+)", re.MULTILINE)
    code = re.compile(r'"""(?:.|\n)*?"""')
    for folder in sorted(set(FOLDERS.values())):
        for path in (ROOT / folder).glob("*.py"):
            found = set(pattern.findall(code.sub("", path.read_text(encoding="utf-8"))))
            foreign = found - set(sys.stdlib_module_names) - {"prefeval", "__future__"}
            if path.name == "vllm_worker.py":  # a script for the environment that has it
                foreign -= {"vllm"}
            if path.name == "pytest_plugin.py":  # which pytest loads, and nobody else
                foreign -= {"pytest"}
            assert foreign <= modules, f"{path} imports {sorted(foreign - modules)}"


def test_licence_is_the_whole_apache_2() -> None:
    licence = text("LICENSE")
    assert SETUP["project"]["license"] == "Apache-2.0"
    assert licence.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in licence


# -- pages ---------------------------------------------------------------------------------------


def marked(name: str) -> str:
    """The commands that ``.ci/run`` takes from the README for one mark."""
    pattern = rf"^<!-- ci: {name} -->\n```sh\n(.*?)^```"
    (block,) = re.findall(pattern, text("README.md"), re.MULTILINE | re.DOTALL)
    return str(block).strip()


def test_readme_marks_its_two_commands() -> None:
    assert marked("sweep") == "pip install . && prefeval sweep --beta 0.05:0.3"
    assert marked("test") == "pip install '.[test]' && pytest"


def test_ci_script_runs_the_marked_commands() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert set(re.findall(r"\$\(readme (\w+)\)", script.read_text(encoding="utf-8"))) == set(
        re.findall(r"<!-- ci: (\w+) -->", text("README.md"))
    )


def commands() -> list[tuple[str, str]]:
    return [
        (name, line)
        for name in NAMES
        for line in shell_lines(text(name))
        if line.startswith("prefeval ")
    ]


@pytest.mark.parametrize(("name", "line"), commands())
def test_every_command_on_a_page_has_options_that_exist(
    name: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parser reads the whole line before it shows help."""
    with pytest.raises(SystemExit) as end:
        cli.main([*shlex.split(line)[1:], "--help"])
    assert end.value.code == 0, capsys.readouterr().err


def test_pages_show_commands() -> None:
    assert {name for name, _ in commands()} >= {"README.md", "docs/lab.md"}


@pytest.mark.parametrize("name", NAMES)
def test_files_that_a_page_names_are_there(name: str) -> None:
    page = ROOT / name
    content = text(name)
    for target in re.findall(r"\]\(([^)\s]+)\)", content):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            found = (page.parent / path) if path else page
            assert found.exists(), f"{name} links to {target}"
            if anchor:
                heads = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}
                assert anchor in anchors, f"{name} links to {target}"
    for line in shell_lines(content):
        for script in re.findall(r"^python (\S+\.py)", line):
            assert (ROOT / script).exists(), f"{name} runs {script}"


@pytest.mark.parametrize("name", NAMES)
def test_every_output_block_is_closed_and_can_be_filled(name: str) -> None:
    content = text(name)
    starts = re.findall(r"^<!-- output: ([\w-]+) -->$", content, re.MULTILINE)
    whole = re.findall(
        r"^<!-- output: ([\w-]+) -->\n(?:(?!<!-- output:)[\s\S])*?^<!-- end -->$",
        content,
        re.MULTILINE,
    )
    assert starts == whole
    filled = text("scripts/readme.py")
    for block in starts:
        assert f'blocks["{block}"]' in filled, f"scripts/readme.py does not fill {block!r}"


def test_make_targets_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    for name in NAMES:
        named = re.findall(r"`make (\w+)`|^make (\w+)|&& make (\w+)", text(name), re.MULTILINE)
        assert {word for group in named for word in group if word} <= targets
