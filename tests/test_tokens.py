"""Byte-level BPE against the library tokenizers and against itself; files; special tokens; n-grams of tokens against those of bytes."""
import html
import json
import pathlib
import random
import re
import unicodedata
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from tokenizers import Tokenizer, pre_tokenizers

from practitioner import tokens as module
from practitioner.lstm import train_bpe
from practitioner.prediction import NGram, NGramCounts, as_bytes, kneser_ney
from practitioner.tokens import (
    BPE, BYTES, TOKEN_OF, WORD, TokenNGram, cut_word, each_order, encode_each, from_library, joined, learn_bpe, learn_merges, load_bpe,
    next_token_probabilities, show_boxes, show_tokens, spell)

quick = settings(max_examples=25, deadline=None, derandomize=True)
FILE = pathlib.Path(__file__).resolve().parent.parent / "data" / "lstm" / "bpe-4096.json"
LIBRARY, KEPT = Tokenizer.from_file(str(FILE)), load_bpe(FILE)
SMALL = learn_bpe(["the cat and the hat, that cat and that hat"] * 3, 270)
# Not what one of two tables of Unicode may not know yet.
texts = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=60)
few_letters = st.lists(st.text("ab' .\n1é", max_size=30), min_size=1, max_size=5)


# Joining and learning

@quick
@given(st.text("ab", max_size=30), st.sampled_from(["aa", "ab", "ba", "bb"]))
def test_joining_is_replacing_from_left_to_right(word, pair):
    """... which Python's own `replace` does."""
    assert "".join(joined(list(word), tuple(pair), "c")) == word.replace(pair, "c")


def recounted(counts, number):
    """`learn_merges` without any of its ideas: all pairs are counted again each time."""
    words, merges = [([TOKEN_OF[byte] for byte in word.encode()], n) for word, n in counts.items()], []
    while len(merges) < number:
        pairs = Counter()
        for word, n in words:
            for pair in pairwise(word):
                pairs[pair] += n
        if not pairs:
            break
        merges.append(min(pairs, key=lambda pair: (-pairs[pair], pair)))
        words = [(joined(word, merges[-1], 255 + len(merges)), n) for word, n in words]
    return merges


@quick
@given(st.dictionaries(st.text("abc", min_size=1, max_size=12), st.integers(1, 4), max_size=12), st.integers(0, 40))
def test_learning_is_counting_again_and_again(counts, number):
    merges = learn_merges(counts, number)
    assert merges == recounted(counts, number)
    assert len(set(spell(merges))) == 256 + len(merges)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(few_letters, st.integers(256, 320))
@example(["aaaa aaa aa"], 270)
def test_the_library_learns_the_same(pieces, size):
    theirs = from_library(json.loads(train_bpe(pieces, size).to_str()))
    assert learn_bpe(pieces, size).merges == theirs.merges


def test_the_library_learns_the_same_from_odd_text():
    odd = ["naïve café ☕ 😀👍🏽 你好吗? Привет!\tI'll\r\n\r\n ½ 2² _x_ …\u00a0\u3000", "'S don't DON'T 1,000.50 " * 3, "日本語 日本 日本語で 本"]
    for size in 256, 257, 300, 400:
        theirs = from_library(json.loads(train_bpe(odd, size).to_str()))
        assert learn_bpe(odd, size).merges == theirs.merges


def test_the_order_of_the_words_does_not_matter():
    words = [*Counter(WORD.findall("the cat and the hat, that cat and that hat; a tac, a tah")).items()]
    known = learn_merges(dict(words), 30)
    for seed in range(5):
        random.Random(seed).shuffle(words)
        assert learn_merges(dict(words), 30) == known


def test_a_small_vocabulary_is_the_beginning_of_a_large_one():
    pieces = ["the cat and the hat, that cat and that hat"]
    large = learn_bpe(pieces, 280)
    assert [learn_bpe(pieces, size).merges for size in range(256, 280)] == [large.merges[:n] for n in range(24)]


def test_learning_ends_where_there_is_nothing_to_join():
    assert learn_bpe(["ab", "ab"], 500).token_bytes[256:] == [b"ab"] and learn_bpe([], 500).vocab_size == 256


@pytest.mark.parametrize("arguments", [("one text", 300), (b"bytes", 300), (["a"], 255), (["a"], 65_537)])
def test_what_cannot_be_learned_is_refused(arguments):
    with pytest.raises(ValueError, match="learn_bpe takes"):
        learn_bpe(*arguments)


# Encoding

@pytest.mark.parametrize("bpe", [KEPT, SMALL], ids=["4,096", "270"])
@quick
@given(texts)
def test_every_text_comes_back(bpe, text):
    tokens = bpe.encode(text)
    assert tokens.dtype == np.uint16 and bpe.decode(tokens) == text.encode()


