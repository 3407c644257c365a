/** OpenAPI's schemas in words and sketches. */

const BOUNDS = { exclusiveMinimum: "above", minimum: "from", exclusiveMaximum: "below", maximum: "up to" };

/** A schema as one would write an example of it, with types in the place of values. `named`: the document's schemas by name. */
export function sketch(schema, named, depth = 0) {
  if (schema.$ref) return sketch(named[schema.$ref.split("/").pop()], named, depth);
  const choice = schema.anyOf || schema.oneOf;
  if (choice) return choice.map((one) => sketch(one, named, depth)).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.prefixItems) return `[${schema.prefixItems.map((one) => sketch(one, named, depth)).join(", ")}]`;
  if (schema.type === "array") return `[${sketch(schema.items || {}, named, depth)}, …]`;
  if (schema.properties) return fields(schema, named, depth);
  if (schema.additionalProperties) return `{name: ${sketch(schema.additionalProperties, named, depth)}}`;
  return schema.format === "binary" ? "bytes" : schema.type || "anything";
}

function fields({ properties }, named, depth) {
  const pad = "  ".repeat(depth + 1);
  const lines = Object.entries(properties).map(([name, one]) => `${pad}"${name}": ${sketch(one, named, depth + 1)}`);
  return `{\n${lines.join(",\n")}\n${"  ".repeat(depth)}}`;
}

/** What a parameter may be, in a line: "number, above 0, up to 1, default 1". */
export function allowed(schema) {
  const one = (schema.anyOf || [schema]).find((option) => option.type !== "null") || schema;
  const many = one.type === "array";
  const item = many ? one.items : one;
  const parts = [many ? `${kind(item)}, several separated by commas` : kind(item)];
  for (const [name, words] of Object.entries(BOUNDS)) if (item[name] !== undefined) parts.push(`${words} ${number(item[name])}`);
  if (schema.default !== undefined && schema.default !== null) parts.push(`default ${schema.default}`);
  return parts.join(", ");
}

function kind(schema) {
  return schema.enum ? schema.enum.join(" or ") : schema.type || "text";
}

/** Powers of two that JavaScript would round are written as such. */
function number(value) {
  return Number.isSafeInteger(value) || value % 1 ? String(value) : `2^${Math.log2(value)}`;
}
