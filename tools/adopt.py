"""Make a fork your own: put its name wherever the repository's stands (`make adopt REPO=owner/name`).

The buttons of the published pages follow a fork by themselves; this does the rest: the set-up cells of the notebooks,
the links in the text, the badges of README, and the citation, which from then on names the book that the fork was made from.
Run it again after every merge: it also replaces the name of the book you forked where a merge has brought it in.
With --original (`make adopt REPO=owner/name ORIGINAL=yes`) it gives the book itself a home, and nothing is a fork of anything."""
import argparse
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?/[A-Za-z0-9._-]+")
PLACEHOLDER = ("YOUR_ACCOUNT", "becoming-a-machine-learning-practitioner")  # the book's name while it has no home
WORKFLOWS = ".github/"  # they name no repository, and the token of a workflow may not change them
MADE_FROM = '''\
  - type: software
    title: Becoming a Machine Learning Practitioner
    notes: The book that this one was made from.
    authors:
      - name: The authors of Becoming a Machine Learning Practitioner
'''


def names_in(pattern, *files):
    """The repositories, (owner, name), that `pattern` finds in the files."""
    return [found for file in files if file.exists() for found in re.findall(pattern, file.read_text(encoding="utf-8"), re.M)]


def current():
    """The owner and the name of the repository that _config.yml names."""
    found = names_in(r"^ *url: https://github\.com/([^/\s]+)/(\S+)$", ROOT / "_config.yml")
    if len(found) != 1:
        sys.exit(f"_config.yml must name one repository, under `url:`, but names {len(found)}. If a merge left a conflict there, settle it first.")
    return found[0]


def earlier():
    """Names that are replaced too: the placeholder, the cited original's, and those that a merge brought into CITATION.cff and set-up cells."""
    found = names_in(r"^ *repository-code: https://github\.com/([^/\s]+)/(\S+)$", ROOT / "CITATION.cff")
    found += names_in(r'"REPOSITORY = \\"([^/"\\]+)/([^"\\]+)\\"', *sorted((ROOT / "notebooks").glob("*.ipynb")))
    return {PLACEHOLDER, *found}


def adopt(text, old, new):
    """`text` with the repository `old` (owner, name) replaced by `new`: as an address, as pages, and as a folder to enter."""
    for pattern in "{0}/{1}", "{0}.github.io/{1}", "cd {1}\n":
        before, after = pattern.format(*old), pattern.format(*new)
        if before in text:  # seen at once, where the pattern below looks at each place
            text = re.sub(rf"(?<![\w.-]){re.escape(before)}(?![\w-])", lambda _: after, text)
    return text


def cite(text, old, new, original):
    """The text of CITATION.cff, naming `new` in place of the names `old`, and, unless `new` is the original, the book that it was made from."""
    own, found, made_from = text.partition("references:\n")
    for name in old:
        own = adopt(own, name, new)
    if original or f"repository-code: https://github.com/{'/'.join(new)}\n" in made_from:
        return own
    others = [name for name in old if name not in (new, PLACEHOLDER)]
    if not found and (others or old[0] == PLACEHOLDER):
        found, made_from = "references:\n", MADE_FROM + "".join(f"    repository-code: https://github.com/{'/'.join(name)}\n" for name in others[:1])
    return own + found + made_from


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", help="owner/name, as on GitHub")
    parser.add_argument("--original", action="store_true", help="the repository is the book's own home, not a fork of it")
    options = parser.parse_args()
    if not NAME.fullmatch(options.repository):
        parser.error(f"{options.repository!r} is not of the form owner/name")
    new = tuple(options.repository.split("/"))
    old = [current(), *sorted(earlier() - {current()})]
    if new != old[0] or options.original:
        print(f"{'/'.join(old[0])} is now {options.repository}")
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    changed = []
    for name in filter(None, listed.split("\0")):
        file = ROOT / name
        if name.startswith(WORKFLOWS) or not file.is_file():  # a file may have been deleted, or be a link to a folder
            continue
        try:
            before = after = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a picture
            continue
        if name == "CITATION.cff":
            after = cite(before, old, new, options.original)
        else:
            for each in old:
                after = adopt(after, each, new)
        if after != before:
            file.write_text(after, encoding="utf-8", newline="\n")
            changed.append(name)
    print(f"{len(changed)} files changed" + "".join(f"\n  {name}" for name in changed))


if __name__ == "__main__":
    sys.exit(main())
