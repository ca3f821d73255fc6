"""The frame around the notebooks: the generated package, the environments, the pins, and what is said twice."""
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
REPOSITORY = CONFIG["repository"]["url"].removeprefix("https://github.com/")
EXACT = {"chitchat-dataset", "glin-profanity", "jupyter-book"}
CONDA_NAMES = {"torch": "pytorch-cpu", "matplotlib": "matplotlib-base", "brotli": "brotli-python"}
SYSTEMS = [{"python_full_version": f"{python}.5", "python_version": python, "sys_platform": system, "os_name": kind,
            "platform_system": name, "platform_machine": "x86_64", "implementation_name": "cpython", "platform_python_implementation": "CPython"}
           for python in ("3.11", "3.12", "3.13")
           for system, kind, name in (("linux", "posix", "Linux"), ("darwin", "posix", "Darwin"), ("win32", "nt", "Windows"))]


# The package is what the notebooks say

@pytest.fixture
def copy(tmp_path):
    """What nbdev-export reads, and nothing of what it writes."""
    for file in (ROOT / "pyproject.toml", ROOT / "practitioner" / "__init__.py", *(ROOT / "notebooks").glob("*.ipynb")):
        (tmp_path / file.relative_to(ROOT)).parent.mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / file.relative_to(ROOT))
    return tmp_path


def drifted(folder):
    """The names of the package's files that nbdev, run in `folder`, would write otherwise than they stand here."""
    program = pathlib.Path(sys.executable).with_name("nbdev-export")
    done = subprocess.run([program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    files = {file.name: file.read_bytes() for file in (ROOT / "practitioner").glob("*.py")}
    exported = {file.name: file.read_bytes() for file in (folder / "practitioner").glob("*.py")}
    return {name for name in files.keys() | exported.keys() if files.get(name) != exported.get(name)}


def test_the_package_is_the_export_of_the_notebooks(copy):
    assert drifted(copy) == set()


def test_drift_is_noticed(copy):
    """A comment more in an exported cell is enough."""
    file = copy / "notebooks" / "11_surprise.ipynb"
    notebook = json.loads(file.read_text(encoding="utf-8"))
    cell = next(cell for cell in notebook["cells"] if "def entropy" in "".join(cell["source"]))
    cell["source"] = "".join(cell["source"]) + "\n# changed"
    file.write_text(json.dumps(notebook), encoding="utf-8")
    assert drifted(copy) == {"information.py"}


# Environments and pins

def requirements(group=None):
    """Requirements of the project, or of a dependency group with those that it includes, by name."""
    rows = PROJECT["project"]["dependencies"] if group is None else PROJECT["dependency-groups"][group]
    found = {}
    for row in rows:
        found |= requirements(row["include-group"]) if isinstance(row, dict) else {canonicalize_name(Requirement(row).name): Requirement(row)}
    return found


def conda_requirements(environment):
    """What the environment asks for, from conda and from pip, by name."""
    rows = [row for row in environment["dependencies"] if isinstance(row, str)]
    rows += [row for part in environment["dependencies"] if isinstance(part, dict) for row in part["pip"] if not row.startswith("-")]
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, rows)}


