"""The project's own rules, held by tests: licences, imports, words, sizes, pins."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tabveil

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "tabveil"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODULES = sorted(SOURCE.rglob("*.py"))
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)

# ------------------------------------------------------------------------------------------------- licences and pins

PERMISSIVE = {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "PSF-2.0", "Zlib"}
SPELLINGS = {
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
}


def closure(requirements: list[str]) -> dict[str, importlib.metadata.Distribution]:
    """Every installed distribution that `requirements` bring, by canonical name, transitive ones included."""
    found: dict[str, importlib.metadata.Distribution] = {}
    todo = [(Requirement(text), "") for text in requirements]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        known = name in found
        found[name] = importlib.metadata.distribution(requirement.name)
        extras = {*requirement.extras} if known else {"", *requirement.extras}
        todo += [(Requirement(text), e) for text in found[name].requires or [] for e in extras]
    return found


def licences(distribution: importlib.metadata.Distribution) -> set[str]:
    """SPDX names of all licences a distribution says it needs kept; a choice (OR) needs only its best half."""
    metadata = distribution.metadata
    classifiers = [c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier", []) if c.startswith("License ::")]
    expression = metadata.get("License-Expression")
    if not expression and classifiers:
        return {SPELLINGS.get(c, c) for c in classifiers}
    choices = (expression or metadata.get("License") or "unknown").split(" OR ")
    options = [{SPELLINGS.get(part.strip(" ()"), part.strip(" ()")) for part in c.split(" AND ")} for c in choices]
    return next((o for o in options if o <= PERMISSIVE), options[0])


CORE = closure(PROJECT["project"]["dependencies"])


@pytest.mark.parametrize("name", sorted(CORE))
def test_core_dependency_is_permissive(name: str) -> None:
    assert licences(CORE[name]) <= PERMISSIVE, f"{name} is not on the allow-list of docs/licences.md"


def test_licence_reader_refuses_copyleft_and_the_unknown() -> None:
    assert not licences(importlib.metadata.distribution("psycopg")) <= PERMISSIVE  # LGPL: an extra, never the core
    assert not licences(importlib.metadata.distribution("hypothesis")) <= PERMISSIVE  # MPL: a test tool


def test_licences_page_names_every_core_dependency() -> None:
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8").lower()
    assert [name for name in CORE if f"| {name} |" not in page] == []


def test_constraints_pin_everything_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [p for p in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", p)] == []
    extras = PROJECT["project"]["optional-dependencies"].values()
    needed = closure([*PROJECT["project"]["dependencies"], *(text for extra in extras for text in extra)])
    assert {canonicalize_name(p.split("==")[0]) for p in pins} == set(needed)


def test_every_import_is_declared_and_every_declaration_used() -> None:
    owners = importlib.metadata.packages_distributions()
    ours = [path for path in MODULES if path.parent.name != "environments"]  # workers import what their own list pins
    nodes = [node for path in ours for node in ast.walk(tree(path))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    foreign = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"tabveil"}
    imported = {canonicalize_name(d) for name in foreign for d in owners.get(name, [name])}
    optional = PROJECT["project"]["optional-dependencies"]
    core = {canonicalize_name(Requirement(r).name) for r in PROJECT["project"]["dependencies"]}
    extras = {canonicalize_name(Requirement(r).name) for e in optional.values() for r in e}
    assert imported - core - extras == set()
    assert core - imported == set()


# ------------------------------------------------------------------------------------------------------ public names


def run(code: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    paths = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); "
    return subprocess.run([sys.executable, "-c", paths + code], cwd=cwd, capture_output=True, text=True, check=False)


def test_import_is_lazy() -> None:
    code = "before = set(sys.modules); import tabveil; print(*sorted(set(sys.modules) - before))"
    loaded = {m.partition(".")[0] for m in run(code).stdout.split()}
    assert "tabveil" in loaded
    assert loaded - set(sys.stdlib_module_names) == {"tabveil"}


def test_training_without_torch_names_the_extra() -> None:
    without = """
