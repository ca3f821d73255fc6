"""The workflows: pinned, with the least permissions, valid, and what their shell steps do."""
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from test_site import PAGES

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORKFLOWS = {file.name: file.read_text(encoding="utf-8") for file in sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([\w./-]+)(?: [\w./-]+)*:(?!=)", MAKEFILE, re.M)) - {".PHONY"}
WRITES = {("publish.yml", "deploy"): {"pages", "id-token"}, ("links.yml", "report"): {"issues"}, ("adopt.yml", "adopt"): {"contents"},
          ("release.yml", "print"): {"contents"}}
USE = re.compile(r"^ *(?:- )?uses: *(\S+) *(.*)$", re.M)


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def made(script):
    """The targets that a shell script asks make for."""
    words = [word for line in script.splitlines() for words in re.findall(r"(?:^|[;&|({]|\bthen|\bdo) *make((?: +[^\s;&|]+)*)", line.strip()) for word in words.split()]
    return {word for word in words if not word.startswith("-") and "=" not in word}


def faults(name, text):
    """What is wrong with a workflow, in words."""
    workflow = yaml.safe_load(text)
    triggers = workflow[True]  # YAML 1.1 reads `on` as true
    found = [f"{trigger} is a trigger" for trigger in triggers if trigger in ("pull_request_target", "workflow_run")]
    found += ["it reads secrets"] if "secrets." in text or "secrets:" in text else []
    for action, comment in USE.findall(text):
        found += [] if re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action) and re.fullmatch(r"# v\d+\.\d+\.\d+", comment) else [f"{action} is not pinned"]
    found += [] if len(USE.findall(text)) == sum("uses" in step for step in steps(workflow)) else ["an unusual `uses`"]
    top = workflow.get("permissions", "none given")
    found += [] if top in ({}, {"contents": "read"}) else [f"permissions at the top: {top}"]
    found += [] if "concurrency" in workflow and workflow.get("defaults") == {"run": {"shell": "bash"}} else ["no concurrency, or another shell"]
    for title, job in workflow["jobs"].items():
        permissions = job.get("permissions", top)
        written = {scope for scope, level in permissions.items() if level != "read"} if isinstance(permissions, dict) else {permissions}
        found += [f"{title} may write {scope}" for scope in sorted(written - WRITES.get((name, title), set()))]
        found += [] if job.get("timeout-minutes", 360) <= 90 else [f"{title} may run for hours"]
    for step in steps(workflow):
        script = step.get("run", "set -euo pipefail\n")
        found += [] if script.startswith("set -euo pipefail\n") else [f"not strict: {script!r}"]
        found += [f"an expression in a script: {script!r}"] if "${{" in script else []
        found += [f"there is no `make {target}`" for target in sorted(made(script) - TARGETS)]
        if step.get("uses", "").startswith("actions/checkout@") and step.get("with", {}).get("persist-credentials") is not False:
            found.append("a checkout keeps the token")
    return found


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_is_as_it_should_be(name):
    assert faults(name, WORKFLOWS[name]) == []


def test_what_was_looked_at():
    """... was there to be looked at: five workflows, which make what they say, with one commit of each action."""
    assert WORKFLOWS.keys() == {"test.yml", "publish.yml", "links.yml", "adopt.yml", "release.yml"}
    asked = {name: set().union(*(made(step.get("run", "")) for step in steps(yaml.safe_load(text)))) for name, text in WORKFLOWS.items()}
    assert asked == {"test.yml": {"test"}, "publish.yml": {"book"}, "links.yml": {"book"}, "adopt.yml": {"adopt"}, "release.yml": {".venv/done", "pdf"}}
    assert {"test", "book", "adopt", "pdf"} <= TARGETS
    used = {use for text in WORKFLOWS.values() for use in USE.findall(text)}
    assert len({action.split("@")[0] for action, _ in used}) == len(used) >= 4


