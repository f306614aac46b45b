// One video at full size in a dialog: player, everything the server says of it, and everything that can be done with it.

import { byId, h, iconButton, setText, textButton } from "./dom.js";
import { ago, bytesText, milliseconds, sizeText, span, stageText, videoLength } from "./format.js";
import { player, shape, sourceOf } from "./media.js";
import { isTerminal } from "./store.js";

const TIMINGS = [
  ["queue_ms", "waiting"], ["load_model_ms", "loading"], ["text_encode_ms", "prompt"], ["denoise_ms", "denoising"],
  ["vae_decode_ms", "decoding"], ["encode_mp4_ms", "encoding"], ["store_ms", "saving"],
];

const STATES = {
  queued: "Waiting", in_progress: "In progress", cancelling: "Stopping", completed: "Done", failed: "Failed",
  cancelled: "Cancelled", expired: "Expired",
};

/** The table's rows as `[term, text]`, without those that have nothing to say. */
function rows(video) {
  const timings = TIMINGS.filter(([name]) => video.timings?.[name] != null);
  const now = Date.now() / 1000;
  return [
    ["State", video.state === "in_progress" ? `${stageText(video)}, ${video.progress} %` : STATES[video.state]],
    ["Position", video.queue_position && String(video.queue_position)],
    ["Model", video.model],
    ["Size", `${sizeText(video.size)}, ${video.num_frames} frames at ${video.fps} a second (${videoLength(video.seconds)})`],
    ["Steps", `${video.num_inference_steps}, ${video.scheduler.toUpperCase()}`],
    ["Guidance", `${video.guidance_scale}${video.use_dynamic_cfg ? ", dynamic" : ""}`],
    ["Seed", String(video.seed)],
    ["First frame", video.input_reference && `a picture of ${bytesText(video.input_reference.bytes)}`],
    ["Adapters", video.lora.map(({ name, scale }) => `${name} × ${scale}`).join(", ")],
    ["Negative prompt", video.negative_prompt],
    ["Read as", video.refined_prompt],
    ["Prompt", video.prompt_tokens && `${video.prompt_tokens} tokens${video.prompt_truncated ? ", its end was cut off" : ""}`],
    ["Priority", video.priority ? String(video.priority) : null],
    ["Created", new Date(video.created_at * 1000).toLocaleString()],
    ["Finished", video.completed_at && ago(video.completed_at)],
    ["Expires", video.expires_at > now ? `in ${span(video.expires_at - now)}` : null],
    ["File", video.bytes && bytesText(video.bytes)],
    ["Time", timings.map(([name, word]) => `${word} ${milliseconds(video.timings[name])}`).join(", ")],
    ["Id", video.id],
  ].filter(([, text]) => text);
}

export class Detail {
  constructor({ store, actions }) {
    Object.assign(this, { store, actions });
    this.dialog = byId("detail");
    this.id = null;
    this.dialog.addEventListener("close", () => {
      this.id = null;
      this.dialog.replaceChildren(); // Stops the player.
    });
    // A click on the dimmed page, which is the dialog's own box outside of its content.
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
  }

  open(id) {
    this.id = id;
    this.state = null;
    this.update();
    this.dialog.showModal();
  }

  /** Follows the store; closes when its video is gone. */
  update() {
    if (!this.id) return;
    const video = this.store.videos.get(this.id);
    if (!video) return this.dialog.close();
    if (video.state !== this.state) this.build(video);
    const preview = this.store.previews.get(this.id);
    if (this.picture && preview) this.picture.src = preview;
    const texts = rows(video);
    while (this.list.childElementCount > texts.length * 2) this.list.lastElementChild.remove();
    texts.forEach(([term, text], index) => {
      if (!this.list.children[index * 2]) this.list.append(h("dt"), h("dd"));
      setText(this.list.children[index * 2], term);
      setText(this.list.children[index * 2 + 1], text);
    });
  }

  build(video) {
    this.state = video.state;
    this.list = h("dl");
    const warnings = video.warnings.map((text) => h("p", { class: "note" }, text));
    const error = video.error && video.state !== "cancelled" && h("p", { class: "form-error" }, video.error.message, h("code", {}, video.error.code));
    this.dialog.replaceChildren(h("div", { class: "detail-body" }, this.screen(video),
      h("div", { class: "detail-side" },
        h("div", { class: "detail-head" }, h("h2", { id: "detail-title" }, video.prompt), iconButton("close", "Close", () => this.dialog.close())),
        error, warnings, h("div", { class: "detail-buttons" }, this.buttons(video)), this.list)));
  }

  screen(video) {
    this.picture = null;
    const box = shape(h("div", { class: "screen" }), video);
    if (video.state === "completed") {
      const film = player(null, { controls: true, autoplay: true, "aria-label": video.prompt });
      box.append(film);
      sourceOf(video, "thumbnail").then((src) => (film.poster = src), () => {});
      sourceOf(video, "video").then((src) => (film.src = src), (error) => box.append(h("p", { class: "ending-text" }, error.message)));
    } else if (!isTerminal(video)) {
      const preview = this.store.previews.get(video.id);
      this.picture = h("img", { alt: "Preview of the video so far", src: preview });
      box.append(h("div", { class: "shimmer" }), this.picture);
    } else box.append(h("p", { class: "ending-word" }, STATES[video.state]));
    return box;
  }

  buttons(video) {
    const { actions } = this;
    const leaving = (act) => () => {
      this.dialog.close();
      act(video);
    };
    const done = video.state === "completed";
    const ended = isTerminal(video);
    return [
      done && textButton("download", "Download", () => actions.download(video)),
      done && textButton("remix", "Remix", leaving((one) => actions.remix(one))),
      ended && !done && textButton("retry", "Try again", leaving((one) => actions.retry(one))),
      textButton("sliders", "Use settings", leaving((one) => actions.reuse(one))),
      textButton("seed", "Copy seed", () => actions.copySeed(video)),
      textButton("terminal", "Copy as curl", () => actions.copyCurl(video)),
      !ended && video.state !== "cancelling" && textButton("close", "Cancel", () => actions.cancel(video)),
      ended && textButton("trash", "Delete", () => actions.remove(video)),
    ].filter(Boolean);
  }
}
