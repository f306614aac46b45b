// The viewer at /docs/: shows /openapi.json, operation by operation. Shows only what the description says.

import { byId, h } from "./dom.js";

const METHODS = ["get", "post", "patch", "delete", "head"];

const code = (text) => h("code", {}, text);
const paragraphs = (text) => (text ?? "").split("\n\n").filter((part) => part && !part.startsWith("|")).map((part) => h("p", {}, part.replaceAll("`", "")));

function table(rows) {
  return h("table", { class: "table" }, h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell) => h("td", {}, cell))))));
}

/** A schema in a word or two; the name of one that is described on its own is a link to it. */
function typeOf(schema) {
  if (!schema) return code("any");
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return h("a", { href: `#${name}` }, code(name));
  }
  const some = schema.oneOf ?? schema.anyOf ?? schema.allOf;
  if (some) return h("span", {}, some.flatMap((one, index) => (index ? [" or ", typeOf(one)] : [typeOf(one)])));
  if (schema.type === "array") return h("span", {}, "list of ", typeOf(schema.items));
  if (schema.enum) return code(schema.enum.join(" | "));
  return code([schema.type ?? "any"].flat().join(" or "));
}

function bodies(content = {}) {
  return Object.entries(content).map(([type, media]) => h("p", {}, code(type), " ", typeOf(media.schema)));
}

function operation(method, path, says) {
  const parts = [...paragraphs(says.description)];
  if (says.parameters?.length) {
    const rows = says.parameters.map((one) => [code(one.name), h("span", {}, one.in, one.required ? ", required" : ""), h("span", {}, one.description ?? "")]);
    parts.push(h("h3", {}, "Parameters"), table(rows));
  }
  if (says.requestBody) parts.push(h("h3", {}, "Body"), ...bodies(says.requestBody.content));
  const answers = Object.entries(says.responses ?? {}).map(([status, answer]) => [code(status), h("div", {}, (answer.description ?? "").replaceAll("`", ""), bodies(answer.content))]);
  parts.push(h("h3", {}, "Answers"), table(answers));
  const summary = h("summary", {}, h("span", { class: "method" }, method.toUpperCase()), code(path), h("span", { class: "says" }, says.summary ?? ""));
  return h("details", { id: says.operationId }, summary, ...parts);
}

function schema(name, says) {
  const fields = Object.entries(says.properties ?? {}).map(([field, one]) => [code(field), typeOf(one), h("span", {}, (one.description ?? "").replaceAll("`", ""))]);
  const values = says.enum ? [h("p", {}, code(says.enum.join(" | ")))] : [];
  const body = fields.length ? [table(fields)] : says.oneOf ? [h("p", {}, typeOf(says))] : values;
  return h("details", { id: name }, h("summary", {}, code(name), h("span", { class: "says" }, (says.description ?? "").split("\n")[0])), ...body);
}

function show(description) {
  const parts = [h("h1", {}, `${description.info.title} ${description.info.version}`), ...paragraphs(description.info.description)];
  for (const tag of description.tags ?? []) {
    parts.push(h("h2", {}, tag.name), h("p", {}, tag.description ?? ""));
    for (const [path, item] of Object.entries(description.paths)) {
      for (const method of METHODS) {
        if (item[method]?.tags?.includes(tag.name)) parts.push(operation(method, path, item[method]));
      }
    }
  }
  parts.push(h("h2", {}, "Shapes"));
  for (const [name, says] of Object.entries(description.components?.schemas ?? {})) parts.push(schema(name, says));
  byId("docs").replaceChildren(...parts);
  byId("docs").setAttribute("aria-busy", "false");
  openTarget();
}

/** A link to something folded opens it. */
function openTarget() {
  const target = byId(decodeURIComponent(location.hash.slice(1)));
  if (!(target instanceof HTMLDetailsElement)) return;
  target.open = true;
  target.scrollIntoView({ block: "start" });
}

addEventListener("hashchange", openTarget);
try {
  const response = await fetch("/openapi.json");
  if (!response.ok) throw new Error(`The server answered ${response.status}.`);
  show(await response.json());
} catch (error) {
  byId("docs").replaceChildren(h("p", { role: "alert" }, `The description cannot be loaded: ${error.message}`));
}
