// The chat in the page: what is pressed, said and shown. The model itself is in worker.js. All text is put in as text, never as markup.

const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

/** A worker that is asked a question, and answers it once; what it tells meanwhile goes to `tell`. */
function startWorker() {
  if (!self.Worker) {
    throw new Error("This browser cannot run the model beside the page: it has no workers.");
  }
  const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  const waiting = new Map();
  let last = 0;
  worker.onmessage = ({ data: { id, ...answer } }) => {
    const { tell, resolve, reject } = waiting.get(id);
    if ("have" in answer) {
      tell?.(answer);
      return;
    }
    waiting.delete(id);
    if ("failed" in answer) {
      reject(new Error(answer.failed));
    } else {
      resolve(answer);
    }
  };
  worker.onerror = (event) => {
    event.preventDefault();
    waiting.forEach(({ reject }) => reject(new Error("The model cannot run in this browser, or its scripts could not be fetched.")));
    waiting.clear();
  };
  const ask = (question, tell) => new Promise((resolve, reject) => {
    waiting.set(last += 1, { tell, resolve, reject });
    worker.postMessage({ ...question, id: last });
  });
  return { ask, end: () => worker.terminate(), loaded: false };
}

/** Makes a <section class="chat"> work. */
function setUp(chat) {
  const [log, status, speed, progress, form, message, send, stop, reset, temperature, seed] = ["log", "status", "speed", "progress", "form",
    "message", "send", "stop", "reset", "temperature", "seed"].map((name) => chat.querySelector(`.chat-${name}`));
  const files = JSON.parse(chat.dataset.files);
  for (const file of Object.values(files)) {
    file.url = new URL(file.url, document.baseURI).href;
  }
  const all = files.weights.bytes + files.tokens.bytes;
  let worker, busy = false, stopped = false, talk = Promise.resolve();

  function add(who, kind, text) {
    const line = document.createElement("p"), name = document.createElement("b"), words = document.createElement("span");
    line.className = `chat-${kind}`;
    name.textContent = `${who}: `;
    words.textContent = text;
    words.dir = "auto";                                                   // Hebrew or Arabic, too
    line.append(name, words);
    log.append(line);
    log.scrollTop = log.scrollHeight;
    return { line, words };
  }

  /** Nothing is left but the note that stands there from the beginning. */
  function clear() {
    log.querySelectorAll("p:not(.chat-note)").forEach((line) => line.remove());
  }

  /** What is said without the model, our own words; an address in them becomes a link. */
  function addFixed(text) {
    const { words } = add("Bot", "fixed", "");
    words.append(...text.split(/(https:\/\/[\w./-]+)/).map((part) => (
      part.startsWith("https://") ? Object.assign(document.createElement("a"), { href: part, textContent: part }) : part)));
  }

  function say(text, failed = false) {
    status.textContent = text;
    status.classList.toggle("chat-failed", failed);
  }

  /** While the model loads or replies nothing else is asked of it. Buttons stay where the keyboard finds them. */
  function show(state) {
    chat.dataset.state = state;
    busy = state === "loading" || state === "replying";
    send.textContent = worker?.loaded ? "Send" : "Start";
    send.setAttribute("aria-disabled", busy);
    stop.setAttribute("aria-disabled", state !== "replying");
  }

  async function load() {
    say(`Loading the model, ${megabytes(all)} MB …`);
    progress.max = all;
    progress.value = 0;
    progress.hidden = false;
    try {
      await worker.ask({ load: true }, ({ have }) => { progress.value = have; });
    } finally {
      progress.hidden = true;
    }
    worker.loaded = true;
    say("The model is loaded.");
  }

  /** Shows the answer as it comes. Those who hear the page get it once, whole. */
  async function answer(text) {
    const coming = add("Bot", "bot", "");
    coming.line.setAttribute("aria-hidden", "true");
    const started = performance.now();
    let said = "", now;
    try {
      now = await worker.ask({ hear: text, seed: Number(seed.value), temperature: Number(temperature.value) });
      show("replying");
      for (said = now.text; !now.done && !stopped; said += now.text) {
        coming.words.textContent = said;
        log.scrollTop = log.scrollHeight;
        now = await worker.ask({ more: true });
      }
      if (stopped) {
        now = await worker.ask({ stop: true });
      }
    } finally {
      coming.line.remove();
    }
    add("Bot", "bot", `${said}${now.mark}`);
    speed.textContent = `${now.count} tokens, ${Math.round(1000 * now.count / (performance.now() - started))} in a second`;
  }

  /** What was typed: something fixed, or the model's answer. What is missing for it is loaded first. */
  async function hear(text) {
    stopped = false;
    show("loading");
    try {
      if (!worker) {
        worker = startWorker();
        await worker.ask({ begin: files });
        clear();                                                          // what a worker before this one heard, it does not know
      }
      const { empty, fixed } = await worker.ask({ read: text });
      if (fixed) {
        add("You", "person", text);
        addFixed(fixed);
      } else {
        if (!worker.loaded) {
          await load();
        }
        if (!empty) {
          add("You", "person", text);
          await answer(text);
          say("");
        }
      }
    } catch (error) {
      say(error.message, true);
      worker?.end();
      worker = undefined;
      message.value ||= text;
    }
    show(worker?.loaded ? "ready" : "new");
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = message.value;
    if (busy) {
      return;
    }
    if (!seed.checkValidity()) {
      say(`A seed is a whole number from 0 to ${seed.max}.`, true);
      return;
    }
    message.value = "";
    if (document.activeElement === send && matchMedia("(pointer: fine)").matches) {
      message.focus();
    }
    talk = hear(text);
  });
  const halt = () => { stopped ||= chat.dataset.state === "replying"; };
  stop.addEventListener("click", halt);
  chat.addEventListener("keydown", ({ key }) => key === "Escape" && halt());
  reset.addEventListener("click", async () => {
    stopped = true;
    await talk;
    await worker?.ask({ reset: true });
    clear();
    speed.textContent = "";
    seed.value = (Number(seed.value) + 1) % 2 ** 32;
    say("A new conversation, with the next seed.");
  });
  temperature.addEventListener("input", () => { temperature.nextElementSibling.value = temperature.value; });
  chat.hidden = false;
  show("new");
  say(`Start fetches the model, ${megabytes(all)} MB, and answers what stands in the line above.`);
}

document.querySelectorAll("section.chat").forEach(setUp);
