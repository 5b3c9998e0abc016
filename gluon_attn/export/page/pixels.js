/**
 * From an image file to the net's input: the steps of gluon_attn.export.images, to the bit.
 * Roundings are those of OpenCV's INTER_AREA and INTER_LINEAR and of Pillow's filters for 8 bits.
 * @typedef {{data: Uint8Array | Uint8ClampedArray, width: number, height: number}} Pixels RGBx
 * @typedef {{x: number, y: number, width: number, height: number}} Window
 * @typedef {{shape: [string, number, number, number], mean: number[], std: number[],
 *   resize: ?number, crop: ?number, keep_aspect?: boolean, interpolation: string}} Input
 */

const { abs, ceil, cos, floor, fround, max, min, round, sin, trunc, PI } = Math;
const Bytes = Uint8ClampedArray;

/** Half to even, as Python's round() and OpenCV's cvRound(). @param {number} value */
const roundEven = (value) => round(value) - Number(value % 1 === 0.5 && round(value) % 2);

/** Return the upright pixels of a file or a video frame; transparency is dropped, not blended.
 * @param {Blob | HTMLVideoElement} source */
export async function decode(source) {
  const bitmap = await createImageBitmap(source, {
    imageOrientation: "from-image", premultiplyAlpha: "none", colorSpaceConversion: "none",
  });
  const { width, height } = bitmap, data = readUnblended(bitmap) ?? readCanvas(bitmap);
  return { bitmap, pixels: { width, height, data } };
}

/** Exact where nothing is transparent. @param {ImageBitmap} bitmap @returns {Uint8ClampedArray} */
function readCanvas(bitmap) {
  const { width, height } = bitmap;
  const pen = /** @type {any} */ (new OffscreenCanvas(width, height).getContext("2d"));
  pen.drawImage(bitmap, 0, 0);
  return pen.getImageData(0, 0, width, height).data;
}

