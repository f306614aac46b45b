// What can be done with a video, once for all places that offer it: asks where needed, sends, and says how it went.

import { access, api, ApiError } from "./api.js";
import { confirmed, toast } from "./dialogs.js";
import { curlOf, plural, requestOf, shorten } from "./format.js";

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Outside of HTTPS and localhost there is no clipboard object; the old way needs a selected field.
    const field = document.createElement("textarea");
    field.value = text;
    field.className = "visually-hidden";
    (document.querySelector("dialog[open]") ?? document.body).append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    if (!copied) return toast(`The browser did not allow copying the ${what}.`, { bad: true });
  }
  toast(`Copied the ${what}.`);
}

export class Actions {
  /** `onfailure(error)` hears of errors, so that a missing key is asked for in one place. */
  constructor({ store, composer, onfailure }) {
    Object.assign(this, { store, composer, onfailure });
  }

  async attempt(work) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.onfailure(error);
      return null;
    }
  }

  async cancel(video) {
    const answer = await this.attempt(() => api.cancel(video.id));
    if (!answer) return;
    this.store.put(answer);
    this.store.refreshQueueSoon();
    this.store.onchange();
  }

  /** Deletes after a question. */
  async remove(video) {
    const title = video.state === "completed" ? "Delete this video?" : "Delete this entry?";
    const text = `“${shorten(video.prompt)}” will be gone for good.`;
    if (!(await confirmed({ title, text, yes: "Delete" }))) return;
    await this.attempt(async () => {
      try {
        await api.remove(video.id);
      } catch (error) {
        if (error.status !== 404) throw error; // Somebody else was faster; gone it is.
      }
      this.store.forget(video.id);
      this.store.refreshQueueSoon();
      this.store.onchange();
    });
  }

  async retry(video) {
    const answer = await this.attempt(() => api.retry(video.id));
    if (!answer) return;
    this.store.created(answer);
    toast("Queued again, with the same settings and seed.");
  }

  remix(video) {
    this.composer.remix(video);
  }

  reuse(video) {
    this.composer.reuse(video);
  }

  async raise(video) {
    const answer = await this.attempt(() => api.setPriority(video.id, Math.min(100, video.priority + 10)));
    if (!answer) return;
    this.store.put(answer);
    this.store.refreshQueueSoon();
    this.store.onchange();
    toast(`Priority is now ${answer.priority}.`);
  }

  copyCurl(video) {
    return copy(curlOf(requestOf(video), access.needsKey), "curl command");
  }

  copyRequest(body) {
    return copy(curlOf(body, access.needsKey), "curl command");
  }

  copySeed(video) {
    return copy(String(video.seed), "seed");
  }

  /** Saves the file. With keys it passes through memory, as a link cannot carry one. */
  async download(video) {
    const path = `/v1/videos/${encodeURIComponent(video.id)}/content`;
    const link = document.createElement("a");
    link.download = `${video.id}.mp4`;
    if (!access.needsKey) link.href = path;
    else {
      const blob = await this.attempt(() => api.blob(path));
      if (!blob) return;
      link.href = URL.createObjectURL(blob);
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    }
    link.click();
  }

  async setPaused(paused) {
    const queue = await this.attempt(() => (paused ? api.pause() : api.resume()));
    if (!queue) return;
    this.store.queue = queue;
    this.store.onchange();
    if (paused) toast(`Paused. ${plural(queue.queued, "video")} will wait.`);
  }
}
