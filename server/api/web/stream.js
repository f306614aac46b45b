// The one event stream of the page, `GET /v1/events`, and its reconnection. Says what came and whether it is connected;
// what events mean is the store's business.

import { access, api } from "./api.js";

const NAMES = [
  "video.snapshot", "video.queued", "video.started", "video.stage", "video.progress", "video.preview", "video.cancelling",
  "video.completed", "video.failed", "video.cancelled", "video.expired", "video.deleted",
];
const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 15_000;

export class Stream {
  /** `onopen()` after each connection, `onlost(error|null)` after each loss, `onevent(name, data)`. */
  constructor({ previews, onopen, onlost, onevent }) {
    Object.assign(this, { previews, onopen, onlost, onevent });
    this.pauseMs = FIRST_PAUSE_MS;
    this.source = null;
    // A sleeping laptop notices its network long before the socket does.
    addEventListener("offline", () => this.lose(null));
    addEventListener("online", () => this.connect());
  }

  /** Connects now, whatever was before. */
  async connect() {
    this.stop();
    const attempt = (this.attempt = Symbol("attempt"));
    const query = new URLSearchParams();
    if (this.previews) query.set("preview", "1");
    try {
      // A ticket opens one stream, so each connection asks for its own. This is also why the browser's own
      // reconnection is not used.
      if (access.needsKey) query.set("ticket", await api.ticket());
    } catch (error) {
      if (attempt === this.attempt) this.lose(error);
      return;
    }
    if (attempt !== this.attempt) return;
    const source = (this.source = new EventSource(`/v1/events?${query}`));
    source.addEventListener("open", () => {
      this.pauseMs = FIRST_PAUSE_MS;
      this.onopen();
    });
    // The server's own `error` events have data; a lost connection has none. Either way this stream is over.
    source.addEventListener("error", () => this.lose(null));
    for (const name of NAMES) source.addEventListener(name, (event) => this.onevent(name, JSON.parse(event.data)));
  }

  /** Ends the stream without a word. */
  stop() {
    clearTimeout(this.timer);
    this.attempt = null;
    this.source?.close();
    this.source = null;
  }

  lose(error) {
    this.stop();
    this.onlost(error);
    if (error?.wantsKey) return; // Only another key helps; entering one connects again.
    this.timer = setTimeout(() => this.connect(), this.pauseMs);
    this.pauseMs = Math.min(this.pauseMs * 2, LONGEST_PAUSE_MS);
  }
}
