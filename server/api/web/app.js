// The page at `/`: joins the form, the lists and the event stream around one store, and draws what the store holds.

import { access, api, key } from "./api.js";
import { Actions } from "./actions.js";
import { Composer } from "./composer.js";
import { announce, Banners, KeyDialog, toast } from "./dialogs.js";
import { Detail } from "./detail.js";
import { byId, KeyedList, setAttribute, setText } from "./dom.js";
import { count, plural, shorten } from "./format.js";
import { doneView, placeholder, runningView, waitingView } from "./lists.js";
import { Store } from "./store.js";
import { Stream } from "./stream.js";

const DRAW_MS = 40;
const TICK_MS = 1000;
const QUEUE_EVERY_MS = 20_000;
const RETRY_START_MS = 3000;

const banners = new Banners();

/** Waits until the server can be asked what it can do. */
async function capabilities() {
  for (;;) {
    try {
      const answer = await api.capabilities();
      banners.set("start", null);
      return answer;
    } catch (error) {
      banners.set("start", `${error.message} Trying again.`, { kind: "bad" });
      await new Promise((resolve) => setTimeout(resolve, RETRY_START_MS));
    }
  }
}

class App {
  constructor(known) {
    access.needsKey = known.features.api_keys;
    const onfailure = (error) => this.failed(error);
    this.store = new Store({
      onchange: () => this.drawSoon(),
      onstart: (video) => announce(`Started: ${shorten(video.prompt)}`),
      onend: (video) => this.ended(video),
      onerror: onfailure,
    });
    this.composer = new Composer({
      capabilities: known,
      oncreated: (video) => this.created(video),
      onfailure,
      oncurl: (body) => this.actions.copyRequest(body),
    });
    this.actions = new Actions({ store: this.store, composer: this.composer, onfailure });
    this.detail = new Detail(this);
    this.keys = new KeyDialog(() => this.restart());
    this.stream = new Stream({
      previews: known.features.previews,
      onopen: () => this.connected(),
      onlost: (error) => this.disconnected(error),
      onevent: (name, data) => this.store.heard(name, data),
    });
    this.ondetail = (id) => this.detail.open(id);
    this.runningList = new KeyedList(byId("running"), (video) => runningView(this, video));
    this.waitingList = new KeyedList(byId("queue"), (video) => waitingView(this, video));
    this.doneList = new KeyedList(byId("gallery"), (video) => doneView(this, video));
    this.wire();
    this.introduce(known);
  }

  wire() {
    byId("queue-more").addEventListener("click", () => this.store.more(this.store.waiting));
    byId("gallery-more").addEventListener("click", () => this.store.more(this.store.done));
    byId("pause-button").addEventListener("click", () => this.actions.setPaused(true));
    byId("key-button").hidden = !access.needsKey;
    setInterval(() => this.draw(), TICK_MS);
    setInterval(() => this.store.queue?.queued && this.store.refreshQueueSoon(), QUEUE_EVERY_MS);
  }

  introduce(known) {
    const model = known.models.find((one) => one.default) ?? known.models[0];
    setText(byId("model-name"), `${model.id} · ${model.dtype}`);
    setAttribute(byId("model-name"), "title", `Server ${known.version}`);
    if (model.notice) banners.set("notice", model.notice, { kind: "notice" });
  }

  start() {
    byId("gallery").append(placeholder(), placeholder(), placeholder());
    if (access.needsKey && !key.value) this.keys.open(null);
    else this.stream.connect();
  }

  /** With another key there may be other videos. */
  restart() {
    this.store.videos.clear();
    this.store.previews.clear();
    this.draw();
    if (key.value) this.stream.connect();
    else {
      this.stream.stop();
      this.setConnection("lost", "No key");
    }
  }

  connected() {
    this.setConnection("live", "Live");
    banners.set("lost", null);
    // The stream came first, so that nothing happens unseen between the lists and it.
    this.store.resync();
  }

  disconnected(error) {
    this.setConnection("lost", "Offline");
    if (error?.wantsKey) return this.keys.open(error.message);
    const action = { label: "Try now", run: () => this.stream.connect() };
    banners.set("lost", error?.status ? error.message : "The connection is lost. What you see may be out of date; reconnecting.", { kind: "bad", action });
  }

  setConnection(state, text) {
    setAttribute(byId("connection"), "data-state", state);
    setText(byId("connection-text"), text);
  }

  failed(error) {
    if (error.wantsKey) this.keys.open(error.message);
    else toast(error.message, { bad: true });
  }

  created(video) {
    this.store.created(video);
    const place = video.queue_position ? `, position ${count(video.queue_position)}` : "";
    announce(`Queued${place}: ${shorten(video.prompt)}`);
  }

  ended(video) {
    const words = { completed: "Done", failed: "Failed", cancelled: "Cancelled", expired: "Expired" };
    announce(`${words[video.state]}: ${shorten(video.prompt)}`);
    if (video.state === "failed") toast(`Failed: ${video.error?.message ?? shorten(video.prompt)}`, { bad: true });
  }

  drawSoon() {
    this.drawTimer ??= setTimeout(() => this.draw(), DRAW_MS);
  }

  draw() {
    clearTimeout(this.drawTimer);
    this.drawTimer = null;
    const { store } = this;
    const running = store.runningVideos();
    this.runningList.render(running);
    byId("running-section").hidden = running.length === 0;
    this.drawQueue();
    if (store.loaded) this.drawGallery();
    this.composer.showQueue(store.queue);
    this.detail.update();
    document.title = running.length ? `${running[0].progress} % · CogVideoX` : "CogVideoX";
    this.announceProgress(running);
  }

  drawQueue() {
    const { store } = this;
    const waiting = store.waitingVideos();
    this.waitingList.render(waiting);
    byId("queue-section").hidden = waiting.length === 0;
    setText(byId("queue-count"), store.queue ? plural(store.queue.queued, "video") : "");
    const paused = store.queue?.paused ?? false;
    byId("queue-more").hidden = !store.waiting.hasMore;
    byId("pause-button").hidden = paused;
    const action = { label: "Resume", run: () => this.actions.setPaused(false) };
    banners.set("paused", paused ? "The queue is paused. Waiting videos start when it is resumed." : null, { kind: "pause", action });
  }

  drawGallery() {
    byId("gallery").querySelectorAll(".placeholder").forEach((node) => node.remove());
    const done = this.store.doneVideos();
    this.doneList.render(done);
    byId("gallery-empty").hidden = done.length > 0 || this.store.done.hasMore;
    byId("gallery-more").hidden = !this.store.done.hasMore;
  }

  /** Says a running video's quarters, not its every step. */
  announceProgress(running) {
    const video = running[0];
    const quarter = video && Math.floor(video.progress / 25);
    const moment = `${video?.id} ${quarter}`;
    if (video && quarter > 0 && moment !== this.announced) announce(`${quarter * 25} percent: ${shorten(video.prompt, 40)}`);
    this.announced = moment;
  }
}

new App(await capabilities()).start();