class Without:
    def find_spec(self, name, *_):
        if name == "torch":
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Without())
import tabveil.sgd
"""
    ran = run(without)
    assert ran.stderr.strip().endswith("Neural generators need torch: pip install 'tabveil[deep]'.")


@pytest.mark.parametrize("name", tabveil.__all__)
def test_public_name_resolves(name: str) -> None:
    assert getattr(tabveil, name) is not None
    assert name in dir(tabveil)


def test_names_lists_plugins_without_importing_them() -> None:
    result = run("import tabveil; print(*tabveil.names('generators'), 'numpy' in sys.modules)")
    assert result.stdout.split() == [
        "aim",
        "auto",
        "ctgan",
        "independent",
        "mst",
        "pretrained_lm",
        "tabular_lm",
        "tvae",
        "False",
    ], result.stderr
    with pytest.raises(tabveil.errors.UsageError, match="no family 'schemas'"):
        tabveil.names("schemas")


def test_a_generator_is_found_by_the_name_of_its_class() -> None:
    assert tabveil.MST is type(tabveil.create("mst", epsilon=1.0, delta=1e-6))
    assert tabveil.MST(epsilon=1.0, delta=1e-6).epsilon == 1.0
    for name in ("mst", "Mst", "_MST"):
        with pytest.raises(AttributeError, match="no attribute"):
            getattr(tabveil, name)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'shcema'"):
        tabveil.shcema  # noqa: B018


def test_report_stays_the_function_after_its_package_is_imported() -> None:
    result = run("import tabveil.report.document, tabveil; print(type(tabveil.report).__name__)")
    assert result.stdout.strip() == "function", result.stderr


def test_version_is_in_the_changelog() -> None:
    assert f"## [{tabveil.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_readme_uses_only_public_names_and_real_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    nodes = [node for block in blocks for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Attribute)]
    used = {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "tv"}
    assert used, "the README shows the library"
    assert used <= set(tabveil.__all__)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert {"demo", "test"} <= set(re.findall(r"make ([\w-]+)", readme)) <= targets


def test_map_names_every_module_but_helpers() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    public = [p for p in MODULES if not re.match(r"_[a-z]|__main__", p.name)]
    names = {p.name if p.parent == SOURCE else f"{p.parent.name}/" for p in public}
    assert sorted(name for name in names if name not in page) == []


# ----------------------------------------------------------------------------------------------------- import contracts


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    code = (
        f"sys.path[0] = {str(folder / 'src')!r}; from importlinter.cli import lint_imports; "
        "sys.exit(lint_imports(config_filename='pyproject.toml', no_cache=True, no_logo=True))"
    )
    return run(code, cwd=folder)


def test_import_contracts_hold() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


PLANTED = {
    "errors.py": "import tabveil.records",
    "ledger.py": "from tabveil import mechanisms",
    "report/html.py": "import pandas",
    "report/document.py": "from tabveil.metrics import base",
    "generators/mst.py": "from tabveil.generators import independent",
    "metrics/marginals.py": "from tabveil.metrics import ml_utility",
}
REFUSED = (
    "tabveil.errors -> tabveil.records",
    "tabveil.ledger -> tabveil.mechanisms",
    "tabveil.report.html -> pandas",
    "tabveil.report.document -> tabveil.metrics.base",
    "tabveil.generators.mst -> tabveil.generators.independent",
    "tabveil.metrics.marginals -> tabveil.metrics.ml_utility",
)


def planted(folder: Path, lines: dict[str, str]) -> str:
    """What import-linter says of a copy of the source with `lines` added to its files."""
    shutil.copytree(SOURCE, folder / "src" / "tabveil", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for file, line in lines.items():
        with (folder / "src" / "tabveil" / file).open("a", encoding="utf-8") as stream:
            stream.write(f"\n{line}\n")
    result = lint_imports(folder)
    assert result.returncode == 1, result.stdout + result.stderr
    return result.stdout


def test_import_contracts_refuse_what_they_are_for(tmp_path: Path) -> None:
    said = planted(tmp_path, PLANTED)
    assert "0 kept" in said
    assert [line for line in REFUSED if line not in said] == []


def test_import_contracts_refuse_a_module_without_a_line(tmp_path: Path) -> None:
    assert "- tabveil.stowaway" in planted(tmp_path, {"stowaway.py": "import json"})


# --------------------------------------------------------------------------------------------------------- house style


def files() -> Iterator[Path]:
    """Files of the project: what git tracks or would, else (no repository) all that is not a build output."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
        paths = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        built = re.compile(r"(^|/)(\.venv|\.git|\.\w+_cache|\.hypothesis|__pycache__|build|dist|demo-release.*)(/|$)")
        paths = [p for p in ROOT.rglob("*") if not built.search(p.relative_to(ROOT).as_posix())]
    yield from (p for p in paths if p.is_file())


