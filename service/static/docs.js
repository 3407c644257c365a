/** The reference of the routes, made from /openapi.json. */

import { copyButton } from "./clipboard.js";
import { make } from "./dom.js";
import { allowed, sketch } from "./openapi.js";

const METHODS = ["get", "post", "put", "patch", "delete"];
const $ = (id) => document.getElementById(id);

async function start() {
  let api;
  try {
    const answer = await fetch("openapi.json");
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    api = await answer.json();
  } catch {
    $("about").hidden = true;
    const error = document.querySelector("header .error");
    error.textContent = "The service cannot be reached. Is it still running?";
    error.hidden = false;
    return;
  }
  show(api);
}

function show(api) {
  const named = api.components?.schemas || {};
  $("about").replaceChildren(
    `${api.info.description} Version ${api.info.version}. `,
    make("a", { href: "openapi.json", textContent: "openapi.json" }), " · ",
    make("a", { href: ".", textContent: "try it with a photo" }));
  const routes = Object.entries(api.paths).flatMap(([path, methods]) =>
    METHODS.filter((method) => method in methods).map((method) => ({ method, path, ...methods[method] })));
  $("contents").append(make("ul", {}, ...routes.map((one) =>
    make("li", {}, make("a", { href: `#${anchor(one)}` }, methodOf(one), make("span", {}, ...breakable(one.path)))))));
  $("routes").append(...routes.map((one) => article(one, named)));
  if (named.ErrorResponse) $("routes").append(errors(named));
  document.getElementById(location.hash.slice(1))?.scrollIntoView(); // it was not there when the page was loaded
}

function article(one, named) {
  const link = make("a", { href: `#${anchor(one)}`, textContent: "#" });
  link.setAttribute("aria-label", `Link to ${one.method.toUpperCase()} ${one.path}`);
  const card = make("article", { className: "card", id: anchor(one) },
    make("h2", {}, methodOf(one), make("code", { textContent: one.path }), link),
    make("p", { textContent: one.description || "" }));
  const parameters = one.parameters || [];
  if (parameters.length) card.append(make("h3", { textContent: "Parameters" }), parameterTable(parameters));
  const bodies = Object.entries(one.requestBody?.content || {});
  if (bodies.length) card.append(make("h3", { textContent: "Body" }), typeTable(bodies, named));
  card.append(make("h3", { textContent: "Try" }), tryIt(one, bodies, named));
  card.append(...answer(Object.entries(one.responses["200"]?.content || {}), named));
  const failures = Object.entries(one.responses).filter(([status]) => status !== "200");
  if (failures.length) {
    const words = failures.map(([status, { description }]) => `${status} ${description}`).join(" · ");
    card.append(make("h3", { textContent: "Errors" }), make("p", { className: "soft", textContent: words }));
  }
  return card;
}

/** The form that JSON has, and the names of the others. */
function answer(forms, named) {
  const known = forms.filter(([, { schema }]) => schema && Object.keys(schema).length);
  if (!known.length) return [];
  const sketches = known.map(([type, { schema }]) => [type, sketch(schema, named)]);
  const drawn = sketches.filter(([, text]) => text !== "bytes");
  const others = sketches.filter(([, text]) => text === "bytes").map(([type]) => type);
  return [
    make("h3", { textContent: "Answer" }),
    ...drawn.map(([, text]) => block(text)),
    ...(others.length ? [make("p", { className: "soft", textContent: `${drawn.length ? "Or, where Accept asks for it, " : ""}${others.join(" or ")}.` })] : []),
  ];
}

function errors(named) {
  return make("article", { className: "card", id: "errors" }, make("h2", { textContent: "Every error" }), block(sketch(named.ErrorResponse, named)));
}

function parameterTable(parameters) {
  return table(["Name", "What it is", "Allowed"], parameters.map(({ name, in: place, description, schema }) => [
    make("code", { textContent: name }),
    `${description || schema.description || ""}${place === "header" ? " A header." : place === "path" ? " Part of the path." : ""}`.trim(),
    allowed(schema),
  ]));
}

function typeTable(bodies, named) {
  return table(["Content-Type", "What is in it"], bodies.map(([type, { schema }]) => {
    const text = sketch(schema, named);
    return [make("code", { textContent: type }), text.includes("\n") ? block(text) : text];
  }));
}

function table(names, rows) {
  const head = make("thead", {}, make("tr", {}, ...names.map((textContent) => make("th", { scope: "col", textContent }))));
  return make("table", {}, head, make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, cell))))));
}

/** A command that can be run as it is, save for names in braces and bodies that must be made. */
function tryIt({ method, path }, bodies, named) {
  const url = `${new URL(".", document.baseURI).href}${path.slice(1)}`;
  const [type, { schema } = {}] = bodies[0] || [];
  const command = ["curl"];
  if (method !== "get" && type?.startsWith("image/")) command.push("--data-binary @photo.jpg");
  else if (type === "application/json") command.push(`-H 'Content-Type: ${type}' -d '${sketch(schema, named)}'`);
  const text = [...command, `'${url}'`].join(" ");
  return make("div", { className: "try" }, block(text), copyButton(`the curl command for ${path}`, () => text));
}

function block(text) {
  return make("pre", { textContent: text });
}

function methodOf({ method }) {
  return make("span", { className: "method", textContent: method.toUpperCase() });
}

/** A path that may be broken at its slashes. */
function breakable(path) {
  return path.split("/").slice(1).flatMap((part) => [make("wbr"), `/${part}`]);
}

/** "post-v1-embeddings": short, and the same as long as the route is. */
function anchor({ method, path }) {
  return `${method}${path.replaceAll(/[^a-z0-9]+/gi, "-")}`.replace(/-$/, "");
}

start();
