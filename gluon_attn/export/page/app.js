/** The page: an image comes in, attributes and attention maps come out, nothing leaves. */
import { PageError, load, openNet, readSidecar } from "./net.js";
import { csvOf, decide, probabilitiesOf, recordOf, siblingsOf } from "./net.js";
import { cut, decode, prepare, visible } from "./pixels.js";

/** @typedef {import("./pixels.js").Window} Window */
/** @param {string} id @returns {any} */
const $ = (id) => document.getElementById(id);
const SHORT = 800, LONG = 1600, PARTS = ["button", "i", "b", "output", "input"];
const MOST = 12; // classes of an attribute that are listed, the most probable ones
const COLOURS = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];
const items = /** @type {any[]} */ ([...document.querySelectorAll("li[data-column]")]);
const canvas = $("canvas");

/** @param {Window} box @returns {[number, number, number, number]} */
const corners = ({ x, y, width, height }) => [x, y, width, height];

/** @param {Error} error */
function fail(error) {
  const start = error instanceof PageError ? "" : "The page cannot go on: ";
  [$("error").textContent, $("error").hidden] = [start + error.message, false];
  $("status").textContent = "";
}

await readSidecar().then(begin).catch(fail);

/** @param {import("./net.js").Sidecar} sidecar */
async function begin(sidecar) {
  const { input, web } = sidecar, siblings = siblingsOf(sidecar), net = await openNet(sidecar);
  let thresholds = [...sidecar.thresholds], shown = -1, ticket = 0;
  /** @type {{name: string, pixels: import("./pixels.js").Pixels, bitmap: ImageBitmap}} */
  let image;
  let box = /** @type {?Window} */ (null), corner = /** @type {?number[]} */ (null);
  let result = /** @type {?import("./net.js").Result} */ (null);
  $("engine").textContent = `It runs the net with ${net.engine}; weights: ${web.weights}.`;
  $("status").textContent = "Ready.";

  /** @param {Blob | HTMLVideoElement} source @param {string} name */
  async function open(source, name) {
    const mine = ++ticket, found = await decode(source).catch(() => null);
    if (mine !== ticket) return;
    if (!found) throw new PageError(`${name} is no image for this browser: give a JPEG or a PNG.`);
    image = { name, ...found };
    [$("error").hidden, $("box").disabled] = [true, false];
    await choose(null);
  }

  /** Run the net on a box, or on the whole image. @param {?Window} window */
  async function choose(window) {
    const { name, pixels } = image, { width, height } = pixels, mine = ++ticket;
    [box, result] = [window, null];
    const area = box ?? { x: 0, y: 0, width, height };
    for (const [id, value] of Object.entries(area)) $(id).value = value;
    update();
    $("status").textContent = `${name}: running …`;
    await new Promise((done) => setTimeout(done, 20)); // lets the browser paint
    const start = performance.now(), data = prepare(box ? cut(pixels, box) : pixels, input);
    const ready = performance.now(), outputs = await net.run(data), end = performance.now();
    if (mine !== ticket) return;
    result = { outputs, values: probabilitiesOf(outputs.logits.data, sidecar.activation) };
    $("status").textContent = `${name}, ${width} × ${height} pixels: prepared in ` +
      `${(ready - start).toFixed(0)} ms, net ${(end - ready).toFixed(0)} ms.`;
    update();
  }

  /** Bring bars, decisions and the canvas up to date. */
  function update() {
    $("results").hidden = !result;
    for (const id of ["json", "csv", "save", "reset"]) $(id).disabled = !result;
    const values = result?.values ?? [], positive = decide(values, thresholds, siblings);
    for (const item of result ? items : []) {
      const c = Number(item.dataset.column), value = values[c];
      const [button, fill, line, number, slider] = PARTS.map((name) => item.querySelector(name));
      const rank = siblings[c].filter((other) => values[other] > value).length;
      if (siblings[c].length > MOST) [item.style.order, item.hidden] = [`${rank}`, rank >= MOST];
      item.classList.toggle("positive", positive[c]);
      item.classList.toggle("shown", c === shown);
      fill.style.width = `${100 * Math.min(1, Math.max(0, value))}%`;
      number.value = value.toFixed(3);
      button.ariaLabel = `${button.textContent}, ${number.value}, ${positive[c] ? "yes" : "no"}`;
      if (slider) [line.style.left, slider.value] = [`${100 * thresholds[c]}%`, thresholds[c]];
    }
    draw();
  }

  function draw() {
    const { width, height } = image.pixels, pen = canvas.getContext("2d");
    const side = Math.max(width, height), scale = Math.min(LONG, Math.max(SHORT, side)) / side;
    [canvas.width, canvas.height, canvas.hidden] = [width * scale, height * scale, false];
    pen.scale(scale, scale);
    pen.drawImage(image.bitmap, 0, 0);
    const tap = $("tap").value, map = shown < 0 ? undefined : result?.outputs[tap];
    canvas.ariaLabel = image.name + (map ? `, ${tap} of ${sidecar.classes[shown]}` : "");
    if (map) {
      const area = box ?? { x: 0, y: 0, width, height }, seen = visible(area, input);
      pen.save();
      pen.rect(...corners(area));
      pen.clip(); // outside are the bars of a letterbox
      pen.globalAlpha = Number($("opacity").value);
      pen.drawImage(heat(map, shown), ...corners(seen));
      pen.restore();
    }
    [pen.strokeStyle, pen.lineWidth] = ["#ffb000", 4 / scale];
    if (box) pen.strokeRect(...corners(box));
  }

  /** The box between two points of the image. @param {number[]} one @param {number[]} other */
  function between(one, other) {
    const most = [image.pixels.width, image.pixels.height];
    const [x, y] = one.map((v, k) => Math.max(0, Math.floor(Math.min(v, other[k]))));
    const [right, low] = one.map((v, k) => Math.min(most[k], Math.ceil(Math.max(v, other[k]))));
    return right > x && low > y ? { x, y, width: right - x, height: low - y } : null;
  }

  /** @param {MouseEvent} event */
  const place = ({ offsetX, offsetY }) =>
    [offsetX, offsetY].map((value) => (value / canvas.clientWidth) * image.pixels.width);
  canvas.onpointerdown = (/** @type {PointerEvent} */ event) => {
    corner = place(event);
    canvas.setPointerCapture(event.pointerId);
  };
  canvas.onpointermove = (/** @type {PointerEvent} */ event) => {
    if (!corner) return;
    [box, result] = [between(corner, place(event)), null];
    draw();
  };
  canvas.onpointerup = canvas.onpointercancel = () => {
    corner = null;
    choose(box && Math.min(box.width, box.height) > 3 ? box : null).catch(fail);
  };
  $("box").onchange = () => {
    const [x, y, width, height] = ["x", "y", "width", "height"].map((id) => Number($(id).value));
    choose(between([x, y], [x + width, y + height])).catch(fail);
  };
  $("whole").onclick = () => choose(null).catch(fail);
  $("tap").onchange = $("opacity").oninput = () => image && draw();
  $("reset").onclick = () => { thresholds = [...sidecar.thresholds]; update(); };
  for (const item of items) {
    const column = Number(item.dataset.column);
    for (const event of ["pointerenter", "focusin", "click"]) {
      item.addEventListener(event, () => { shown = column; update(); });
    }
    const slider = item.querySelector("input");
    if (slider) slider.oninput = () => { thresholds[column] = Number(slider.value); update(); };
  }

  /** @param {(record: ReturnType<typeof recordOf>) => string} text */
  const copy = (text) => async () => {
    const values = result?.values ?? [], positive = decide(values, thresholds, siblings);
    const record = recordOf(image.name, box && corners(box), values, positive, sidecar.classes);
    $("status").textContent = await navigator.clipboard.writeText(text(record))
      .then(() => "Copied.", () => "The browser does not let this page copy.");
  };
  $("json").onclick = copy((record) => JSON.stringify([record], null, 1));
  $("csv").onclick = copy(csvOf);
  $("save").onclick = () => {
    const href = canvas.toDataURL("image/png");
    const download = `${image.name.replace(/\.\w+$/, "")}_attributes.png`;
    Object.assign(document.createElement("a"), { href, download }).click();
  };

  /** @param {?FileList | undefined} files */
  const take = (files) => files?.length && open(files[0], files[0].name).catch(fail);
  $("file").onchange = () => { take($("file").files); $("file").value = ""; };
  document.onpaste = (event) => take(event.clipboardData?.files);
  document.ondragover = (event) => event.preventDefault();
  document.ondrop = (event) => { event.preventDefault(); take(event.dataTransfer?.files); };
  for (const button of $("samples").children) {
    const file = button.firstElementChild.getAttribute("src");
    button.onclick = () => load(file).then((found) => found.blob())
      .then((found) => open(found, file)).catch(fail);
  }
  $("camera").onclick = async () => { // and once more to close it
    const opens = !$("video").srcObject, media = opens && navigator.mediaDevices;
    const stream = media ? await media.getUserMedia({ video: true }).catch(() => null) : null;
    if (opens && !stream) fail(new PageError("The browser gives this page no camera."));
    for (const track of $("video").srcObject?.getTracks() ?? []) track.stop();
    $("video").srcObject = stream;
    $("video").hidden = !stream;
    if (stream) await $("video").play();
    $("shoot").hidden = !stream;
  };
  $("shoot").onclick = () => open($("video"), "camera").catch(fail).then($("camera").onclick);
}

/** @param {import("./net.js").Values} map @param {number} c */
function heat({ data, dims: [, count, height, width] }, c) {
  const size = height * width, which = Math.min(c, count - 1);
  const part = data.subarray(which * size, (which + 1) * size);
  const low = Math.min(...part), range = Math.max(...part) - low || 1;
  const colours = new ImageData(width, height), made = new OffscreenCanvas(width, height);
  part.forEach((value, k) => {
    const level = ((value - low) / range) * (COLOURS.length - 1);
    const step = Math.min(COLOURS.length - 2, Math.floor(level)), [a, b] = COLOURS.slice(step);
    colours.data.set([...a.map((v, i) => v + (b[i] - v) * (level - step)), 255], 4 * k);
  });
  made.getContext("2d")?.putImageData(colours, 0, 0);
  return made;
}
