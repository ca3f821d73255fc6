"""GPT-1's published files: read, refused where damaged, fetched over a line that breaks; its tokens as its authors cut them; more tokens without harm."""
import http.server
import io
import json
import os
import re
import socket
import struct
import threading
import time
import urllib.error

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file

from practitioner.gpt import GPT, GPTConfig, louder, parameter_count
from practitioner.gpt1 import (fetch, FILES, from_hub, from_original, git_name, GPT1Tokenizer, joined_by, original_shapes, our_name, read_parts,
                               read_vocabulary, standardise, to_original, with_more_tokens)

quick = settings(max_examples=60, deadline=None, derandomize=True)
SMALL = GPTConfig(vocab_size=11, n_positions=9, n_embd=12, n_layer=2, n_head=3)


def loud(config=SMALL, seed=0):
    torch.manual_seed(seed)
    return louder(GPT(config)).eval()


def write_parts(folder, row, count=10):
    for number, part in enumerate(np.array_split(row, count)):
        np.save(folder / f"params_{number}.npy", part)


def tokens_of(config, *shape):
    return torch.from_numpy(np.random.default_rng(0).integers(config.vocab_size, size=shape))


def theirs(config):
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel
    return OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=config.vocab_size, n_positions=config.n_positions, n_embd=config.n_embd, n_layer=config.n_layer,
                                                n_head=config.n_head)).eval()


IN_ORDER = ["attn.c_attn", "attn.c_proj", "ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2"]  # in a block, each with its weight before its bias


def row_of(other):
    """The numbers of the library's model in the order of OpenAI's files, which is written down here once more: the tests of a loader must not ask it."""
    state = other.transformer.state_dict()
    names = ["positions_embed.weight", "tokens_embed.weight"]
    names += [f"h.{layer}.{part}.{kind}" for layer in range(other.config.n_layer) for part in IN_ORDER for kind in ("weight", "bias")]
    return np.concatenate([state[name].reshape(-1).numpy() for name in names])


# The files of 2018

def test_the_list_of_shapes_is_the_published_file():
    assert git_name(json.dumps(original_shapes(GPTConfig())).encode()) == FILES["params_shapes.json"]
    assert sum(np.prod(shape) for shape in original_shapes(GPTConfig())) == parameter_count(GPTConfig()) == 116_534_784


def test_git_s_name_is_git_s():
    assert git_name() == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391" and git_name(b"hel", b"lo\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


@pytest.mark.parametrize("count", [1, 3, 10])
def test_a_model_comes_back_from_its_files_to_the_last_bit(tmp_path, count):
    model = loud()
    write_parts(tmp_path, to_original(model), count)
    found = from_original(read_parts(tmp_path, count), SMALL)
    assert not found.training and found.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in model.state_dict().items())


def test_what_was_loaded_can_be_trained(tmp_path):
    write_parts(tmp_path, to_original(loud()))
    model = from_original(read_parts(tmp_path), SMALL)
    model(tokens_of(SMALL, 2, 9)).sum().backward()
    assert all(parameter.grad is not None and parameter.requires_grad for parameter in model.parameters())


def test_what_was_loaded_depends_on_nothing_outside_and_can_be_saved(tmp_path):
    row = to_original(loud())
    model, tokens = from_original(row, SMALL), tokens_of(SMALL, 2, 9)
    with torch.no_grad():
        before = model(tokens)
        row[:] = 0
        assert torch.equal(model(tokens), before)
        model.tokens.weight.zero_()
        assert not row.any()
    save_file(model.state_dict(), tmp_path / "model.safetensors")


def test_the_order_is_that_of_the_library_s_numbers():
    other = theirs(SMALL)
    louder(other)
    model, tokens = from_original(row_of(other), SMALL), tokens_of(SMALL, 2, 9)
    with torch.no_grad():
        assert (model(tokens) - other(tokens).logits).abs().max() < 1e-5


