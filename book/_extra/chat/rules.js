// The rules that are not the model's: how a message is read, what is answered without it, and what of a reply may be shown.
// They stand in data/chat/behaviour.json, which data/chat/behaviour.md explains; notebook 56 follows them in Python.

/** On one line: single spaces, no control or format characters; `clean` of notebook 10. */
export function clean(text) {
  const plain = text.replace(/[\p{Cc}\p{Zl}\p{Zp}]/gu, " ").replace(/[\p{Cf}\p{Cs}\p{Co}\p{Cn}]/gu, "").normalize("NFC");
  return plain.split(/\p{White_Space}+/u).filter(Boolean).join(" ");
}

/** A text that is still being written: without bytes that are no whole character. */
export const readable = (written) => clean(written.replaceAll("\ufffd", ""));

/** In lower case, letter by letter, so that every place stays where it was. */
const lowered = (text) => [...text].map((letter) => (letter.toLowerCase().length === letter.length ? letter.toLowerCase() : letter)).join("");

/** FNV-1a with 32 bits of a phrase in UTF-8. */
export function phraseHash(phrase) {
  return new TextEncoder().encode(phrase).reduce((h, byte) => Math.imul(h ^ byte, 0x01000193) >>> 0, 0x811c9dc5);
}

/** One regular expression for several. It counts whole characters, as Python does. */
const anyOf = (patterns) => new RegExp(patterns.map((pattern) => `(?:${pattern})`).join("|"), "u");

const LETTER = "\\p{L}\\p{N}_";                                           // Python's \w

/** A pattern of notebook 10, whose letters and digits are Unicode's, as in Python; JavaScript's own are ASCII's. */
function unicode(pattern) {
  const edge = `(?:(?<=[${LETTER}])(?![${LETTER}])|(?<![${LETTER}])(?=[${LETTER}]))`;
  const alone = { "\\w": `[${LETTER}]`, "\\d": "\\p{Nd}", "\\b": edge };
  return pattern.replace(/(\[[^\]]*\])|\\[wdb]/g, (part, set) => set?.replaceAll("\\w", LETTER).replaceAll("\\d", "\\p{Nd}") ?? alone[part]);
}

export class Rules {
  /** From what behaviour.json and blocked.json say. */
  constructor(behaviour, blocked) {
    Object.assign(this, behaviour);
    this.answers = behaviour.answers.map(({ patterns, text }) => ({ text, pattern: anyOf(patterns) }));
    this.neverSaid = anyOf(behaviour.never_said);
    this.details = behaviour.details.map(({ label, pattern, flags }) => ({ label, pattern: new RegExp(unicode(pattern), `gu${flags}`) }));
    this.hashes = new Set(blocked.hashes);
    this.longestPhrase = blocked.words;
  }

  /** What was typed, as the corpus would have it: one line, plain quotation marks. */
  asOneLine(typed) {
    return clean(Object.entries(this.input.plain).reduce((text, [sign, other]) => text.replaceAll(sign, other), typed));
  }

  /** What the model is told of it: of too long a text the end. */
  asTaught(typed) {
    return [...this.asOneLine(typed)].slice(-this.input.longest).join("").trimStart();
  }

  /** What is said instead of a reply, or undefined. */
  fixedAnswer(said) {
    return this.answers.find(({ pattern }) => pattern.test(said.toLowerCase()))?.text;
  }

  /** Where in a text in lower case the first thing begins that is never said, or -1. */
  blockedAt(text) {
    const found = text.search(this.neverSaid);
    const words = [...text.matchAll(/[a-z0-9]+/g)];
    const first = words.find((_, place) => {
      const run = words.slice(place, place + this.longestPhrase).map(([word]) => word);
      return run.some((_, last) => this.hashes.has(phraseHash(run.slice(0, last + 1).join(" "))));
    })?.index ?? -1;
    return found < 0 || (first >= 0 && first < found) ? first : found;
  }

  /** Personal details replaced by placeholders, again and again until none is left: a mask may bare the next. */
  mask(text) {
    const masked = this.details.reduce((now, { label, pattern }) => now.replace(pattern, (...found) => (found.at(-1).keep ?? "") + label), text);
    return masked === text ? text : this.mask(masked);
  }
}

/** What may be shown of a text that is still being written. What was shown is never taken back: the last words wait until they are sure. */
export class Checked {
  constructor(rules) {
    this.rules = rules;
    this.shown = "";
    this.blocked = false;
  }

  /** From all that is written so far, or `over` and done with, what is to be shown next. */
  more(written, over = false) {
    let text = readable(written);
    const whole = over ? text : text.slice(0, Math.max(text.lastIndexOf(" "), 0));      // the last word may go on
    const found = this.rules.blockedAt(lowered(whole));
    if (found >= 0) {
      text = text.slice(0, whole.slice(0, found).lastIndexOf(" ") + 1).trimEnd();  // from the word that it is in
      this.blocked = over = true;
    }
    const masked = this.rules.mask(text), words = masked.split(" ");
    const spoken = [...words.keys()].filter((place) => /[A-Za-z0-9]/.test(words[place]));
    const sure = words.slice(0, over || this.rules.held_words < 1 ? words.length : spoken.at(-this.rules.held_words) ?? 0).join(" ");
    if (!masked.startsWith(this.shown)) {                                 // nothing more, then
      this.blocked = true;
      return "";
    }
    const piece = sure.slice(this.shown.length);                          // nothing yet, where a mask has made it shorter
    this.shown += piece;
    return piece;
  }
}
