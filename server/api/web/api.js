// The HTTP side of the page: requests, the key they carry, and errors with their code. Knows no element of the page.

const STORAGE_KEY = "cogvideox-api-key";

/** A refusal by the server, or no answer at all (status 0). */
export class ApiError extends Error {
  constructor(status, body) {
    super(body?.message ?? (status ? `The server answered ${status}.` : "The server cannot be reached."));
    this.status = status;
    this.code = body?.code ?? null;
    this.param = body?.param ?? null;
  }

  /** Whether another key could help. */
  get wantsKey() {
    return this.status === 401;
  }
}

/** The key for this server: in memory, and in the storage that outlives the tab only if its user said so. */
class Key {
  constructor() {
    this.value = this.read(() => sessionStorage) ?? this.read(() => localStorage);
    this.remembered = this.read(() => localStorage) != null;
  }

  read(storage) {
    try {
      return storage().getItem(STORAGE_KEY);
    } catch {
      return null; // Storage can be forbidden; the key then lasts as long as the page.
    }
  }

  set(value, remember) {
    this.value = value;
    this.remembered = remember && value != null;
    try {
      sessionStorage.removeItem(STORAGE_KEY);
      localStorage.removeItem(STORAGE_KEY);
      if (value != null) (remember ? localStorage : sessionStorage).setItem(STORAGE_KEY, value);
    } catch {
      // See above.
    }
  }
}

export const key = new Key();

/** Set from the capabilities: whether requests need a key. */
export const access = { needsKey: false };

async function send(method, path, { body, headers = {}, signal } = {}) {
  const all = { ...headers };
  if (body !== undefined) all["content-type"] = "application/json";
  if (key.value) all.authorization = `Bearer ${key.value}`;
  let response;
  try {
    response = await fetch(path, { method, headers: all, body: body === undefined ? undefined : JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0);
  }
  if (!response.ok) {
    const answer = await response.json().catch(() => null);
    throw new ApiError(response.status, answer?.error);
  }
  return response;
}

const json = async (...request) => (await send(...request)).json();
const pathOf = (id) => `/v1/videos/${encodeURIComponent(id)}`;

/** Random hexadecimal digits; `crypto.randomUUID` is missing where the page comes over plain HTTP. */
export function nonce() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export const api = {
  capabilities: () => json("GET", "/v1/capabilities"),
  queue: () => json("GET", "/v1/queue"),
  pause: () => json("POST", "/v1/queue/pause"),
  resume: () => json("POST", "/v1/queue/resume"),
  video: (id) => json("GET", pathOf(id)),
  cancel: (id) => json("POST", `${pathOf(id)}/cancel`),
  retry: (id) => json("POST", `${pathOf(id)}/retry`),
  remix: (id, prompt) => json("POST", `${pathOf(id)}/remix`, { body: { prompt } }),
  remove: (id) => json("DELETE", pathOf(id)),
  setPriority: (id, priority) => json("PATCH", pathOf(id), { body: { priority } }),
  ticket: async () => (await json("POST", "/v1/tickets")).ticket,
  create: (body, idempotencyKey) => json("POST", "/v1/videos", { body, headers: { "idempotency-key": idempotencyKey } }),
  /** One page of videos; `query` holds `limit`, `order`, `after`, `state`. */
  videos: (query) => json("GET", `/v1/videos?${new URLSearchParams(query)}`),
  /** A file as a blob, for servers with keys: elements cannot send headers. */
  blob: async (path, signal) => (await send("GET", path, { signal })).blob(),
};

/** Where a variant of a finished video lies, to be shown rather than saved. */
export function contentPath(video, variant) {
  return `${pathOf(video.id)}/content?variant=${variant}&download=0`;
}