def test_at_full_size_it_is_the_library_s(tmp_path):
    """Ten files of the size of GPT-1's, with random numbers: the logits are those of transformers with the same numbers."""
    config = GPTConfig()
    other = theirs(config)
    with torch.no_grad():  # the authors' gains are no ones, and their biases no zeros
        for parameter in other.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    write_parts(tmp_path, row_of(other))
    model = from_original(read_parts(tmp_path))
    tokens = tokens_of(config, 1, 512)
    with torch.no_grad():
        assert (model(tokens) - other(tokens).logits).abs().max() < 1e-5


def zipped(array):
    file = io.BytesIO()
    np.savez(file, array)
    return file.getvalue()


BROKEN = {
    "missing": (lambda file: file.unlink(), "params_3.npy cannot be read"),
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-5]), "params_3.npy cannot be read"),
    "empty": (lambda file: file.write_bytes(b""), "params_3.npy cannot be read"),
    "no array": (lambda file: file.write_bytes(b"<html>404</html>"), "params_3.npy cannot be read"),
    "many arrays": (lambda file: file.write_bytes(zipped(np.load(file))), "params_3.npy cannot be read"),
    "weights of torch": (lambda file: torch.save({"a": torch.ones(2)}, file), "params_3.npy cannot be read"),
    "a damaged head": (lambda file: file.write_bytes(file.read_bytes().replace(b"'shape'", b"'sh(pe'")), "params_3.npy cannot be read"),
    "a huge shape": (lambda file: file.write_bytes(re.sub(rb"\(\d+,\), }     ", b"(10**13,), }", file.read_bytes())), "params_3.npy cannot be read"),
    "pickled objects": (lambda file: np.save(file, np.array([print], dtype=object), allow_pickle=True), "params_3.npy cannot be read.*allow_pickle"),
    "another type": (lambda file: np.save(file, np.load(file).astype(np.float64)), "params_3.npy has float64"),
    "another shape": (lambda file: np.save(file, np.load(file)[None]), r"params_3.npy has float32 of shape \(1, "),
    "shorter": (lambda file: np.save(file, np.load(file)[:-1]), "numbers, and"),
    "not a number": (lambda file: np.save(file, np.full_like(np.load(file), np.nan)), "are not finite"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_damaged_part_is_refused_by_its_name(tmp_path, fault):
    write_parts(tmp_path, to_original(loud()))
    change, says = BROKEN[fault]
    change(tmp_path / "params_3.npy")
    with pytest.raises(ValueError, match=says):
        from_original(read_parts(tmp_path), SMALL)


# The hub's file

@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("config", [SMALL, GPTConfig(300, 32, 24, 3, 4)])
def test_the_hub_s_file_gives_the_library_s_logits(tmp_path, config, prefix):
    other = theirs(config)
    louder(other)
    tensors = {prefix + name.removeprefix("transformer."): value.clone() for name, value in other.state_dict().items() if name != "lm_head.weight"}
    tensors |= {f"{prefix}h.{layer}.attn.bias": torch.ones(1, 1, 9, 9).tril() for layer in range(config.n_layer)}  # masks, as older files have them
    save_file(tensors, tmp_path / "model.safetensors")
    model, tokens = from_hub(tmp_path / "model.safetensors", config.n_head), tokens_of(config, 2, config.n_positions)
    assert model.config == config and not model.training
    with torch.no_grad():
        assert (model(tokens) - other(tokens).logits).abs().max() < 1e-5


def test_the_model_does_not_depend_on_the_hub_s_file(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({name: value.clone() for name, value in theirs(SMALL).state_dict().items()}, file)
    model, tokens = from_hub(file, 3), tokens_of(SMALL, 2, 9)
    before = model(tokens)
    with open(file, "r+b") as opened:
        opened.seek(-5000, 2)
        opened.write(bytes(5000))
    assert torch.equal(model(tokens), before)
    file.unlink()


@pytest.mark.parametrize("name, ours", [
    ("h.0.ln_1.weight", "blocks.0.norm_1.weight"), ("transformer.h.11.attn.c_attn.bias", "blocks.11.qkv.bias"), ("h.3.mlp.c_proj.weight", "blocks.3.down.weight"),
    ("tokens_embed.weight", "tokens.weight"), ("h.0.attn.bias", None), ("position_ids", None), ("lm_head.weight", None)])
def test_names_of_the_hub(name, ours):
    assert our_name(name) == ours


@pytest.mark.parametrize("name", ["a.b.attn.bias", "x.0.ln_1.weight", "h.0.attn.c_attn", "wte.weight", "h.0.ln_3.weight", "h"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="is no parameter of GPT-1"):
        our_name(name)


def test_another_file_is_no_gpt1(tmp_path):
    file = tmp_path / "model.safetensors"
    good = {name: value.clone() for name, value in theirs(SMALL).state_dict().items()}
    faults = [good | {"extra.weight": torch.ones(2)}, {name: value for name, value in good.items() if not name.endswith("h.1.ln_2.bias")},
              {name: value for name, value in good.items() if "tokens_embed" not in name}, good | {"transformer.h.0.ln_1.weight": torch.ones(5)},
              good | {"lm_head.weight": torch.ones(11, 12)}, good | {"h.0.ln_1.weight": torch.ones(12)}, good | {"transformer.h.0.ln_1.weight": torch.full((12,), torch.nan)},
              good | {"transformer.h.0.ln_1.weight": torch.ones(12, dtype=torch.int8)}]
    for tensors in faults:
        save_file(tensors, file)
        with pytest.raises(ValueError, match="model.safetensors holds no GPT-1 with 3 heads, or a damaged one"):
            from_hub(file, 3)
    save_file(good, file)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match="holds no GPT-1 with 3 heads, or a damaged one"):
        from_hub(file, 3)
    save_file(good, file)
    for n_head in 5, 0:
        with pytest.raises(ValueError, match=f"no GPT-1 with {n_head} heads.*share n_embd evenly|by zero"):
            from_hub(file, n_head)


# Over a line that breaks

class Server(http.server.BaseHTTPRequestHandler):
    content, piece, ranges, rude, asked = b"", 0, True, False, []

    def do_GET(self):
        wanted = self.headers.get("Range") if self.ranges else None
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        type(self).asked.append(start)
        if start >= len(self.content) and wanted:
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start:start + self.piece])
        if self.rude:  # no good-bye: the other side is told that the line is dead
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            time.sleep(0.2)
            self.connection.close()

    def log_message(self, *_):
        pass


