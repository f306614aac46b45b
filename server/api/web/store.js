// What the page knows of the server: the videos it shows, in three lists, and the queue's figures. Everything comes
// from `GET /v1/videos`, `GET /v1/queue` and the event stream; nothing is remembered over a reload. Holds only what is
// shown, so that a queue of ten thousand costs as much as one of ten. Knows no element of the page.

import { api } from "./api.js";

const GALLERY_PAGE = 24;
const QUEUE_PAGE = 5;
const QUEUE_TAIL = 2;
const LARGEST_PAGE = 100;
const OWN_KEPT = 8;
const QUEUE_REFRESH_MS = 700;

const TERMINAL = ["completed", "failed", "cancelled", "expired"];

/** Whether nothing more will happen to a video. */
export const isTerminal = (video) => TERMINAL.includes(video.state);

const list = (states, order, page) => ({ states, order, page, shown: page, cursor: null, hasMore: false });
const newestFirst = (a, b) => b.created_at - a.created_at || (a.id < b.id ? 1 : -1);
const nextFirst = (a, b) => (a.queue_position ?? Infinity) - (b.queue_position ?? Infinity) || -newestFirst(a, b);

export class Store {
  /** `onchange()` after anything changed; `onend(video, before)` and `onstart(video)` as they happen; `onerror(error)`. */
  constructor({ onchange, onstart, onend, onerror }) {
    Object.assign(this, { onchange, onstart, onend, onerror });
    this.videos = new Map();
    this.previews = new Map();
    this.queue = null;
    this.own = [];
    this.discovering = new Set();
    // Orders what was asked against what was told: an answer never overwrites an event that came after its question.
    this.clock = 0;
    this.running = list(["in_progress", "cancelling"], "asc", 20);
    this.waiting = list(["queued"], "asc", QUEUE_PAGE);
    this.done = list(TERMINAL, "desc", GALLERY_PAGE);
  }

  /** Reads everything shown again. */
  async resync() {
    try {
      await Promise.all([this.reload(this.running), this.reload(this.done), this.refreshQueue()]);
      this.loaded = true;
    } catch (error) {
      this.onerror(error);
    }
    this.onchange();
  }

  /** The running videos, the one begun first on top. */
  runningVideos() {
    return this.inList(this.running).sort((a, b) => (a.started_at ?? 0) - (b.started_at ?? 0) || -newestFirst(a, b));
  }

  /** The waiting videos that are held, in their order, with `{id, gap}` where others lie between. */
  waitingVideos() {
    const rows = [];
    let last = 0;
    for (const video of this.inList(this.waiting).sort(nextFirst)) {
      const position = video.queue_position;
      if (position > last + 1) rows.push({ id: `gap-${last}`, gap: position - last - 1 });
      last = position ?? last;
      rows.push(video);
    }
    const behind = (this.queue?.queued ?? 0) - last;
    if (rows.length && behind > 0) rows.push({ id: "gap-end", gap: behind });
    return rows;
  }

  /** The finished videos, the newest first; never more than were asked for. */
  doneVideos() {
    const all = this.inList(this.done).sort(newestFirst);
    const shown = all.slice(0, this.done.shown);
    if (all.length > shown.length) {
      for (const video of all.slice(this.done.shown)) this.videos.delete(video.id);
      this.done.hasMore = true;
      this.done.cursor = shown.at(-1).id;
    }
    return shown;
  }

  inList({ states }) {
    return [...this.videos.values()].filter((video) => states.includes(video.state));
  }

  /** Loads another page of a list. */
  async more(which) {
    which.shown += which.page;
    try {
      await this.fetchPage(which, which.page, which.cursor);
    } catch (error) {
      // The video at the page's end was deleted: begin again, as long as before.
      if (error.code === "invalid_cursor") await this.reload(which).catch(this.onerror);
      else this.onerror(error);
    }
    this.onchange();
  }

