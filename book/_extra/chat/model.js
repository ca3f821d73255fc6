// The book's model: safetensors to logits, with a cache of keys and values. Notebooks 42, 44, 45 and 55, in JavaScript.

const KINDS = { F32: Float32Array, I8: Int8Array };
const RECIPE = { norm: "rms", pre_norm: true, positions: "rotary", inner: "swiglu", qk_norm: true, bias: false, tied: false };
const SIZES = ["vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"];
const EPSILON = 1e-6;

function check(fine, what) {
  if (!fine) {
    throw new Error(`The model's file is damaged, or of another kind: ${what}.`);
  }
}

/** The tensors of a safetensors file, by name, and what its writer says about it. Nothing in it is believed unseen. */
export function readSafetensors(buffer) {
  check(buffer.byteLength > 8, "it has no header");
  const size = Number(new DataView(buffer).getBigUint64(0, true));
  check(size > 1 && size <= buffer.byteLength - 8, "its header does not fit");
  let header;
  try {
    header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, size)));
  } catch {
    check(false, "its header is no JSON");
  }
  check(header !== null && typeof header === "object", "its header is no object");
  const { __metadata__: metadata, ...entries } = header;
  const tensors = new Map();
  for (const [name, entry] of Object.entries(entries)) {
    const { dtype, shape, data_offsets: offsets } = entry ?? {};
    check(Object.hasOwn(KINDS, dtype), `${name} is no numbers that are read here`);
    const whole = (values) => Array.isArray(values) && values.every((value) => Number.isSafeInteger(value) && value >= 0);
    check(whole(shape) && whole(offsets) && offsets.length === 2, `${name} has no shape or no place`);
    const [begin, end] = offsets.map((offset) => 8 + size + offset);
    const bytes = shape.reduce((product, n) => product * n, KINDS[dtype].BYTES_PER_ELEMENT);
    check(end - begin === bytes && end <= buffer.byteLength, `${name} does not fit`);
    tensors.set(name, { shape, data: new KINDS[dtype](buffer.slice(begin, end)) });
  }
  return { tensors, about: metadata?.about };
}

/** The recipe of a model in the file's metadata, if it is one that `Model` can follow. */
function readRecipe(about) {
  let recipe;
  try {
    recipe = JSON.parse(about).settings;
  } catch {
    check(false, "it does not say what it is");
  }
  for (const [name, value] of Object.entries(RECIPE)) {
    check(recipe?.[name] === value, `${name} is not ${value}`);
  }
  for (const name of SIZES) {
    check(Number.isSafeInteger(recipe[name]) && recipe[name] >= 1 && recipe[name] <= 1e6, `${name} is no size`);
  }
  check(recipe.n_embd % (2 * recipe.n_head) === 0, "its heads do not share the numbers evenly, in pairs");
  check(Math.min(recipe.n_embd, recipe.n_inner, recipe.vocab_size) >= 4, "a matrix has less than four rows");
  return recipe;
}

/** y = W x for a matrix of whole numbers and a scale for each row. Four rows at a time, so that each x is fetched once for four. */
function times({ data, scale, columns: n }, x, y) {
  const rows = scale.length;
  for (let next = 0; next < rows; next += 4) {
    const row = Math.min(next, rows - 4);                                 // the last four overlap with those before
    let a = 0, b = 0, c = 0, d = 0;
    for (let j = 0, k = row * n; j < n; j++, k++) {
      a += data[k] * x[j];
      b += data[k + n] * x[j];
      c += data[k + 2 * n] * x[j];
      d += data[k + 3 * n] * x[j];
    }
    y[row] = scale[row] * a;
    y[row + 1] = scale[row + 1] * b;
    y[row + 2] = scale[row + 2] * c;
    y[row + 3] = scale[row + 3] * d;
  }
}

/** y = x, divided by its root mean square, times a weight for each number; of `count` numbers from `at` on. */
function normalise(x, weight, y, at = 0, count = weight.length) {
  let sum = 0;
  for (let i = 0; i < count; i++) {
    sum += x[at + i] * x[at + i];
  }
  const factor = 1 / Math.sqrt(sum / count + EPSILON);
  for (let i = 0; i < count; i++) {
    y[at + i] = x[at + i] * factor * weight[i];
  }
}