@pytest.fixture
def served():
    """A function that makes a server of some content, which breaks off after a piece of it: its address, and from where it was asked."""
    servers = []

    def serve(content, piece=10**9, ranges=True, rude=False):
        kind = type("Own", (Server,), dict(content=content, piece=piece, ranges=ranges, rude=rude, asked=[]))
        servers.append(http.server.HTTPServer(("127.0.0.1", 0), kind))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/file", kind.asked
    yield serve
    for server in servers:
        server.shutdown(), server.server_close()


CONTENT = np.random.default_rng(0).bytes(100_000)


def test_a_file_comes_in_one_go_and_is_not_fetched_again(served, tmp_path):
    url, asked = served(CONTENT)
    for _ in range(2):
        assert fetch(url, tmp_path / "deep" / "file", git_name(CONTENT), quiet=True).read_bytes() == CONTENT
    assert asked == [0] and os.listdir(tmp_path / "deep") == ["file"]


def test_a_file_comes_in_pieces_each_from_where_the_last_one_ended(served, tmp_path):
    url, asked = served(CONTENT, piece=40_000)
    for kept in 40_000, 80_000:
        with pytest.raises(ConnectionError, match=f"broke after {kept:,} bytes. Call again"):
            fetch(url, tmp_path / "file", git_name(CONTENT), quiet=True)
        assert os.listdir(tmp_path) == ["file.part"]
    fetch(url, tmp_path / "file", git_name(CONTENT), quiet=True)
    assert (tmp_path / "file").read_bytes() == CONTENT and asked == [0, 40_000, 80_000]


