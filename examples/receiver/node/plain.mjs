// Receives callhook's webhooks (Standard Webhooks 1.0.0): verifies each request over
// the bytes of its body, does the work once per webhook-id, and answers 204. It needs
// Node 18.14 or later and no library, and is one file to copy. It checks v1
// (HMAC-SHA256) and v1a (Ed25519).
//
//	WEBHOOK_KEYS="whsec_…" node plain.mjs
//
// The environment:
//
//	WEBHOOK_KEYS  the keys, with spaces between: whsec_… (v1), whpk_… (v1a). Give the
//	              old and the new one while a key is being replaced.
//	HOST, PORT    where it listens: 127.0.0.1 and 8080 unless told. PORT=0 picks a port.
//	SEEN_FILE     where it remembers what it has done: seen.jsonl unless told. One
//	              file for one process.
//
// To change: work. TLS is for the proxy in front of it.
//
// It answers 401 to what is not signed with its keys, and callhook tries that again
// for three days: time to mend a key. It answers 400 to what is signed and is not a
// JSON object, and 500 when the work failed. It may be killed at any time: what it
// has not answered is sent again.

import { isUtf8 } from "node:buffer";
import { createHmac, createPublicKey, timingSafeEqual, verify as verifySignature } from "node:crypto";
import { appendFileSync, closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { dirname } from "node:path";

// work is what an event is for: yours to write. A rejection means that the event is
// sent again later. callhook waits 15 seconds for an answer unless its config says
// otherwise: what takes longer belongs into a queue, and the work is to put it there.
// An event with test: true was sent by somebody who tries a webhook out.
//
// It is done once for each id. Only a crash between the end of the work and the line
// in SEEN_FILE makes it happen again: where that matters, store the id in the same
// transaction as the work.
async function work(id, event) {
  console.log(JSON.stringify({ id, type: event.type, call: event.data?.call?.id, test: event.test ?? false }));
}

const HOUR = 3_600_000; // ms
const LIMIT = 5 << 20; // bytes of a body. callhook sends at most 4 MiB unless told.
const TOLERANCE = 300; // seconds that a signature may be old, or from the future
const REMEMBER = 40 * 24 * HOUR; // callhook tries for 3 days, and keeps what failed for 30 more, to be replayed
const SEEN_FILE = process.env.SEEN_FILE || "seen.jsonl";

const keys = (process.env.WEBHOOK_KEYS ?? "").split(/\s+/).filter(Boolean).map(parseKey);
if (keys.length === 0) {
  console.error("WEBHOOK_KEYS is empty: give it the keys of the webhook, whsec_… or whpk_…");
  process.exit(1);
}

// verify throws unless one of the signatures fits the body and one of the keys.
function verify(headers, body) {
  const id = headers["webhook-id"] ?? "";
  const timestamp = headers["webhook-timestamp"] ?? "";
  const signatures = (headers["webhook-signature"] ?? "").split(" ").slice(0, 32);
  if (!/^[!-\-/-~]{1,256}$/.test(id) || !/^\d{1,12}$/.test(timestamp) || signatures[0] === "") { // no dot in an id
    throw new Refused(401, "webhook-id, webhook-timestamp or webhook-signature is missing or malformed");
  }
  const content = Buffer.concat([Buffer.from(`${id}.${timestamp}.`), body]);
  const fits = keys.map((key) => key(content));
  const matched = signatures.some((s) => {
    const [version, text] = s.split(",", 2);
    const signature = Buffer.from(text ?? "", "base64");
    return fits.some((fit) => fit(version, signature));
  });
  if (!matched) throw new Refused(401, "no signature matches: the body was changed, or it was signed with another key");
  const age = Date.now() / 1000 - Number(timestamp);
  if (age > TOLERANCE) throw new Refused(401, "the signature is too old: an old request was sent again, or the clock is wrong");
  if (age < -TOLERANCE) throw new Refused(401, "the signature is from the future: a clock is wrong");
}

// parseKey returns a function that takes the signed content and returns one that says
// whether a signature of a version fits.
function parseKey(text) {
  const [, prefix, base64] = /^(whsec_|whpk_)?(.*)$/.exec(text);
  const bytes = Buffer.from(base64, "base64");
  const wrong = (what) => {
    console.error(`WEBHOOK_KEYS: ${what}`);
    process.exit(1);
  };
  if (bytes.toString("base64").replace(/=+$/, "") !== base64.replace(/=+$/, "")) {
    wrong("a key is whsec_ or whpk_, followed by base64");
  }
  if (prefix === "whpk_") {
    if (bytes.length !== 32) wrong(`whpk_ must be followed by 32 bytes in base64, not ${bytes.length}`);
    const key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x: bytes.toString("base64url") }, format: "jwk" });
    return (content) => (version, signature) => version === "v1a" && verifySignature(null, content, key, signature);
  }
  if (bytes.length < 24 || bytes.length > 64) wrong(`whsec_ must be followed by 24 to 64 bytes in base64, not ${bytes.length}`);
  return (content) => {
    const want = createHmac("sha256", bytes).update(content).digest();
    return (version, signature) => version === "v1" && signature.length === want.length && timingSafeEqual(signature, want);
  };
}

