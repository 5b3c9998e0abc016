/**
 * From an image file to the net's input: the steps of gluon_attn.export.images, to the bit.
 * Shrinking and enlarging round as OpenCV's INTER_AREA and INTER_LINEAR do for 8 bits.
 *
 * @typedef {{data: Uint8Array | Uint8ClampedArray, width: number, height: number}} Pixels RGBA;
 *   what is in A does not matter
 * @typedef {{x: number, y: number, width: number, height: number}} Window
 * @typedef {{shape: [string, number, number, number], mean: number[], std: number[],
 *   resize: ?number, crop: ?number, keep_aspect?: boolean}} Input
 */

const { abs, ceil, floor, fround, max, min, round } = Math;

/** Round half to even, as Python's round() and OpenCV's cvRound(). @param {number} value */
function roundEven(value) {
  const low = floor(value), rest = value - low;
  return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
}

/**
 * Return the upright pixels of a file or a video frame; transparency is dropped, not blended.
 * @param {Blob | HTMLVideoElement} source
 * @returns {Promise<{pixels: Pixels, bitmap: ImageBitmap}>}
 */
export async function decode(source) {
  const bitmap = await createImageBitmap(source, {
    imageOrientation: "from-image", premultiplyAlpha: "none", colorSpaceConversion: "none",
  });
  const { width, height } = bitmap;
  return { bitmap, pixels: { width, height, data: readUnblended(bitmap) ?? readCanvas(bitmap) } };
}

/** Exact where nothing is transparent. @param {ImageBitmap} bitmap */
function readCanvas(bitmap) {
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  if (!context) throw new Error("the browser has no canvas");
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height).data;
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

/** @param {Pixels} image @param {Window} window @returns {Pixels} */
export function cut(image, { x, y, width, height }) {
  const data = new Uint8Array(4 * width * height);
  for (let row = 0; row < height; row++) {
    const start = 4 * ((y + row) * image.width + x);
    data.set(image.data.subarray(start, start + 4 * width), 4 * row * width);
  }
  return { data, width, height };
}

/** @param {Pixels} from @param {number} width @param {number} height @returns {Pixels} */
export function resize(from, width, height) {
  if (from.width === width && from.height === height) return from;
  const to = { data: new Uint8ClampedArray(4 * width * height), width, height };
  const across = 1 / (width / from.width), down = 1 / (height / from.height);
  const off = max(abs(across - round(across)), abs(down - round(down)));
  if (width > from.width || height > from.height) enlarge(from, to);
  else if (off < Number.EPSILON) averageBlocks(from, to, round(across), round(down));
  else averageAreas(from, to);
  return to;
}

/** @param {Pixels} from @param {Pixels} to @param {number} columns @param {number} rows */
function averageBlocks(from, to, columns, rows) {
  const part = fround(1 / (columns * rows)), quarter = columns === 2 && rows === 2;
  for (let out = 0; out < to.data.length; out++) {
    const c = out % 4, x = (out >> 2) % to.width, y = floor((out >> 2) / to.width);
    let sum = 0;
    for (let row = y * rows; row < (y + 1) * rows; row++) {
      const start = 4 * (row * from.width + x * columns) + c;
      for (let k = 0; k < columns; k++) sum += from.data[start + 4 * k];
    }
    to.data[out] = quarter ? (sum + 2) >> 2 : fround(sum * part);
  }
}

/** How much each source adds to each target. @param {number} from @param {number} to */
function areas(from, to) {
  const scale = 1 / (to / from), parts = [{ target: -1, source: 0, weight: 0 }].slice(1);
  for (let target = 0; target < to; target++) {
    const start = target * scale, end = start + scale, cell = min(scale, from - start);
    const last = min(floor(end), from - 1), first = min(ceil(start), last);
    /** @param {number} source @param {number} covered */
    const add = (source, covered) =>
      parts.push({ target, source, weight: fround(covered / cell) });
    if (first - start > 1e-3) add(first - 1, first - start);
    for (let s = first; s < last; s++) add(s, 1);
    if (end - last > 1e-3) add(last, min(end - last, 1, cell));
  }
  return parts;
}

