// The dashboard in a real browser, over records that real runs have written.
//
// bins/ha-sync-ui/tests starts the database and this. In the environment: HA_SYNC and HA_SYNC_UI, the programs; DSN, a
// DSN with {port} where the port belongs; DATABASE_PORT; PLACE, an empty directory; SHOTS, where pictures go.
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { mkdir, readFile, rm, utimes, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import net from "node:net";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { promisify } from "node:util";
import { chromium } from "playwright-core";

const { HA_SYNC, HA_SYNC_UI, DSN, DATABASE_PORT, PLACE, SHOTS } = process.env;
const run = promisify(execFile);
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const HOSTILE = "<script>document.title='harmed';alert(1)<\u2215script>\"'&amp;.txt";

// A way to the database that can be cut.
const proxy = { sockets: new Set(), server: null, port: 0 };
function open() {
  proxy.server = net.createServer((client) => {
    const server = net.connect(Number(DATABASE_PORT), "127.0.0.1");
    for (const [one, other] of [[client, server], [server, client]]) {
      proxy.sockets.add(one);
      one.on("error", () => other.destroy()).on("close", () => { proxy.sockets.delete(one); other.destroy(); });
      one.pipe(other);
    }
  });
  return new Promise((done) => proxy.server.listen(proxy.port, "127.0.0.1", () => {
    proxy.port = proxy.server.address().port;
    done();
  }));
}
function cut() {
  const closed = new Promise((done) => proxy.server.close(done));
  for (const socket of proxy.sockets) socket.destroy();
  return closed;
}

const environment = { PATH: process.env.PATH, HOME: PLACE, NO_COLOR: "1" };
const place = (...names) => path.join(PLACE, ...names);

async function write(side, pair, name, content = name, seconds = 1_760_000_000) {
  const file = place(side, pair, name);
  await mkdir(path.dirname(file), { recursive: true });
  await writeFile(file, content);
  await utimes(file, seconds, seconds);
}

// Runs ha-sync and returns its exit code.
async function sync(pair, ...flags) {
  const [source, destination] = flags.includes("--direction=b-to-a") ? ["b", "a"] : ["a", "b"];
  const names = { pair, src: place(source, pair), dest: place(destination, pair) };
  await mkdir(names.src, { recursive: true });
  await mkdir(names.dest, { recursive: true });
  const options = Object.entries(names).map(([name, value]) => `--${name}=${value}`);
  // the file lock is one per pair and host, and these names are not this test's alone
  const fixed = ["--lock=none", "--direction=a-to-b", `--log-dir=${place("logs")}`, `--db-dsn=${DSN.replace("{port}", DATABASE_PORT)}`];
  try {
    await run(HA_SYNC, [...options, ...fixed, ...flags], { env: environment, timeout: 60_000 });
    return 0;
  } catch (error) {
    if (typeof error.code !== "number") throw error;
    return error.code;
  }
}

let dashboard;
let browser;
let base;
async function serve(port = 0) {
  const dsn = DSN.replace("{port}", String(proxy.port));
  const flags = ["--listen", `127.0.0.1:${port}`, "--log-dir", place("logs")];
  dashboard = spawn(HA_SYNC_UI, flags, { env: { ...environment, HA_SYNC_DB_DSN: dsn }, stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  for await (const part of dashboard.stderr) {
    said += part;
    const found = said.match(/listening on (http:\/\/[\d.:]+)/);
    if (found) {
      dashboard.stderr.resume();
      base = found[1];
      return;
    }
  }
  throw new Error(`the dashboard ended: ${said}`);
}

// Opens a page, and fails when anything in it goes wrong that a person would not see.
async function visit(address, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(`error: ${error}`));
  page.on("dialog", (dialog) => { wrong.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.on("console", (message) => {
    const away = /Failed to load resource.*(503|ERR_CONNECTION)/.test(message.text());
    if (["error", "warning"].includes(message.type()) && !away) wrong.push(message.text());
  });
  page.on("request", (request) => { if (!request.url().startsWith(base)) wrong.push(`asks ${request.url()}`); });
  await page.goto(base + address);
  page.done = async () => {
    assert.deepEqual(wrong, [], address);
    await context.close();
  };
  return page;
}

async function pages() {
  const runs = await (await fetch(`${base}/api/iterations?dry_run=any&limit=100`)).json();
  const find = (pair, test = () => true) => runs.iterations.find((one) => one.sync_pair === pair && test(one));
  return {
    overview: "/",
    pair: "/pairs/photos",
    large: `/runs/${find("media", (one) => one.files_created > 100).run_id}`,
    partial: `/runs/${find("photos", (one) => one.files_failed > 0).run_id}`,
    search: "/search",
    found: `/search?q=${encodeURIComponent("holiday/gone.txt")}`,
    nothing: "/pairs/nobody",
  };
}

before(async () => {
  await open();
  // media: many files, then what is replaced and deleted, then nothing
  for (let number = 0; number < 120; number++) await write("a", "media", `album/IMG_${String(number).padStart(4, "0")}.jpg`);
  await write("a", "media", HOSTILE);
  await write("a", "media", "=1+1.csv");
  await write("a", "media", "holiday/gone.txt");
  await write("a", "media", "holiday/\u202egpj.exe");
  assert.equal(await sync("media", "--dry-run"), 0);
  assert.equal(await sync("media"), 0);
  await write("a", "media", "album/IMG_0001.jpg", "another picture", 1_760_000_100);
  await rm(place("a", "media", "holiday/gone.txt"));
  assert.equal(await sync("media", "--delete-missing"), 0);
  for (let number = 0; number < 4; number++) {
    await write("a", "media", `new/${number}.bin`, "x".repeat(1000 * (number + 1) ** 3));
    assert.equal(await sync("media"), 0);
  }
  for (let number = 0; number < 6; number++) assert.equal(await sync("media", "--direction=b-to-a"), 0);
  // photos: a file where the other side has a folder
  await write("a", "photos", "cat.jpg");
  await write("a", "photos", "trip", "a file");
  await write("b", "photos", "trip/inside.txt");
  assert.equal(await sync("photos"), 3);
  // documents: halted
  await write("a", "documents", "letter.odt");
  assert.equal(await sync("documents"), 0);
  assert.equal(await sync("documents", "--check-access=.is-mounted"), 5);
  await serve();
  browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu"] });
}, { timeout: 120_000 });

after(async () => {
  await browser?.close();
  dashboard?.kill();
  if (proxy.server?.listening) await cut();
});

describe("the dashboard", { timeout: 400_000 }, () => {
  test("shows what real runs did", async () => {
    const page = await visit("/");
    assert.equal(await page.locator("h1").textContent(), "2 of 3 pairs need a look");
    const card = (pair) => page.getByRole("article", { name: pair, exact: true });
    assert.match(await card("documents").locator(".error").first().textContent(), /\.is-mounted/);
    assert.match(await card("photos").textContent(), /1 open conflict/);
    assert.match(await card("media").textContent(), /in order/);
    assert.match(await card("media").textContent(), /Dry run/);
    assert.match(await card("media").textContent(), /lock free/);
    const rows = page.locator("#recent tbody tr:not(.error-row)");
    assert.equal(await rows.count(), 16);
    await page.screenshot({ path: path.join(SHOTS, "overview.png"), fullPage: true });
    await page.done();
  });

  test("refreshes itself, and nothing else moves", async () => {
    const page = await visit("/");
    await page.evaluate(() => { window.mark = 1; document.querySelector("#recent h2").dataset.mark = "1"; });
    const untouched = page.getByRole("article", { name: "documents" });
    const link = untouched.getByRole("link").first();
    await link.focus();
    const rows = page.locator("#recent tbody tr:not(.error-row)");
    const count = await rows.count();
    await write("a", "media", "late.txt");
    assert.equal(await sync("media"), 0);
    await page.waitForFunction((count) => document.querySelectorAll("#recent tbody tr:not(.error-row)").length > count, count, { timeout: 25_000 });
    assert.equal(await page.evaluate(() => window.mark), 1, "the page was not loaded again");
    assert.equal(await page.evaluate(() => document.activeElement.getAttribute("href")), "/pairs/documents");
    await page.done();
  });

  test("pages, filters and downloads operations", async () => {
    const { large } = await pages();
    const page = await visit(large);
    const rows = page.locator("#operations tbody tr");
    assert.equal(await rows.count(), 50);
    const seen = new Set(await page.locator("#operations td.path a").allTextContents());
    for (;;) {
      const next = page.getByRole("link", { name: "next" });
      if (!(await next.count())) break;
      await next.click();
      for (const path of await page.locator("#operations td.path a").allTextContents()) {
        assert.ok(!seen.has(path), `${path} is on two pages`);
        seen.add(path);
      }
    }
    assert.ok(seen.size >= 124, `${seen.size} operations`);
    await page.getByLabel("Path contains").fill("IMG_011");
    await page.getByRole("button", { name: "Filter" }).click();
    assert.equal(await rows.count(), 10);
    await page.locator("select[name=operation]").selectOption("delete");
    await page.getByRole("button", { name: "Filter" }).click();
    assert.match(await page.locator("#operations").textContent(), /None that match/);
    await page.getByRole("link", { name: "clear" }).click();
    const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("link", { name: "CSV", exact: true }).click()]);
    const csv = await readFile(await download.path(), "utf8");
    assert.match(download.suggestedFilename(), /^ha-sync-[\dTZ]+-[0-9a-f]{8}-operations\.csv$/);
    assert.ok(csv.includes(",\"'=1+1.csv\","), "no formula");
    await page.done();
  });

  test("a name does no harm", async () => {
    const { large } = await pages();
    for (const address of [`${large}?path=script`, `/search?q=${encodeURIComponent(HOSTILE)}`, "/search?q=script"]) {
      const page = await visit(address);
      assert.ok((await page.locator("main").textContent()).includes("<script>document.title='harmed'"), address);
      assert.notEqual(await page.title(), "harmed");
      assert.equal(await page.locator("script").count(), 1, "only ours");
      await page.done();
    }
  });

  test("finds a file that was deleted, and the command that brings it back works", async () => {
    const { found } = await pages();
    const page = await visit(found);
    assert.match(await page.locator(".card").textContent(), /deleted/);
    const command = await page.locator(".card pre code").textContent();
    await page.screenshot({ path: path.join(SHOTS, "search.png"), fullPage: true });
    await page.done();
    await run("sh", ["-c", command.replace(/^ha-sync /, '"$HA_SYNC" ')], { env: { ...environment, HA_SYNC } });
    assert.equal(await readFile(place("b", "media", "holiday/gone.txt"), "utf8"), "holiday/gone.txt");
  });

  test("has no serious fault that axe finds, light and dark, wide and narrow", async () => {
    for (const [title, address] of Object.entries(await pages())) {
      for (const colorScheme of ["light", "dark"]) {
        for (const width of [1280, 360]) {
          const context = await browser.newContext({ colorScheme, viewport: { width, height: 800 } });
          const page = await context.newPage();
          await page.goto(base + address);
          await page.evaluate(axe);
          const { violations } = await page.evaluate(() => window.axe.run());
          const serious = violations.filter((one) => ["serious", "critical"].includes(one.impact));
          const told = serious.map((one) => `${one.id}: ${one.nodes.map((node) => `${node.html} ${node.failureSummary}`).join("\n")}`);
          assert.deepEqual(told, [], `${title} ${colorScheme} ${width}`);
          const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
          assert.ok(over <= 0, `${title} is ${over} px too wide for ${width}`);
          await page.screenshot({ path: path.join(SHOTS, `${title}-${colorScheme}-${width}.png`), fullPage: true });
          await context.close();
        }
      }
    }
  });

  test("is light, and asks nobody else", async () => {
    for (const address of Object.values(await pages())) {
      const context = await browser.newContext();
      const page = await context.newPage();
      const bodies = [];
      page.on("response", (response) => bodies.push(response.body()));
      await page.goto(base + address, { waitUntil: "networkidle" });
      const weight = (await Promise.all(bodies)).reduce((sum, body) => sum + body.length, 0);
      assert.ok(weight > 1000 && weight < 60 * 1024, `${address} weighs ${weight} bytes`);
      await context.close();
    }
  });

  test("works without JavaScript", async () => {
    const page = await visit("/", { javaScriptEnabled: false });
    await page.getByRole("link", { name: "media" }).first().click();
    assert.equal(await page.locator("h1").textContent(), "media");
    assert.equal(await page.locator("svg.chart").count(), 8);
    await page.getByRole("link", { name: "all", exact: true }).click();
    await page.locator("#runs tbody a").last().click();
    await page.locator("select[name=operation]").selectOption("create");
    await page.getByRole("button", { name: "Filter" }).click();
    assert.ok(await page.locator("#operations tbody tr").count() > 0);
    await page.getByRole("link", { name: "Find a file" }).click();
    await page.getByRole("searchbox").fill("gone");
    await page.getByRole("button", { name: "Find" }).click();
    await page.getByRole("link", { name: "holiday/gone.txt" }).first().click();
    assert.match(await page.locator(".card").textContent(), /deleted/);
    await page.done();
  });

  test("can be used with the keyboard", async () => {
    const page = await visit("/");
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
    await page.keyboard.press("Enter");
    await page.keyboard.press("Tab");
    assert.ok(await page.evaluate(() => document.querySelector("main").contains(document.activeElement)));
    await page.done();
  });

  test("says when the database is away, and when it is back", async () => {
    const page = await visit("/");
    await cut();
    await page.getByText("The database is away").waitFor({ timeout: 30_000 });
    assert.equal(await page.getByRole("article").count(), 3, "the last state is shown");
    await page.screenshot({ path: path.join(SHOTS, "away.png"), fullPage: false });
    await open();
    await page.getByText("The database is away").waitFor({ state: "detached", timeout: 30_000 });
    await page.done();
  });

  test("says when it does not answer itself", async () => {
    const page = await visit("/");
    dashboard.kill();
    await page.getByText("The dashboard does not answer").waitFor({ timeout: 30_000 });
    await serve(Number(new URL(base).port));
    await page.getByText("The dashboard does not answer").waitFor({ state: "hidden", timeout: 30_000 });
    await page.done();
  });
});
