"""Make a fork your own: put its name wherever the repository's stands (`make adopt REPO=owner/name`).

The buttons of the published pages follow a fork by themselves; this does the rest: the set-up cells of the notebooks,
the links in the text and in README, and the citation. The old name is read from _config.yml, so it can be run again."""
import argparse
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?/[A-Za-z0-9._-]+")


def current():
    """The owner and the name of the repository that _config.yml names."""
    return re.search(r"url: https://github\.com/([^/\s]+)/(\S+)", (ROOT / "_config.yml").read_text(encoding="utf-8")).groups()


def adopt(text, old, new):
    """`text` with the repository `old` (owner, name) replaced by `new`: as an address, as pages, and as a folder to enter."""
    for pattern in "{0}/{1}", "{0}.github.io/{1}", "cd {1}\n":
        before, after = pattern.format(*old), pattern.format(*new)
        text = text.replace(before, after)
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", help="owner/name, as on GitHub")
    repository = parser.parse_args().repository
    if not NAME.fullmatch(repository):
        parser.error(f"{repository!r} is not of the form owner/name")
    old, new = current(), tuple(repository.split("/"))
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    changed = []
    for name in filter(None, listed.split("\0")):
        file = ROOT / name
        try:
            before = file.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):  # a picture, or a file that was deleted
            continue
        after = adopt(before, old, new)
        if after != before:
            file.write_text(after, encoding="utf-8", newline="\n")
            changed.append(name)
    print(f"{'/'.join(old)} is now {repository} in {len(changed)} files" + "".join(f"\n  {name}" for name in changed))


if __name__ == "__main__":
    sys.exit(main())
