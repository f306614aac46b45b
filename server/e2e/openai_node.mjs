// The official OpenAI client for Node against a running server: make a video, wait for it, look for it in the list,
// download it, be refused, delete it.
//
// The server is in OPENAI_BASE_URL and OPENAI_API_KEY, which the client reads itself. The package is looked for in
// OPENAI_NODE_MODULES, a node_modules folder, since modules are not found beside a script that lies elsewhere.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { createRequire } from "node:module";

const require = createRequire(process.env.OPENAI_NODE_MODULES + "/");
const { default: OpenAI, toFile } = require("openai");
const client = new OpenAI();
const step = (text) => console.log(`e2e: node: ${text}`);

const magic = {
  video: (bytes) => bytes.subarray(4, 8).toString("latin1") === "ftyp",
  thumbnail: (bytes) => bytes.subarray(0, 4).toString("latin1") === "RIFF" && bytes.subarray(8, 12).toString("latin1") === "WEBP",
  spritesheet: (bytes) => bytes.subarray(0, 3).equals(Buffer.from([0xff, 0xd8, 0xff])),
};

step("create and wait");
// The client sends fields that it does not know as they are.
let video = await client.videos.create({ prompt: "a panda playing a guitar", num_inference_steps: 4, seed: 7, metadata: { shot: "1" } });
assert.equal(video.object, "video");
assert.ok(["queued", "in_progress"].includes(video.status), video.status);
const { id } = video;
while (["queued", "in_progress"].includes(video.status)) {
  const { data, response } = await client.videos.retrieve(id).withResponse();
  video = data;
  const pause = Number(response.headers.get("openai-poll-after-ms") ?? 0);
  assert.ok(pause <= 2000, `expected a pause of at most 2000 ms, found ${pause}`);
  await new Promise((resolve) => setTimeout(resolve, pause / 4));
}
assert.equal(video.status, "completed", JSON.stringify(video.error));
assert.deepEqual([video.progress, video.seed, video.metadata], [100, 7, { shot: "1" }]);

step("list, page by page");
const other = await client.videos.create({ prompt: "a cat", num_inference_steps: 1 });
const listed = [];
for await (const entry of client.videos.list({ limit: 1 })) listed.push(entry.id);
assert.deepEqual(listed, [other.id, id]);

step("download every variant");
for (const [variant, isRight] of Object.entries(magic)) {
  const response = await client.videos.downloadContent(id, { variant });
  const bytes = Buffer.from(await response.arrayBuffer());
  assert.ok(isRight(bytes), `expected a ${variant}, found ${bytes.subarray(0, 16).toString("hex")}`);
  if (variant === "video") assert.equal(createHash("sha256").update(bytes).digest("hex"), video.sha256);
}

step("refusals");
const refused = async (call, expected) => {
  const error = await call.then(() => assert.fail(`expected ${JSON.stringify(expected)}, found success`), (error) => error);
  const { status, code, param } = error;
  assert.deepEqual({ status, code, param }, expected, String(error));
};
await refused(client.videos.create({ prompt: "" }), { status: 400, code: "empty_prompt", param: "prompt" });
const image = await toFile(Buffer.from("89504e470d0a1a0a", "hex"), "first.png", { type: "image/png" });
await refused(client.videos.create({ prompt: "x", input_reference: image }),
  { status: 400, code: "unsupported_input_reference", param: "input_reference" });
await refused(new OpenAI({ apiKey: "cvx_nobody" }).videos.list(), { status: 401, code: "invalid_api_key", param: null });

step("remix, then delete all");
const remix = await client.videos.remix(id, { prompt: "a panda playing drums" });
assert.equal(remix.remixed_from_video_id, id);
for (const doomed of [remix.id, other.id, id]) {
  assert.deepEqual(await client.videos.delete(doomed), { id: doomed, object: "video.deleted", deleted: true });
  await refused(client.videos.retrieve(doomed), { status: 404, code: "video_not_found", param: "video_id" });
}
step("passed");
