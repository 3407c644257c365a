/** The same call from a command line and from Python, for exactly what a card shows. */

/** What a file without a type of its own is sent as. */
export const OCTETS = "application/octet-stream";
export const JSON_TYPE = "application/json";

/** Where curl puts an answer that no terminal should show. */
const OUTPUTS = { [OCTETS]: "answer.bin", "application/x-npy": "answer.npy", "image/png": "answer.png" };

/** The same for JSON with pictures in it. */
export const PICTURES_OUTPUT = "answer.json";

/** Methods of the client that take an image and not a list. */
const ONE_IMAGE = ["reconstruct", "anomaly"];

/** What one would do with the result, by method of the client. */
const USES = {
  embed: ["print(result.shape, result.dtype)"],
  classify: ["for guess in result[0]:", "    print(guess.label, guess.probability)"],
  search: ["for neighbour in result[0]:", "    print(neighbour.score, neighbour.path)"],
  reconstruct: ['Path("reconstruction.png").write_bytes(result.reconstruction)', "print(result.mean_error)"],
  anomaly: ['Path("heatmap.png").write_bytes(result.heatmap)', "print(result.mean_error, result.max_error)"],
};

/** A route with its query, an object or pairs, as it is sent and shown: commas, which separate lists here, stay readable. */
export function target(route, params = {}) {
  const query = new URLSearchParams(params).toString().replaceAll("%2C", ",");
  return query ? `${route}?${query}` : route;
}

/**
 * `call`: { route, photos, params, accept, headers, output, python }. `headers`: beyond those of every call. `output`: a name for
 * curl's -o. `origin`: the service's address with its slash. `locked`: whether a key was sent.
 */
export function curl({ route, photos, params, accept = JSON_TYPE, headers = {}, output = OUTPUTS[accept] }, origin, locked) {
  const parts = photos.length === 1
    ? [`--data-binary ${quote(`@${path(photos[0].name)}`)}`, `-H ${quote(`Content-Type: ${photos[0].file.type || OCTETS}`)}`]
    : photos.map((photo) => `-F ${quote(`file=@${quoteForm(path(photo.name))}`)}`);
  if (accept !== JSON_TYPE) parts.push(`-H ${quote(`Accept: ${accept}`)}`);
  for (const [name, value] of Object.entries(headers)) parts.push(`-H ${quote(`${name}: ${value}`)}`);
  if (locked) parts.push('-H "X-API-Key: $MAEVE_API_KEY"');
  if (output) parts.push(`-o ${quote(output)}`);
  return `curl ${[...parts, quote(origin + target(route, params))].join(" \\\n  ")}`;
}

/** `call.python`: { method, args } of service.client, args as [[name, value], ...]. */
export function python({ photos, python: { method, args = [] } }, origin, locked) {
  const paths = photos.map((photo) => `Path(${JSON.stringify(photo.name)})`);
  const images = ONE_IMAGE.includes(method) ? paths[0] : `[${paths.join(", ")}]`;
  const passed = [images, ...args.map(([name, value]) => `${name}=${literal(value)}`)].join(", ");
  const key = locked ? ', api_key=os.environ["MAEVE_API_KEY"]' : "";
  return [
    ...(locked ? ["import os"] : []),
    "from pathlib import Path",
    "from service.client import Client",
    "",
    `with Client(${JSON.stringify(origin.replace(/\/$/, ""))}${key}) as client:`,
    `    result = client.${method}(${passed})`,
    "",
    ...USES[method],
  ].join("\n");
}

/** For a shell: nothing within single quotes means anything. */
function quote(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** For curl's -F, where a bare name ends at a comma or a semicolon, and spaces around it are no part of it. */
function quoteForm(text) {
  return /[,;"\\]|^\s|\s$/.test(text) ? `"${text.replaceAll(/["\\]/g, "\\$&")}"` : text;
}

/** To curl, - is its standard input. */
function path(name) {
  return name === "-" ? "./-" : name;
}

function literal(value) {
  if (typeof value === "boolean") return value ? "True" : "False";
  if (value === null) return "None";
  return JSON.stringify(value);
}