/** @param {Pixels} from @param {Pixels} to */
function averageAreas(from, to) {
  const across = areas(from.width, to.width), down = areas(from.height, to.height);
  const row = new Float32Array(4 * to.width), sum = new Float32Array(4 * to.width);
  down.forEach(({ target: y, source, weight }, k) => {
    row.fill(0);
    for (const part of across) {
      const t = 4 * part.target, s = 4 * (source * from.width + part.source);
      for (let c = 0; c < 3; c++) row[t + c] += fround(from.data[s + c] * part.weight);
    }
    if (y !== down[k - 1]?.target) sum.fill(0);
    row.forEach((value, i) => { sum[i] += fround(value * weight); });
    if (y !== down[k + 1]?.target) to.data.set(sum, y * sum.length); // rounds half to even
  });
}

/** Two neighbours and their weights in 2048ths. @param {number} from @param {number} to */
function neighbours(from, to) {
  const scale = 1 / (to / from);
  return Array.from({ length: to }, (_, t) => {
    const place = fround((t + 0.5) * scale - 0.5), low = floor(place), rest = fround(place - low);
    return { low, first: roundEven(fround(1 - rest) * 2048), second: roundEven(rest * 2048) };
  });
}

/** @param {Pixels} from @param {Pixels} to */
function enlarge({ data, width, height }, to) {
  const across = neighbours(width, to.width).map((found) => {
    const low = min(max(found.low, 0), width - 1); // at the borders one neighbour, with all weight
    return low === found.low && low < width - 1 ? found : { low, first: 2048, second: 0 };
  });
  neighbours(height, to.height).forEach(({ low, first, second }, y) => {
    const upper = 4 * width * max(low, 0), lower = 4 * width * min(low + 1, height - 1);
    across.forEach((next, x) => {
      const left = 4 * next.low, right = min(left + 4, 4 * (width - 1));
      for (let c = 0; c < 3; c++) {
        const [a, b] = [upper, lower].map((row) =>
          data[row + left + c] * next.first + data[row + right + c] * next.second);
        const sum = (((a >> 4) * first) >> 16) + (((b >> 4) * second) >> 16);
        to.data[4 * (y * to.width + x) + c] = (sum + 2) >> 2;
      }
    });
  });
}

/** Size before the crop, and crop. @param {Pixels | Window} image @param {Input} input */
function plan({ width, height }, { resize: side, crop, keep_aspect: keeps }) {
  if (side && keeps) {
    const scale = side / min(width, height);
    [width, height] = [max(side, roundEven(width * scale)), max(side, roundEven(height * scale))];
  } else if (side) [width, height] = [side, side];
  const wide = min(crop ?? width, width), tall = min(crop ?? height, height);
  const x = floor((width - wide) / 2), y = floor((height - tall) / 2);
  return { width, height, window: { x, y, width: wide, height: tall } };
}

/** Return the input ``(3, H, W)`` of an image. @param {Pixels} image @param {Input} input */
export function prepare(image, input) {
  const { width, height, window } = plan(image, input), [, , tall, wide] = input.shape;
  const seen = resize(cut(resize(image, width, height), window), wide, tall).data;
  const area = tall * wide, planes = new Float32Array(3 * area);
  input.std.forEach((std, c) => {
    const scale = fround(1 / std), shift = fround(-input.mean[c] / std);
    for (let i = 0; i < area; i++) planes[c * area + i] = fround(seen[4 * i + c] * scale) + shift;
  });
  return planes;
}

/** Return the part of a window that the net sees. @param {Window} box @param {Input} input */
export function visible(box, input) {
  const { width, height, window } = plan(box, input);
  const across = box.width / width, down = box.height / height;
  return {
    x: box.x + window.x * across, y: box.y + window.y * down,
    width: window.width * across, height: window.height * down,
  };
}
