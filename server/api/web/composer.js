// The form that asks for a video: prompt, settings, remix, and what the server answers to it.

import { api, ApiError, nonce } from "./api.js";
import { byId, setOptionalText, setText } from "./dom.js";
import { count, plural, shorten, span } from "./format.js";
import { Fields } from "./fields.js";

export class Composer {
  /** `oncreated(video)`, `onfailure(error)` for what is no field's fault, `oncurl(body)`. */
  constructor({ capabilities, oncreated, onfailure, oncurl }) {
    Object.assign(this, { capabilities, oncreated, onfailure });
    this.prompt = byId("prompt");
    this.fields = new Fields(capabilities);
    this.remixed = null;
    this.sending = false;
    const form = byId("composer");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      this.submit();
    });
    this.prompt.addEventListener("input", () => this.edited());
    byId("remix-stop").addEventListener("click", () => this.setRemix(null));
    byId("form-curl").addEventListener("click", () => oncurl(this.body()));
    this.edited();
  }

  body() {
    return { prompt: this.prompt.value.trim(), ...this.fields.values() };
  }

  edited() {
    this.showPromptError(null);
    this.idempotency = null;
    const { length } = [...this.prompt.value];
    const limit = this.capabilities.limits.max_prompt_chars;
    setText(byId("prompt-count"), length > limit * 0.8 ? `${count(length)} of ${count(limit)} characters` : "");
  }

  /** How long a wait a new video has, beside the button. */
  showQueue(queue) {
    if (!queue) return;
    const ahead = queue.queued + queue.in_progress;
    let text = "";
    if (queue.paused) text = "The queue is paused; a new video waits.";
    else if (ahead > 0) text = `${plural(ahead, "video")} ahead${queue.eta_seconds ? `, about ${span(queue.eta_seconds)}` : ""}`;
    else if (queue.step_seconds) text = `Free now, about ${span(queue.step_seconds * (Number(this.fields.values().num_inference_steps) || 0))} of denoising`;
    setText(byId("estimate"), text);
  }

  remix(video) {
    this.prompt.value = video.prompt;
    this.setRemix(video);
    this.focus();
  }

  reuse(video) {
    this.setRemix(null);
    this.prompt.value = video.prompt;
    this.fields.fill(video);
    this.edited();
    this.focus();
  }

  focus() {
    this.edited();
    byId("composer").scrollIntoView({ block: "center" });
    this.prompt.focus();
    this.prompt.setSelectionRange(this.prompt.value.length, this.prompt.value.length);
  }

  setRemix(video) {
    this.remixed = video;
    byId("remix-note").hidden = !video;
    byId("settings").disabled = Boolean(video);
    byId("form-curl").hidden = Boolean(video);
    if (video) setText(byId("remix-text"), `Remix of “${shorten(video.prompt, 48)}”: a new prompt, the same settings and seed ${video.seed}`);
  }

  async submit() {
    if (this.sending) return;
    this.clearErrors();
    const prompt = this.prompt.value.trim();
    if (!prompt) return this.showPromptError("Describe the video first.");
    this.setSending(true);
    try {
      // The same words sent again after a lost answer are the same request, not a second video.
      const body = this.body();
      const content = JSON.stringify(body);
      if (this.idempotency?.content !== content) this.idempotency = { content, key: nonce() };
      const video = this.remixed ? await api.remix(this.remixed.id, prompt) : await api.create(body, this.idempotency.key);
      this.idempotency = null;
      this.setRemix(null);
      this.oncreated(video);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.showError(error);
    } finally {
      this.setSending(false);
    }
  }

  setSending(sending) {
    this.sending = sending;
    byId("submit").setAttribute("aria-busy", String(sending));
  }

  showError(error) {
    if (error.param === "prompt") this.showPromptError(error.message);
    else if (!error.param || this.remixed || !this.fields.showError(error.param, error.message)) {
      setOptionalText(byId("form-error"), error.message);
      if (error.wantsKey) this.onfailure(error);
    }
  }

  showPromptError(text) {
    setOptionalText(byId("prompt-error"), text);
    if (!text) return this.prompt.removeAttribute("aria-invalid");
    this.prompt.setAttribute("aria-invalid", "true");
    this.prompt.focus();
  }

  clearErrors() {
    this.showPromptError(null);
    setOptionalText(byId("form-error"), null);
    this.fields.clearErrors();
  }
}
