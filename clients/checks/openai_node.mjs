import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { ENCODER, LIMIT, MODEL, PARAMETERS, QUESTION, SIZE, URL, assert, check } from "./paths.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: "none", maxRetries: 0, timeout: 120_000 });
const messages = [{ role: "user", content: QUESTION }];
const Forecast = z.object({ city: z.enum(["Paris", "Rome", "Vienna"]), day: z.number().int() });
const tools = [{ type: "function", function: { name: "weather", parameters: PARAMETERS } }];

await check({
  async chat() {
    const answer = await client.chat.completions.create({ model: MODEL, messages, max_tokens: 16 });
    assert(answer.choices[0].message.content);
  },
  async stream() {
    let text = "";
    const chunks = await client.chat.completions.create({ model: MODEL, messages, max_tokens: 16, stream: true });
    for await (const chunk of chunks) text += chunk.choices[0]?.delta?.content ?? "";
    assert(text);
  },
  async tools() {
    const asked = { model: MODEL, messages, tools, tool_choice: "required", max_tokens: LIMIT };
    const answer = await client.chat.completions.create(asked);
    Forecast.parse(JSON.parse(answer.choices[0].message.tool_calls[0].function.arguments));
    const whole = await client.chat.completions.stream(asked).finalChatCompletion();
    Forecast.parse(JSON.parse(whole.choices[0].message.tool_calls[0].function.arguments));
  },
  async json() {
    const response_format = zodResponseFormat(Forecast, "forecast");
    const answer = await client.chat.completions.parse({ model: MODEL, messages, response_format, max_tokens: LIMIT });
    Forecast.parse(answer.choices[0].message.parsed);
  },
  async embeddings() {
    const made = await client.embeddings.create({ model: ENCODER, input: ["a", "b"] });
    assert(made.data.every((one) => one.embedding.length === SIZE));
  },
  async responses() {
    const answer = await client.responses.create({ model: MODEL, input: QUESTION, max_output_tokens: 16 });
    assert(answer.output_text);
    let last;
    for await (const event of client.responses.stream({ model: MODEL, input: QUESTION, max_output_tokens: 16 })) last = event.type;
    assert(["response.completed", "response.incomplete"].includes(last), last);
  },
});
