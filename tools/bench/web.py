"""Time of one image in the page of an export, in headless Chromium, beside ONNX Runtime.

The page's own script opens the net and runs it, with the engine (WASM with SIMD) that everyone gets
who opens the page; ONNX Runtime runs the float32 file of the same export with as many threads. They
alternate image by image, and a ratio is that of two neighbouring images.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np

from gluon_attn.cli.serve import make_server
from gluon_attn.core.files import json_text
from gluon_attn.export.onnx_session import open_onnx_session
from gluon_attn.export.parity import random_batch
from gluon_attn.export.sidecar import read_sidecar, read_verified
from tools.bench.turns import ratio_by_turns, spread_text

LIMIT = 1e-2  # of a logit: half-precision weights differ by less, another net by more
# The server's answer that there is no such file is a document in which the page's modules can run.
DRIVER = """
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
const [modules, chromium, url, threads] = process.argv.slice(1);
const browser = await createRequire(`${modules}/`)("puppeteer-core").launch(
  { executablePath: chromium, headless: true, protocolTimeout: 300000,
    args: ["--no-sandbox"] });
const page = await browser.newPage();
await page.evaluateOnNewDocument((count) => {
  Object.defineProperty(navigator, "hardwareConcurrency", { value: count });
}, Number(threads));
await page.goto(`${url}none`);
for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await page.evaluate(async (numbers) => {
    const { openNet, readSidecar } = await import("./net.js");
    globalThis.net ??= await openNet(await readSidecar());
    globalThis.data ??= Float32Array.from(numbers);
    const start = performance.now(), { logits } = await net.run(data);
    const ms = performance.now() - start;
    return { ms, logits: [...logits.data], engine: net.engine };
  }, JSON.parse(line))));
}
await browser.close();
"""


def measure(
    exports: Sequence[str],
    modules: str,
    *,
    threads: Sequence[int] = (1, 2),
    rounds: int = 7,
    report: Callable[[str], Any] = lambda line: None,
) -> list[dict]:
    """Return a row for each export, which has a page, and number of threads.

    ``modules`` is the folder node_modules with puppeteer-core. Raises FileNotFoundError without
    Node.js, Chromium or that package; ValueError where the page's logits are another net's.
    """
    programs = [shutil.which(name) for name in ("node", "chromium")]
    if None in programs or not Path(modules, "puppeteer-core").is_dir():
        raise FileNotFoundError(
            f"{modules}: needs Node.js, Chromium and npm install --no-save puppeteer-core there"
        )
    rows = []
    for export in exports:
        for count in threads:
            with make_server(export) as server:
                thread = threading.Thread(target=server.serve_forever)
                thread.start()
                try:
                    url = f"http://127.0.0.1:{server.server_address[1]}/"
                    given = [str(Path(modules).resolve()), programs[1], url, str(count)]
                    command = [programs[0], "--input-type=module", "-e", DRIVER, *given]
                    rows.append(_compare(export, command, count, rounds))
                finally:
                    server.shutdown()
                    thread.join()
            report(table(rows[-1:]).splitlines()[-1])
    return rows


def _compare(export: str, command: list[Any], threads: int, rounds: int) -> dict:
    """Return the row of one export and one number of threads."""
    sidecar = read_sidecar(export)
    session = open_onnx_session(read_verified(export, sidecar["files"]["onnx"]), threads)
    image = random_batch(sidecar["input"])[:1]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    times: dict[str, list[float]] = {"page": [], "onnxruntime": []}
    with subprocess.Popen(command, **pipes) as browser:
        for turn in range(rounds + 1):
            seen = _ask(browser, [] if turn else image.ravel().tolist())
            started = time.perf_counter()
            (logits,) = session.run(["logits"], {"data": image})
            seconds = time.perf_counter() - started
            if len(seen["logits"]) != logits.size or np.abs(seen["logits"] - logits).max() > LIMIT:
                raise ValueError(f"{export}: the page ({seen['engine']}) gives other logits")
            if turn:  # the first one loads, and plans memory
                times["page"].append(seen["ms"])
                times["onnxruntime"].append(1000 * seconds)
        browser.stdin.close()
    ratio = ratio_by_turns(times["page"], times["onnxruntime"])
    size = sidecar["web"]["model"]["bytes"] / 1e6
    row = {"export": sidecar["name"], "threads": threads, "engine": seen["engine"]}
    return {**row, "model_mb": size, **times, "ratio": ratio}


def _ask(browser: Any, numbers: Sequence[float]) -> dict:
    """Return what one run in the page gave; the first one is given its input."""
    try:
        browser.stdin.write(json_text(numbers, indent=None))
        browser.stdin.flush()
        return json.loads(browser.stdout.readline())
    except (BrokenPipeError, ValueError) as error:
        raise OSError("the page does not run in Chromium, for the reason above") from error


def table(rows: Sequence[dict]) -> str:
    """Return rows as Markdown: medians and extremes, of the ratio too."""
    lines = ["| net | threads | model, MB | page, ms | ONNX Runtime, ms | ratio |"]
    lines.append("|---" * 6 + "|")
    for row in rows:
        times = [
            f"{statistics.median(v):.0f} ({min(v):.0f}–{max(v):.0f})"
            for v in (row["page"], row["onnxruntime"])
        ]
        lines.append(
            f"| `{row['export']}` | {row['threads']} | {row['model_mb']:.1f} | {times[0]} | "
            f"{times[1]} | {spread_text(row['ratio'])} |"
        )
    return "\n".join(lines)
