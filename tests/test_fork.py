"""A fork is made its own by one command, and a lone notebook finds the rest of the book on Colab."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent


def git(folder, *arguments):
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def commit(folder, message):
    """Commit everything in the folder."""
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "--allow-empty", "-m", message)


def make_clone(folder):
    """A clone of the working tree, in which what was not committed yet is."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    git(ROOT, "clone", "--quiet", str(ROOT), str(folder))
    for name in filter(None, git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        elif not (ROOT / name).exists():
            (folder / name).unlink(missing_ok=True)
    commit(folder, "as it is")
    return folder


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return make_clone(tmp_path_factory.mktemp("fork") / "clone")


def name_in(folder):
    """The repository, owner/name, that the folder's _config.yml names."""
    return re.search(r"url: https://github\.com/(\S+)", (folder / "_config.yml").read_text(encoding="utf-8"))[1]


def adopt(folder, repository, *options):
    return subprocess.run([sys.executable, "tools/adopt.py", repository, *options], cwd=folder, capture_output=True, text=True, check=False)


def own(file):
    """The text of a file, without what CITATION.cff says of the book that a fork was made from."""
    return file.read_text(encoding="utf-8").split("\nreferences:\n")[0]


def files_that_name(folder, account):
    """The text files that lead to an account, but for tests, and tools/adopt.py, which knows the placeholder."""
    leads = re.compile(r'(?:github\.com/|/gh/|/github/|")' + re.escape(account) + r"/|//" + re.escape(account) + r"\.github\.io")
    return [name for name in git(folder, "ls-files", "-z").split("\0") if name.endswith((".md", ".ipynb", ".yml", ".cff", ".py", ".json", ".toml"))
            and not name.startswith("tests/") and name != "tools/adopt.py" and account in (text := own(folder / name)) and leads.search(text)]


def test_an_adopted_fork_names_itself_everywhere(clone):
    account = name_in(clone).split("/")[0]
    done = adopt(clone, "Student-42/my-course")
    assert done.returncode == 0, done.stderr
    assert not files_that_name(clone, account) and len(files_that_name(clone, "Student-42")) > 5
    for name in "README.md", "CITATION.cff", "_config.yml", "notebooks/11_surprise.ipynb", "book/using.md":
        assert "Student-42/my-course" in own(clone / name), name
    assert "https://Student-42.github.io/my-course/" in own(clone / "CITATION.cff")
    assert not git(clone, "status", "--porcelain", ".github")
    before = git(clone, "diff")
    assert adopt(clone, "Student-42/my-course").stdout == "0 files changed\n" and git(clone, "diff") == before  # again, as after a merge


def test_a_fork_cites_the_book_that_it_was_made_from_and_the_book_itself_does_not(clone):
    """The book gets a home, is forked, and the fork is renamed: it still cites the first, and takes its name out of what a merge brings."""
    citation = lambda: yaml.safe_load((clone / "CITATION.cff").read_text(encoding="utf-8"))
    git(clone, "checkout", "--quiet", "--", ".")
    was = name_in(clone)
    assert adopt(clone, "Hypatia-9/the-book", "--original").returncode == 0 and name_in(clone) == "Hypatia-9/the-book"
    assert "references" not in citation() and not files_that_name(clone, was.split("/")[0])
    for name in "another/course.2", "another/the-book", "another/the-book-2":
        assert adopt(clone, name).returncode == 0 and name_in(clone) == name
        assert citation()["repository-code"] == "https://github.com/" + name
        assert [each["repository-code"] for each in citation()["references"]] == ["https://github.com/Hypatia-9/the-book"]
        assert not files_that_name(clone, "Hypatia-9") and name in own(clone / "README.md")
    for file in clone / "notebooks" / "10_corpus.ipynb", clone / "book" / "errata.md":  # a merge
        file.write_text(file.read_text(encoding="utf-8").replace("another/the-book-2", "Hypatia-9/the-book"), encoding="utf-8")
    cited = (clone / "CITATION.cff").read_text(encoding="utf-8")
    (clone / "CITATION.cff").write_text(own(clone / "CITATION.cff").replace("another/the-book-2", "Hypatia-9/the-book") + "\n", encoding="utf-8")  # theirs was taken
    assert adopt(clone, "another/the-book-2").returncode == 0 and not files_that_name(clone, "Hypatia-9")
    assert [each["repository-code"] for each in citation()["references"]] == ["https://github.com/Hypatia-9/the-book"]
    assert (clone / "CITATION.cff").read_text(encoding="utf-8") == cited
    assert adopt(clone, "Hypatia-9/the-book").returncode == 0 and "references" not in citation()  # what is given back to the book
    git(clone, "checkout", "--quiet", "--", ".")


def test_a_conflict_in_the_configuration_is_named(clone):
    file = clone / "_config.yml"
    text = file.read_text(encoding="utf-8")
    file.write_text(re.sub(r"(  url: https://github\.com/)\S+\n", r"<<<<<<< HEAD\n\1a/b\n=======\n\1c/d\n>>>>>>> upstream/main\n", text), encoding="utf-8")
    done = adopt(clone, "a/b")
    git(clone, "checkout", "--quiet", "--", "_config.yml")
    assert done.returncode == 1 and "names 2. If a merge left a conflict there, settle it first" in done.stderr and not git(clone, "status", "--porcelain")


@pytest.mark.parametrize("name", ["", "my-course", "a/b/c", "a b/c", "https://github.com/a/b"])
def test_what_is_no_repository_is_refused(clone, name):
    done = adopt(clone, name)
    assert done.returncode == 2 and "is not of the form owner/name" in done.stderr


def test_on_colab_a_lone_notebook_fetches_the_rest_and_leaves_torch_alone(clone, tmp_path):
    """Plays Colab: an environment of its own with a `google.colab` to import, one notebook in an empty folder, and git led to a local clone.

    The environment sees the packages of this one, pip too, as Colab has many of its own, but for the two that are data, which the
    set-up cell must install; PyTorch is a stand-in that would be noticed if it were replaced."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
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
    commit(clone, "as it is")
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