@pytest.mark.skipif(os.name == "nt", reason="sockets linger otherwise there")
def test_a_line_that_dies_loses_nothing_that_came(served, tmp_path):
    url, asked = served(CONTENT, piece=60_000, rude=True)
    with pytest.raises(ConnectionError, match="Call again"):
        fetch(url, tmp_path / "file", git_name(CONTENT), quiet=True)
    assert (tmp_path / "file.part").stat().st_size == 60_000
    try:
        fetch(url, tmp_path / "file", git_name(CONTENT), quiet=True)
    except ConnectionError:  # it died after the last byte
        fetch(url, tmp_path / "file", git_name(CONTENT), quiet=True)
    assert (tmp_path / "file").read_bytes() == CONTENT and asked[1] == 60_000


def test_a_part_of_another_file_is_begun_anew(served, tmp_path):
    url, asked = served(CONTENT)
    (tmp_path / "file.part").write_bytes(b"of another file")
    assert fetch(url, tmp_path / "file", git_name(CONTENT), quiet=True).read_bytes() == CONTENT and asked == [15, 0]


def test_a_file_that_is_not_there_says_so_and_not_to_call_again(tmp_path, served):
    class Nothing(Server):
        def do_GET(self):
            self.send_error(404)
    server = http.server.HTTPServer(("127.0.0.1", 0), Nothing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetch(f"http://127.0.0.1:{server.server_port}/file", tmp_path / "file", git_name(b""), quiet=True)
    server.shutdown(), server.server_close()


def test_a_server_that_knows_no_ranges_begins_anew(served, tmp_path):
    url, _ = served(CONTENT, ranges=False)
    (tmp_path / "file.part").write_bytes(CONTENT[:30_000])
    assert fetch(url, tmp_path / "file", git_name(CONTENT), quiet=True).read_bytes() == CONTENT


def test_a_part_that_is_all_there_is_only_named(served, tmp_path):
    url, asked = served(CONTENT)
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert fetch(url, tmp_path / "file", git_name(CONTENT), quiet=True).read_bytes() == CONTENT and asked == [len(CONTENT)]


@pytest.mark.parametrize("begun", [b"", b"of another file"])
def test_other_content_is_thrown_away_and_what_was_there_is_not_touched(served, tmp_path, begun):
    url, _ = served(CONTENT)
    (tmp_path / "file").write_bytes(b"older")
    if begun:
        (tmp_path / "file.part").write_bytes(begun)
    name = git_name(b"something else")
    with pytest.raises(ValueError, match=f"was to be {name}, and is "):
        fetch(url, tmp_path / "file", name, quiet=True)
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"older"


def test_a_damaged_file_is_fetched_anew(served, tmp_path):
    url, _ = served(CONTENT)
    (tmp_path / "file").write_bytes(CONTENT[:-1])
    assert fetch(url, tmp_path / "file", git_name(CONTENT), quiet=True).read_bytes() == CONTENT


def test_where_nobody_answers_it_says_so(tmp_path):
    with pytest.raises(ConnectionError, match="127.0.0.1:9/file.*Call again"):
        fetch("http://127.0.0.1:9/file", tmp_path / "file", git_name(b""), quiet=True)


# Tokens

@pytest.mark.parametrize("text, standard", [
    ("Wow!!! What?!", "Wow !!! What ? !"), ("a—b – c ― d…", "a - b - c - d..."), ("it´s", "it's"), ("a \n\n b\tc  d ", "a \n b c d"), ("--~~", "-- ~~"),
    ("x\\y++z", "x\\y ++ z"), ("(a){b}[c]|d_e*f/g;h,i\"j\"", "( a ) { b } [ c ] | d _ e * f / g ; h , i \" j \""), ("", ""), (" \n ", "")])
def test_text_is_prepared_as_by_the_authors(text, standard):
    """What these should be was found by the authors' own program."""
    assert standardise(text) == standard


def test_pairs_are_joined_in_the_order_of_the_merges():
    rank = {pair: rank for rank, pair in enumerate([("l", "o"), ("e", "r</w>"), ("lo", "w"), ("a", "a"), ("aa", "aa")])}
    assert joined_by(rank, ["l", "o", "w", "e", "r</w>"]) == ["low", "er</w>"]
    assert joined_by(rank, ["a"] * 5) == ["aaaa", "a"] and joined_by(rank, ["x</w>"]) == ["x</w>"]


@pytest.fixture(scope="module")
def vocabulary():
    """Letters and a few merges, as the two files have them."""
    merges = [("t", "h"), ("th", "e</w>"), ("d", "o</w>"), ("n", "'"), ("n'", "t</w>"), ("i", "s</w>")]
    letters = "abcdefghijklmnopqrstuvwxyz.,!?'-é\n0123456789\\"
    names = ["<unk>", *letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    return {name: number for number, name in enumerate(names)}, merges


def test_the_two_files_are_read(vocabulary, tmp_path):
    names, merges = vocabulary
    (tmp_path / "encoder.json").write_text(json.dumps(names), encoding="utf-8")
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\n" + "".join(f"{one} {two}\n" for one, two in merges), encoding="utf-8")
    assert read_vocabulary(tmp_path / "encoder.json", tmp_path / "vocab.bpe") == (names, merges)
    for wrong in "t h\nth e</w>\n", "#version: 0.2\nt h e\n", "#version: 0.2\n\nt h\n":
        (tmp_path / "vocab.bpe").write_text(wrong, encoding="utf-8")
        with pytest.raises(ValueError, match="vocab.bpe is no list of merges"):
            read_vocabulary(tmp_path / "encoder.json", tmp_path / "vocab.bpe")


@pytest.mark.parametrize("text, tokens", [
    ("Don't!", "do</w>|n't</w>|!</w>"), ("THE\nis", "the</w>|\n</w>|is</w>"), ("é…", "é</w>|.|.|.</w>"),
    ("a☃", "a</w>|<unk>"), ("hello\\", "h|e|l|l|o|\\</w>"), ("", "")])
def test_words_are_those_of_the_authors(vocabulary, text, tokens):
    tokenizer = GPT1Tokenizer(*vocabulary)
    assert "|".join(tokenizer.tokens[number] for number in tokenizer.encode(text)) == tokens


def test_what_is_encoded_can_be_read_again(vocabulary):
    tokenizer = GPT1Tokenizer(*vocabulary)
    assert tokenizer.decode(tokenizer.encode("Is the, IS it?")) == "is the , is it ?"


# More tokens

@quick
@given(st.integers(1, 40), st.integers(0, 99))
def test_means_cost_no_more_than_their_bound(count, seed):
    model, tokens = loud(seed=seed), tokens_of(SMALL, 2, 9)
    longer = with_more_tokens(model, count)
    with torch.no_grad():
        before, after = (-torch.log_softmax(each(tokens).double(), -1)[..., :11] for each in (model, longer))
        assert torch.equal(longer.features(tokens), model.features(tokens))
    assert (0 < after - before).all() and (after - before <= np.log1p(count / 11) + 1e-5).all()
    assert torch.allclose((after - before).amax(-1), (after - before).amin(-1), atol=1e-5)  # each by the same factor


def test_new_rows_come_last_and_are_learned(tmp_path):
    model = loud()
    longer = with_more_tokens(model.train(), 2, "random")
    assert longer.training and longer.config.vocab_size == 13 and torch.equal(longer.tokens.weight[:11], model.tokens.weight)
    assert not torch.equal(longer.tokens.weight[11], longer.tokens.weight[12]) and 0.005 < longer.tokens.weight[11:].std() < 0.05
    longer(torch.tensor([[0, 12]])).logsumexp(-1).sum().backward()
    assert (longer.tokens.weight.grad[11:] != 0).any(dim=1).all()


def test_what_is_frozen_stays_so_and_no_number_is_drawn():
    model = loud().requires_grad_(False)
    model.positions.weight.requires_grad_(True)
    before = torch.get_rng_state()
    longer = with_more_tokens(model, np.int64(2))
    assert torch.equal(before, torch.get_rng_state()) and type(longer.config.vocab_size) is int
    assert [name for name, parameter in longer.named_parameters() if parameter.requires_grad] == ["positions.weight"]


@pytest.mark.parametrize("count, how", [(0, "mean"), (-1, "mean"), (2, "zero")])
def test_other_ways_are_refused(count, how):
    with pytest.raises(ValueError, match=f"not {count}, '{how}'"):
        with_more_tokens(loud(), count, how)
