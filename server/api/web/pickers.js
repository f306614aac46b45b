// Controls of more than one part, for what a plain field cannot ask. Each has a `control` to be shown, `value()` as a
// request has it (null for nothing) and `show(value)` for a video's. Knows nothing of sending.

import { h } from "./dom.js";

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
