// What lies over the page: questions before something is deleted, the key's entry, short notes, and banners. Each is a
// plain function or class over elements of index.html.

import { api, key } from "./api.js";
import { byId, h, icon, iconButton, setOptionalText } from "./dom.js";

const TOAST_MS = 6000;

/** A note at the page's foot that goes away by itself. */
export function toast(text, { bad = false } = {}) {
  const note = h("div", { class: bad ? "toast bad" : "toast" }, h("span", {}, text), iconButton("close", "Dismiss", () => note.remove()));
  byId("toasts").append(note);
  setTimeout(() => note.remove(), TOAST_MS);
  while (byId("toasts").childElementCount > 4) byId("toasts").firstElementChild.remove();
}

/** Says something to screen readers only. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** Asks; answers whether the user agreed. */
export function confirmed({ title, text, yes }) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = yes;
  dialog.returnValue = "";
  dialog.showModal();
  byId("confirm-no").focus();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

function wireConfirm() {
  byId("confirm-no").addEventListener("click", () => byId("confirm").close("no"));
  byId("confirm-yes").addEventListener("click", () => byId("confirm").close("yes"));
}

/** The entry of an API key. `onkey()` after it changed. */
export class KeyDialog {
  constructor(onkey) {
    this.onkey = onkey;
    this.dialog = byId("key-dialog");
    this.input = byId("key-input");
    byId("key-button").addEventListener("click", () => this.open(null));
    byId("key-cancel").addEventListener("click", () => this.dialog.close());
    byId("key-forget").addEventListener("click", () => {
      key.set(null, false);
      this.dialog.close();
      this.onkey();
    });
    byId("key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.save();
    });
  }

  /** Opens it, with the reason if it was not the user's idea. */
  open(reason) {
    this.showError(reason);
    if (this.dialog.open) return;
    this.input.value = key.value ?? "";
    byId("key-remember").checked = key.remembered;
    byId("key-forget").hidden = key.value == null;
    this.dialog.showModal();
    this.input.focus();
  }

  showError(text) {
    setOptionalText(byId("key-error"), text);
    this.input.setAttribute("aria-invalid", String(Boolean(text)));
  }

  async save() {
    const value = this.input.value.trim();
    if (!value) return this.showError("Enter a key.");
    const before = { value: key.value, remembered: key.remembered };
    key.set(value, byId("key-remember").checked);
    try {
      await api.queue();
    } catch (error) {
      key.set(before.value, before.remembered);
      return this.showError(error.message);
    }
    this.dialog.close();
    this.onkey();
  }
}

/** The banners under the header: at most one of each name. */
export class Banners {
  constructor() {
    this.shown = new Map();
    wireConfirm();
  }

  /** Shows, rewords or (without a text) removes a banner. `action` is `{label, run}`. */
  set(name, text, { kind = "info", action = null } = {}) {
    const before = this.shown.get(name);
    if (before?.text === text) return;
    before?.node.remove();
    this.shown.delete(name);
    if (!text) return;
    const button = action && h("button", { type: "button", class: "link", onclick: action.run }, action.label);
    const node = h("div", { class: `banner ${kind}`, "data-banner": name }, icon(kind === "pause" ? "pause" : "info"), h("span", {}, text), button);
    this.shown.set(name, { text, node });
    byId("banners").append(node);
  }
}