/** Colours under transparency, which a 2D canvas loses. @param {ImageBitmap} bitmap */
function readUnblended(bitmap) {
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2"), { width, height } = bitmap;
  if (!gl || max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const data = new Uint8Array(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, data);
  return gl.getError() ? null : data;
}

/** Cut out a window, coloured where it exceeds the image. @param {Pixels} image
 * @param {Window} window @param {number[]} [colour] @returns {Pixels} */
export function cut(image, { x, y, width, height }, colour = []) {
  const data = new Bytes(4 * width * height), wide = 4 * min(width, image.width);
  if (data.length > image.data.length) data.forEach((_, i) => { data[i] = colour[i % 4]; });
  for (let row = max(0, -y); row < min(height, image.height - y); row++) {
    const start = 4 * ((y + row) * image.width + max(x, 0));
    data.set(image.data.subarray(start, start + wide), 4 * (row * width + max(0, -x)));
  }
  return { data, width, height };
}

const sinc = (/** @type {number} */ x) => (x === 0 ? 1 : sin(x * PI) / (x * PI));
/** Pillow's filters: their reach, and the weight of a source at a distance.
 * @type {Record<string, [number, (x: number) => number]>} */
const FILTERS = {
  nearest: [0, () => 1],
  box: [0.5, (x) => Number(x > -0.5 && x <= 0.5)],
  bilinear: [1, (x) => max(0, 1 - abs(x))],
  hamming: [1, (x) => (abs(x) < 1 ? sinc(x) * (fround(0.54) + fround(0.46) * cos(x * PI)) : 0)],
  bicubic: [2, (x) => ((x = abs(x)) < 1 ? (1.5 * x - 2.5) * x * x + 1
    : x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0)],
  lanczos: [3, (x) => (abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0)],
};
/** @template T @param {number} count @param {(k: number) => T} make */
const times = (count, make) => Array.from({ length: count }, (_, k) => make(k));
/** @typedef {(from: number, to: number) => [number, number][][]} Parts for each target its sources
 * and their weights */

/** In 2^22nds. @param {string} method @returns {Parts} */
const filtered = (method) => (from, to) => {
  const [reach, curve] = FILTERS[method], scale = from / to, wide = max(scale, 1);
  let place = scale / 2; // summed up, as Pillow does for its nearest
  return times(to, (t) => {
    const centre = (t + 0.5) * scale, low = max(0, floor(centre - reach * wide + 0.5));
    if (!reach) return [[floor(t ? (place += scale) : place), 2 ** 22]];
    const weights = times(min(from, floor(centre + reach * wide + 0.5)) - low,
      (k) => curve((k + low - centre + 0.5) * (1 / wide)));
    const sum = weights.reduce((a, b) => a + b);
    return weights.map((w, k) => [low + k, trunc((w / sum) * 2 ** 22 + (w < 0 ? -0.5 : 0.5))]);
  });
};
/** Whole sources, as many for each target. @type {Parts} */
const blocks = (from, to) =>
  times(to, (t) => times(round(from / to), (k) => [t * round(from / to) + k, 1]));
/** What each target covers of each source. @type {Parts} */
const areas = (from, to) => times(to, (t) => {
  const scale = 1 / (to / from), start = t * scale, end = start + scale;
  const last = min(floor(end), from - 1), first = min(ceil(start), last);
  return times(last - first + 2, (k) => first - 1 + k).map((s) => /** @type {[number, number]} */ (
    [s, s < first ? first - start : s < last ? 1 : min(end - last, 1)]))
    .filter(([, part]) => part > 1e-3)
    .map(([s, part]) => [s, fround(part / min(scale, from - start))]);
});
/** Two neighbours, with weights in 2048ths. @type {Parts} */
const neighbours = (from, to) => times(to, (t) => {
  const place = fround((t + 0.5) * (1 / (to / from)) - 0.5), low = floor(place);
  const rest = fround(place - low);
  return [[max(low, 0), roundEven(fround(1 - rest) * 2048)],
    [min(low + 1, from - 1), roundEven(rest * 2048)]];
});

/** Resize the middle one of three dimensions, of which the last one is `step` long.
 * @param {any} data @param {number} step @param {number} from @param {ReturnType<Parts>} parts
 * @param {any} kind of array @param {any} add @param {any} end */
function along(data, step, from, parts, kind, add, end) {
  const outer = data.length / (from * step), found = new kind(outer * parts.length * step);
  const columns = parts.map((part) => [part.map(([s]) => s * step), part.map(([, w]) => w)]);
  for (let o = 0, to = 0; o < outer; o++) {
    for (const [places, weights] of columns) {
      for (let i = o * from * step; i < (o * from + 1) * step; i++) {
        let sum = 0;
        for (let k = 0; k < places.length; k++) sum = add(sum, weights[k], data[i + places[k]]);
        found[to++] = end ? end(sum) : sum; // a clamped array rounds half to even
      }
    }
  }
  return found;
}

/** Parts, kind of the rows, additions and ends of both directions.
 * @param {number} across @param {number} down @param {string} [method] @returns {any[]} */
function wayOf(across, down, method = "") {
  const [wide, tall] = [round(across), round(down)], part = fround(1 / (wide * tall));
  /** @type {((sum: number, weight: number, value: number) => number)[]} */
  const [plus, plusFloat, plusShifted, end, endLines, endBlocks] = [
    (sum, weight, value) => sum + weight * value,
    (sum, weight, value) => fround(sum + fround(weight * value)),
    (sum, weight, value) => sum + (((value >> 4) * weight) >> 16),
    (sum) => floor((sum + 2 ** 21) / 2 ** 22), (sum) => (sum + 2) >> 2, (sum) => fround(sum * part),
  ];
  if (method in FILTERS) return [filtered(method), Bytes, plus, end, plus, end];
  if (min(across, down) < 1) return [neighbours, Int32Array, plus, , plusShifted, endLines];
  const whole = max(abs(across - wide), abs(down - tall)) < Number.EPSILON;
  if (!whole) return [areas, Float32Array, plusFloat, , plusFloat];
  return [blocks, Int32Array, plus, , plus, wide === 2 && tall === 2 ? endLines : endBlocks];
}

/** @param {Pixels} image @param {number} wide @param {number} tall @param {string} [method]
 * @returns {Pixels} */
export function resize({ data, width, height }, wide, tall, method) {
  if (width === wide && height === tall) return { data, width, height };
  const [parts, kind, add, end, ...down] = wayOf(1 / (wide / width), 1 / (tall / height), method);
  const rows = along(data, 4, width, parts(width, wide), kind, add, end);
  data = along(rows, 4 * wide, height, parts(height, tall), Bytes, down[0], down[1]);
  return { data, width: wide, height: tall };
}

/** The frame of an image, a square for a letterbox; its size before the crop; the crop in that.
 * @param {Pixels | Window} image @param {Input} input */
function plan({ width: w, height: h }, { resize: side, crop, keep_aspect: keeps }) {
  const most = max(w, h), frame = { x: 0, y: 0, width: w, height: h };
  if (keeps && !crop) {
    Object.assign(frame, { x: -((most - w) >> 1), y: -((most - h) >> 1) });
    frame.width = frame.height = w = h = most;
  }
  const scale = (side ?? 0) / min(w, h);
  if (side) [w, h] = [w, h].map((v) => (keeps ? max(side, roundEven(v * scale)) : side));
  const width = min(crop ?? w, w), height = min(crop ?? h, h);
  return { frame, w, h, window: { x: (w - width) >> 1, y: (h - height) >> 1, width, height } };
}

/** Return the input ``(3, H, W)`` of an image. @param {Pixels} image @param {Input} input */
export function prepare(image, input) {
  const { frame, w, h, window } = plan(image, input), [, , tall, wide] = input.shape;
  const whole = resize(cut(image, frame, input.mean), w, h, input.interpolation);
  const seen = resize(cut(whole, window), wide, tall, input.interpolation).data;
  const area = tall * wide, planes = new Float32Array(3 * area);
  input.std.forEach((std, c) => {
    const scale = fround(1 / std), shift = fround(-input.mean[c] / std);
    for (let i = 0; i < area; i++) planes[c * area + i] = fround(seen[4 * i + c] * scale) + shift;
  });
  return planes;
}

/** What a map covers of a box and of bars around it. @param {Window} box @param {Input} input */
export function visible(box, input) {
  const { frame, w, h, window } = plan(box, input);
  const across = frame.width / w, down = frame.height / h;
  const x = box.x + frame.x + window.x * across, y = box.y + frame.y + window.y * down;
  return { x, y, width: window.width * across, height: window.height * down };
}
