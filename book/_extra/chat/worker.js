// The model at work beside the page, so that the page stays awake: fetches and keeps the files, and answers one question at a time.
// { begin: files } → {}      { read: typed } → { empty, fixed }: whether nothing is left of it, and what is said without the model, if anything
// { load } → { have } now and then, {}      { hear: typed, seed, temperature } or { more } → { text, done, mark, count }, the next piece of the answer
// { stop } → { mark, count }      { reset } → {}
// What goes wrong is answered with { failed }, a sentence for the reader.

import { Conversation } from "./chat.js";
import { Model } from "./model.js";
import { Rules } from "./rules.js";
import { Tokenizer } from "./tokenizer.js";

const SHELF = "practitioner-chat";
let files, rules, conversation, answer;

/** Whether these are the bytes that the page was built with. Where the browser cannot say (without https), the model's reader looks. */
async function isWhole(bytes, { bytes: size, sha256 }) {
  if (!self.crypto?.subtle) {
    return bytes.byteLength === size;
  }
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") === sha256;
}

/** The bytes of a response, which are told to `got` as they come. */
async function download(url, size, got) {
  const lost = () => { throw new Error("The model could not be fetched. Is there a connection?"); };
  const response = await fetch(url).catch(lost);
  if (!response.ok) {
    throw new Error(`The model could not be fetched: the server says ${response.status}.`);
  }
  const bytes = new Uint8Array(size), reader = response.body.getReader();
  let have = 0;
  const next = () => reader.read().catch(lost);                           // the connection may break at any time
  for (let { done, value } = await next(); !done; { done, value } = await next()) {
    if (have + value.length > size) {
      throw new Error("The model's file is damaged: it is too long.");
    }
    bytes.set(value, have);
    have += value.length;
    got(value.length);
  }
  return bytes.subarray(0, have).slice().buffer;
}

/** Where the browser keeps files for the next time; undefined where it keeps none: without https, or if it was told so. */
const openShelf = async () => self.caches?.open(SHELF).catch(() => undefined);

/** A file from the browser's own shelf, or else from the server, and then kept. Its address has its content's hash, so that no old one is taken. */
async function fetchKept(file, got) {
  const { url, bytes: size } = file;
  const shelf = await openShelf();
  const kept = await shelf?.match(url).then((found) => found?.arrayBuffer()).catch(() => undefined);
  if (kept && await isWhole(kept, file)) {
    got(size);
    return kept;
  }
  const bytes = await download(url, size, got);
  if (!await isWhole(bytes, file)) {
    throw new Error("The model's file is damaged: it is not what this page was built with.");
  }
  await shelf?.put(url, new Response(bytes)).catch(() => undefined);      // no room: fetched again next time
  return bytes;
}

/** Off the shelf with what this page does not use any more. */
async function clearShelf(urls) {
  const shelf = await openShelf();
  for (const request of await shelf?.keys() ?? []) {
    if (!urls.includes(request.url)) {
      await shelf.delete(request);
    }
  }
}

const parsed = (bytes) => JSON.parse(new TextDecoder().decode(bytes));

/** The rules, which are a small part of what is fetched. */
async function learnRules() {
  const [behaviour, blocked] = await Promise.all([files.behaviour, files.blocked].map((file) => fetchKept(file, () => undefined)));
  rules = new Rules(parsed(behaviour), parsed(blocked));
}

async function load(tell) {
  const wanted = [files.tokens, files.weights];
  let have = 0;
  const got = (count) => tell({ have: have += count });
  const [tokens, weights] = await Promise.all(wanted.map((file) => fetchKept(file, got)));
  conversation = new Conversation(new Model(weights), new Tokenizer(parsed(tokens)), rules);
  await clearShelf(Object.values(files).map(({ url }) => url)).catch(() => undefined);
  return {};
}

const told = () => ({ mark: conversation.mark, count: conversation.count });

function more() {
  const { value: text = "", done } = answer.next();
  return { text, done, ...told() };
}

const DO = {
  async begin({ begin }) {
    files = begin;
    await learnRules();
    return {};
  },
  read({ read }) {
    const said = rules.asTaught(read);
    return { empty: said === "", fixed: rules.fixedAnswer(rules.asOneLine(read)) };
  },
  load: (_, tell) => load(tell),
  hear({ hear, seed, temperature }) {
    answer = conversation.answer(rules.asTaught(hear), seed, temperature);
    return more();
  },
  more,
  stop() {
    answer.return();
    return told();
  },
  reset() {
    if (conversation) {
      conversation.turns = [];
    }
    return {};
  },
};

/** An error in words for the reader. */
function sentence(error) {
  if (error instanceof RangeError && /alloc|memory|length/i.test(error.message)) {
    return "This browser has no memory left for the model.";
  }
  if (error instanceof SyntaxError) {                                     // of a pattern: of a file the hash would have told
    return "This browser is too old for the chat.";
  }
  return error.message;
}

self.onmessage = async ({ data: { id, ...question } }) => {
  const tell = (news) => self.postMessage({ ...news, id });
  try {
    tell(await DO[Object.keys(question)[0]](question, tell));
  } catch (error) {
    tell({ failed: sentence(error) });
  }
};
