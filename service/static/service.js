/** The service as the page speaks to it: one place for addresses, the key, errors in words and timings. */

const WORDS = {
  400: "This photo cannot be read: the file is damaged.",
  401: "This service is locked.",
  413: "That is more than this service takes.",
  415: "This is not a photo of a kind that can be read.",
  429: "The service is busy.",
  503: "The service is not ready.",
  504: "That took too long.",
};

/** An error in words that can be shown. `status`: 0 where there was no answer; `index`: of the image to blame, or null. */
export class ServiceError extends Error {
  constructor(message, status = 0, index = null) {
    super(message);
    this.status = status;
    this.index = index;
  }
}

export class Service {
  key = "";
  /** Called when the service wants a key that it has not got. */
  onLocked = () => {};

  /** What is served, as GET /info tells it. */
  async info() {
    return (await this.#reach("info", {})).json();
  }

  /**
   * Send photos to a route. `params`: query parameters. `accept`: the form of the answer. `headers`: further ones.
   * Returns { body, headers, timing }: body is an object for JSON, else an ArrayBuffer; timing maps stages to milliseconds.
   * Throws a ServiceError in words, or an AbortError.
   */
  async ask(route, { photos, params = {}, accept = "application/json", headers: further = {}, signal }) {
    const headers = { Accept: accept, ...further };
    if (this.key) headers["X-API-Key"] = this.key;
    let body;
    if (photos.length === 1) {
      body = photos[0].file;
      headers["Content-Type"] = photos[0].file.type || "application/octet-stream";
    } else {
      body = new FormData();
      for (const photo of photos) body.append("file", photo.file, photo.name);
    }
    const query = new URLSearchParams(params).toString();
    const answer = await this.#reach(query ? `${route}?${query}` : route, { method: "POST", body, headers, signal });
    const json = answer.headers.get("Content-Type").startsWith("application/json");
    return {
      body: json ? await answer.json() : await answer.arrayBuffer(),
      headers: answer.headers,
      timing: parseTiming(answer.headers.get("Server-Timing")),
    };
  }

  async #reach(url, options) {
    let answer;
    try {
      answer = await fetch(new URL(url, document.baseURI), options);
    } catch (error) {
      throw error.name === "AbortError" ? error : new ServiceError("The service cannot be reached. Is it still running?");
    }
    if (answer.ok) return answer;
    if (answer.status === 401) this.onLocked();
    throw await inWords(answer);
  }
}

async function inWords(answer) {
  const error = (await answer.json().catch(() => ({}))).error || { message: `status ${answer.status}` };
  const wait = answer.headers.get("Retry-After");
  const words = WORDS[answer.status] || "That did not work.";
  const index = /^images\[(\d+)\]$/.exec(error.param || "");
  const said = `${words}${wait ? ` Try again in ${wait} s.` : ""} The service says: ${error.message}.`;
  return new ServiceError(said, answer.status, index ? Number(index[1]) : null);
}

/** A Server-Timing header as { stage: milliseconds }. */
export function parseTiming(header) {
  return Object.fromEntries([...(header || "").matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, stage, ms]) => [stage, Number(ms)]));
}
