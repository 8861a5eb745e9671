"""README and docs/: every command parses, every file and link exists, the pages build."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from rllib_seqmarl import cli

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ROOT / "tuned_examples" / "README.md",
    *sorted(DOCS.rglob("*.md")),
]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

#: A fenced block, with its language and its text.
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
#: Where a path of the repository begins; what stands in one of these folders must exist.
FOLDERS = (
    "benchmarks/",
    "docker/",
    "docs/",
    "examples/",
    "rllib_seqmarl/",
    "tests/",
    "tuned_examples/",
)


def blocks(text: str, *languages: str) -> list[str]:
    return [block for _, language, block in BLOCK.findall(text) if language in languages]


#: Commands that the pages also name without their arguments.
NAMED = ("--help", "show", "train", "evaluate", "export", "compare", "plot")


def commands(text: str) -> list[str]:
    """All `rllib` commands: lines of bash blocks, and code in a line that begins with `rllib`."""
    # A line that ends with a backslash goes on in the next one.
    scripts = [block.replace("\\\n", " ") for block in blocks(text, "bash")]
    lines = [line for script in scripts for line in script.splitlines()]
    inline = re.findall(r"`(rllib [^`]*)`", BLOCK.sub("", text).replace("\n", " "))
    found = []
    for line in [*lines, *(code.replace("\\|", "|") for code in inline)]:
        for part in re.split(r" && | -- ", line):
            words = shlex.split(part, comments=True)
            if words[:1] == ["rllib"] and len(words) > 1:
                # A letter that stands for a number is one to the parser.
                found.append([re.sub(r"\b(N|E|SEED)\b", "1", word) for word in words[1:]])
    return found


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pages
def test_every_command_parses(page: Path) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        if words[-1] in NAMED:
            continue  # the name of a command, not one
        args = vars(cli._parser().parse_args(words))
        for option in ("config", "stop", "env_config"):
            value = args.get(option)
            if value is not None and value != "JSON":
                assert isinstance(json.loads(value), dict), words


def test_commands_are_found() -> None:
    text = "`rllib algo list` and\n```bash\nrllib train file A.yaml && rllib evaluate B\n```\n"
    assert commands(text) == [["train", "file", "A.yaml"], ["evaluate", "B"], ["algo", "list"]]
    assert len(commands((ROOT / "README.md").read_text(encoding="utf-8"))) >= 2


@pages
def test_every_file_that_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    folders = "|".join(map(re.escape, FOLDERS))
    for path in re.findall(rf"(?<![\w/.])((?:{folders})[\w./-]*\w)", text):
        if "NAME" not in path:
            assert (ROOT / path).exists(), path


@pages
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith(("http://", "https://")):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            if anchor:
                assert anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as mkdocs and GitHub both make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


@pages
def test_python_and_yaml_blocks_are_valid(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in blocks(text, "python"):
        ast.parse(block)
    for block in blocks(text, "yaml"):
        yaml.safe_load(block)


def test_the_python_of_readme_and_policies_runs(tmp_path: Path) -> None:
    pytest.importorskip("jaxmarl", reason="needs .[smax]")
    (train,) = blocks((ROOT / "README.md").read_text(encoding="utf-8"), "python")
    (use,) = blocks((DOCS / "guides" / "policies.md").read_text(encoding="utf-8"), "python")
    checkpoint = str(tmp_path / "checkpoint")
    code = f"{train}algorithm.save_to_path({checkpoint!r})\nalgorithm.stop()\n"
    code += use.replace("policy.safetensors", checkpoint) + "print(decision.actions.shape)\n"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "(2, 5)"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_curves_are_those_of_their_data() -> None:
    curves = load("curves")
    assert {path.stem for path in curves.CURVES.glob("*.svg")} == set(curves.TITLES)
    for name in curves.TITLES:
        drawn = (curves.CURVES / f"{name}.svg").read_text(encoding="utf-8")
        assert drawn == curves.draw(name), f"run python docs/curves.py: {name} is out of date"


def test_the_page_of_results_shows_every_comparison_that_has_runs() -> None:
    papers = load("papers")
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    for row in papers.rows():
        assert f"<!-- comparison: {row} -->" in page
        assert f"assets/papers/{row}.png)" in page
        assert (papers.PICTURES / f"{row}.png").exists(), "run python docs/papers.py"
        assert "| runs |" in papers.tables(row)


def test_a_table_of_evaluations_has_means_over_the_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    papers = load("papers")
    monkeypatch.setattr(papers, "PAPERS", tmp_path)
    (tmp_path / "row").mkdir()
    (tmp_path / "row" / "compare.json").write_text('{"evaluated": ["reach_ratio", "safe_ratio"]}')
    for seed, reach in ((1, 0.5), (2, 0.7)):
        kept = tmp_path / "results" / "row" / f"mat_seed{seed}"
        kept.mkdir(parents=True)
        metrics = {"reach_ratio": reach, "safe_ratio": 1.0, "other": 9.0}
        found = [{"env_config": {"num_agents": n}, "metrics": metrics} for n in (8, 64)]
        (kept / "evaluations.json").write_text(json.dumps(found))
    header, lines = papers.evaluations("row")
    assert header == ["", "seeds", "num_agents: 8", "num_agents: 64"]
    assert lines == [["`mat`", "2", "0.60 / 1.00", "0.60 / 1.00"]]


def test_the_pages_build(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the pages need .[docs]")
    pytest.importorskip("mkdocstrings", reason="the pages need .[docs]")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # Nothing is fetched from elsewhere when a page is opened.
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="https?://', page)