@pytest.mark.parametrize("name, old, new, fault", [
    ("test.yml", r"@[0-9a-f]{40}  # v7.0.1", "@v7  # v7.0.1", "actions/checkout@v7 is not pinned"),
    ("test.yml", "  # v7.0.1", "", "is not pinned"),
    ("test.yml", "  # v7.0.1", "  # v7", "is not pinned"),
    ("publish.yml", r"uses: actions/deploy-pages", '"uses": actions/deploy-pages', "an unusual"),
    ("publish.yml", r"permissions: \{\}", "permissions: {contents: write}", "permissions at the top"),
    ("publish.yml", r"permissions: \{\}", "permissions: write-all", "permissions at the top"),
    ("publish.yml", r"permissions: \{\}", "", "permissions at the top"),
    ("publish.yml", r"contents: read", "pages: write", "build may write pages"),
    ("links.yml", r"issues: write", "contents: write", "report may write contents"),
    ("adopt.yml", r"(?<!`)contents: write", "pull-requests: write", "adopt may write pull-requests"),
    ("adopt.yml", r'REPO="\$REPO"', "REPO=${{ github.repository }}", "an expression in a script"),
    ("release.yml", r"contents: write", "packages: write", "print may write packages"),
    ("test.yml", r"make test PYTHON", "make tests PYTHON", "there is no `make tests`"),
    ("test.yml", r"make test PYTHON", "cd . && make --silent JOBS=1 all PYTHON", "there is no `make all`"),
    ("test.yml", r"set -euo pipefail", "set -e", "not strict"),
    ("test.yml", r"shell: bash", "shell: sh", "no concurrency, or another shell"),
    ("test.yml", r"timeout-minutes: 60", "", "linux may run for hours"),
    ("test.yml", r"persist-credentials: false", "fetch-depth: 1", "a checkout keeps"),
    ("test.yml", r"PYTHON=python", "PYTHON=${{ github.head_ref }}", "an expression in a script"),
    ("test.yml", r"pull_request:", "pull_request_target:", "pull_request_target is"),
    ("links.yml", r"github.token", "secrets.TOKEN", "it reads secrets")])
def test_a_bad_workflow_is_noticed(name, old, new, fault):
    text = re.sub(old, lambda _: new, WORKFLOWS[name], count=1)
    assert text != WORKFLOWS[name] and any(fault in found for found in faults(name, text))


def test_the_tests_run_on_every_supported_python():
    """Those that the Makefile looks for."""
    assert set(yaml.safe_load(WORKFLOWS["test.yml"])["jobs"]["linux"]["strategy"]["matrix"]["python"]) == set(re.findall(r"\bpython(3\.\d+)\b", MAKEFILE))