@pytest.mark.parametrize("bpe", [KEPT, SMALL], ids=["4,096", "270"])
@quick
@given(st.binary(max_size=60))
def test_all_bytes_come_back(bpe, data):
    """... and where they are UTF-8, they are encoded as their text is."""
    assert bpe.decode(bpe.encode(data)) == data
    assert bpe.encode(bytearray(data)).tolist() == bpe.encode(np.frombuffer(data, np.uint8)).tolist() == bpe.encode(data).tolist()
    try:
        assert bpe.encode(data.decode()).tolist() == bpe.encode(data).tolist()
    except UnicodeDecodeError:
        pass


@settings(max_examples=200, deadline=None, derandomize=True)
@given(texts | st.text("aehinrst '\n\t.,!?013", max_size=80))
def test_the_library_encodes_the_same(text):
    assert KEPT.encode(text).tolist() == LIBRARY.encode(text).ids


def test_words_are_the_library_s_for_all_characters_that_both_know():
    """Each beside letters, digits, spaces and itself."""
    theirs = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assigned = [chr(code) for code in range(0x20000) if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co", "Lo")]
    others = [chr(code) for code in range(0x300, 0x20000, 37) if unicodedata.category(chr(code)) == "Lo"]
    for first in range(0, len(assigned + others), 500):
        text = "".join(f"x{sign}y {sign}{sign} 1{sign}2  {sign}'s " for sign in (assigned + others)[first:first + 500])
        assert WORD.findall(text) == [text[start:end] for _, (start, end) in theirs.pre_tokenize_str(text)]


@quick
@given(texts)
def test_words_put_together_are_the_text(text):
    assert "".join(WORD.findall(text)) == text


def test_encoding_is_learning_replayed():
    """The words that were learned from are cut as learning left them."""
    counts = Counter(WORD.findall("the cat and the hat, that cat and that hat; a tac, a tah, hahahahaha aaaaa"))
    for number in range(0, 40, 3):
        merges, words = learn_merges(counts, number), [[TOKEN_OF[byte] for byte in word.encode()] for word in counts]
        for new, pair in enumerate(merges, start=256):
            words = [joined(word, pair, new) for word in words]
        assert [cut_word(word.encode(), BPE(merges).ranks) for word in counts] == words


def test_the_earliest_merge_is_made_and_not_the_longest_token():
    spelled = [b"ab", b"bc", b"bcd"]
    merges = [(TOKEN_OF[97], TOKEN_OF[98]), (TOKEN_OF[98], TOKEN_OF[99]), (257, TOKEN_OF[100])]
    bpe = BPE(merges)
    assert bpe.token_bytes[256:] == spelled
    assert [bpe.token_bytes[token] for token in bpe.encode("abcd")] == [b"ab", b"c", b"d"]


def test_what_was_read_before_changes_nothing():
    fresh, used = BPE(KEPT.merges), BPE(KEPT.merges)
    for text in "the cat", "hat", "the hat, the cat":
        assert used.encode(text).tolist() == BPE(KEPT.merges).encode(text).tolist()
    used.encode("the hat")[:] = 0  # what was given away is not what is kept
    assert used.encode("the hat").tolist() == fresh.encode("the hat").tolist()


def test_a_long_word_takes_no_age():
    assert KEPT.decode(KEPT.encode("a" * 20_000)) == b"a" * 20_000


def test_half_a_surrogate_pair_is_no_text():
    with pytest.raises(ValueError):
        KEPT.encode("a\ud83dz")
    with pytest.raises(ValueError):
        KEPT.encode("\udc80")  # as Python writes a byte that is no UTF-8
    with pytest.raises(TypeError):
        KEPT.encode(5)


@quick
@given(st.lists(st.integers(0, 4095), max_size=30))
def test_all_tokens_can_be_decoded(tokens):
    assert KEPT.decode(tokens) == b"".join(KEPT.token_bytes[token] for token in tokens) == KEPT.decode(np.array(tokens, np.uint16))


@pytest.mark.parametrize("tokens", [[4096], [-1], [1.5], [[1, 2]], 5, ["a"], [2**40]])
def test_what_is_no_token_is_refused(tokens):
    with pytest.raises(ValueError, match="below 4096"):
        KEPT.decode(tokens)


def test_texts_are_encoded_each_by_itself():
    tokens, lengths = encode_each(KEPT, ["the end\n\n", "", "\n\nA: hello"])
    assert tokens.dtype == np.uint16 and sum(lengths) == len(tokens) and lengths[1] == 0
    assert tokens.tolist() == [token for text in ("the end\n\n", "\n\nA: hello") for token in KEPT.encode(text)]
    none, lengths = encode_each(KEPT, [])
    assert none.dtype == np.uint16 and len(none) == len(lengths) == 0


# Special tokens

NAMES = ["<|end|>", "the", " ", "\n"]


@quick
@given(st.lists(st.sampled_from(NAMES) | texts, max_size=6).map("".join) | st.binary(max_size=40))
def test_no_text_is_a_special_token(text):
    """Whatever they are called, and the other tokens stay as they are."""
    marked = BPE(KEPT.merges, special=NAMES)
    assert marked.encode(text).tolist() == KEPT.encode(text).tolist() and all(marked.encode(text) < 4096)


def test_a_special_token_stands_for_no_bytes():
    marked = BPE(KEPT.merges, special=NAMES)
    assert marked.special == {name: 4096 + n for n, name in enumerate(NAMES)} and marked.vocab_size == 4100
    assert marked.decode([4096, 4099]) == b"" and [len(piece) for piece in marked.token_bytes[4096:]] == [0] * 4
    with pytest.raises(ValueError, match="below 4100"):
        marked.decode([4100])


@pytest.mark.parametrize("merges, special, says", [
    ([(0, 256)], [], "merge 0 joins 0 and 256"), ([(-1, 0)], [], "joins -1"), ([(0, 1), (0, 1)], [], "two tokens stand for the same bytes"),
    ([(0, 1), (256, 2), (1, 2), (0, 258)], [], "two tokens"), ([], ["a", "a"], "different names"), ([], range(65_281), "at most 65,536")])
def test_what_is_no_vocabulary_is_refused(merges, special, says):
    with pytest.raises(ValueError, match=says):
        BPE(merges, special)


# Files

@pytest.mark.parametrize("special", [[], NAMES])
def test_a_vocabulary_comes_back_from_its_file(tmp_path, special):
    BPE(SMALL.merges, special).save(tmp_path / "bpe.json")
    again = load_bpe(tmp_path / "bpe.json")
    assert again.merges == SMALL.merges and list(again.special) == special and again.token_bytes == BPE(SMALL.merges, special).token_bytes


def test_the_library_s_file_is_read_with_its_special_tokens(tmp_path):
    theirs = Tokenizer.from_file(str(FILE))
    theirs.add_special_tokens(["<|end|>", "<|a|>"])
    theirs.save(str(tmp_path / "bpe.json"))
    ours = load_bpe(tmp_path / "bpe.json")
    assert ours.special == {"<|end|>": 4096, "<|a|>": 4097} and ours.vocab_size == theirs.get_vocab_size()
    for token in range(4096):
        assert ours.token_bytes[token].decode("utf-8", "replace") == theirs.decode([token])


def test_an_older_file_of_the_library_is_read():
    """Pairs were strings once, and the type was not said."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    del content["model"]["type"]
    assert from_library(content).merges == KEPT.merges


def changed(path, value):
    def change(content):
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value
    return change


def exchanged(content):
    vocab = content["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]


@pytest.mark.parametrize("change", [
    changed(["normalizer"], {"type": "NFC"}), changed(["pre_tokenizer"], None), changed(["pre_tokenizer", "add_prefix_space"], True),
    changed(["pre_tokenizer", "use_regex"], False), changed(["model", "type"], "WordPiece"), changed(["model", "ignore_merges"], True),
    changed(["model", "dropout"], 0.1), changed(["model", "byte_fallback"], True), changed(["model", "vocab", "Ġt"], 4000),
    changed(["model", "vocab", "日"], 4096), changed(["model", "merges"], [["Ġ", "t"]]), changed(["model", "merges"], [["Ġ", "日"]]),
    changed(["added_tokens"], [{"id": 5000, "content": "<|end|>"}]), exchanged, lambda content: content["model"].pop("vocab")],
    ids=lambda change: getattr(change, "__name__", ""))
def test_a_library_s_file_that_would_encode_otherwise_is_refused(tmp_path, change):
    content = json.loads(FILE.read_text(encoding="utf-8"))
    change(content)
    (tmp_path / "bpe.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match="bpe.json holds no byte-level BPE"):
        load_bpe(tmp_path / "bpe.json")


@pytest.mark.parametrize("data", [b"", b"[]", b"3", b'"model"', b"\xff", b'{"merges": 3, "special": []}', b'{"merges": [[0, 1, 2]], "special": []}',
                                  b'{"merges": [[0, 999]], "special": []}', b'{"merges": [["a", 1]], "special": []}', b'{"special": []}'])
def test_a_damaged_file_is_refused(tmp_path, data):
    (tmp_path / "bpe.json").write_bytes(data)
    with pytest.raises(ValueError, match="bpe.json holds no byte-level BPE"):
        load_bpe(tmp_path / "bpe.json")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.json"):
        load_bpe(tmp_path / "nothing.json")


# Shown

def test_tokens_are_shown_as_a_list_of_their_texts(monkeypatch):
    """Nothing in them is taken for HTML, and each is there once, in order."""
    shown = []
    monkeypatch.setattr(module, "display", lambda data, raw: shown.append(data))
    marked = BPE(KEPT.merges, special=["<|end|>"])
    show_tokens(marked, [*marked.encode("<b>&\n 😀"), 4096])
    [data] = shown
    entries = [html.unescape(entry) for entry in re.findall("<li[^>]*>(.*?)</li>", data["text/html"])]
    assert "|".join(entries) == data["text/plain"] and "".join(entries).startswith("<b>&⏎ ") and entries[-1] == "<|end|>"
    assert f'aria-label="{len(entries)} tokens"' in data["text/html"] and "<b>" not in data["text/html"]


def test_a_box_has_its_text_its_colours_and_its_weight(monkeypatch):
    """... and a text of its own where no HTML is shown; in the name of the list, too, nothing is taken for HTML."""
    shown = []
    monkeypatch.setattr(module, "display", lambda data, raw: shown.append(data))
    show_boxes(["<i>", "b"], ["color:red;", "color:blue;"], [False, True], 'two "boxes"', ["[<i>]", "b"])
    [data] = shown
    boxes = re.findall('<li style="color:(red|blue);([^"]*)">(.*?)</li>', data["text/html"])
    assert [(color, html.unescape(text), "bold" in style) for color, style, text in boxes] == [("red", "<i>", False), ("blue", "b", True)]
    assert data["text/plain"] == "[<i>]|b" and 'aria-label="two &quot;boxes&quot;"' in data["text/html"]


# n-grams of tokens

TEXT = "the cat and the hat, that cat and that hat; a tac, a tah, " * 3 + "hahahaha aaaaa naïve"


@pytest.mark.parametrize("order", range(1, 9))
def test_over_bytes_it_is_notebook_12_s_model(order):
    """... with the discounts as they are, of what was seen and of what was not."""
    data = as_bytes(TEXT)
    ours, theirs = TokenNGram(data, 256, order), NGram(NGramCounts(data, order), kneser_ney())
    for text in TEXT, "that had a mat", "zzz", "":
        assert np.allclose(ours.probabilities(as_bytes(text)), theirs.probabilities(text), rtol=1e-12, atol=0)


@quick
@given(st.integers(1, 3000), st.integers(1, 5), st.integers(0, 10**6))
def test_it_is_a_distribution_and_the_same_one_step_by_step(vocab_size, order, seed):
    rng = np.random.default_rng(seed)
    draw = lambda T: np.minimum(rng.geometric(0.2, T) - 1, vocab_size - 1).astype(np.uint16)
    model, tokens = TokenNGram(draw(200), vocab_size, order), draw(30)
    steps = [next_token_probabilities(model, tokens[:place].tolist()) for place in range(len(tokens))]
    assert np.allclose(np.sum(steps, axis=1), 1) and (np.array(steps) > 0).all()
    assert np.allclose([p[token] for p, token in zip(steps, tokens)], model.probabilities(tokens), rtol=1e-9)


def test_each_order_is_the_model_of_that_order():
    tokens = KEPT.encode(TEXT)
    other = KEPT.encode("that cat and a hat, naïve")
    for order, p in enumerate(each_order(TokenNGram(tokens, 4096, 5), other), start=1):
        assert np.allclose(p, TokenNGram(tokens, 4096, order).probabilities(other), rtol=1e-12)
    assert order == 5


def test_the_largest_vocabulary_has_room_for_four_tokens():
    tokens = np.array([65_535, 0, 65_535, 65_535, 0, 1], np.uint16)
    p = TokenNGram(tokens, 65_536, 4).probabilities(tokens)
    assert ((p > 0) & (p < 1)).all()


@pytest.mark.parametrize("tokens, vocab_size, order, says", [
    ([1, 2], 4096, 6, "between 1 and 5, not 6"), ([1, 2], 4096, 0, "not 0"), ([1, 2], 65_536, 5, "between 1 and 4"),
    ([], 10, 2, "one token or more"), ([1, 10], 10, 2, "below 10"), ([-1, 2], 10, 2, "below 10")])
def test_what_cannot_be_counted_is_refused(tokens, vocab_size, order, says):
    with pytest.raises(ValueError, match=says):
        TokenNGram(np.array(tokens, np.int64), vocab_size, order)


def test_the_bytes_have_the_library_s_order():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = LIBRARY.get_vocab()
    assert [vocab[sign] for sign in alphabet] == list(range(256)) and sorted(BYTES) == list(range(256))
    assert all(LIBRARY.encode(chr(byte)).ids == [TOKEN_OF[byte]] for byte in range(128))
