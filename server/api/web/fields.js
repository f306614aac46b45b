// The settings of the form, made from what `GET /v1/capabilities` says of a model. A field is a label, a control, and a
// place for the server's refusal. Knows nothing of sending.

import { byId, h, setOptionalText } from "./dom.js";
import { sizeText, videoLength } from "./format.js";
import { AdapterPicker, PicturePicker } from "./pickers.js";

const option = (value, label, chosen) => h("option", { value, selected: String(value) === String(chosen) }, label);

const SCHEDULERS = { ddim: "DDIM", dpm: "DPM" };

/** The frame counts a model makes, up to what a menu can hold. */
function frameCounts({ min, max, stride }) {
  const counts = [];
  for (let frames = min; frames <= max && counts.length < 64; frames += stride) counts.push(frames);
  return counts;
}

/** Every setting as `{name, label, control, wide?, parse, default}`, or with a `picker` in place of the last two. */
function describe(capabilities, model) {
  const { num_frames: frames, num_inference_steps: steps, guidance_scale: guidance } = model;
  const number = (attributes) => h("input", { type: "number", inputmode: "decimal", ...attributes });
  const tick = (checked) => h("input", { type: "checkbox", checked });
  const ranged = (text) => (text === "" ? null : Number(text));
  const fields = [
    { name: "size", label: "Size", default: model.default_size, parse: String, basic: true,
      control: h("select", {}, model.sizes.map((size) => option(size, sizeText(size), model.default_size))) },
    { name: "num_frames", label: "Length (frames)", default: frames.default, parse: Number, basic: true,
      control: h("select", {}, frameCounts(frames).map((n) => option(n, `${videoLength(n / model.fps)} (${n})`, frames.default))) },
    { name: "num_inference_steps", label: "Steps", default: steps.default, parse: ranged, basic: true,
      control: number({ min: 1, max: steps.max, step: 1, value: steps.default }) },
    { name: "seed", label: "Seed", default: null, parse: ranged, basic: true,
      control: number({ min: 0, max: Number.MAX_SAFE_INTEGER, step: 1, placeholder: "Random" }) },
    { name: "guidance_scale", label: "Guidance", default: guidance.default, parse: ranged,
      control: number({ min: guidance.min, max: guidance.max, step: 0.5, value: guidance.default }) },
    { name: "scheduler", label: "Scheduler", default: model.default_scheduler, parse: String,
      control: h("select", {}, model.schedulers.map((name) => option(name, SCHEDULERS[name] ?? name, model.default_scheduler))) },
    { name: "priority", label: "Priority", default: 0, parse: ranged, hint: "Higher goes first",
      control: number({ min: -100, max: 100, step: 1, value: 0 }) },
    { name: "negative_prompt", label: "Negative prompt", default: "", parse: (text) => text.trim(), wide: true,
      control: h("textarea", { rows: 2, placeholder: "What the video must not show" }) },
    { name: "use_dynamic_cfg", label: "Dynamic guidance: grows over the steps", default: model.use_dynamic_cfg, control: tick(model.use_dynamic_cfg) },
    { name: "truncate_prompt", label: `Cut a prompt of more than ${model.max_prompt_tokens} tokens`, default: false, control: tick(false) },
  ];
  if (model.supports_image) {
    const picture = { name: "input_reference", label: "First frame", wide: true, basic: true, hint: "PNG, JPEG or WebP" };
    picture.picker = new PicturePicker(capabilities.limits.max_image_bytes, (message) => setOptionalText(picture.error, message));
    fields.unshift(picture);
  }
  if (model.lora.length > 0) {
    fields.push({ name: "lora", label: "Adapters", wide: true, hint: `Up to ${capabilities.limits.max_lora}, with their strengths`, picker: new AdapterPicker(model.lora) });
  }
  if (capabilities.features.refine_prompt) {
    fields.push({ name: "refine_prompt", label: "Refine the prompt first", default: false, control: tick(false) });
  }
  return fields;
}

export class Fields {
  constructor(capabilities) {
    this.capabilities = capabilities;
    const models = capabilities.models;
    const first = models.find((model) => model.default) ?? models[0];
    this.modelField = { name: "model", label: "Model", parse: String, basic: true,
      control: h("select", { onchange: () => this.use(this.chosenModel()) }, models.map(({ id }) => option(id, id, first.id))) };
    this.use(first);
  }

  chosenModel() {
    return this.capabilities.models.find((model) => model.id === this.modelField.control.value);
  }

  /** Shows the settings of one model, at its defaults. */
  use(model) {
    this.model = model;
    this.all = describe(this.capabilities, model);
    if (this.capabilities.models.length > 1) this.all.unshift(this.modelField);
    byId("basic-fields").replaceChildren(...this.all.filter((field) => field.basic).map((field) => this.build(field)));
    byId("more-fields").replaceChildren(...this.all.filter((field) => !field.basic).map((field) => this.build(field)));
  }

  build(field) {
    const { name } = field;
    const control = (field.control ??= field.picker.control);
    control.id = `field-${name}`;
    control.name = name;
    control.setAttribute("aria-describedby", `error-${name}`);
    field.error = h("span", { id: `error-${name}`, class: "field-error", hidden: true });
    if (control.type === "checkbox") return h("div", { class: "field wide" }, h("label", { class: "tick" }, control, field.label), field.error);
    const hint = field.hint && h("span", { class: "field-hint" }, field.hint);
    const label = field.picker ? h("span", { class: "group-label" }, field.label, hint) : h("label", { for: control.id }, field.label, hint);
    return h("div", { class: field.wide ? "field wide" : "field" }, label, control, field.error);
  }

  /** The settings as a request's fields. What the model would do anyway is left out, but for what shapes the video. */
  values() {
    const body = {};
    for (const field of this.all) {
      const { name, control, picker } = field;
      const value = picker ? picker.value() : control.type === "checkbox" ? control.checked : field.parse(control.value);
      const shapes = ["model", "size", "num_frames", "num_inference_steps", "refine_prompt"].includes(name);
      if (value != null && (shapes || value !== field.default)) body[name] = value;
    }
    return body;
  }

  /** Sets the fields to a video's parameters. */
  fill(video) {
    if (this.capabilities.models.some((model) => model.id === video.model)) {
      this.modelField.control.value = video.model;
      this.use(this.chosenModel());
    }
    for (const { name, control, picker } of this.all) {
      if (!(name in video)) continue;
      if (picker) picker.show(video[name]);
      else if (control.type === "checkbox") control.checked = video[name];
      else control.value = video[name] ?? "";
    }
  }

  /** Shows a refusal at its field; answers whether there is such a field. */
  showError(param, message) {
    // A part of a list, such as `lora[0].name`, is refused at the list's field.
    const name = { seconds: "num_frames", width: "size", height: "size" }[param] ?? param.split("[")[0];
    const field = this.all.find((one) => one.name === name);
    if (!field) return false;
    setOptionalText(field.error, message);
    field.control.setAttribute("aria-invalid", "true");
    field.control.closest("details")?.setAttribute("open", "");
    (field.picker ? field.control.querySelector("input") : field.control).focus();
    return true;
  }

  clearErrors() {
    for (const field of this.all) {
      setOptionalText(field.error, null);
      field.control.removeAttribute("aria-invalid");
    }
  }
}
