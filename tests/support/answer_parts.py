"""Parts of answers as a worker sends them."""

from modelfleet_proto.worker_pb2 import OutputPart, ToolCallPart


def text(words: str) -> OutputPart:
    return OutputPart(text=words)


def reasoning(words: str) -> OutputPart:
    return OutputPart(reasoning=words)


def call(index: int, name: str, arguments: str) -> OutputPart:
    return OutputPart(tool_call=ToolCallPart(index=index, name=name, arguments=arguments))


def one_a_token(*parts: OutputPart) -> tuple[tuple[OutputPart], ...]:
    """What a scripted worker's tokens are."""
    return tuple((part,) for part in parts)