// What follows is the same in standardwebhooks.mjs and in plain.mjs.

const server = createServer({ requestTimeout: 15_000 }, async (req, res) => {
  const id = req.headers["webhook-id"] ?? "";
  try {
    if (req.method !== "POST") throw new Refused(405, "webhooks are sent with POST");
    const body = await read(req);
    if (!isUtf8(body)) throw new Refused(400, "the body is not UTF-8"); // to a verifier of text, all that is not would look alike
    verify(req.headers, body); // nothing is read of the body before
    const event = parse(body);
    await once(id, () => work(id, event));
    res.writeHead(204).end();
  } catch (err) {
    const status = err instanceof Refused ? err.status : 500;
    console.error(status, JSON.stringify(id.slice(0, 64)), status === 500 ? err : err.message);
    res.writeHead(status, { "Content-Type": "text/plain; charset=utf-8", Allow: "POST", Connection: "close" });
    res.end((status === 500 ? "it failed here: send it again" : err.message) + "\n");
  }
});

class Refused extends Error {
  constructor(status, why) {
    super(why);
    this.status = status;
  }
}

// read returns the body as it arrived: the signature is over its bytes.
function read(req) {
  return new Promise((resolve, reject) => {
    const chunks = [];
    let size = Number(req.headers["content-length"] ?? 0);
    const tooLarge = () => {
      req.pause();
      reject(new Refused(413, `the body is larger than ${LIMIT} bytes`));
    };
    if (size > LIMIT) return tooLarge();
    size = 0;
    req.on("data", (chunk) => {
      size += chunk.length;
      if (size > LIMIT) return tooLarge();
      chunks.push(chunk);
    });
    req.on("end", () => resolve(Buffer.concat(chunks)));
    req.on("error", () => reject(new Refused(400, "the body did not arrive whole")));
  });
}

function parse(body) {
  let event;
  try {
    event = JSON.parse(body.toString());
  } catch {
    // said below
  }
  if (event === null || typeof event !== "object" || Array.isArray(event)) {
    throw new Refused(400, "the body is signed, but is not a JSON object");
  }
  return event;
}

const seen = new Map(); // when the work of an id was done, in ms; also in SEEN_FILE, a line for each: {"id":"msg_…","at":"2026-03-03T10:00:00.000Z"}
const busy = new Map(); // the work of an id that is under way
let file; // SEEN_FILE, to be appended to
let written = 0; // when it was written as a whole; 0 when it must be again

// once does the work for an id that is not remembered, and remembers it when the
// work succeeds. A second request with the same id waits for the first.
function once(id, work) {
  if (seen.has(id)) return;
  if (!busy.has(id)) {
    const done = (async () => {
      await work();
      remember(id, Date.now());
    })();
    busy.set(id, done.finally(() => busy.delete(id)));
  }
  return busy.get(id);
}

function remember(id, at) {
  if (Date.now() - written > 24 * HOUR) write();
  try {
    appendFileSync(file, line(id, at));
    fsyncSync(file);
  } catch (err) {
    written = 0;
    throw err;
  }
  seen.set(id, at);
}

const line = (id, at) => JSON.stringify({ id, at: new Date(at).toISOString() }) + "\n";

// write replaces the file by one without what is too old.
function write() {
  written = 0;
  if (file !== undefined) closeSync(file);
  file = undefined;
  for (const [id, at] of seen) if (!(Date.now() - at <= REMEMBER)) seen.delete(id);
  const next = openSync(SEEN_FILE + ".new", "w", 0o600);
  try {
    writeFileSync(next, [...seen].map(([id, at]) => line(id, at)).join(""));
    fsyncSync(next);
  } finally {
    closeSync(next);
  }
  renameSync(SEEN_FILE + ".new", SEEN_FILE);
  if (process.platform !== "win32") { // so that the new name outlives a power failure
    const dir = openSync(dirname(SEEN_FILE), "r");
    fsyncSync(dir);
    closeSync(dir);
  }
  file = openSync(SEEN_FILE, "a");
  written = Date.now();
}

for (const text of existsSync(SEEN_FILE) ? readFileSync(SEEN_FILE, "utf8").split("\n") : []) {
  try {
    const { id, at } = JSON.parse(text);
    seen.set(id, Date.parse(at));
  } catch {
    // the last line may be half a line, after a crash
  }
}
write();

server.listen(Number(process.env.PORT || 8080), process.env.HOST || "127.0.0.1", () => {
  const { address, port } = server.address();
  console.log(`listening on http://${address.includes(":") ? `[${address}]` : address}:${port}`);
});
