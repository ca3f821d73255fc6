// A conversation: what the model is given to read, how a token is chosen, and when a reply ends. Notebooks 52, 54 and 56, in JavaScript.

import { Checked, readable } from "./rules.js";

const CUT = ["longest", "loop", "blocked", "stopped"];                    // replies that did not end themselves

/** A whole number below 2^32, its bits mixed: the last step of MurmurHash3. */
function fmix32(h) {
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** A number from 0 up to 1 for a seed, a reply and a token. It looks drawn, and is the same wherever it is asked for. */
export function chance(...places) {
  return places.reduce((h, place) => fmix32((h + Math.imul(place, 0x9e3779b1) + 0x7f4a7c15) >>> 0), 0) / 2 ** 32;
}

/** The probabilities to draw from: a temperature, then the fewest tokens that have the mass `topP`. Some logits may be −∞. */
export function chances(logits, temperature, topP) {
  const most = logits.reduce((largest, z) => Math.max(largest, z), -Infinity);
  if (!Number.isFinite(most)) {
    throw new Error("The model's file is damaged: what it computes are no numbers.");
  }
  const p = logits.map((z) => (temperature === 0 ? Number(z === most) : Math.exp((z - most) / temperature)));
  const total = p.reduce((sum, each) => sum + each, 0);
  const order = Uint32Array.from(p.keys()).sort((i, j) => p[j] - p[i] || i - j);
  let before = 0, kept = 0;
  for (const i of order) {
    const share = p[i] / total;
    p[i] = before < topP ? share : 0;
    before += share;
    kept += p[i];
  }
  return p.map((share) => share / kept);
}

/** The token at which the probabilities, added up one after the other, pass u. */
export function draw(p, u) {
  let heaped = 0, last = 0;
  for (let i = 0; i < p.length; i++) {
    heaped += p[i];
    last = p[i] > 0 ? i : last;
    if (u < heaped) {
      return i;
    }
  }
  return last;                                                            // u is in what was rounded off
}

/** Whether the last `length` tokens have stood in the list so many times, with now. */
function goesRound(tokens, { tokens: length, times }) {
  const same = (start) => tokens.slice(start, start + length).every((token, i) => token === tokens[tokens.length - length + i]);
  return tokens.filter((_, start) => start <= tokens.length - length && same(start)).length >= times;
}

/** The turns of a person and the model. The three tokens behind those of text say who speaks, and where a turn ends. */
export class Conversation {
  constructor(model, tokenizer, rules) {
    const { vocab_size: V, n_positions: T } = model.recipe;
    this.room = T - rules.longest_reply;                                  // for what is read
    if (V !== tokenizer.size + 3 || this.room < 8) {
      throw new Error(`The model is of another kind: ${V} tokens and ${T} positions, for ${tokenizer.size} tokens of text and 3 of control.`);
    }
    this.heads = [V - 3, V - 2];                                          // the person's, the model's
    this.end = V - 1;
    this.ends = [this.end, ...tokenizer.bytes.flatMap((bytes, id) => (bytes.includes(10) ? [id] : []))];  // or a line break
    Object.assign(this, { model, tokenizer, rules });
    this.turns = [];                                                      // texts, the person's first
  }

  /** What the model reads before a reply to these turns: the last that fit, whole. If even the newest does not, its end. */
  prompt(turns) {
    const head = this.heads[turns.length % 2], room = this.room - 1;
    const parts = turns.map((text, place) => [this.heads[place % 2], ...this.tokenizer.encode(this.rules.template.before_text + text), this.end]);
    let tokens = [];
    for (const part of parts.reverse()) {
      if (part.length + tokens.length > room) {
        break;
      }
      tokens = part.concat(tokens);
    }
    if (tokens.length === 0) {
      tokens = [parts[0][0], ...parts[0].slice(1).slice(1 - room)];
    }
    return [...tokens, head];
  }

  /** Yields the tokens of a reply to these turns, all so far each time; returns why it ends. */
  *reply(turns, seed, temperature) {
    const { rules, model, tokenizer } = this;
    const prompt = this.prompt(turns), written = [];
    while (written.length < rules.longest_reply) {
      const logits = model.after([...prompt, ...written]);
      const silent = readable(tokenizer.decode(written)) === "";          // a reply has something to be seen
      for (const token of silent ? [...this.heads, ...this.ends] : this.heads) {
        logits[token] = -Infinity;
      }
      const u = chance(seed, turns.length >> 1, written.length);
      const token = draw(chances(logits, temperature, rules.decoding.top_p), u);
      if (this.ends.includes(token)) {
        return "end";
      }
      written.push(token);
      yield written;
      if (goesRound(written, rules.loop)) {
        return "loop";
      }
    }
    return "longest";
  }

  /** What is shown behind an answer that did not end itself. */
  get mark() {
    return CUT.includes(this.ended) ? ` ${this.rules.cut_mark}` : "";
  }

  /** Yields the answer, piece by piece, as soon as a piece is sure, and keeps it as a turn: also where nobody asks for all of it. */
  *answer(said, seed, temperature) {
    const checked = new Checked(this.rules), reply = this.reply([...this.turns, said], seed, temperature);
    let text = "";
    this.ended = "stopped";
    this.count = 0;                                                       // of tokens
    try {
      let { value, done } = reply.next();
      while (!done && !checked.blocked) {
        this.count = value.length;
        text = this.tokenizer.decode(value);
        yield checked.more(text);
        if (!checked.blocked) {
          ({ value, done } = reply.next());
        }
      }
      if (!checked.blocked) {
        yield checked.more(text, true);
      }
      this.ended = checked.blocked ? "blocked" : value;
      if (checked.shown === "") {
        this.ended = "left out";
        yield this.rules.left_out;
      }
    } finally {
      if (checked.shown !== "") {
        this.turns.push(said, checked.shown);
      }
    }
  }
}