def pins(text):
    """The lines of a file of constraints as requirements."""
    return [Requirement(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]


PINS = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
ALL = requirements() | requirements("test") | requirements("lab")


def lower(requirement):
    return {(each.operator, each.version) for each in requirement.specifier if each.operator in (">=", "==")}


def environment_faults(environment):
    """How environment.yml differs from pyproject.toml."""
    found = conda_requirements(environment)
    tools = {name: requirements("lab")[name] for name in ("jupyterlab", "ipykernel", "ipywidgets")}
    wanted = {CONDA_NAMES.get(name, name): requirement for name, requirement in (requirements() | tools).items()}
    faults = [f"no {name}" for name in wanted.keys() - found.keys()]
    faults += [f"{found[name]}, not {wanted[name]}" for name in wanted.keys() & found.keys() if lower(found[name]) != lower(wanted[name])]
    faults += [f"{name} is not in pyproject.toml" for name in found.keys() - wanted.keys() - {"python", "pip", "git"}]
    return faults + ([] if PROJECT["project"]["requires-python"] in str(found["python"]) else ["another Python"])


def test_conda_installs_what_pip_does():
    """... the book's own package too."""
    assert environment_faults(ENVIRONMENT) == []
    assert "--editable ." in ENVIRONMENT["dependencies"][-1]["pip"]


@pytest.mark.parametrize("old, new, fault", [("scipy>=1.11", "scipy>=1.12", "scipy>=1.12, not scipy>=1.11"), ("pytorch-cpu>=2.4", "pytorch-cpu", "pytorch-cpu, not torch"),
                                             ("ipywidgets>=8.1", "git", "no ipywidgets"), ("git", "requests>=2", "requests is not in"),
                                             ("python>=3.11,<3.14", "python>=3.10", "another Python")])
def test_a_difference_between_them_is_noticed(old, new, fault):
    rows = [new if row == old else row for row in ENVIRONMENT["dependencies"]]
    [found] = environment_faults({"dependencies": rows})
    assert found.startswith(fault)


def pin_faults(pins):
    """What each supported system would get that is not one version, in range, of everything that is asked for."""
    conda = conda_requirements(ENVIRONMENT)
    pypi = {conda_name: name for name, conda_name in CONDA_NAMES.items()}
    ranges = [*ALL.items(), *((pypi.get(name, name), requirement) for name, requirement in conda.items() if name not in ("python", "git"))]
    faults = set()
    for system in SYSTEMS:
        chosen = {}
        for pin in pins:
            if pin.marker is None or pin.marker.evaluate(system):
                chosen.setdefault(canonicalize_name(pin.name), []).append(pin.specifier)
        faults |= {f"{name} has {len(found)} pins" for name, found in chosen.items() if len(found) > 1}
        for name, requirement in ranges:
            versions = [each.version for specifier in chosen.get(name, []) for each in specifier]
            faults |= {f"{name} is not pinned"} if not versions else set()
            faults |= {f"{name}=={version} is not in {requirement}" for version in versions if not requirement.specifier.contains(version, prereleases=True)}
    return sorted(faults)


def test_every_pin_is_one_version_in_range():
    assert pin_faults(PINS) == []
    assert all([each.operator for each in pin.specifier] == ["=="] and "*" not in str(pin.specifier) for pin in PINS) and len(PINS) > 100


@pytest.mark.parametrize("change, fault", [
    (lambda text: text.replace("numpy==2.4.6", "numpy==1.20"), "numpy==1.20 is not in"),
    (lambda text: re.sub("^nbval==.*\n", "", text, flags=re.M), "nbval is not pinned"),
    (lambda text: text + "scipy==1.18.1 ; sys_platform == 'win32'\n", "scipy has 2 pins"),
    (lambda text: re.sub("(?m)^(scipy==.*)>= '3.12'", r"\1>= '3.13'", text), "scipy is not pinned"),
    (lambda text: text.replace("sphinx-book-theme==1.1.4", "sphinx-book-theme==1.2"), "sphinx-book-theme==1.2 is not in")])
def test_a_bad_pin_is_noticed(change, fault):
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert change(text) != text and any(found.startswith(fault) for found in pin_faults(pins(change(text))))


def test_only_what_must_be_exact_is_exact():
    """A corpus, a word list, and the program that builds the pages; everything else is a range."""
    exact = {name for name, requirement in ALL.items() if any(each.operator in ("==", "===", "~=") for each in requirement.specifier)}
    assert exact == EXACT
    assert all(requirement.specifier for requirement in ALL.values())


def test_what_is_installed_is_what_is_pinned():
    """Of the pinned packages that are in this environment. A build of torch is named after a +, and is the same version."""
    different, compared = [], 0
    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate():
            try:
                version = importlib.metadata.version(pin.name)
            except importlib.metadata.PackageNotFoundError:
                continue
            compared += 1
            different += [] if pin.specifier.contains(version.split("+")[0], prereleases=True) else [f"{pin.name} {version}, not {pin.specifier}"]
    assert not different and compared > 100


# What is said in several places

def test_the_version_is_the_same_everywhere():
    import practitioner
    assert practitioner.__version__ == PROJECT["project"]["version"] == str(CITATION["version"])


def own(file):
    """The text of a file, without what CITATION.cff says of the book that a fork was made from."""
    return (ROOT / file).read_text(encoding="utf-8").split("\nreferences:\n")[0]


def addresses(text):
    """The repositories, owner/name, that a text leads to: on GitHub, as pages, in Binder, in Colab, or from a set-up cell."""
    places = r"https://github\.com/|https://mybinder\.org/v2/gh/|https://colab\.research\.google\.com/github/|REPOSITORY = \\?\""
    found = re.findall(rf"(?:{places})([\w-]+/[\w.-]+)", text) + [f"{owner}/{name}" for owner, name in re.findall(r"https://([\w-]+)\.github\.io/([\w.-]+)", text)]
    return {name.rstrip(".") for name in found}


def repositories(text):
    """Those that are called as this one."""
    return {name for name in addresses(text) if name.split("/")[1] == REPOSITORY.split("/")[1]}


SPEAKERS = ["_config.yml", "CITATION.cff", "README.md", "book/using.md", *(f"notebooks/{file.name}" for file in sorted((ROOT / "notebooks").glob("*.ipynb")))]
SILENT = ["environment.yml", "pyproject.toml", "Makefile", *(file.relative_to(ROOT).as_posix() for file in sorted((ROOT / ".github").rglob("*.y*ml")))]


@pytest.mark.parametrize("file", [file.relative_to(ROOT).as_posix() for pattern in ("*.yml", "*.cff", "*.md", "book/**/*.md", "notebooks/*.ipynb", "data/**/*.md", "practitioner/*.py", "tools/*.py")
                                  for file in sorted(ROOT.glob(pattern))])
def test_the_repository_is_the_same_everywhere(file):
    """Whoever forks it and changes the name has forgotten none; no link leads to the account of someone else."""
    found = repositories(own(file))
    assert found <= {REPOSITORY} and (found or file not in SPEAKERS)


@pytest.mark.parametrize("file", ["README.md", "CITATION.cff", "_config.yml"])
def test_these_files_lead_to_no_other_repository(file):
    """... even to one with another name, such as the one that was forked."""
    assert addresses(own(file)) == {REPOSITORY}


@pytest.mark.parametrize("file", SILENT)
def test_these_files_name_no_repository(file):
    """So `make adopt` need not change them; workflows it could not. Actions are named without their address."""
    assert not addresses((ROOT / file).read_text(encoding="utf-8"))


def test_the_buttons_of_the_readme_launch_this_repository():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    buttons = re.findall(r"\[!\[([^\]]+)\]\((https://\S+\.svg)\)\]\((\S+)\)", text)
    assert [words for words, _, _ in buttons] == ["Launch in Binder", "Open in Colab"] or "references" in CITATION  # a fork may drop them
    for _, _, target in buttons:
        assert addresses(target) == {REPOSITORY} and (ROOT / "notebooks" / re.search(r"[^/]+\.ipynb$", target)[0]).exists()


def test_the_addresses_are_those_of_the_repository():
    owner, name = REPOSITORY.split("/")
    pages = f"https://{owner}.github.io/{name}/"
    assert CITATION["repository-code"] == CONFIG["repository"]["url"] and CITATION["url"] == CONFIG["html"]["baseurl"] == pages
    for file in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        setup = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        assert re.findall(r'^REPOSITORY = "(.*)"$', setup, re.M) == [REPOSITORY], file.name


@pytest.mark.parametrize("text", ["https://github.com/ADA/{name}", "https://colab.research.google.com/github/ADA/{name}/blob", '"REPOSITORY = \\"ADA/{name}\\"', "https://ADA.github.io/{name}/x", "https://mybinder.org/v2/gh/ADA/{name}/main"])
def test_another_account_would_be_noticed(text):
    name = REPOSITORY.split("/")[1]
    assert repositories(text.format(name=name)) == addresses(text.format(name=name)) == {f"ADA/{name}"}
    assert addresses(text.format(name="other")) == {"ADA/other"}


# The repository

def heavy(folder, limit=12_000_000):
    """Files tracked by git in `folder` that are larger than `limit` bytes."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=folder, capture_output=True, check=True).stdout.decode().split("\0")[:-1]
    return [name for name in names if (folder / name).exists() and (folder / name).stat().st_size > limit], len(names)


def test_no_file_is_heavy(tmp_path):
    """None over 12 MB; one would be noticed."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    found, number = heavy(ROOT)
    assert not found and number > 20
    subprocess.run(["git", "init", "--quiet", "."], cwd=tmp_path, check=True)
    (tmp_path / "model.pt").write_bytes(bytes(12_000_001))
    subprocess.run(["git", "add", "model.pt"], cwd=tmp_path, check=True)
    assert heavy(tmp_path) == (["model.pt"], 1)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
def test_make_help_lists_every_target():
    """Each target with a `## ` line is shown with it; each phony one has such a line."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    described = dict(re.findall(r"^([\w./-]+):.*?## *(.+)$", text, re.M))
    shown = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = [line.split(maxsplit=2) for line in shown.splitlines() if line.startswith("  make ")]
    assert {name: words for _, name, words in lines} == {name: words.strip() for name, words in described.items()}
    phony = re.search(r"^\.PHONY: (.+)$", text, re.M).group(1).split()
    assert len(described) >= 8 and set(phony) - {"pins"} == described.keys() - {"pins"}


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", *(f"book/{file.name}" for file in sorted((ROOT / "book").glob("*.md")))])
def test_what_the_text_asks_of_make_is_there(file):
    """`make word`, in a line of code or at the beginning of one in a block."""
    targets = re.findall(r"^([\w-]+):.*?## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    asked = re.findall(r"(?:`|^)make ([a-z-]+)", (ROOT / file).read_text(encoding="utf-8"), re.M)
    assert not set(asked) - set(targets) and (asked or file not in ("README.md", "CONTRIBUTING.md", "book/using.md", "book/teaching.md"))


@pytest.mark.parametrize("file", [file for file in sorted((ROOT / "tools").glob("*.py")) if "argparse" in file.read_text(encoding="utf-8")], ids=lambda file: file.name)
def test_a_tool_says_what_it_does(file):
    """--help works in any folder, changes nothing, and begins with what the tool is for."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, file, "--help"], cwd=file.parent.parent / "data", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    summary = re.search(r'^"""(.+?)[.:(\n]', file.read_text(encoding="utf-8")).group(1).strip()
    assert done.stdout.startswith("usage: " + file.name) and summary in " ".join(done.stdout.split())


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert 10 < len(lines) <= 60
