import agents
import openai
from paths import LIMIT, MODEL, QUESTION, URL, Forecast, check, weather

agents.set_tracing_disabled(disabled=True)
client = openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0, timeout=120)
settings = agents.ModelSettings(max_tokens=LIMIT * 2)
# It takes an answer that `max_tokens` ends for an error: one in words has to end by itself.
unlimited = agents.ModelSettings(temperature=0)
MODELS = {
    "responses": agents.OpenAIResponsesModel(model=MODEL, openai_client=client),
    "chat completions": agents.OpenAIChatCompletionsModel(model=MODEL, openai_client=client),
}


async def chat() -> None:
    for model in MODELS.values():
        agent = agents.Agent(name="a", model=model, model_settings=unlimited)
        assert (await agents.Runner.run(agent, QUESTION)).final_output


async def stream() -> None:
    for model in MODELS.values():
        agent = agents.Agent(name="a", model=model, model_settings=unlimited)
        going = agents.Runner.run_streamed(agent, QUESTION)
        assert [event async for event in going.stream_events()]
        assert going.final_output


async def tools() -> None:
    required = agents.ModelSettings(max_tokens=LIMIT, tool_choice="required")
    for model in MODELS.values():
        agent = agents.Agent(
            name="a", model=model, model_settings=required, tools=[agents.function_tool(weather)],
            tool_use_behavior="stop_on_first_tool",
        )  # fmt: skip
        assert "sunny" in str((await agents.Runner.run(agent, QUESTION)).final_output)


async def json() -> None:
    for model in MODELS.values():
        agent = agents.Agent(name="a", model=model, model_settings=settings, output_type=Forecast)
        assert isinstance((await agents.Runner.run(agent, QUESTION)).final_output, Forecast)


check(chat=chat, stream=stream, tools=tools, json=json)
