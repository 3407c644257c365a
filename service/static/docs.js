/** The reference of the routes, made from /openapi.json. */
const make = (tag, text, ...children) => {
  const node = document.createElement(tag);
  if (text) node.textContent = text;
  node.append(...children);
  return node;
};
const table = (rows) => make("table", "", ...rows.map((cells) => make("tr", "", ...cells.map((cell, i) =>
  make("td", "", i === 0 ? make("code", cell) : cell)))));

/** A schema as one would write an example of it, with types in the place of values. */
function sketch(schema, definitions, depth = 0) {
  if (schema.$ref) return sketch(definitions[schema.$ref.split("/").pop()], definitions, depth);
  if (schema.anyOf) return schema.anyOf.map((one) => sketch(one, definitions, depth)).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.prefixItems) return `[${schema.prefixItems.map((one) => sketch(one, definitions, depth)).join(", ")}]`;
  if (schema.type === "array") return `[${sketch(schema.items || {}, definitions, depth)}, …]`;
  if (schema.properties) {
    const pad = "  ".repeat(depth + 1);
    const lines = Object.entries(schema.properties).map(([name, one]) => `${pad}"${name}": ${sketch(one, definitions, depth + 1)}`);
    return `{\n${lines.join(",\n")}\n${"  ".repeat(depth)}}`;
  }
  if (schema.additionalProperties) return `{name: ${sketch(schema.additionalProperties, definitions, depth)}}`;
  return schema.format === "binary" ? "bytes" : schema.type || "anything";
}

function limits(schema) {
  const one = (schema.anyOf || [schema]).find((option) => option.type !== "null") || schema;
  const parts = [one.enum ? one.enum.join(" or ") : one.type];
  for (const [name, sign] of [["exclusiveMinimum", "above"], ["minimum", "from"], ["exclusiveMaximum", "below"], ["maximum", "up to"]])
    if (one[name] !== undefined) parts.push(`${sign} ${one[name]}`);
  if (schema.default !== undefined && schema.default !== null) parts.push(`default ${schema.default}`);
  return parts.join(", ");
}

function route(path, method, operation, definitions) {
  const box = make("details", "", make("summary", "", make("b", method.toUpperCase()), make("code", path), make("p", operation.description || "")));
  box.open = method === "post";
  const parameters = (operation.parameters || []).map((one) => [one.name, one.description || one.schema.description || "", limits(one.schema)]);
  if (parameters.length) box.append(make("h3", "Parameters"), table(parameters));
  const body = operation.requestBody?.content || {};
  if (Object.keys(body).length) {
    const image = Object.keys(body)[0];
    box.append(make("h3", "Body"), table(Object.entries(body).map(([type, { schema }]) => [type, sketch(schema, definitions)])));
    box.append(make("h3", "Try"), make("pre", `curl --data-binary @photo.jpg -H 'Content-Type: ${image.replace("*", "jpeg")}' ${location.origin}${path}`));
  }
  for (const [status, answer] of Object.entries(operation.responses)) {
    if (status !== "200") continue;
    for (const [type, { schema }] of Object.entries(answer.content || {}))
      if (schema && Object.keys(schema).length) box.append(make("h3", `Answer: ${type}`), make("pre", sketch(schema, definitions)));
  }
  const errors = Object.entries(operation.responses).filter(([status]) => status !== "200");
  if (errors.length) box.append(make("h3", "Errors"), make("p", errors.map(([status, { description }]) => `${status} ${description}`).join(" · ")));
  return box;
}

fetch("openapi.json").then((answer) => answer.json()).then((document_) => {
  const definitions = document_.components?.schemas || {};
  document.getElementById("about").replaceChildren(`${document_.info.description} Version ${document_.info.version}. `,
    Object.assign(make("a", "openapi.json"), { href: "openapi.json" }), " · ", Object.assign(make("a", "try it"), { href: "." }));
  for (const [path, methods] of Object.entries(document_.paths))
    for (const [method, operation] of Object.entries(methods)) document.getElementById("routes").append(route(path, method, operation, definitions));
  const error = definitions.ErrorResponse;
  if (error) document.getElementById("routes").append(make("h3", "Every error"), make("pre", sketch(error, definitions)));
}).catch(() => { document.getElementById("about").textContent = "The service cannot be reached. Is it still running?"; });