  /** Reads a list from its start to the length shown, and drops what is no longer there. */
  async reload(which) {
    const began = this.clock;
    let after = null;
    for (let left = which.shown; left > 0; left -= LARGEST_PAGE) {
      await this.fetchPage(which, Math.min(left, LARGEST_PAGE), after);
      if (!which.hasMore) break;
      after = which.cursor;
    }
    // The queue's end too: there stands what was just sent.
    if (which === this.waiting && which.hasMore) {
      this.take(await api.videos({ limit: QUEUE_TAIL, order: "desc", state: "queued" }), began);
    }
    for (const video of this.inList(which)) {
      if (video.seen > began) continue;
      if (this.own.includes(video.id)) this.discover(video.id);
      else this.forget(video.id);
    }
  }

  async fetchPage(which, limit, after) {
    const began = this.clock;
    const query = { limit, order: which.order, state: which.states.join(",") };
    if (after) query.after = after;
    const page = await api.videos(query);
    this.take(page, began);
    which.cursor = page.last_id;
    which.hasMore = page.has_more;
  }

  take(page, began) {
    for (const video of page.data) this.put(video, began);
  }

  /** A video as the server described it, in answer to a question asked at `asked`. */
  put(video, asked = this.clock) {
    const before = this.videos.get(video.id);
    const seen = ++this.clock;
    if (before && (before.seen > asked || (isTerminal(before) && !isTerminal(video)))) {
      this.videos.set(video.id, { ...before, seen });
      return;
    }
    this.videos.set(video.id, { ...video, seen, told_at: Date.now() });
    if (before && !isTerminal(before) && isTerminal(video)) this.onend(video, before);
    if (isTerminal(video)) this.previews.delete(video.id);
  }

  patch(video, fields) {
    this.videos.set(video.id, { ...video, ...fields, seen: ++this.clock, told_at: Date.now() });
  }

  forget(id) {
    this.videos.delete(id);
    this.previews.delete(id);
  }

  /** A video this page made. It stays in sight wherever it stands in the queue. */
  created(video) {
    this.own = [...this.own, video.id].slice(-OWN_KEPT);
    this.put(video);
    this.refreshQueueSoon();
    this.onchange();
  }

  /** Reads one video that something was heard of. */
  async discover(id) {
    if (this.discovering.has(id)) return;
    this.discovering.add(id);
    const began = this.clock;
    try {
      this.put(await api.video(id), began);
    } catch (error) {
      if (error.status === 404) this.forget(id);
    } finally {
      this.discovering.delete(id);
      this.onchange();
    }
  }

  /** One event of the stream. */
  heard(name, data) {
    const id = data.video_id ?? data.id;
    const known = this.videos.get(id);
    if (name === "video.deleted") this.forget(id);
    else if (name === "video.preview") this.preview(id, data);
    else if (name === "video.stage") this.advance(id, known, { stage: data.stage });
    else if (name === "video.progress") {
      const { step, total_steps, percent, step_seconds, eta_seconds } = data;
      this.advance(id, known, { step, total_steps, progress: percent, step_seconds, eta_seconds });
    } else if (name === "video.queued" && !known) {
      // Perhaps one of thousands: the refreshed queue says whether it is among those shown.
    } else if (data.object === "video") {
      this.put(data);
      if (name === "video.started") this.onstart(data);
    } else this.discover(id);
    if (!["video.progress", "video.preview", "video.stage"].includes(name)) this.refreshQueueSoon();
    this.onchange();
  }

  advance(id, known, fields) {
    if (!known) this.discover(id);
    else if (!isTerminal(known)) this.patch(known, { state: known.state === "cancelling" ? known.state : "in_progress", ...fields });
  }

  preview(id, { content_type: type, b64 }) {
    if (!["image/jpeg", "image/png", "image/webp"].includes(type)) return;
    this.previews.set(id, `data:${type};base64,${b64}`);
    if (!this.videos.has(id)) this.discover(id);
  }

  /** Reads the queue's figures and the waiting videos. */
  async refreshQueue() {
    const [queue] = await Promise.all([api.queue(), this.reload(this.waiting)]);
    this.queue = queue;
  }

  /** The same, once for however much happens in a moment. */
  refreshQueueSoon() {
    this.queueTimer ??= setTimeout(async () => {
      await this.refreshQueue().catch(() => {}); // The stream notices a lost server, and says so.
      this.queueTimer = null;
      this.onchange();
    }, QUEUE_REFRESH_MS);
  }
}
