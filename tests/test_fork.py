"""A fork is made its own by one command, and a lone notebook finds the rest of the book on Colab."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest
from test_site import build

ROOT = pathlib.Path(__file__).resolve().parent.parent


def git(folder, *arguments):
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone of the working tree, with what is not committed yet."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("fork") / "clone"
    git(ROOT, "clone", "--quiet", str(ROOT), str(folder))
    for name in filter(None, git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def name_in(folder):
    """The repository, owner/name, that the folder's _config.yml names."""
    return re.search(r"url: https://github\.com/(\S+)", (folder / "_config.yml").read_text(encoding="utf-8"))[1]


def adopt(folder, repository):
    return subprocess.run([sys.executable, "tools/adopt.py", repository], cwd=folder, capture_output=True, text=True, check=False)


def test_an_adopted_fork_names_itself_everywhere_and_its_tests_pass(clone):
    old = name_in(clone)
    done = adopt(clone, "Student-42/my-course")
    assert done.returncode == 0, done.stderr
    left = [name for name in git(clone, "ls-files", "-z").split("\0") if name and name.endswith((".md", ".ipynb", ".yml", ".cff", ".py"))
            and not name.startswith(("tests/", ".github/")) and old.split("/")[0] in (clone / name).read_text(encoding="utf-8")]
    assert not left
    for name in "README.md", "CITATION.cff", "_config.yml", "notebooks/11_surprise.ipynb", "book/using.md":
        assert "Student-42/my-course" in (clone / name).read_text(encoding="utf-8"), name
    assert "https://Student-42.github.io/my-course/" in (clone / "CITATION.cff").read_text(encoding="utf-8")
    tests = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_notebooks.py", "tests/test_frame.py"],
                           cwd=clone, capture_output=True, text=True, check=False)
    assert tests.returncode == 0, tests.stdout[-3000:]
    built = build(clone)
    assert built.returncode == 0, built.stdout[-3000:]
    assert adopt(clone, "another/course.2").returncode == 0 and name_in(clone) == "another/course.2"  # and again


@pytest.mark.parametrize("name", ["", "my-course", "a/b/c", "a b/c", "https://github.com/a/b"])
def test_what_is_no_repository_is_refused(clone, name):
    done = adopt(clone, name)
    assert done.returncode == 2 and "is not of the form owner/name" in done.stderr


def test_on_colab_a_lone_notebook_fetches_the_rest_and_leaves_torch_alone(clone, tmp_path):
    """Plays Colab: an environment of its own with a `google.colab` to import, one notebook in an empty folder, and git led to a local clone.

    The environment sees the packages of this one, as Colab has many of its own, but for the two that are data, which the
    set-up cell must install; PyTorch is a stand-in that would be noticed if it were replaced."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / pathlib.Path(sys.executable).parent.name / pathlib.Path(sys.executable).name
    site = pathlib.Path(subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                                       capture_output=True, text=True, check=True).stdout.strip())
    hidden = ("chitchat", "glin_profanity", "practitioner", "becoming_a", "__editable__", "torch", "google")
    for source in pathlib.Path(sysconfig.get_path("purelib")).iterdir():
        if not source.name.startswith(hidden) and not (site / source.name).exists() and not source.name.endswith(".pth"):
            (site / source.name).symlink_to(source)
    for name in "google", "google/colab", "torch", "torch-2.13.0+colab.dist-info":
        (site / name).mkdir()
    for name in "google/__init__.py", "google/colab/__init__.py", "torch/__init__.py":
        (site / name).touch()
    (site / "torch-2.13.0+colab.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0+colab\n")
    (site / "torch-2.13.0+colab.dist-info" / "RECORD").touch()
    git(clone, "add", "--all")
    git(clone, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "--allow-empty", "-m", "as it is")
    lone = tmp_path / "content"
    lone.mkdir()
    shutil.copy(clone / "notebooks" / "11_surprise.ipynb", lone)
    run = ("import nbformat, nbclient; notebook = nbformat.read('11_surprise.ipynb', 4); "
           "nbclient.NotebookClient(notebook, kernel_name='python3', timeout=300).execute(); "
           "print('executed', sum(cell.cell_type == 'code' for cell in notebook.cells))")
    repository = "https://github.com/" + name_in(clone)
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("PRACTITIONER_", "PYTHON", "JUPYTER", "VIRTUAL_ENV"))}
    variables |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.file://{clone}.insteadOf", "GIT_CONFIG_VALUE_0": repository,
                  "JUPYTER_PATH": str(pathlib.Path(sys.prefix) / "share" / "jupyter")}
    done = subprocess.run([python, "-c", run], cwd=lone, env=variables, capture_output=True, text=True, check=False)
    if "No matching distribution" in done.stderr and not os.environ.get("CI"):
        pytest.skip("NO PACKAGE INDEX IS REACHED: Colab's set-up cell was not tried")
    assert done.returncode == 0 and "executed" in done.stdout, done.stderr[-3000:]
    assert sorted(path.name for path in lone.iterdir()) == ["11_surprise.ipynb", repository.rsplit("/", 1)[1]]
    assert (site / "chitchat_dataset").exists() and (site / "glin_profanity").exists()
    assert (site / "torch" / "__init__.py").stat().st_size == 0 and (site / "torch-2.13.0+colab.dist-info").exists()
