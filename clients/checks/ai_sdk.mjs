import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, jsonSchema, streamText, tool } from "ai";
import { z } from "zod";
import { ENCODER, LIMIT, MODEL, PARAMETERS, QUESTION, SIZE, URL, assert, check } from "./paths.mjs";

const baseURL = `${URL}/v1`;
const openai = createOpenAI({ baseURL, apiKey: "none" }); // its default is /v1/responses
const compatible = createOpenAICompatible({ baseURL, name: "modelfleet", supportsStructuredOutputs: true });
const models = [openai(MODEL), openai.chat(MODEL), compatible(MODEL)];
const asked = { prompt: QUESTION, maxOutputTokens: LIMIT, maxRetries: 0 };
const Forecast = z.object({ city: z.enum(["Paris", "Rome", "Vienna"]), day: z.number().int() });

await check({
  async chat() {
    for (const model of models) assert((await generateText({ model, ...asked })).text);
  },
  async stream() {
    for (const model of models) {
      let text = "";
      for await (const part of streamText({ model, ...asked }).textStream) text += part;
      assert(text);
    }
  },
  async tools() {
    const weather = tool({ inputSchema: jsonSchema(PARAMETERS), execute: async ({ city }) => `${city} is sunny` });
    for (const model of models) {
      const answer = await generateText({ model, ...asked, tools: { weather }, toolChoice: "required" });
      assert(answer.toolResults.length > 0, `${model.provider}: ${JSON.stringify(answer.content)} ${answer.finishReason}`);
    }
  },
  async json() {
    for (const model of models) {
      const { object } = await generateObject({ model, ...asked, schema: Forecast });
      Forecast.parse(object);
    }
  },
  async embeddings() {
    for (const model of [openai.embedding(ENCODER), compatible.textEmbeddingModel(ENCODER)]) {
      const { embeddings } = await embedMany({ model, values: ["a", "b"], maxRetries: 0 });
      assert(embeddings.every((one) => one.length === SIZE));
    }
  },
});
