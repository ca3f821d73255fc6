"""The chat in the page: `{chat}` puts it there, and its files into the site.

Its scripts are book/_extra/chat, which Sphinx copies as they are. The weights, `chat_weights` in _config.yml, the table of tokens and the
rules of the chatbot are copied here, under names with a hash of their content, so that no browser takes an old file for a new one."""
import hashlib
import html
import json
import pathlib
import shutil

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FORM = pathlib.Path(__file__).with_name("chat.html")
BESIDE = {"tokens": "data/lstm/bpe-4096.json", "behaviour": "data/chat/behaviour.json", "blocked": "data/chat/blocked.json"}
# What stands there for those who cannot chat is gone as soon as it is read, and comes back if no chat has come: of a page in a folder, or in an old browser.
GONE = """<script>{
  const instead = document.currentScript.previousElementSibling;
  instead.hidden = "noModule" in HTMLScriptElement.prototype;
  addEventListener("load", () => { instead.hidden = !document.querySelector(".chat").hidden; });
}</script>"""


def served(weights):
    """What the page fetches, each with its file, its name in the site's folder `chat`, its size and its hash."""
    files = {}
    for kind, name in ({"weights": weights} | BESIDE).items():
        file = ROOT / name
        content = file.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        files[kind] = {"file": file, "name": f"{kind}-{sha256[:16]}{file.suffix}", "bytes": len(content), "sha256": sha256}
    return files


def form(files, root):
    """The chat as HTML, for a page from which `root` leads to the site's folder."""
    about = {kind: {"url": f"{root}chat/{file['name']}", "bytes": file["bytes"], "sha256": file["sha256"]} for kind, file in files.items()}
    return FORM.read_text(encoding="utf-8").replace("{files}", html.escape(json.dumps(about)))


class Chat(SphinxDirective):
    """`{chat}`: the chat; and its content for those who read without JavaScript, from a folder, or on paper."""
    has_content = True

    def run(self):
        weights = self.config.chat_weights
        for name in weights, FORM, *BESIDE.values():
            self.env.note_dependency(str(ROOT / name))
        if not (ROOT / weights).is_file():
            raise self.error(f"there is no {weights}, which chat_weights in _config.yml names")
        root = "../" * self.env.docname.count("/")
        instead = nodes.container(classes=["chat-instead"])
        instead += self.parse_content_to_nodes()
        parts = f'{GONE}\n{form(served(weights), root)}<script type="module" src="{root}chat/widget.js"></script>'
        return [instead, nodes.raw("", parts, format="html")]


def copy_files(app, exception):
    """Into the site's folder `chat`, in which no other weights are left."""
    if exception or app.builder.name != "html" or not (ROOT / app.config.chat_weights).is_file():
        return
    folder = pathlib.Path(app.outdir, "chat")
    files = served(app.config.chat_weights)
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*-*.*"):
        old.unlink()
    for file in files.values():
        shutil.copyfile(file["file"], folder / file["name"])


def setup(app):
    app.add_config_value("chat_weights", "data/chat/chat.safetensors", "env")
    app.add_directive("chat", Chat)
    app.connect("build-finished", copy_files)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