MACHINE_PATH = re.compile(r"(?<![\w./~-])/(root|home|Users|work|opt|mnt)/\w")
PACKAGE_INDEX = re.compile(r"--(extra-)?index[-]url|--find[-]links|--trusted-host")


def test_no_file_names_a_machine_or_a_package_index() -> None:
    found = []
    for path in files():
        text = path.read_bytes().decode("utf-8", "replace")
        if path != Path(__file__).resolve():
            found += [f"{path.name}: {m.group()}" for p in (MACHINE_PATH, PACKAGE_INDEX) for m in p.finditer(text)]
    assert found == []


def test_the_word_lists_above_catch_what_they_are_for() -> None:
    assert MACHINE_PATH.search("see " + "/home" + "/someone")
    assert not MACHINE_PATH.search("src" + "/work" + "/x")
    assert PACKAGE_INDEX.search("-".join(["", "", "extra", "index", "url"]))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def public_definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body, f"{prefix}{node.name}.")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_module_speaks_of_privacy_and_documents_its_public_names(path: Path) -> None:
    module = tree(path)
    assert "Privacy:" in (ast.get_docstring(module) or ""), "the module docstring needs a line `Privacy: ...`"
    assert [name for name, node in public_definitions(module.body) if not ast.get_docstring(node)] == []


SHORTCUTS = re.compile(r"TODO|FIXME|NotImplementedError|type:\s*ignore")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_module_leaves_nothing_for_later(path: Path) -> None:
    assert SHORTCUTS.findall(path.read_text(encoding="utf-8")) == []


def lengths() -> dict[str, int]:
    """Lines of each function, signature and docstring left out."""
    found = {}
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, FUNCTION):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                name = f"{path.relative_to(SOURCE).as_posix()}:{node.name}:{node.lineno}"
                found[name] = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
    return found


def test_functions_are_short() -> None:
    sizes = lengths()
    assert {name: size for name, size in sizes.items() if size > 60} == {}
    assert statistics.median(sizes.values()) <= 10
    assert statistics.quantiles(sizes.values(), n=10)[-1] <= 40


# ------------------------------------------------------------------------------------------------ how the tests are run


def test_network_is_refused() -> None:
    # 192.0.2.0/24 is reserved for documentation (RFC 5737): nothing answers there.
    with socket.socket() as outside, pytest.raises(RuntimeError, match="no network but loopback"):
        outside.connect(("192.0.2.1", 80))
    with socket.socket(type=socket.SOCK_DGRAM) as outside, pytest.raises(RuntimeError, match="no network but loopback"):
        outside.sendto(b"", ("192.0.2.1", 53))
    with pytest.raises(RuntimeError, match="no host but localhost"):
        socket.getaddrinfo("example.org", 80)


def test_loopback_is_allowed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_hypothesis_profile_is_one_of_ours() -> None:
    assert settings().deadline is None
    assert settings().derandomize == (settings().max_examples == 50)
