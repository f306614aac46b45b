// Numbers, times and requests as people read them. Pure functions of their arguments.

const STAGES = {
  text_encode: "Reading the prompt",
  denoise: "Denoising",
  vae_decode: "Decoding frames",
  encode_mp4: "Encoding the file",
  store: "Saving",
};

/** The stages in their order, as `[name, label]`. */
export const STAGE_LABELS = Object.entries(STAGES);

/** What is being done, in words. */
export function stageText(video) {
  if (video.state === "cancelling") return "Stopping";
  if (video.stage === "denoise" && video.total_steps > 0) return `Denoising, step ${video.step} of ${video.total_steps}`;
  if (video.stage === "load_model") return "Loading the model";
  return STAGES[video.stage] ?? "Starting";
}

/** A span of seconds, to a reader's precision: "4 s", "3 min", "1 h 20 min"; number and unit stay on one line. */
export function span(seconds) {
  if (seconds < 1) return "1\u00a0s";
  if (seconds < 90) return `${Math.round(seconds)}\u00a0s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes}\u00a0min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours}\u00a0h ${minutes % 60}\u00a0min` : `${hours}\u00a0h`;
  return `${Math.round(hours / 24)} days`;
}

/** A measured time in milliseconds. */
export function milliseconds(ms) {
  if (ms < 1000) return `${ms}\u00a0ms`;
  return ms < 90_000 ? `${(ms / 1000).toFixed(1)}\u00a0s` : span(ms / 1000);
}

/** How long ago a moment in Unix seconds was. */
export function ago(unixSeconds, now = Date.now() / 1000) {
  const passed = now - unixSeconds;
  return passed < 45 ? "just now" : `${span(passed)} ago`;
}

/** A length of video: "6.1 s". */
export const videoLength = (seconds) => `${Number(Number(seconds).toFixed(1))}\u00a0s`;

/** `720x480` with the multiplication sign. */
export const sizeText = (size) => size.replace("x", " × ");

/** Bytes in the units of disks. */
export function bytesText(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  return bytes < 1_000_000 ? `${(bytes / 1000).toFixed(0)} kB` : `${(bytes / 1_000_000).toFixed(1)} MB`;
}

/** A number with thin groups: 10 000. */
export const count = (number) => new Intl.NumberFormat().format(number);

/** "1 video", "2 videos". */
export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** A text cut to a label's length. */
export const shorten = (text, length = 80) => (text.length > length ? `${text.slice(0, length - 1).trimEnd()}…` : text);

/** The body that makes this very video again. */
export function requestOf(video) {
  const body = {
    model: video.model,
    prompt: video.prompt,
    size: video.size,
    num_frames: video.num_frames,
    num_inference_steps: video.num_inference_steps,
    guidance_scale: video.guidance_scale,
    use_dynamic_cfg: video.use_dynamic_cfg,
    scheduler: video.scheduler,
    seed: video.seed,
  };
  if (video.input_reference) body.input_reference = {};
  if (video.lora.length) body.lora = video.lora.map(({ name, scale }) => ({ name, scale }));
  if (video.negative_prompt) body.negative_prompt = video.negative_prompt;
  if (video.priority) body.priority = video.priority;
  if (video.prompt_truncated) body.truncate_prompt = true;
  return body;
}

/**
 * A command line that sends a body to `POST /v1/videos`. The key is named, never shown; so is the file of a picture,
 * and what has one is sent as a form.
 */
export function curlOf(body, needsKey) {
  const quote = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;
  const lines = [`curl ${quote(`${location.origin}/v1/videos`)}`];
  if (needsKey) lines.push(`-H "Authorization: Bearer $COGVIDEOX_API_KEY"`);
  if (body.input_reference) {
    const text = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));
    const fields = Object.entries(body).filter(([name]) => name !== "input_reference");
    lines.push(...fields.map(([name, value]) => `--form-string ${quote(`${name}=${text(value)}`)}`), "-F input_reference=@picture.png");
  } else lines.push(`-H 'content-type: application/json'`, `-d ${quote(JSON.stringify(body))}`);
  return lines.join(" \\\n  ");
}
