/** The same call from a command line and from Python, for exactly what a card shows. */

/** `call`: { route, photos, params, accept, python }; python: { method, args } of service.client, args as [name, value]. */
export function curl({ route, photos, params = {}, accept = "application/json", output }, origin, locked) {
  const query = new URLSearchParams(params).toString();
  const parts = ["curl"];
  if (photos.length === 1) {
    parts.push(`--data-binary ${quote(`@${photos[0].name}`)}`, `-H ${quote(`Content-Type: ${photos[0].file.type || "application/octet-stream"}`)}`);
  } else {
    parts.push(...photos.map((photo) => `-F ${quote(`file=@${photo.name}`)}`));
  }
  if (accept !== "application/json") parts.push(`-H ${quote(`Accept: ${accept}`)}`);
  if (locked) parts.push('-H "X-API-Key: $MAEVE_API_KEY"');
  if (output) parts.push(`-o ${quote(output)}`);
  parts.push(quote(`${origin}${route}${query ? `?${query}` : ""}`));
  return parts.join(" ");
}

export function python({ photos, python: { method, args = [] } }, origin, locked) {
  const paths = photos.map((photo) => `Path(${JSON.stringify(photo.name)})`);
  const image = method === "reconstruct" ? paths[0] : `[${paths.join(", ")}]`;
  const passed = [image, ...args.map(([name, value]) => `${name}=${literal(value)}`)].join(", ");
  const key = locked ? ', api_key=os.environ["MAEVE_API_KEY"]' : "";
  return [
    ...(locked ? ["import os"] : []),
    "from pathlib import Path",
    "from service.client import Client",
    "",
    `with Client(${JSON.stringify(origin.replace(/\/$/, ""))}${key}) as client:`,
    `    result = client.${method}(${passed})`,
  ].join("\n");
}

function quote(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function literal(value) {
  if (typeof value === "boolean") return value ? "True" : "False";
  return JSON.stringify(value);
}
