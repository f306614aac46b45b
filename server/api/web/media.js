// Pictures and files of finished videos: where an element finds them, with and without keys, and a video that plays
// while it is pointed at. Files come only when they are needed.

import { access, api, contentPath } from "./api.js";
import { h, icon } from "./dom.js";
import { videoLength } from "./format.js";

const HOVER_MS = 90;
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const blobUrls = new Map();

/** The address of a variant for `src`. With keys the file is fetched once and kept until the video is released. */
export function sourceOf(video, variant) {
  if (!access.needsKey) return Promise.resolve(contentPath(video, variant));
  const name = `${video.id} ${variant}`;
  if (!blobUrls.has(name)) {
    const loading = api.blob(contentPath(video, variant)).then((blob) => URL.createObjectURL(blob));
    loading.catch(() => blobUrls.delete(name));
    blobUrls.set(name, loading);
  }
  return blobUrls.get(name);
}

/** Gives back the memory of a video that left the page. */
export function releaseMedia(id) {
  for (const [name, loading] of blobUrls) {
    if (!name.startsWith(`${id} `)) continue;
    blobUrls.delete(name);
    loading.then((url) => URL.revokeObjectURL(url), () => {});
  }
}

const nearby = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      nearby.unobserve(entry.target);
      entry.target.dispatchEvent(new Event("nearby"));
    }
  },
  { rootMargin: "400px" },
);

/** A box in the video's shape. Through the object model: a `style` attribute would break the policy. */
export function shape(node, video) {
  node.style.setProperty("--ratio", `${video.width} / ${video.height}`);
  return node;
}

/** The face of a finished video: its picture, which plays, muted and looping, while pointed at or focused. */
export class Tile {
  constructor(video, onopen) {
    this.video = video;
    this.poster = h("img", { class: "poster", alt: "", draggable: "false" });
    this.poster.hidden = true;
    this.poster.addEventListener("load", () => (this.poster.hidden = false));
    const label = `Open: ${video.prompt}`;
    this.node = shape(h("button", { type: "button", class: "tile", "aria-label": label, onclick: onopen }, this.poster), video);
    this.node.append(h("span", { class: "tile-play" }, icon("play")), h("span", { class: "badge" }, videoLength(video.seconds)));
    this.node.addEventListener("nearby", () => this.loadPoster(), { once: true });
    nearby.observe(this.node);
    this.node.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && this.playSoon());
    this.node.addEventListener("pointerleave", () => this.rest());
    this.node.addEventListener("focus", () => this.node.matches(":focus-visible") && this.playSoon());
    this.node.addEventListener("blur", () => this.rest());
  }

  async loadPoster() {
    this.poster.src = await sourceOf(this.video, "thumbnail").catch(() => "");
  }

  playSoon() {
    if (calm.matches) return;
    clearTimeout(this.timer);
    this.wanted = true;
    this.timer = setTimeout(() => this.play(), HOVER_MS);
  }

  async play() {
    const src = await sourceOf(this.video, "video").catch(() => null);
    if (!src || !this.wanted) return;
    if (!this.player) {
      this.player = player(src, { class: "tile-video", tabindex: "-1", "aria-hidden": "true" });
      this.player.addEventListener("playing", () => this.node.classList.toggle("playing", Boolean(this.wanted)));
      this.poster.after(this.player);
    }
    this.player.play().catch(() => {}); // Refused where the pointer left in the meantime.
  }

  rest() {
    clearTimeout(this.timer);
    this.wanted = false;
    this.node.classList.remove("playing");
    if (!this.player) return;
    this.player.pause();
    this.player.currentTime = 0;
  }

  dispose() {
    nearby.unobserve(this.node);
    clearTimeout(this.timer);
    this.player?.removeAttribute("src");
  }
}

/** A muted, looping, inline video element. */
export function player(src, attributes = {}) {
  const video = h("video", { playsinline: true, loop: true, muted: true, preload: "auto", ...attributes });
  video.muted = true; // The attribute counts only in parsed markup.
  if (src) video.src = src;
  return video;
}
