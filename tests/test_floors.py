"""Who may import whom: docs/architecture.md's floors. Found by reading the code, so that a lazy import counts too."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import anyglot

PACKAGE = Path(anyglot.__file__).parent
FLOOR = {"tokenizers": 1, "lm": 2, "data": 3, "train": 4, "inference": 4, "eval": 4}
GROUND = {"errors", "files", "config", "assets"}  # modules of the package itself that everybody may import
TOP = {"cli", "__main__", "doctor", "systems", "inspection"}  # modules that may import everybody
ONLY_INSIDE_FUNCTIONS = {
    "transformers", "deepspeed", "torchaudio", "faster_whisper", "jiwer", "pesq", "pystoi", "onnxruntime", "matplotlib",
    "jinja2", "efficientnet_lite_pytorch", "torchmetrics", "tensorboard", "hibari",
    "torch_geometric", "rdkit", "ray", "peft", "lm_eval", "gguf",
}  # fmt: skip


def floor(module: str) -> int:
    """0 for the ground, 1 to 4 for the folders, 5 for the top; `anyglot` itself is ground."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] in GROUND:
        return 0
    return 5 if parts[1] in TOP else FLOOR[parts[1]]


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.append(node.module or "")
            found += [f"{node.module}.{alias.name}" for alias in node.names if node.module == "anyglot"]
    return [name for name in found if name != "anyglot.__version__"]


def outside_functions(tree: ast.Module) -> ast.Module:
    """The tree without function bodies and without `if TYPE_CHECKING:` blocks."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return None

        visit_AsyncFunctionDef = visit_FunctionDef

        def visit_If(self, node):
            return None if getattr(node.test, "id", "") == "TYPE_CHECKING" else self.generic_visit(node)

    return Strip().visit(tree)


FILES = sorted(path for path in PACKAGE.rglob("*.py") if "configs" not in path.parts)


def test_every_module_has_a_floor():
    assert len(FILES) > 20
    for path in FILES:
        floor(module_of(path))  # KeyError: say in this file where a new folder or root module belongs


@pytest.mark.parametrize("path", FILES, ids=[module_of(path) for path in FILES])
def test_imports_point_down(path):
    own = module_of(path)
    for name in imports(ast.parse(path.read_text("utf-8"))):
        if name.split(".")[0] == "anyglot":
            assert floor(name) <= floor(own), f"{own} imports {name}, which is on a higher floor"


@pytest.mark.parametrize("path", FILES, ids=[module_of(path) for path in FILES])
def test_heavy_libraries_are_imported_where_they_are_used(path):
    tops = {name.split(".")[0] for name in imports(outside_functions(ast.parse(path.read_text("utf-8"))))}
    assert not tops & ONLY_INSIDE_FUNCTIONS


@pytest.mark.parametrize("path", FILES, ids=[module_of(path) for path in FILES])
def test_the_web_is_the_server_s_alone(path):
    tops = {name.split(".")[0] for name in imports(ast.parse(path.read_text("utf-8")))}
    own = path.is_relative_to(PACKAGE / "inference" / "server")
    assert own or not tops & {"fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client", "anyio"}


def test_a_violation_would_be_seen():
    tree = ast.parse("def f():\n    from anyglot.train.log import x\nimport deepspeed\n")
    assert "anyglot.train.log" in imports(tree)
    assert (
        floor("anyglot.train.log")
        > floor("anyglot.data.shards")
        > floor("anyglot.lm.grammar")
        > floor("anyglot.errors")
    )
    assert "deepspeed" in imports(outside_functions(tree))
    assert imports(outside_functions(ast.parse("def f():\n    import deepspeed"))) == []


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in run.stdout.split()}


def test_the_package_and_its_command_line_load_nothing_heavy():
    loaded = loaded_by("import anyglot, anyglot.cli, anyglot.config, anyglot.errors, anyglot.files, anyglot.assets")
    assert not loaded & {"torch", "numpy", "omegaconf", "rich", "pyarrow", "transformers", "deepspeed"}


def test_vocabulary_grammar_and_packing_load_neither_transformers_nor_deepspeed():
    loaded = loaded_by(
        "import anyglot.lm.vocabulary, anyglot.lm.grammar, anyglot.lm.streams, anyglot.data.packing\n"
        "from anyglot.config import load_mapping\nload_mapping('corpora/demo')"
    )
    assert not loaded & {"transformers", "deepspeed", "torchaudio", "sentencepiece"}
    assert "omegaconf" in loaded  # the config was really parsed


def test_vocabulary_and_grammar_need_no_torch():
    assert "torch" not in loaded_by("import anyglot.lm.vocabulary, anyglot.lm.grammar, anyglot.lm.streams")
