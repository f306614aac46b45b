// One view for each video in the page's three lists: running, waiting, finished. A view is made once for a video and
// then updated; it reads the store and asks `Actions`, and holds nothing that a reload would lose.

import { h, icon, iconButton, setAttribute, setOptionalText, setText, textButton } from "./dom.js";
import { ago, count, plural, shorten, sizeText, span, STAGE_LABELS, stageText, videoLength } from "./format.js";
import { releaseMedia, shape, Tile } from "./media.js";

/** What was asked for, on one line. */
const facts = (video) => `${sizeText(video.size)} · ${videoLength(video.seconds)} · ${video.num_inference_steps} steps · seed ${video.seed}`;

/** Seconds until a video is done, counted down from when the server said so. */
function secondsLeft(video) {
  if (video.eta_seconds == null) return null;
  return video.eta_seconds - (Date.now() - video.told_at) / 1000;
}

function etaText(video) {
  const left = secondsLeft(video);
  if (video.state === "cancelling") return "The worker stops at its next step";
  if (left == null) return video.started_at ? `${span(Math.max(0, Date.now() / 1000 - video.started_at))} so far` : "";
  return left < 2 ? "Almost done" : `About ${span(left)} left`;
}

/** A video being made: preview, stages, bar, and the way to stop it. */
export function runningView({ store, actions, ondetail }, first) {
  const id = first.id;
  const current = () => store.videos.get(id);
  const preview = h("img", { alt: "Preview of the video so far", hidden: true });
  const screen = shape(h("div", { class: "screen" }, h("div", { class: "shimmer" }), preview), first);
  const stages = STAGE_LABELS.map(([name, label]) => h("li", { "data-stage": name }, label));
  const [title, stage, percent, eta, note] = ["h3", "span", "span", "span", "p"].map((tag) => h(tag));
  stage.className = "stage";
  percent.className = "percent";
  eta.className = "eta";
  note.className = "note";
  const fill = h("div", { class: "bar-fill" });
  const bar = h("div", { class: "progress", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": `Progress of ${shorten(first.prompt)}` }, fill);
  const cancel = textButton("close", "Cancel", () => actions.cancel(current()));
  const details = textButton("info", "Details", () => ondetail(id));
  const node = h("article", { class: "running-card", "data-id": id }, screen,
    h("div", { class: "running-body" }, title, h("p", { class: "facts" }, facts(first)),
      h("ol", { class: "stages", "aria-hidden": "true" }, stages),
      h("div", { class: "progress-line" }, stage, percent), bar,
      h("div", { class: "running-foot" }, eta, details, cancel), note));

  function update(video) {
    setText(title, video.prompt);
    setText(stage, stageText(video));
    setText(percent, `${video.progress} %`);
    setText(eta, etaText(video));
    setAttribute(bar, "aria-valuenow", video.progress);
    setAttribute(bar, "aria-valuetext", `${video.progress} percent, ${stageText(video)}`);
    fill.style.setProperty("--done", video.progress / 100);
    setAttribute(node, "data-state", video.state);
    cancel.disabled = video.state === "cancelling";
    setOptionalText(note, [...video.warnings, video.attempt > 1 ? `Attempt ${video.attempt}` : null].filter(Boolean).join(" · "));
    const now = STAGE_LABELS.findIndex(([name]) => name === video.stage);
    stages.forEach((item, index) => setAttribute(item, "class", index < now ? "past" : index === now ? "now" : null));
    const picture = store.previews.get(id);
    preview.hidden = !picture;
    if (picture) setAttribute(preview, "src", picture);
  }
  return { node, update };
}

/** A waiting video, or the gap between two that are shown. */
export function waitingView({ store, actions, ondetail }, first) {
  if (first.gap) {
    const node = h("li", { class: "gap" });
    return { node, update: ({ gap }) => setText(node, `${plural(gap, "more video")} waiting`) };
  }
  const current = () => store.videos.get(first.id);
  const place = h("span", { class: "place" });
  const meta = h("span", { class: "facts" });
  const text = h("button", { type: "button", class: "queue-text", onclick: () => ondetail(first.id) }, h("span", { class: "queue-prompt" }, first.prompt), meta);
  const raise = iconButton("up", `Raise the priority: ${shorten(first.prompt)}`, () => actions.raise(current()));
  const cancel = iconButton("close", `Cancel: ${shorten(first.prompt)}`, () => actions.cancel(current()));
  const node = h("li", { class: "queue-row", "data-id": first.id }, place, text, raise, cancel);

  function update(video) {
    setText(place, video.queue_position ? count(video.queue_position) : "–");
    setAttribute(place, "aria-label", video.queue_position ? `Position ${video.queue_position}` : "Position unknown");
    const left = secondsLeft(video);
    const wait = left == null || store.queue?.paused ? "" : ` · ready in about ${span(Math.max(1, left))}`;
    setText(meta, `${sizeText(video.size)} · ${videoLength(video.seconds)}${video.priority ? ` · priority ${video.priority}` : ""}${wait}`);
    raise.disabled = video.priority >= 100;
  }
  return { node, update };
}

const ENDINGS = {
  failed: ["Failed", "This video could not be made."],
  cancelled: ["Cancelled", "Stopped before it was done."],
  expired: ["Expired", "Its file was removed to make room."],
};

/** What stands in place of the picture where there is no file. */
function endingTile(video, ondetail) {
  const [word, sentence] = ENDINGS[video.state];
  const text = video.state === "failed" ? video.error?.message ?? sentence : sentence;
  const label = `${word}: ${video.prompt}`;
  return shape(h("button", { type: "button", class: `tile ending ${video.state}`, "aria-label": label, onclick: ondetail },
    h("span", { class: "ending-word" }, word), h("span", { class: "ending-text" }, shorten(text, 160))), video);
}

function buttonsOf(video, actions) {
  const name = shorten(video.prompt, 60);
  const remove = iconButton("trash", `Delete: ${name}`, () => actions.remove(video));
  if (video.state !== "completed") {
    return [iconButton("retry", `Try again: ${name}`, () => actions.retry(video)), iconButton("sliders", `Use these settings: ${name}`, () => actions.reuse(video)), remove];
  }
  return [
    iconButton("remix", `Remix: ${name}`, () => actions.remix(video)),
    iconButton("download", `Download: ${name}`, () => actions.download(video)),
    iconButton("seed", `Copy seed ${video.seed}: ${name}`, () => actions.copySeed(video)),
    iconButton("terminal", `Copy as curl: ${name}`, () => actions.copyCurl(video)),
    remove,
  ];
}

/** A finished video. */
export function doneView({ actions, ondetail }, first) {
  const open = () => ondetail(first.id);
  const when = h("span", { class: "when" });
  const node = h("article", { class: "card", "data-id": first.id });
  let state = null;
  let tile = null;

  function build(video) {
    state = video.state;
    tile?.dispose();
    tile = video.state === "completed" ? new Tile(video, open) : null;
    const face = tile?.node ?? endingTile(video, open);
    node.replaceChildren(face, h("h3", { class: "card-prompt", title: video.prompt }, video.prompt),
      h("div", { class: "card-foot" }, when, h("div", { class: "card-buttons" }, buttonsOf(video, actions))));
    setAttribute(node, "data-state", state);
  }

  return {
    node,
    update(video) {
      if (video.state !== state) build(video);
      setText(when, ago(video.completed_at ?? video.created_at));
    },
    dispose() {
      tile?.dispose();
      releaseMedia(first.id);
    },
  };
}

/** A place in the gallery while the first page is on its way. */
export const placeholder = () => h("div", { class: "card placeholder", "aria-hidden": "true" }, h("div", { class: "tile" }, h("div", { class: "shimmer" })), icon("play"));
