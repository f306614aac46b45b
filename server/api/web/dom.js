// Building and updating the page's nodes. Text goes in as text nodes only, so nothing a user wrote can become markup.
// Knows nothing of videos.

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/**
 * An element. `on…` attributes are listeners; true, false and null set or leave out an attribute; children are nodes,
 * texts, or null.
 */
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else setAttribute(node, name, value);
  }
  node.append(...children.flat().filter((child) => child != null));
  return node;
}

/** Sets an attribute, or removes it for null and false. */
export function setAttribute(node, name, value) {
  if (value == null || value === false) node.removeAttribute(name);
  else {
    const text = value === true ? "" : String(value);
    if (node.getAttribute(name) !== text) node.setAttribute(name, text);
  }
}

/** One of the symbols in index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** A button of one icon; its label is for screen readers and the tooltip. */
export function iconButton(name, label, onclick) {
  return h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick }, icon(name));
}

/** A button of an icon and a word. */
export function textButton(name, label, onclick) {
  return h("button", { type: "button", class: "quiet-button", onclick }, icon(name), label);
}

/** Writes a text only if it differs, so that selections and screen readers are left in peace. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Writes a text, and hides the node if there is none. */
export function setOptionalText(node, text) {
  setText(node, text ?? "");
  node.hidden = !text;
}

/** The children of one node, one view for each item's `id`, reused and moved as little as possible. */
export class KeyedList {
  /** `make(item)` answers `{node, update(item), dispose?()}`. */
  constructor(parent, make) {
    this.parent = parent;
    this.make = make;
    this.views = new Map();
  }

  render(items) {
    const wanted = new Set(items.map((item) => item.id));
    for (const [id, view] of this.views) {
      if (wanted.has(id)) continue;
      this.passOnFocus(view.node);
      view.dispose?.();
      view.node.remove();
      this.views.delete(id);
    }
    let at = this.parent.firstElementChild;
    for (const item of items) {
      let view = this.views.get(item.id);
      if (!view) this.views.set(item.id, (view = this.make(item)));
      view.update(item);
      if (view.node === at) at = at.nextElementSibling;
      else this.parent.insertBefore(view.node, at);
    }
  }

  /** A keyboard user whose card goes away stays in the list instead of being thrown to the top of the page. */
  passOnFocus(node) {
    if (!node.contains(document.activeElement)) return;
    const neighbour = node.nextElementSibling ?? node.previousElementSibling;
    neighbour?.querySelector("button, a[href]")?.focus();
  }
}
