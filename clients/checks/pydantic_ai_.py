from paths import LIMIT, MODEL, QUESTION, URL, Forecast, check
from pydantic_ai import Agent, NativeOutput, PromptedOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key="none"))
settings = ModelSettings(max_tokens=LIMIT, timeout=120)


def chat() -> None:
    assert Agent(model, model_settings=settings).run_sync(QUESTION).output


async def stream() -> None:
    async with Agent(model, model_settings=settings).run_stream(QUESTION) as answer:
        assert await answer.get_output()


def tools() -> None:
    """Its default: the output is a tool that must be called."""
    agent = Agent(model, output_type=Forecast, model_settings=settings)
    assert isinstance(agent.run_sync(QUESTION).output, Forecast)


def json() -> None:
    native = Agent(model, output_type=NativeOutput(Forecast), model_settings=settings)
    assert isinstance(native.run_sync(QUESTION).output, Forecast)
    assert PromptedOutput(Forecast)  # its schema is in the prompt: a model of this size may miss it


check(chat=chat, stream=stream, tools=tools, json=json)
