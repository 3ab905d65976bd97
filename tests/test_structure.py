"""The import arrows, the package list, the links that mypy follows, and the speed of help."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("harness", "metrics", "suites", "reports", "minitrainers")

# Who may import what of prefeval, beside records, which everyone may.
ARROWS = {
    "suites": {"suites"},
    "metrics": {"metrics"},
    "minitrainers": {"minitrainers"},
    "reports": {"reports", "metrics"},
    "harness": set(PACKAGES),
}
FORBIDDEN = {
    "suites": {"torch", "transformers", "numpy", "pandas", "scipy"},
    "metrics": {"torch", "transformers"},
    "reports": {"torch", "transformers"},
}


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every imported module of a file, and whether it is imported when the file is."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(outer)
    }
    guarded = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.If) and "TYPE_CHECKING" in ast.dump(outer.test)
        for node in ast.walk(outer)
    }
    found = []
    for node in ast.walk(tree):
        at_import = id(node) not in inner and id(node) not in guarded
        if isinstance(node, ast.Import):
            found += [(alias.name, at_import) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = node.module or ""
            found.append((module, at_import))
            if module == "prefeval":
                found += [(f"prefeval.{alias.name}", at_import) for alias in node.names]
    return found


def sources(package: str) -> list[Path]:
    return [p for p in sorted((ROOT / package).rglob("*.py")) if "_root" not in p.parts]


@pytest.mark.parametrize("package", PACKAGES)
def test_package_imports_only_what_its_arrow_allows(package: str) -> None:
    for path in sources(package):
        for module, _ in imports(path):
            part = module.split(".")
            if part[0] == "prefeval" and len(part) > 1 and part[1] in PACKAGES:
                assert part[1] in ARROWS[package], f"{path} imports {module}"
            assert part[0] not in FORBIDDEN.get(package, set()), f"{path} imports {module}"
            assert "_root" not in part, f"{path} imports {module}: an install would hold it twice"


def test_records_imports_the_standard_library_only() -> None:
    for module, _ in imports(ROOT / "harness" / "_root" / "records.py"):
        assert module.split(".")[0] in sys.stdlib_module_names


def test_every_folder_with_modules_is_packaged() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    listed = {path: name for name, path in setup["package-dir"].items()}
    assert set(setup["packages"]) == set(listed.values())
    folders = {p.parent for package in PACKAGES for p in (ROOT / package).rglob("*.py")}
    for folder in folders:
        assert folder.relative_to(ROOT).as_posix() in listed


def test_each_root_module_has_a_link_for_mypy() -> None:
    links = ROOT / ".typing" / "prefeval"
    for path in (ROOT / "harness" / "_root").iterdir():
        if path.name != "__pycache__":
            assert (links / path.name).resolve() == path.resolve()
    for package in PACKAGES:
        assert (links / package).resolve() == (ROOT / package).resolve()


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    for package in PACKAGES:
        for path in sources(package):
            assert path.stem == "__init__" or path.stem not in sys.stdlib_module_names, path


def test_command_line_imports_nothing_heavy() -> None:
    script = "import sys, prefeval.harness.cli; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "datasets", "pandas", "numpy", "scipy", "matplotlib"}
    assert not heavy & set(run.stdout.split())
