// As paths.py, for clients in JavaScript.
export const { MODELFLEET_URL: URL, MODELFLEET_MODEL: MODEL, MODELFLEET_ENCODER: ENCODER } = process.env;
export const QUESTION = "How is the weather in Rome on the second day?";
export const LIMIT = 512;
export const SIZE = 384;
export const PARAMETERS = {
  type: "object",
  properties: {
    city: { type: "string", enum: ["Paris", "Rome", "Vienna"] },
    day: { type: "integer", minimum: 1, maximum: 9 },
  },
  required: ["city", "day"],
  additionalProperties: false,
};

export function assert(holds, what) {
  if (!holds) throw new Error(what ?? "an assertion does not hold");
}

export async function check(paths) {
  for (const [path, run] of Object.entries(paths)) {
    let why = "";
    try {
      await run();
    } catch (error) {
      why = `${error.name}: ${error.message}`.replace(/\s+/g, " ").slice(0, 300);
    }
    console.log(JSON.stringify({ path, why }));
  }
}
