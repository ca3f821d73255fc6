// Text to tokens and back: the byte-level BPE of notebook 41, read from the file that Python reads.

// What a text is cut into before any pair is merged: GPT-2's rule. White space is Unicode's, as in
// Python's library; JavaScript's own \s is another set.
const PIECES = /'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

/** The letter that stands for each of the 256 bytes: itself where it can be seen, else one from 256 on. */
function letters() {
  const seen = (byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte !== 173);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(seen(byte) ? byte : next++));
}

export class Tokenizer {
  /** `file` is the parsed JSON of a byte-level BPE as the library `tokenizers` saves it. */
  constructor(file) {
    const { vocab, merges, type } = file?.model ?? {};
    if (type !== "BPE" || typeof vocab !== "object" || !Array.isArray(merges)) {
      throw new Error("The file of tokens is damaged, or of another kind.");
    }
    this.letters = letters();
    const byteOf = new Map(this.letters.map((letter, byte) => [letter, byte]));
    this.ids = new Map(Object.entries(vocab));                         // token → its number
    this.ranks = new Map(merges.map(([left, right], rank) => [`${left} ${right}`, rank]));
    this.bytes = [];                                                   // number → the token's bytes
    for (const [token, id] of this.ids) {
      this.bytes[id] = Uint8Array.from([...token].map((letter) => byteOf.get(letter)));
    }
    this.size = this.ids.size;
    if (this.bytes.length !== this.size || !this.letters.every((letter) => this.ids.has(letter))) {
      throw new Error("The file of tokens is damaged: numbers or bytes are missing.");
    }
    this.known = new Map();                                            // pieces that were met already
  }

  /** The tokens of a text, as numbers. No text gives a number from `size` on: those are for control. */
  encode(text) {
    return (text.match(PIECES) ?? []).flatMap((piece) => {
      if (!this.known.has(piece)) {
        this.known.set(piece, this.merged(piece));
      }
      return this.known.get(piece);
    });
  }

  /** A piece, from single bytes up: of all pairs of neighbours the one learned first is joined, until none is known. */
  merged(piece) {
    let parts = Array.from(new TextEncoder().encode(piece), (byte) => this.letters[byte]);
    for (;;) {
      const ranks = parts.slice(1).map((part, i) => this.ranks.get(`${parts[i]} ${part}`) ?? Infinity);
      const best = ranks.reduce((least, rank) => Math.min(least, rank), Infinity);
      if (best === Infinity) {
        return parts.map((part) => this.ids.get(part));
      }
      const joined = [];
      for (let i = 0; i < parts.length; i++) {
        joined.push(ranks[i] === best ? parts[i] + parts[++i] : parts[i]);
      }
      parts = joined;
    }
  }

  /** What makes text of tokens as they come: call it with each number; bytes of half a letter wait for the others. */
  decoder() {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return (id) => (id === undefined ? decoder.decode() : decoder.decode(this.bytes[id], { stream: true }));
  }

  decode(ids) {
    const next = this.decoder();
    return ids.map((id) => next(id)).join("") + next();
  }
}
