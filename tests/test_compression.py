"""The arithmetic coder, the file format and the models of notebook 14: any bytes, any model, every kind of damage."""
import itertools
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from practitioner import compression
from practitioner.compression import (
    CHECK_EVERY, HEADER, CompressedFileError, Decoder, Encoder, Fixed, Learner, Mixture, Tables, compress, compress_file, decode_bytes, decompress,
    decompress_file, encode_bytes, fingerprint, general_compressors, given_size, learned_probabilities, mixed_probabilities, quantise)
from practitioner.prediction import train_ngram

settings.register_profile("book", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("book")
TEXT = b"A: hello there\nB: hello! how are you\nA: fine, and you there?\nB: fine fine fine\n\n" * 3


# Models that are hard on a coder

def table(kind, seed):
    """256 probabilities: flat, ragged, mostly zero, sure up to a millionth, or certain."""
    rng = np.random.default_rng(seed)
    if kind == "sure":
        p = np.full(256, 1e-6 / 255)
        p[rng.integers(256)] = 1 - 1e-6
        return p
    if kind == "certain":
        return np.eye(256)[rng.integers(256)]
    p = rng.dirichlet(np.full(256, {"flat": 100, "ragged": 0.5, "mostly zero": 0.005}[kind]))
    return p / p.sum()


class Changing:
    """A model of several tables: which is next depends on the last two bytes."""

    def __init__(self, kinds, seed=0):
        self.tables = [table(kind, seed + place) for place, kind in enumerate(kinds)]

    def start(self):
        return (0, 0)

    def distribution(self, state):
        return self.tables[(3 * state[0] + state[1]) % len(self.tables)]

    def advance(self, state, byte):
        return (state[1], byte)


KINDS = st.lists(st.sampled_from(["flat", "ragged", "mostly zero", "sure", "certain"]), min_size=1, max_size=5)
models = st.builds(Changing, KINDS, st.integers(0, 1000))


def likely(model, length, seed):
    """Bytes that the model itself thinks likely."""
    rng, state, drawn = np.random.default_rng(seed), model.start(), bytearray()
    for _ in range(length):
        p = model.distribution(state)
        drawn.append(int(rng.choice(256, p=p / p.sum())))
        state = model.advance(state, drawn[-1])
    return bytes(drawn)


def surprise_in_bytes(model, data):
    """The model's own code length; infinite where it thought impossible what came."""
    state, bits = model.start(), 0.0
    for byte in data:
        with np.errstate(divide="ignore"):
            bits -= np.log2(model.distribution(state)[byte])
        state = model.advance(state, byte)
    return bits / 8


@given(st.binary(max_size=200), models)
@example(b"", Changing(["flat"]))
@example(b"x", Changing(["certain"]))
@example(bytes(range(256)), Changing(["sure", "certain"]))
@settings(max_examples=60)
def test_any_bytes_come_back_under_any_model(data, model):
    assert decompress(compress(data, model), model) == data


@given(models, st.integers(0, 600), st.integers(0, 99))
@settings(max_examples=40)
def test_the_output_is_within_a_thousandth_and_eight_bytes_of_the_surprise(model, length, seed):
    data = likely(model, length, seed)
    assert len(encode_bytes(data, model)[0]) <= 1.001 * surprise_in_bytes(model, data) + 8


@given(st.binary(max_size=200), models)
@settings(max_examples=30)
def test_so_it_is_for_bytes_that_the_model_finds_unlikely(data, model):
    """Where the surprise is infinite anything is within it, and the output is still no longer than 30 bits a byte."""
    coded, _ = encode_bytes(data, model)
    assert len(coded) <= min(1.001 * surprise_in_bytes(model, data), len(data) * 30 / 8) + 8


def test_it_cannot_be_shorter_than_the_surprise_for_long():
    """Were it, something would be missing from the file."""
    model = Changing(["ragged", "flat", "mostly zero"])
    data = likely(model, 3000, 1)
    assert len(encode_bytes(data, model)[0]) >= surprise_in_bytes(model, data) - 1


def test_a_megabyte_comes_back(monkeypatch):
    """A million bytes at 7.5 bits, so that hundreds of checks are coded; the model's one table is quantised once, for time."""
    model = Fixed(table("ragged", 5))
    sizes = quantise(model.p)
    data = np.random.default_rng(0).choice(256, p=model.p, size=1_000_000).astype(np.uint8).tobytes()
    monkeypatch.setattr(compression, "quantise", lambda p: sizes)
    coded, tables = encode_bytes(data, model)
    promised = -np.log2(model.probabilities(data)).sum() / 8
    assert promised <= len(coded) <= 1.001 * promised + 8 and len(coded) > 200 * CHECK_EVERY
    assert decode_bytes(coded, len(data), model) == (data, tables)


def test_a_million_sure_bytes_take_no_more_than_eight():
    """A byte of p = 1 − 1e-6 costs 1.4 millionths of a bit; tables of 16 bits would make it 5,000 bytes."""
    sizes = quantise(table("sure", 0))
    byte = int(sizes.argmax())
    start, size = int(sizes[:byte].sum()), int(sizes[byte])
    coder = Encoder()
    for _ in range(1_000_000):
        coder.encode(start, size)
    assert len(coder.finish()) <= 8


# The window and its carry

pieces = st.lists(st.tuples(st.integers(0, 2**30 - 1), st.integers(1, 2**30)).map(lambda piece: (piece[0], min(piece[1], 2**30 - piece[0]))), max_size=60)


@given(pieces)
@example([(2**29 - 1, 2)] * 40)  # across the middle, again and again: the carry runs through many bytes
@example([(2**30 - 1, 1)] * 20)
@example([(0, 1)] * 20)
def test_the_window_is_what_one_endless_number_would_be(steps):
    """... which needs no carry; and the decoder finds each piece again."""
    coder, low, width = Encoder(), 0, 2**64
    for start, size in steps:
        coder.encode(start, size)
        low, width = low + start * (width >> 30), size * (width >> 30)
        while width < 2**56:
            low, width = low << 8, width << 8
    written = coder.finish()
    assert low <= int.from_bytes(written.ljust(len(coder.written) + 8, b"\0"), "big") < low + width
    decoder = Decoder(written)
    for start, size in steps:
        assert start <= decoder.find() < start + size
        decoder.remove(start, size)


def test_a_carry_runs_through_bytes_that_are_255():
    """The lower end is written as 127, 255, 255, … and becomes 128, 0, 0, … at last."""
    coder = Encoder()
    coder.encode(2**29 - 1, 2)
    for _ in range(8):
        coder.encode(2**29 - 2, 4)
    before = bytes(coder.written)
    coder.encode(2**30 - 2, 2)
    assert before[:4] == b"\x7f\xff\xff\xff" and bytes(coder.written[:4]) == b"\x80\0\0\0"


# Tables

@given(st.sampled_from(["flat", "ragged", "mostly zero", "sure", "certain"]), st.integers(0, 10_000), st.sampled_from([0, 9e-7, -9e-7]), st.sampled_from([np.float64, np.float32]))
def test_a_table_is_whole_numbers_in_proportion(kind, seed, off, dtype):
    p = (table(kind, seed) * (1 + off)).astype(dtype)
    if abs(float(p.astype(float).sum()) - 1) >= 1e-6:
        return
    sizes = quantise(p)
    assert sizes.dtype == np.uint32 and int(sizes.sum(dtype=np.int64)) == 2**30 and sizes.min() >= 1
    rest = np.arange(256) != sizes.argmax()
    assert (np.abs(sizes[rest] - p[rest].astype(float) * (2**30 - 256)) <= 1).all()
    order = np.argsort(p[rest], kind="stable")
    assert (np.diff(sizes[rest][order].astype(np.int64)) >= 0).all()
    assert abs(float(sizes.max()) - p.max() * 2.0**30) < 1400  # it takes what is left over, or what is missing


@pytest.mark.parametrize("p", [np.full(255, 1 / 255), np.full((1, 256), 1 / 256), np.full(256, 1 / 255), np.full(256, np.nan), np.zeros(256),
                               np.append(np.full(255, 1.01 / 255), -0.01), np.append(np.zeros(255), np.inf)])
def test_what_is_no_distribution_is_no_table(p):
    with pytest.raises(ValueError, match="256 probabilities"):
        quantise(p)


# Files that are refused

MODEL = Changing(["ragged", "sure", "flat"], 3)
SMALL = compress(b"hello", MODEL)


def refused(file, model=MODEL, says="."):
    with pytest.raises(CompressedFileError, match=says) as error:
        decompress(file, model)
    assert isinstance(error.value, ValueError)


def test_a_file_cut_off_anywhere_is_refused():
    assert decompress(SMALL, MODEL) == b"hello"
    for length in range(len(SMALL)):
        refused(SMALL[:length], says="not a file of this format" if length < 4 else "damaged or cut off")
    refused(SMALL + b"\0", says="damaged")


def test_a_file_with_any_bit_altered_is_refused():
    for place, bit in itertools.product(range(len(SMALL)), range(8)):
        altered = bytearray(SMALL)
        altered[place] ^= 1 << bit
        refused(bytes(altered), says="not a file" if place < 4 else "version" if place == 4 else "damaged")


def mended(file):
    """The file with a checksum that is right again."""
    return file[:-4] + struct.pack("<I", zlib.crc32(file[:-4]))


@pytest.mark.parametrize("place, says", [(5, "content|decoded bytes|tables"), (13, "another model"), (21, "tables are not those"), (29, "decoded bytes are not those")])
def test_behind_the_checksum_every_field_is_checked(place, says):
    """Length, fingerprint, hash of the tables, hash of the content."""
    altered = bytearray(SMALL)
    altered[place] ^= 1
    refused(mended(bytes(altered)), says=says)


def test_altered_code_is_refused_though_its_checksum_is_right():
    file = compress(TEXT, MODEL)
    for place in range(HEADER.size, len(file) - 4, 7):
        altered = bytearray(file)
        altered[place] ^= 4
        refused(mended(bytes(altered)))


@pytest.mark.parametrize("foreign", [b"", b"\x1f\x8b\x08\0", b"PK\x03\x04" + bytes(60), TEXT, SMALL[1:], b"\xb1ts\r\n" + SMALL[4:]])
def test_a_foreign_file_is_refused_as_such(foreign):
    refused(foreign, says="not a file of this format|version")


def test_another_version_is_named():
    refused(mended(SMALL[:4] + b"\2" + SMALL[5:]), says="version 2.*reads version 1")


@pytest.mark.parametrize("other", [Changing(["ragged", "sure", "flat"], 4), Changing(["ragged", "sure"], 3), Fixed(np.full(256, 1 / 256)), Learner()])
def test_the_wrong_model_is_refused_before_anything_is_decoded(other, monkeypatch):
    monkeypatch.setattr(compression, "decode_bytes", None)  # would fail if called
    refused(SMALL, other, says="another model")


def test_models_that_differ_little_have_other_fingerprints():
    """A byte less of text, another order, another discount; and the same model has the same, each time."""
    model = train_ngram(TEXT, 3)
    assert fingerprint(model) == fingerprint(model) == fingerprint(train_ngram(TEXT, 3))
    others = [model, train_ngram(TEXT[:-1], 3), train_ngram(TEXT, 4), train_ngram(TEXT, 3, scale=1.1), Learner(), Learner(7), Mixture(model, Learner()),
              Mixture(model, Learner(), rate=0.03)]
    assert len(set(map(fingerprint, others))) == len(others)


class Late(Fixed):
    """A table that changes a little `after` some bytes: the fingerprint cannot see it."""

    def __init__(self, p, after):
        super().__init__(p)
        self.after = after

    def start(self):
        return 0

    def advance(self, state, byte):
        return state + 1

    def distribution(self, state):
        if state < self.after:
            return self.p
        p = self.p.copy()
        p[[254, 255]] += [-2e-9, 2e-9]  # two units of 2**30 from one byte to another
        return p


def test_a_mismatch_that_begins_late_is_noticed():
    p = np.full(256, 1 / 256)
    data = np.random.default_rng(0).bytes(3 * CHECK_EVERY)
    assert fingerprint(Late(p, 1000)) == fingerprint(Fixed(p))
    with pytest.raises(CompressedFileError, match="after [45]... bytes the model's tables"):
        decompress(compress(data, Fixed(p)), Late(p, 1000))
    refused(compress(data[:2000], Fixed(p)), Late(p, 1000), says="^the model's tables are not")  # too short for a check: at the end
    refused(compress(data[:2000], Fixed(p)), Late(p, 1999), says="^the model's tables are not")  # in the very last table
    assert decompress(compress(data[:2000], Fixed(p)), Late(p, 2000)) == data[:2000]


def test_the_hash_of_the_tables_sees_one_unit():
    one, other = Tables(Fixed(np.full(256, 1 / 256))), Tables(Late(np.full(256, 1 / 256), 1))
    for tables in (one, other):
        tables.look()
    assert one.hash.digest() == other.hash.digest() and one.check() == other.check()
    for tables in (one, other):
        tables.advance(0)
        tables.look()
    assert one.hash.digest() != other.hash.digest()


def test_files_are_written_whole_or_not_at_all(tmp_path):
    source, packed, back = tmp_path / "chat.txt", tmp_path / "chat.ts", tmp_path / "back.txt"
    source.write_bytes(TEXT)
    compress_file(source, packed, MODEL)
    decompress_file(packed, back, MODEL)
    assert back.read_bytes() == TEXT
    back.write_bytes(b"mine")
    packed.write_bytes(packed.read_bytes()[:-9])
    for target in (back, tmp_path / "new.txt"):
        with pytest.raises(CompressedFileError):
            decompress_file(packed, target, MODEL)
    assert back.read_bytes() == b"mine" and sorted(os.listdir(tmp_path)) == ["back.txt", "chat.ts", "chat.txt"]


# Models that learn

def sequential(model, data):
    """The probability of each byte by the three methods; each distribution sums to 1."""
    state, found = model.start(), []
    for byte in data:
        p = model.distribution(state)
        assert p.shape == (256,) and abs(p.sum() - 1) < 1e-9 and p.min() > 0
        found.append(p[byte])
        state = model.advance(state, byte)
    return np.array(found)


@given(st.binary(max_size=60) | st.lists(st.sampled_from(b"ab "), max_size=80).map(bytes), st.integers(2, 9))
@settings(max_examples=40)
def test_what_the_learner_gives_one_byte_is_what_it_gives_among_all(data, order):
    assert np.allclose(sequential(Learner(order), data), learned_probabilities(Learner(order), data), rtol=1e-12)


@given(st.lists(st.sampled_from(b"abc"), min_size=1, max_size=60).map(bytes), st.integers(2, 5))
@settings(max_examples=40)
def test_the_learner_counts_as_kneser_and_ney_do(data, order):
    """The longest contexts count bytes; shorter ones count by how many different bytes they were preceded, the beginning among them."""
    state = Learner(order).start()
    for byte in data:
        state = Learner(order).advance(state, byte)
    grams = {data[i:j] for i in range(len(data)) for j in range(i + 1, min(i + order, len(data)) + 1)}
    for context, node in state[0].items():
        counts = {node: 1} if isinstance(node, int) else node[2]
        for byte in set(data):
            gram = context + bytes([byte])
            if len(context) == order - 1:
                expected = sum(data[i:i + order] == gram for i in range(len(data)))
            else:
                expected = len({before for before in data if bytes([before]) + gram in grams}) + data.startswith(gram)
            assert counts.get(byte, 0) == expected, (context, byte)
        if not isinstance(node, int):
            assert node[0] == sum(counts.values()) and node[1] == sum(Learner.DISCOUNT[min(count, 3)] for count in counts.values())


def test_the_learner_learns():
    p = learned_probabilities(Learner(), TEXT)
    assert -np.log2(p[:40]).mean() > 4 > 0.5 > -np.log2(p[-40:]).mean()
    with pytest.raises(ValueError, match="an order is 2 or more, not 1"):
        Learner(1)


def test_a_mixture_is_what_its_parts_say_and_follows_the_better():
    primed = train_ngram(TEXT[:80], 3)
    data = TEXT[:60] + b"xyzzy xyzzy xyzzy xyzzy xyzzy xyzzy"
    mixed = sequential(Mixture(primed, Learner()), data)
    assert np.allclose(mixed, mixed_probabilities(primed.probabilities(data), learned_probabilities(Learner(), data)), rtol=1e-12)
    good, bad = np.full(500, 0.9), np.full(500, 0.1)
    assert mixed_probabilities(bad, good)[-1] > 0.89 and mixed_probabilities(good, bad)[-1] > 0.89
    assert (mixed_probabilities(good, bad, 0.5, rate=0) == 0.5).all()
    halves = np.append(good, bad), np.append(bad, good)
    assert mixed_probabilities(*halves)[-1] > 0.85  # it comes back from the other


def test_a_model_that_learns_decodes_too():
    model = lambda: Mixture(train_ngram(TEXT[:80], 4), Learner())  # noqa: E731
    assert decompress(compress(TEXT, model()), model()) == TEXT
    assert len(compress(TEXT, model())) < len(compress(TEXT, Learner())) < len(TEXT)


# The general compressors

@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz", "zstd", "brotli", "PPMd"])
@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)), TEXT], ids=len)
def test_a_general_compressor_gives_back_what_it_was_given(name, data):
    pack, unpack = general_compressors(6)[name]
    assert unpack(pack(data)) == data


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz", "zstd", "brotli", "PPMd"])
def test_one_that_has_read_the_like_makes_a_smaller_file(name):
    """Random bytes, which it has just read: nearly nothing is left to say; bzip2, which sorts, must say more."""
    data = np.random.default_rng(0).bytes(3000)
    alone = len(general_compressors(6)[name][0](data))
    given = given_size(name, data, np.random.default_rng(1).bytes(5000) + data)
    assert alone > 2900 and 0 < given < (0.9 if name in ("bzip2", "PPMd") else 0.1) * alone
