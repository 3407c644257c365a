/** The service as the page speaks to it: one place for addresses, the key, errors in words and timings. */

import { JSON_TYPE, OCTETS, target } from "./calls.js";
import { readable } from "./photos.js";

/** What went wrong where HTTP has no status for it. */
const UNREACHED = 0;
const CHANGED = "changed"; // a photo's file, on its disk
const BROKEN_OFF = "broken off";
const FOREIGN = "foreign";
const REPLACED = "replaced";

const WORDS = {
  [UNREACHED]: "The service cannot be reached. Is it still running?",
  [CHANGED]: "The file has changed or is gone: choose it again.",
  [BROKEN_OFF]: "The answer broke off.",
  [FOREIGN]: "The answer is not the service’s: something between it and this page has answered.",
  [REPLACED]: "Another network is served now. This page begins anew with it.",
  400: "The file is damaged and cannot be read.",
  401: "This service is locked: it asks for an API key.",
  404: "The service does not offer this.",
  413: "That is more than this service takes.",
  415: "This is not a photo of a kind that can be read.",
  422: "The service does not accept this.",
  429: "The service is busy.",
  500: "The service failed at this.",
  503: "The service is not ready.",
  504: "That took too long.",
};
const PICTURES = "image/"; // any of them
const PASSING = [UNREACHED, 429, 503]; // asking again later may well help
const REPEATABLE = [...PASSING, BROKEN_OFF, FOREIGN, REPLACED];
const ABOUT_PHOTOS = [400, 413, 415, CHANGED];
const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 8000;

/**
 * An error in words that can be shown. `status`: HTTP's, or one of those above; `index`: of the image to blame, or null; `wait`:
 * in how many seconds to ask again, or null.
 */
export class ServiceError extends Error {
  constructor(status, message = WORDS[status], index = null, wait = null) {
    super(message);
    this.status = status;
    this.index = index;
    this.wait = wait;
  }

  /** Whether the page goes on by itself once the service can. */
  get passes() {
    return PASSING.includes(this.status);
  }

  /** Whether the same request may be answered when it is sent again. */
  get worthRepeating() {
    return REPEATABLE.includes(this.status) || this.status >= 500;
  }

  /** Whether what was sent is to blame, one photo or all of them together. */
  get aboutPhotos() {
    return ABOUT_PHOTOS.includes(this.status);
  }
}

/** Dispatches "replaced" when an answer comes from another bundle than the one that `info` told of. */
export class Service extends EventTarget {
  /** Kept in this object alone: it is gone with the page. */
  key = "";
  #digest = null;
  #recovery = null;

  /** Where the page, and so the service, is: "http://127.0.0.1:8000/". */
  get origin() {
    return new URL(".", document.baseURI).href;
  }

