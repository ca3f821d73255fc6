// The model at work beside the page, so that the page stays awake: fetches and keeps the files, and answers one question at a time.
// { begin: files } → {}      { fixed: typed } → { text }, if something is said without the model      { load } → { have, all } now and then, { ready }
// { hear: typed, seed, temperature } or { more } → { text, done, ended, count }, the next piece of the answer      { stop } or { reset } → {}
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
  let response;
  try {
    response = await fetch(url);
  } catch {
    throw new Error("The model could not be fetched. Is there a connection?");
  }
  if (!response.ok) {
    throw new Error(`The model could not be fetched: the server says ${response.status}.`);
  }
  const bytes = new Uint8Array(size), reader = response.body.getReader();
  let have = 0;
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
    if (have + value.length > size) {
      throw new Error("The model's file is damaged: it is too long.");
    }
    bytes.set(value, have);
    have += value.length;
    got(value.length);
  }
  return bytes.subarray(0, have).slice().buffer;
}

/** A file from the browser's own shelf, or else from the server, and then kept. Its address has its content's hash, so that no old one is taken. */
async function fetchKept(file, got) {
  const { url, bytes: size } = file;
  const shelf = await self.caches?.open(SHELF).catch(() => undefined);
  const kept = await (await shelf?.match(url))?.arrayBuffer();
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
  const shelf = await self.caches?.open(SHELF).catch(() => undefined);
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
  const wanted = [files.tokens, files.weights], all = files.tokens.bytes + files.weights.bytes;
  let have = 0;
  const got = (count) => tell({ have: have += count, all });
  const [tokens, weights] = await Promise.all(wanted.map((file) => fetchKept(file, got)));
  conversation = new Conversation(new Model(weights), new Tokenizer(parsed(tokens)), rules);
  await clearShelf(Object.values(files).map(({ url }) => url));
  return { ready: true };
}

function more() {
  const { value: text = "", done } = answer.next();
  return { text, done, ended: conversation.ended, count: conversation.count };
}

const DO = {
  async begin({ begin }) {
    files = begin;
    await learnRules();
    return {};
  },
  fixed: ({ fixed }) => ({ text: rules.fixedAnswer(rules.asTaught(fixed)) }),
  load: (_, tell) => load(tell),
  hear({ hear, seed, temperature }) {
    answer = conversation.answer(rules.asTaught(hear), seed, temperature);
    return more();
  },
  more,
  stop() {
    answer?.return();
    return {};
  },
  reset() {
    answer?.return();
    conversation.turns = [];
    return {};
  },
};

/** An error in words for the reader. */
const sentence = (error) => (error instanceof RangeError && /alloc|memory|length/i.test(error.message)
  ? "This browser has no memory left for the model." : error.message);

self.onmessage = async ({ data: { id, ...question } }) => {
  const tell = (news) => self.postMessage({ ...news, id });
  try {
    tell(await DO[Object.keys(question)[0]](question, tell));
  } catch (error) {
    tell({ failed: sentence(error) });
  }
};
