// Uses the types that openapi-typescript generates from openapi/openapi.json, with openapi-fetch.
//
// Arguments: SERVER PICTURE…. `scripts/clients.sh` generates the types and compiles this file; a journey starts the
// server and a worker.

import { readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

const [server, ...files] = process.argv.slice(2);
const client = createClient<paths, `application/${string}`>({ baseUrl: server });

function check(condition: boolean, what: unknown): asserts condition {
  if (!condition) throw new Error(JSON.stringify(what));
}

const inspection = await client.GET("/v1/models/{model}/inspect", { params: { path: { model: "tiny" } } });
check(inspection.data?.kind === "checkpoint" && inspection.data.family.length > 0, inspection);

const dataset = await client.POST("/v1/datasets", { body: { name: "discs" } });
check(dataset.data !== undefined, dataset.error);
const added = await client.POST("/v1/datasets/{id}/images", {
  params: { path: { id: dataset.data.id } },
  body: { image: files, caption: ["one", "two"] },
  bodySerializer: ({ image, caption }) => {
    const form = new FormData();
    image?.forEach((file) => form.append("image", new Blob([new Uint8Array(readFileSync(file))], { type: "image/png" }), file));
    caption?.forEach((text) => form.append("caption", text));
    return form;
  },
});
check(added.data?.items.map((item) => item.caption).join() === "one,two", added);

// What has a default can be left out.
const request: components["schemas"]["GenerationRequest"] = {
  prompt: "an owl",
  model: "tiny",
  num_inference_steps: 1,
  width: 32,
  height: 32,
};
const created = await client.POST("/v1/generations", { body: request });
check(created.data !== undefined, created.error);
let generation = created.data;
for (let i = 0; i < 300 && ["queued", "running"].includes(generation.status); i++) {
  await setTimeout(200);
  const found = await client.GET("/v1/generations/{id}", { params: { path: { id: generation.id } } });
  check(found.data !== undefined, found.error);
  generation = found.data;
}
check(generation.status === "succeeded" && generation.artifacts[0]?.width === 32, generation);

const refused = await client.POST("/v1/generations", { body: { prompt: "x", loras: [{ model: "none" }] } });
check(refused.error?.errors[0]?.field.startsWith("loras") === true, refused);
console.log("the TypeScript client works");
