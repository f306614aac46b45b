// Controls of more than one part, for what a plain field cannot ask. Each has a `control` to be shown, `value()` as a
// request has it (null for nothing) and `show(value)` for a video's. Knows nothing of sending.

import { h, setAttribute } from "./dom.js";
import { bytesText } from "./format.js";

/** The adapters of a model: a tick and a strength for each. */
export class AdapterPicker {
  constructor(names) {
    this.rows = names.map((name) => {
      const tick = h("input", { type: "checkbox", onchange: () => (scale.disabled = !tick.checked) });
      const scale = h("input", { type: "number", min: -10, max: 10, step: 0.1, value: 1, disabled: true, "aria-label": `Strength of ${name}` });
      return { name, tick, scale };
    });
    this.control = h("div", { role: "group", "aria-label": "Adapters", class: "adapters" },
      this.rows.map(({ name, tick, scale }) => h("div", { class: "adapter" }, h("label", { class: "tick" }, tick, name), scale)));
  }

  value() {
    const chosen = this.rows.filter(({ tick }) => tick.checked);
    const lora = chosen.map(({ name, scale }) => ({ name, scale: scale.value === "" ? 1 : Number(scale.value) }));
    return lora.length ? lora : null;
  }

  /** Adapters that are not there any more are left out. */
  show(lora) {
    for (const { name, tick, scale } of this.rows) {
      const one = lora.find((adapter) => adapter.name === name);
      tick.checked = Boolean(one);
      scale.disabled = !one;
      scale.value = one?.scale ?? 1;
    }
  }
}

/** The picture that a video starts from, with a preview. It is kept as a `data:` URL, which a request can carry. */
export class PicturePicker {
  /** `onrefused(message)` hears of files that are too large; with null it is over. */
  constructor(maxBytes, onrefused) {
    Object.assign(this, { maxBytes, onrefused, url: null });
    this.input = h("input", { type: "file", accept: "image/png,image/jpeg,image/webp", "aria-label": "Picture to start from", onchange: () => this.read() });
    this.preview = h("img", { alt: "The chosen picture", class: "picture-preview", hidden: true });
    this.control = h("div", { class: "picture" }, this.input, this.preview);
  }

  async read() {
    const file = this.input.files[0];
    this.onrefused(null);
    if (!file) return this.set(null);
    if (file.size > this.maxBytes) {
      this.input.value = "";
      this.set(null);
      return this.onrefused(`The file has ${bytesText(file.size)}, the server takes ${bytesText(this.maxBytes)}.`);
    }
    const reader = new FileReader();
    reader.addEventListener("load", () => this.input.files[0] === file && this.set(reader.result));
    reader.addEventListener("error", () => this.onrefused("The file cannot be read."));
    reader.readAsDataURL(file);
  }

  set(url) {
    this.url = url;
    this.preview.hidden = !url;
    setAttribute(this.preview, "src", url);
  }

  value() {
    return this.url && { image_url: this.url };
  }

  /** A video tells of its picture only that there is one: it must be chosen again. */
  show() {
    this.input.value = "";
    this.set(null);
  }
}