  /** What is served, as GET /info tells it. Throws a ServiceError. */
  async info() {
    const info = await contents(await this.#reach("info", {}), JSON_TYPE);
    this.#digest = info.digest;
    return info;
  }

  /**
   * Send photos to a route. `params`: as `target` takes them. `accept`: the form of the answer. `headers`: more of them.
   * Returns { body, headers, timing, elapsed }: body is an object for JSON, else an ArrayBuffer; timing maps stages to
   * milliseconds; elapsed is milliseconds until the answer was here. Throws a ServiceError, or an AbortError.
   */
  async ask(route, { photos, params, accept = JSON_TYPE, headers = {}, signal }) {
    const start = performance.now();
    const request = { method: "POST", headers: { Accept: accept, ...headers }, signal };
    if (this.key) request.headers["X-API-Key"] = this.key;
    if (photos.length === 1) {
      request.body = photos[0].file;
      request.headers["Content-Type"] = photos[0].file.type || OCTETS;
    } else {
      request.body = new FormData();
      for (const photo of photos) request.body.append("file", photo.file, photo.name);
    }
    const answer = await this.#reach(target(route, params), request, photos);
    const body = await contents(answer, accept);
    this.#compare(answer.headers.get("Maeve-Digest") ?? body.digest);
    return {
      body,
      headers: answer.headers,
      timing: parseTiming(answer.headers.get("Server-Timing")),
      elapsed: performance.now() - start,
    };
  }

  /** The picture at this address as a data URI. Throws a ServiceError. */
  async picture(address) {
    const answer = await this.#reach(address, { headers: this.key ? { "X-API-Key": this.key } : {} });
    return dataUri(await contents(answer, PICTURES), answer.headers.get("Content-Type"));
  }

  /** Resolves once it is worth asking again after an error that passes: after the time that it names, and once the service is ready. */
  async recovered({ status, wait }) {
    if (wait || status === 429) await pause(wait * 1000 || FIRST_PAUSE_MS);
    if (status !== 429) await (this.#recovery ??= this.#poll().finally(() => { this.#recovery = null; }));
  }

  /** Asks whether the service is ready until it is; once for all who wait, ever less often, and when somebody looks. */
  async #poll() {
    for (let ms = FIRST_PAUSE_MS; ; ms = Math.min(2 * ms, LONGEST_PAUSE_MS)) {
      await pauseUnlessSeen(ms);
      if (await this.#reach("readyz", {}).then(() => true, () => false)) return;
    }
  }

  /** What belongs to one bundle cannot be shown beside, or compared with, what belongs to another. `digest`: undefined if not told. */
  #compare(digest) {
    if (digest === undefined || digest === this.#digest) return;
    this.dispatchEvent(new Event("replaced"));
    throw new ServiceError(REPLACED);
  }

  async #reach(url, request, photos = []) {
    let answer;
    try {
      answer = await fetch(new URL(url, document.baseURI), request);
    } catch (error) {
      throw error.name === "AbortError" ? error : await unsent(photos);
    }
    if (answer.ok) return answer;
    throw await inWords(answer, Boolean(this.key));
  }
}

/** Why nothing was answered: browsers do not tell a file that they cannot read any more from a service that is gone. */
async function unsent(photos) {
  for (const [index, { file }] of photos.entries()) if (!(await readable(file))) return new ServiceError(CHANGED, WORDS[CHANGED], index);
  return new ServiceError(UNREACHED);
}

/** An object for JSON, else an ArrayBuffer. `type`: how it begins. Throws a ServiceError where it is another, or the answer incomplete. */
async function contents(answer, type) {
  if (!answer.headers.get("Content-Type")?.startsWith(type)) throw new ServiceError(FOREIGN);
  try {
    return await (type === JSON_TYPE ? answer.json() : answer.arrayBuffer());
  } catch (error) {
    throw error.name === "AbortError" ? error : new ServiceError(BROKEN_OFF);
  }
}

async function inWords(answer, hadKey) {
  const { error } = await answer.json().catch(() => ({})); // a proxy's answer has another form
  if (answer.status === 401) return new ServiceError(401, hadKey ? "The service does not accept this key." : WORDS[401]);
  const wait = Number(answer.headers.get("Retry-After")) || null;
  const index = /^images\[(\d+)\]$/.exec(error?.param || "");
  const told = error ? ` The service says: ${index ? error.message.replace(/^image \d+ /, "it ") : error.message}.` : "";
  const said = (WORDS[answer.status] || `That did not work (status ${answer.status}).`) + told;
  return new ServiceError(answer.status, said, index ? Number(index[1]) : null, wait);
}

function dataUri(bytes, type) {
  return new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.readAsDataURL(new Blob([bytes], { type }));
  });
}

/** Resolves after so many milliseconds. */
export function pause(ms) {
  return new Promise((resolve) => { setTimeout(resolve, ms); });
}

/** Resolves after so many milliseconds, or as soon as somebody comes back to the page. */
function pauseUnlessSeen(ms) {
  return new Promise((resolve) => {
    const listening = new AbortController();
    const end = () => {
      listening.abort();
      resolve();
    };
    setTimeout(end, ms);
    addEventListener("focus", end, { signal: listening.signal });
    document.addEventListener("visibilitychange", () => { if (!document.hidden) end(); }, { signal: listening.signal });
  });
}

/** A Server-Timing header as { stage: milliseconds }. */
export function parseTiming(header) {
  return Object.fromEntries([...(header || "").matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, stage, ms]) => [stage, Number(ms)]));
}
