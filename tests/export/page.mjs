// Drives the page of an export in headless Chromium: node page.mjs MODULES CHROMIUM < job.json
// The job: url, files (paths), use (whether to do everything), gpu (software for
// it), downloads and shots (folders).
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
  await context.overridePermissions(new URL(job.url).origin, ["camera"]);
  const page = await browser.newPage();
  await page.evaluateOnNewDocument((software) => { // headless, it refuses the real one
    navigator.clipboard.writeText = async (words) => { globalThis.copied = words; };
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
  const said = (words) => page.waitForFunction((wanted) => {
    const shown = document.getElementById("error");
    return document.getElementById("status").textContent.includes(wanted) || !shown.hidden;
  }, {}, words);
  const record = async () => {
    await page.click("#json");
    await said("Copied.");
    return JSON.parse(await page.evaluate(() => globalThis.copied))[0];
  };
  const open = async (path) => {
    await page.$eval("#status", (node) => { node.textContent = ""; });
    await page.$eval("#error", (node) => { node.hidden = true; });
    await (await page.$("#file")).uploadFile(path);
    await said("prepared in");
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
    await said("Copied.");
    seen.csv = await page.evaluate(() => globalThis.copied);
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
  }
} catch (error) {
  seen.failed = String(error);
  seen.last = await (await browser.pages()).at(-1).evaluate(() => document.body.innerText);
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
