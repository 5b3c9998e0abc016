/**
 * The exported net: its files, the engine that runs it, and what its numbers mean.
 * @typedef {{file: string, bytes: number, sha256: string}} File
 * @typedef {{name: string, classes: string[], thresholds: number[], activation: string,
 *   schema: {kind: string, classes: string[]}[], input: import("./pixels.js").Input,
 *   web: {model: File, weights: string, runtime: ?string}}} Sidecar
 * @typedef {{data: Float32Array, dims: number[]}} Values
 * @typedef {{values: number[], outputs: Record<string, Values>}} Result
 */

export class PageError extends Error {}

/** @param {string} file @param {string} [remedy] @param {string} [method] */
export async function load(file, remedy = "copy the whole folder again", method = "GET") {
  const found = await fetch(file, { method }).catch(() => null);
  if (!found?.ok) throw new PageError(`${file} is missing: ${remedy}.`);
  return found;
}

/** @returns {Promise<Sidecar>} */
export const readSidecar = async () => (await load("export.json")).json().catch(() => {
  throw new PageError("export.json is damaged: export again with --web.");
});

/** @param {File} model */
async function readModel({ file, bytes, sha256 }) {
  const data = await (await load(file)).arrayBuffer();
  // Pages that come neither from this machine nor over https cannot compute checksums.
  const digest = crypto.subtle && new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  const found = digest && Array.from(digest, (b) => b.toString(16).padStart(2, "0")).join("");
  if (data.byteLength !== bytes || (found && found !== sha256)) {
    throw new PageError(`${file} is damaged or of another export: export again with --web.`);
  }
  return new Uint8Array(data);
}

/** @param {string} kind "webgpu" or "wasm" @param {Uint8Array} model @param {?string} version */
async function start(kind, model, version) {
  const main = `ort.${kind}.min.mjs`, more = kind === "wasm" ? "" : ".asyncify";
  for (const name of [main, ...["mjs", "wasm"].map((e) => `ort-wasm-simd-threaded${more}.${e}`)]) {
    await load(`runtime/${name}`, "export again with --onnx --web --runtime DIR", "HEAD");
  }
  const ort = await import(`./runtime/${main}`);
  ort.env.wasm.wasmPaths = new URL("runtime/", location.href).href;
  const threads = crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  ort.env.wasm.numThreads = threads;
  const session = await ort.InferenceSession.create(model, { executionProviders: [kind] });
  const words = kind === "webgpu" ? "WebGPU" : `WASM with SIMD, threads: ${threads}`;
  return { ort, session, engine: `onnxruntime-web ${version} (${words})` };
}

/** Return the net, on the GPU where the browser offers one. @param {Sidecar} sidecar */
export async function openNet(sidecar) {
  const { runtime, model } = sidecar.web, shape = [1, ...sidecar.input.shape.slice(1)];
  const bytes = await readModel(model), gpu = /** @type {any} */ (navigator).gpu;
  const adapter = gpu && (await gpu.requestAdapter().catch(() => null));
  const real = adapter && !adapter.info?.isFallbackAdapter; // that computes on the CPU, slowly
  const onGpu = real ? await start("webgpu", bytes, runtime).catch(() => null) : null;
  const { ort, session, engine } = onGpu ?? (await start("wasm", bytes, runtime).catch((error) => {
    if (error instanceof PageError) throw error;
    throw new PageError(`${model.file} cannot be run by onnxruntime-web: ${error.message}`);
  }));
  let last = Promise.resolve(); // a session runs one image at a time
  /** @param {Float32Array} data @returns {Promise<Record<string, Values>>} */
  const run = (data) => (last = last.catch(() => {}).then(() =>
    session.run({ data: new ort.Tensor("float32", data, shape) })));
  return { engine, run };
}

/** Return for every column the columns of its attribute. @param {Sidecar} sidecar */
export function siblingsOf({ schema }) {
  let next = 0;
  return schema.flatMap(({ classes }) => {
    const columns = (classes.length ? classes : [""]).map(() => next++);
    return columns.map(() => columns);
  });
}

/** @param {Float32Array} logits @param {string} activation */
export function probabilitiesOf(logits, activation) {
  if (activation === "sigmoid") return Array.from(logits, (v) => 1 / (1 + Math.exp(-v)));
  if (activation !== "softmax") return Array.from(logits);
  const top = Math.max(...logits), parts = Array.from(logits, (v) => Math.exp(v - top));
  const sum = parts.reduce((a, b) => a + b, 0);
  return parts.map((v) => v / sum);
}

// A binary attribute is positive from its threshold on, of several classes the best is.
/** @param {number[]} values @param {number[]} thresholds @param {number[][]} siblings */
export function decide(values, thresholds, siblings) {
  return values.map((value, c) => siblings[c].length > 1
    ? c === siblings[c].reduce((a, b) => (values[b] > values[a] ? b : a))
    : value >= Math.fround(thresholds[c]));
}

/** As Predictor.predict(). @param {string} image @param {?number[]} box @param {number[]} values
 * @param {boolean[]} positive @param {string[]} classes */
export function recordOf(image, box, values, positive, classes) {
  const probabilities = Object.fromEntries(classes.map((name, c) => [name, values[c]]));
  return { image, box, probabilities, positives: classes.filter((_, c) => positive[c]) };
}

/** Return it as CSV, as predict --csv does. @param {ReturnType<typeof recordOf>} record */
export function csvOf({ image, box, probabilities }) {
  const head = ["image", "x", "y", "w", "h", ...Object.keys(probabilities)];
  const values = Object.values(probabilities).map((value) => value.toFixed(6));
  /** @param {any} cell */
  const quoted = (cell) => (/[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
  return [head, [image, ...(box ?? ["", "", "", ""]), ...values]]
    .map((line) => `${line.map(quoted).join(",")}\n`).join("");
}
