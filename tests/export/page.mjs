// Drives the page of an export in headless Chromium: node page.mjs MODULES CHROMIUM < job.json
// The job: url, files (paths), use (whether to do everything), given (a PNG to drop and to paste),
// gpu (software for it), downloads and shots (folders).
// Prints what was seen as JSON.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const [modules, chromium] = process.argv.slice(2);
const need = createRequire(`${modules}/`);
const job = JSON.parse(readFileSync(0, "utf8"));
const browser = await need("puppeteer-core").launch({
  executablePath: chromium, headless: true,
  args: ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
    "--enable-unsafe-swiftshader", ...(job.gpu ? ["--enable-unsafe-webgpu",
      "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"] : [])],
});
const seen = { requests: [], problems: [], records: {}, statuses: {} };
try {
  const context = browser.defaultBrowserContext();
  await context.overridePermissions(new URL(job.url).origin, 
    ["camera", "clipboard-read", "clipboard-write", "clipboard-sanitized-write"]);
  const page = await browser.newPage();
  await page.evaluateOnNewDocument((software) => {
    // Software in the place of a GPU, which the page leaves alone otherwise.
    if (globalThis.GPUAdapterInfo && software) {
      Object.defineProperty(GPUAdapterInfo.prototype, "isFallbackAdapter", { value: false });
    }
  }, Boolean(job.gpu));
  page.setDefaultTimeout(job.gpu ? 300000 : 60000);
  page.on("request", (request) => seen.requests.push(request.url()));
  page.on("pageerror", (error) => seen.problems.push(String(error)));
  page.on("console", (message) => {
    if (message.type() === "error") seen.problems.push(message.text());
  });
  await page.setViewport({ width: 1600, height: 1000 });
  const text = (id) => page.$eval(`#${id}`, (node) => node.textContent);
  const clear = () => page.$eval("#status", (node) => { node.textContent = ""; });
  const said = (words) => page.waitForFunction((wanted) => {
    const shown = document.getElementById("error");
    return document.getElementById("status").textContent.includes(wanted) || !shown.hidden;
  }, {}, words);
  const copied = async () => {
    await said("Copied.");
    return page.evaluate(() => navigator.clipboard.readText());
  };
  const record = async () => {
    await page.click("#json");
    return JSON.parse(await copied())[0];
  };
  const open = async (path) => {
    await clear();
    await page.$eval("#error", (node) => { node.hidden = true; });
    await (await page.$("#file")).uploadFile(path);
    await said("prepared in");
  };
  const given = async (how) => {
    await clear();
    await how();
    await said("prepared in");
    return record();
  };
  const tabTo = async (wanted) => {
    for (let k = 0; k < 100; k++) {
      await page.keyboard.press("Tab");
      if (await page.evaluate((css) => document.activeElement.matches(css), wanted)) return;
    }
    throw new Error(`the keyboard does not reach ${wanted}`);
  };
  const corner = () => page.$eval("#canvas", (c) =>
    [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data].slice(0, 400000));

  await page.goto(job.url);
  await said("Ready.");
  seen.error = await page.$eval("#error", (node) => (node.hidden ? "" : node.textContent));
  seen.engine = await text("engine");
  seen.about = await page.$eval("footer", (node) => node.textContent);
  for (const path of job.files ?? []) {
    await open(path);
    const failed = await page.$eval("#error", (node) => (node.hidden ? "" : node.textContent));
    seen.statuses[path] = failed || (await text("status"));
    if (!failed) seen.records[path] = await record();
  }
  if (job.use) {
    await open(job.files[0]);
    const box = await (await page.$("#canvas")).boundingBox();
    const [x, y] = [box.x + box.width * 0.25, box.y + box.height * 0.2];
    await page.mouse.move(x, y);
    await page.mouse.down();
    await page.mouse.move(x + box.width / 2, y + box.height / 2, { steps: 4 });
    await page.mouse.up();
    await said("prepared in");
    seen.drawn = await record();
    await page.click("#whole");
    await said("prepared in");
    const plain = await corner();
    await page.focus("li[data-column='1'] button");
    const mapped = await corner();
    seen.changed = mapped.filter((value, k) => value !== plain[k]).length;
    seen.kinds = new Set(mapped.map((value, k) => value - plain[k])).size;
    seen.label = await page.$eval("#canvas", (node) => node.ariaLabel);
    seen.wide = await page.evaluate(() => document.documentElement.scrollWidth);
    await page.$eval("li[data-column='0'] input", (node) => {
      node.value = 0;
      node.dispatchEvent(new Event("input", { bubbles: true }));
    });
    seen.lowered = await record();
    await page.click("#csv");
    seen.csv = await copied();
    await page.click("#reset");
    const client = await page.createCDPSession();
    await client.send("Browser.setDownloadBehavior",
      { behavior: "allow", downloadPath: job.downloads, eventsEnabled: true });
    await Promise.all([
      new Promise((done) => client.on("Browser.downloadProgress",
        ({ state }) => state === "completed" && done())),
      page.click("#save"),
    ]);
    seen.axe = [];
    await page.evaluate(readFileSync(need.resolve("axe-core/axe.min.js"), "utf8"));
    for (const [width, scheme] of [[1600, "light"], [1600, "dark"], [360, "light"], [360, "dark"]]) {
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      await page.setViewport({ width, height: 1000 });
      const found = await page.evaluate(() => globalThis.axe.run());
      seen.axe.push(...found.violations.map((v) => `${v.impact} ${v.id} ${v.nodes[0].html}`));
      seen[`scroll${width}`] = await page.evaluate(() => document.documentElement.scrollWidth);
      if (job.shots) await page.screenshot({ path: `${job.shots}/${width}-${scheme}.png`, fullPage: true });
    }
    await page.click("#camera");
    await page.waitForSelector("#shoot:not([hidden])");
    await page.click("#shoot");
    await said("camera, ");
    await said("prepared in");
    seen.camera = await record();
    seen.filming = await page.$eval("#video", (node) => Boolean(node.srcObject));
    seen.dropped = await given(async () => {
      const client = await page.createCDPSession();
      for (const type of ["dragEnter", "dragOver", "drop"]) {
        const data = { items: [], files: [job.given], dragOperationsMask: 1 };
        await client.send("Input.dispatchDragEvent", { type, x: 100, y: 300, data });
      }
    });
    seen.pasted = await given(async () => {
      await page.evaluate((text) => {
        const data = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
        const blob = new Blob([data], { type: "image/png" });
        return navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
      }, readFileSync(job.given).toString("base64"));
      await page.keyboard.down("Control");
      await page.keyboard.press("v", { commands: ["Paste"] });
      await page.keyboard.up("Control");
    });
    // The keyboard alone.
    await page.reload();
    await said("Ready.");
    await tabTo("#samples button");
    await page.keyboard.press("Enter");
    await said("prepared in");
    await tabTo("#x");
    await page.keyboard.type("20");
    await clear();
    await page.keyboard.press("Tab");
    await said("prepared in");
    await tabTo("li[data-column='1'] button");
    seen.keyLabel = await page.$eval("#canvas", (node) => node.ariaLabel);
    await tabTo("li[data-column='1'] input");
    await page.keyboard.press("Home");
    await tabTo("#json");
    await page.keyboard.press("Enter");
    seen.typed = JSON.parse(await copied())[0];
    seen.stored = await page.evaluate(async () => [localStorage.length, sessionStorage.length,
      document.cookie.length, (await indexedDB.databases()).length, (await caches.keys()).length]);
    // What the policy must keep from happening.
    [seen.before, seen.fine] = [seen.requests.length, seen.problems.length];
    seen.blocked = await page.evaluate(async () => {
      const found = [];
      document.addEventListener("securitypolicyviolation",
        (event) => found.push(event.effectiveDirective));
      await fetch("http://localhost:1/").catch(() => {});
      document.createElement("img").src = "http://localhost:1/image.png";
      for (const [name, text] of [["script", "globalThis.ran = 1"], ["style", "p { color: red }"]]) {
        const node = document.createElement(name);
        node.textContent = text;
        document.head.append(node);
      }
      await new Promise((done) => setTimeout(done, 300));
      return found.sort();
    });
    seen.ran = await page.evaluate(() => globalThis.ran ?? 0);
  }
} catch (error) {
  seen.failed = String(error);
  seen.last = await (await browser.pages()).at(-1).evaluate(() => document.body.innerText);
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