def validate(schema, *files):
    """What check-jsonschema says of the files, by a schema that it has with it; nothing if they are valid."""
    if importlib.util.find_spec("check_jsonschema") is None:
        message = "NO check-jsonschema IN THIS ENVIRONMENT: the workflows were not compared with GitHub's schema"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    done = subprocess.run([sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *files], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""


@pytest.mark.parametrize("schema, files", [("github-workflows", [f"workflows/{name}" for name in WORKFLOWS]), ("dependabot", ["dependabot.yml"])], ids=["workflows", "dependabot"])
def test_the_files_are_valid(schema, files):
    assert validate(schema, *(ROOT / ".github" / file for file in files)) == ""


@pytest.mark.parametrize("schema, file, old, new", [("github-workflows", "workflows/test.yml", "runs-on:", "run-on:"), ("github-workflows", "workflows/links.yml", "issues: write", "issues: wrote"),
                                                    ("dependabot", "dependabot.yml", "monthly", "mensual")])
def test_an_invalid_file_is_noticed(tmp_path, schema, file, old, new):
    text = (ROOT / ".github" / file).read_text(encoding="utf-8")
    (tmp_path / "file.yml").write_text(text.replace(old, new), encoding="utf-8")
    assert old in text and "Schema validation errors were encountered" in validate(schema, tmp_path / "file.yml")


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="no actionlint on this machine; check-jsonschema has to do")
def test_actionlint_finds_nothing():
    done = subprocess.run(["actionlint", "-no-color", *(ROOT / ".github" / "workflows" / name for name in WORKFLOWS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# What the shell steps do

needs_shell = pytest.mark.skipif(sys.platform == "win32" or None in (shutil.which("bash"), shutil.which("jq")), reason="no bash or no jq on this machine")


def run(name, title, folder, **environment):
    """Run the step called `title` in `folder` as Actions would; programs in folder/bin come first."""
    [script] = [step["run"] for step in steps(yaml.safe_load(WORKFLOWS[name])) if step.get("name") == title]
    environment = os.environ | {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "GITHUB_OUTPUT": str(folder / "output"),
                                "GITHUB_STEP_SUMMARY": str(folder / "summary")} | environment
    return subprocess.run(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def program(file, script):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/usr/bin/env bash\n{script}\n", encoding="utf-8")
    file.chmod(0o755)


@needs_shell
@pytest.mark.parametrize("lost", [None, "index.html", "sitemap.xml", *(f"{PAGES[place]}.html" for place in (0, len(PAGES) // 2, -1))])
def test_nothing_is_published_without_a_page(tmp_path, lost):
    shutil.copy(ROOT / "_toc.yml", tmp_path)
    for file in ("index.html", "sitemap.xml", *(f"{page}.html" for page in PAGES)):
        target = tmp_path / "_build" / "html" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("" if file == lost else "text", encoding="utf-8")
    done = run("publish.yml", "Every page is there", tmp_path)
    assert (done.returncode, done.stderr) == ((1, f"the build left no {lost}\n") if lost else (0, ""))


def test_the_token_of_a_release_is_seen_by_one_step():
    """The one that attaches the PDF; what pip installs runs in another."""
    workflow = yaml.safe_load(WORKFLOWS["release.yml"])
    holders = [step["name"] for step in steps(workflow) if "token" in json.dumps(step).replace("persist-credentials", "")]
    assert holders == ["Attach the PDF to the release"] and WORKFLOWS["release.yml"].count("github.token") == 1 and not workflow.get("env")


@needs_shell
@pytest.mark.parametrize("there, content, returned, asked", [
    (True, "%PDF", 0, ["upload"]),
    (False, "%PDF", 0, ["create", "upload"]),
    (True, "", 1, [])], ids=["a release", "a tag alone", "no PDF"])
def test_the_pdf_is_attached_to_the_release(tmp_path, there, content, returned, asked):
    """... that there is, or to a draft; the file is the one that `make pdf` writes."""
    name = re.search(r'^NAME = "(.+)"$', (ROOT / "tools" / "pdf.py").read_text(encoding="utf-8"), re.M)[1]
    file = tmp_path / "_build" / "pdf" / name
    file.parent.mkdir(parents=True)
    file.write_text(content, encoding="utf-8")
    program(tmp_path / "bin" / "gh", f'if [ "$2" = view ]; then {str(there).lower()}; else echo "$*" >>asked; fi')
    done = run("release.yml", "Attach the PDF to the release", tmp_path, TAG="v1.2")
    assert done.returncode == returned, done.stderr
    words = {"create": "release create v1.2 --draft --verify-tag --generate-notes", "upload": f"release upload v1.2 _build/pdf/{name} --clobber"}
    assert ((tmp_path / "asked").read_text(encoding="utf-8").splitlines() if asked else []) == [words[each] for each in asked]


LINKS = [{"filename": "book/using.md", "lineno": 3, "status": status, "code": code, "uri": f"https://{host}/", "info": info}
         for status, code, host, info in [("working", 200, "good.example", ""), ("broken", 404, "lost.example", "404 `Not`\nFound"), ("redirected", 301, "moved.example", "https://good.example/")]]


@needs_shell
@pytest.mark.parametrize("links, status, returned, broken, report", [
    (LINKS, 1, 0, "1", ["- book/using.md: <https://lost.example/> `404 Not Found`"]),
    (LINKS[:1], 0, 0, "0", []),
    (LINKS[:1], 1, 1, None, []),     # no link is broken, but the build is
    ([], 0, 1, None, [])], ids=["broken link", "good links", "broken build", "no links"])
def test_the_report_names_the_broken_links(tmp_path, links, status, returned, broken, report):
    (tmp_path / "links").write_text("".join(json.dumps(link) + "\n" for link in links), encoding="utf-8")
    program(tmp_path / ".venv-book" / "bin" / "jupyter-book", f"mkdir -p _build/html; cp links _build/html/output.json; exit {status}")
    done = run("links.yml", "Follow every link", tmp_path)
    assert done.returncode == returned, done.stdout + done.stderr
    if broken is not None:
        assert (tmp_path / "output").read_text(encoding="utf-8").splitlines() == [f"broken={broken}", "report<<END", *report, "END"]


@needs_shell
@pytest.mark.parametrize("broken, issues, asked", [
    ("2", [], "issue create --title Broken links --body-file body.md"),
    ("2", [{"number": 7, "title": "Broken links"}], "issue edit 7 --body-file body.md"),
    ("2", [{"number": 7, "title": "Broken links in my fork"}], "issue create --title Broken links --body-file body.md"),
    ("0", [{"number": 7, "title": "Broken links"}], "issue close 7 --comment All links work again: https://run.example"),
    ("0", [], None)])
def test_there_is_one_issue_while_links_are_broken(tmp_path, broken, issues, asked):
    (tmp_path / "issues").write_text(json.dumps(issues), encoding="utf-8")
    program(tmp_path / "bin" / "gh", 'if [ "$2" = list ]; then cat issues; else echo "$*" >>asked; fi')
    done = run("links.yml", "Open, renew or close the issue", tmp_path, TITLE="Broken links", BROKEN=broken, REPORT="- $(touch bad) `touch bad`", RUN="https://run.example")
    assert done.returncode == 0, done.stderr
    assert ((tmp_path / "asked").read_text(encoding="utf-8").splitlines() if asked else (tmp_path / "asked").exists()) == ([asked] if asked else False)
    assert broken == "0" or (tmp_path / "body.md").read_text(encoding="utf-8").endswith("\n\n- $(touch bad) `touch bad`\n") and not (tmp_path / "bad").exists()


@needs_shell
@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
def test_a_fork_adopts_the_book_and_commits_it_once(tmp_path):
    """On GitHub's machine as here, with a folder in place of GitHub: what is pushed leaves the workflows alone; the second time nothing is."""
    from test_fork import commit, git, make_clone, name_in
    make_clone(tmp_path / "fork")
    git(tmp_path, "clone", "--quiet", "--bare", "fork", "github")
    git(tmp_path, "clone", "--quiet", "github", "runner")
    program(tmp_path / "runner" / "bin" / "gh", 'echo "$*" >>asked')
    branch = git(tmp_path / "runner", "branch", "--show-current").strip()
    repository = dict(REPO="Student-42/my-course", BRANCH=branch, ORIGINAL="")
    heads = []
    for _ in range(2):
        done = run("adopt.yml", "Adopt, and commit what changed", tmp_path / "runner", **repository)
        assert done.returncode == 0, done.stdout + done.stderr
        heads.append(git(tmp_path / "github", "rev-parse", branch))
    assert heads[0] == heads[1] != git(tmp_path / "fork", "rev-parse", "HEAD")
    assert (tmp_path / "runner" / "asked").read_text(encoding="utf-8") == "auth setup-git\n"
    git(tmp_path / "fork", "pull", "--quiet", "--ff-only", str(tmp_path / "github"), branch)
    changed = git(tmp_path / "fork", "diff", "--name-only", "HEAD~1").splitlines()
    assert name_in(tmp_path / "fork") == "Student-42/my-course" and "CITATION.cff" in changed and not [name for name in changed if name.startswith((".github", "bin"))]
    commit(tmp_path / "fork", "somebody was quicker")
    git(tmp_path / "fork", "push", "--quiet", str(tmp_path / "github"), f"HEAD:{branch}")
    done = run("adopt.yml", "Adopt, and commit what changed", tmp_path / "runner", **repository | {"REPO": "another/course"})
    assert done.returncode == 1 and f"{branch} was not changed" in done.stderr


def test_pushes_to_the_book_itself_adopt_nothing():
    job = yaml.safe_load(WORKFLOWS["adopt.yml"])["jobs"]["adopt"]
    assert job["if"] == "github.event.repository.fork || github.event_name == 'workflow_dispatch'"