export class Model {
  /** From the bytes of a file that `save_quantised` of notebook 45 wrote. */
  constructor(buffer) {
    const { tensors, about } = readSafetensors(buffer);
    this.recipe = readRecipe(about);
    const { vocab_size: V, n_positions: T, n_embd: n, n_layer, n_head, n_inner: m } = this.recipe;
    const take = (name, ...shape) => {
      const { shape: found, data } = tensors.get(name) ?? {};
      check(found?.join() === shape.join(), `${name} is missing, or has another shape`);
      return data;
    };
    const vector = (name, size) => take(`${name}.weight`, size);
    const matrix = (name, rows, columns) => ({
      data: take(`${name}.weight`, rows, columns), scale: take(`${name}.weight.scale`, rows), columns,
    });
    this.tokens = matrix("tokens", V, n);
    this.output = matrix("output", V, n);
    this.norm = vector("norm", n);
    this.hs = n / n_head;
    this.blocks = Array.from({ length: n_layer }, (_, layer) => {
      const at = `blocks.${layer}`;
      return {
        qkv: matrix(`${at}.qkv`, 3 * n, n), proj: matrix(`${at}.proj`, n, n),
        up: matrix(`${at}.up`, m, n), gate: matrix(`${at}.gate`, m, n), down: matrix(`${at}.down`, n, m),
        norm1: vector(`${at}.norm_1`, n), norm2: vector(`${at}.norm_2`, n),
        qNorm: vector(`${at}.q_norm`, this.hs), kNorm: vector(`${at}.k_norm`, this.hs),
        keys: new Float32Array(T * n), values: new Float32Array(T * n),   // the cache: (T, n_head, hs)
      };
    });
    this.angles = Float64Array.from({ length: this.hs / 2 }, (_, i) => 10000 ** (-2 * i / this.hs));
    this.sum = new Float64Array(n);                                       // x: what the blocks add to
    this.part = new Float64Array(n);                                      // what goes into a part, and what comes out
    this.qkvs = new Float64Array(3 * n);
    this.gathered = new Float64Array(n);
    this.scores = new Float64Array(T);
    this.ups = new Float64Array(m);
    this.gates = new Float64Array(m);
    this.logits = new Float64Array(V);
    this.read = [];                                                       // the tokens whose keys and values are kept
  }

  /** The logits (V,) after all of `tokens`. What was read already, from the first token on, is not read again. */
  after(tokens) {
    const { vocab_size: V, n_positions: T } = this.recipe;
    if (tokens.length < 1 || tokens.length > T || !tokens.every((token) => token >= 0 && token < V)) {
      throw new RangeError(`between 1 and ${T} tokens below ${V}: not ${tokens.length}`);
    }
    let same = 0;
    while (same < tokens.length - 1 && tokens[same] === this.read[same]) {
      same += 1;
    }
    this.read.length = Math.min(this.read.length, same);
    for (const token of tokens.slice(same)) {
      this.readOn(token);
    }
    normalise(this.sum, this.norm, this.part);
    times(this.output, this.part, this.logits);
    return this.logits;
  }

  /** Take one token more through all blocks; its keys and values stay in the cache. */
  readOn(token) {
    const { sum, part, tokens, recipe: { n_embd: n } } = this;
    for (let i = 0; i < n; i++) {
      sum[i] = tokens.data[token * n + i] * tokens.scale[token];
    }
    for (const block of this.blocks) {
      for (const [norm, inner] of [[block.norm1, this.attention], [block.norm2, this.network]]) {
        normalise(sum, norm, part);
        inner.call(this, block, part);
        for (let i = 0; i < n; i++) {
          sum[i] += part[i];
        }
      }
    }
    this.read.push(token);
  }

  /** What the newest place gathers from all places up to it; from `part`, and back into it. */
  attention(block, part) {
    const { qkvs, scores, gathered, hs, read: { length: place }, recipe: { n_embd: n, n_head } } = this;
    times(block.qkv, part, qkvs);
    for (let head = 0; head < n_head; head++) {
      normalise(qkvs, block.qNorm, qkvs, head * hs, hs);
      normalise(qkvs, block.kNorm, qkvs, n + head * hs, hs);
      this.turn(qkvs, head * hs, place);
      this.turn(qkvs, n + head * hs, place);
    }
    block.keys.set(qkvs.subarray(n, 2 * n), place * n);
    block.values.set(qkvs.subarray(2 * n), place * n);
    gathered.fill(0);
    for (let at = 0; at < n; at += hs) {                                  // a head after the other
      let most = -Infinity, total = 0;
      for (let t = 0; t <= place; t++) {
        let score = 0;
        for (let i = at; i < at + hs; i++) {
          score += qkvs[i] * block.keys[t * n + i];
        }
        scores[t] = score / Math.sqrt(hs);
        most = Math.max(most, scores[t]);
      }
      for (let t = 0; t <= place; t++) {
        scores[t] = Math.exp(scores[t] - most);
        total += scores[t];
      }
      for (let t = 0; t <= place; t++) {
        const share = scores[t] / total;
        for (let i = at; i < at + hs; i++) {
          gathered[i] += share * block.values[t * n + i];
        }
      }
    }
    times(block.proj, gathered, part);
  }

  /** Rotary positions: the pairs of `hs` numbers from `at` on, turned by an angle for each pair times the place. */
  turn(x, at, place) {
    const half = this.hs / 2;
    for (let i = at; i < at + half; i++) {
      const cos = Math.cos(place * this.angles[i - at]), sin = Math.sin(place * this.angles[i - at]);
      [x[i], x[i + half]] = [x[i] * cos - x[i + half] * sin, x[i] * sin + x[i + half] * cos];
    }
  }

  /** The network of each place (SwiGLU); from `part`, and back into it. */
  network(block, part) {
    const { ups, gates } = this;
    times(block.up, part, ups);
    times(block.gate, part, gates);
    for (let i = 0; i < ups.length; i++) {
      ups[i] *= gates[i] / (1 + Math.exp(-gates[i]));
    }
    times(block.down, ups, part);
  }
}
