"""A worker that speaks the real protocol and does what a test says."""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import grpc

from modelfleet_proto import worker_pb2, worker_pb2_grpc
from modelfleet_proto.handshake import VersionInterceptor
from modelfleet_proto.mtls.credentials import Credentials
from modelfleet_proto.refusals import FULL, read_refusal, refusal_metadata

MODEL = "default/tiny"

Fault = Callable[[grpc.aio.ServicerContext, worker_pb2.GenerateRequest, int], Awaitable[None]]


def prompt_of(request: worker_pb2.GenerateRequest) -> str:
    match request.WhichOneof("input"):
        case "chat":
            return "|".join(f"{m.role}:{m.content}" for m in request.chat.messages)
        case "prompt":
            return request.prompt
        case _:
            return ",".join(map(str, request.prompt_token_ids.ids))


def token_id(request: worker_pb2.GenerateRequest, position: int) -> int:
    """What an undisturbed run draws: a function of the prompt, the choice and the position."""
    key = f"{prompt_of(request)}#{request.seed}#{request.choice}#{position}"
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=2).digest())


def expected_text(
    prompt: str, tokens: int, *, seed: int = 7, choice: int = 0, chat: bool = False
) -> str:
    """The text that a worker answers to this prompt with."""
    request = worker_pb2.GenerateRequest(prompt=prompt, seed=seed, choice=choice)
    if chat:
        request.chat.messages.add(role="user", content=prompt)
    return "".join(f"{token_id(request, position)} " for position in range(tokens))


async def refuse_as_full(context) -> None:
    """As a worker without a free slot does."""
    await context.abort(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "all slots are taken", refusal_metadata(FULL)
    )


class EndEarlyError(Exception):
    """Raised by a fault: the stream ends with OK and without Finished."""


class RefusedError(Exception):
    """One request of a shared stream ended with a status."""


class OneOfMany:
    """The context of one request on a shared stream, as far as faults use it."""

    async def abort(self, code, details="", trailing_metadata=()):
        mark = read_refusal(trailing_metadata)
        raise RefusedError(worker_pb2.Refusal(code=code.value[0], details=details, mark=mark))


@dataclass
class ScriptedWorker(worker_pb2_grpc.WorkerServicer):
    """A worker whose tokens are known before; it does what its fields say at any time."""

    worker_id: str = "w-0"
    model: str = MODEL
    digest: str = "digest-1"
    weights: str = ""  # its weights_digest
    arithmetic: str = ""  # of its Computation; none in the versions before
    revision: str = "r1"  # as the operator's view says
    routable: bool = True
    hand_over: bool = False  # the same
    slots: int = 8
    tokens: int = 8  # that an answer has, unless max_tokens is less
    pace: float = 0.0  # seconds a token
    prompt_tokens: int = 5
    heartbeat: float = 0.2
    before_accept: Fault | None = None
    before_token: Fault | None = None
    state: int = worker_pb2.WORKER_STATE_READY
    address: str = ""
    running: int = 0
    requests: list[worker_pb2.GenerateRequest] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    filler: str = ""  # longer texts
    parts: tuple[tuple[worker_pb2.OutputPart, ...], ...] = ()  # of each token, instead of its text
    refusal: str = ""  # why it talks to no gateway
    stopped: bool = False  # as by SIGSTOP: its connections stay
    keeps_requests: bool = True
    takes_many: bool = True  # False: a worker of an earlier version
    stop_string: str = ""  # that ended its answers
    tokenized: list[worker_pb2.TokenizeRequest] = field(default_factory=list)
    features: tuple[str, ...] = ("output_format", "tools")  # none: the same

    credentials: Credentials | None = None  # with TLS
    tls_name: str = ""  # as the operator's view says

    def __post_init__(self) -> None:
        self.shared_streams = 0
        self.pauses = 0
        self._changed = asyncio.Event()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        server = grpc.aio.server(
            interceptors=(VersionInterceptor("worker"),),
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.http2.max_ping_strikes", 0),
                ("grpc.max_receive_message_length", 64 * 1024 * 1024),
            ),
        )
        worker_pb2_grpc.add_WorkerServicer_to_server(self, server)
        where = self.address or "127.0.0.1:0"
        if self.credentials is None:
            port = server.add_insecure_port(where)
        else:
            port = server.add_secure_port(where, self.credentials.server())
        self.address = f"127.0.0.1:{port}"
        await server.start()
        self._server = server

    async def kill(self) -> None:
        """Ends at once, with everything that runs."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)

    def become(self, state: int) -> None:
        self.state = state
        self._changed.set()

    def stats(self) -> worker_pb2.Stats:
        ready = self.state in (worker_pb2.WORKER_STATE_READY, worker_pb2.WORKER_STATE_DRAINING)
        computation = worker_pb2.Computation(arithmetic=self.arithmetic, dtype="bfloat16")
        return worker_pb2.Stats(
            worker_id=self.worker_id,
            state=self.state,  # type: ignore[arg-type]
            model=self.model,
            model_digest=self.digest if ready else "",
            weights_digest=self.weights if ready else "",
            computation=computation if ready and self.arithmetic else None,
            slots=self.slots,
            running=self.running,
            takes_many=self.takes_many,
            features=self.features,
        )

    def may_continue(self, resume: worker_pb2.Resume) -> bool:
        same_weights = bool(self.weights) and resume.weights_digest == self.weights
        return resume.model_digest == self.digest or same_weights

    async def WatchStats(self, request, context):  # noqa: N802 - the protocol's name
        if self.refusal:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.refusal)
        while True:
            if not self.stopped:
                yield self.stats()
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self.heartbeat)

    async def Generate(self, request, context):  # noqa: N802 - the protocol's name
        if self.keeps_requests:
            self.requests.append(request)
        if self.state != worker_pb2.WORKER_STATE_READY:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not ready")
        if self.running >= self.slots:
            await refuse_as_full(context)
        if self.before_accept:
            await self.before_accept(context, request, 0)
        if request.HasField("resume") and not self.may_continue(request.resume):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "another digest")
        self.running += 1
        try:
            yield worker_pb2.GenerateResponse(
                accepted=worker_pb2.Accepted(
                    model_digest=self.digest,
                    worker_id=self.worker_id,
                    prompt_tokens=self.prompt_tokens,
                )
            )
            done = list(request.resume.token_ids)
            assert done == [token_id(request, i) for i in range(len(done))], "not what it was"
            tokens = len(self.parts) or self.tokens
            count = min(tokens, request.stop.max_tokens or tokens)
            for position in range(len(done), count):
                if self.before_token:
                    await self.before_token(context, request, position)
                while self.stopped:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(self.pace)
                yield self._tokens(request, position)
            if self.before_token:
                await self.before_token(context, request, count)
            reason = (
                worker_pb2.FINISH_REASON_LENGTH if count < tokens else worker_pb2.FINISH_REASON_STOP
            )
            yield worker_pb2.GenerateResponse(
                finished=worker_pb2.Finished(
                    reason=reason,
                    prompt_tokens=self.prompt_tokens,
                    completion_tokens=count,
                    cached_tokens=2,
                    stop_string=self.stop_string,
                )
            )
        except EndEarlyError:
            return
        except asyncio.CancelledError:
            self.cancelled.append(request.request_id)
            raise
        finally:
            self.running -= 1

    async def Tokenize(self, request, context):  # noqa: N802 - the protocol's name
        """The characters of the prompt, and one token more for the special one."""
        self.tokenized.append(request)
        if not self.takes_many:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        if self.state != worker_pb2.WORKER_STATE_READY:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not ready")
        prompt = prompt_of(request.request)
        if "refuse me" in prompt:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "refused")
        ids = [*([1] if not request.no_special_tokens else []), *map(ord, prompt)]
        texts = [chr(one).encode() for one in ids] if request.with_texts else ()
        return worker_pb2.TokenizeResponse(ids=ids, context_length=1000, texts=texts)

    async def Detokenize(self, request, context):  # noqa: N802 - the protocol's name
        """The characters of these numbers."""
        return worker_pb2.DetokenizeResponse(text="".join(map(chr, request.ids)))

    async def GenerateMany(self, requests, context):  # noqa: N802 - the protocol's name
        """What `Generate` yields for each of them."""
        if not self.takes_many:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        self.shared_streams += 1
        shared = SharedStreamDouble(self)
        reader = asyncio.create_task(shared.read(requests))
        try:
            async for events in shared.written():
                yield events
        finally:
            await shared.cancel(reader)

    def _tokens(self, request, position):
        drawn = token_id(request, position)
        tokens = worker_pb2.Tokens(ids=[drawn], text=f"{drawn} {self.filler}")
        if self.parts:
            tokens = worker_pb2.Tokens(ids=[drawn], parts=self.parts[position])
        if request.logprobs.enabled:
            chosen = worker_pb2.TokenLogprob(id=drawn, token=f"{drawn} ".encode(), logprob=-0.5)
            entry = tokens.logprobs.add(chosen=chosen)
            entry.top.append(chosen)
            for rank in range(1, request.logprobs.top):
                entry.top.add(id=rank, token=b"\xe2\x82", logprob=-float(rank))
            del entry.top[request.logprobs.top :]
        return worker_pb2.GenerateResponse(tokens=tokens)


class SharedStreamDouble:
    """One GenerateMany call of a scripted worker."""

    def __init__(self, worker: ScriptedWorker) -> None:
        self._worker = worker
        # GenerateEvents; None: end the call; an error: fail it. Few, as of a worker.
        self._events = asyncio.Queue(maxsize=16)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._may_send: dict[int, asyncio.Event] = {}

    async def read(self, commands):
        async for command in commands:
            number, kind = command.number, command.WhichOneof("command")
            if kind == "start":
                request = worker_pb2.GenerateRequest.FromString(command.start)
                self._may_send[number] = asyncio.Event()
                self._may_send[number].set()
                self._tasks[number] = asyncio.create_task(self._serve(number, request))
            elif kind == "cancel":
                self._tasks[number].cancel()
            elif command.pause:
                self._worker.pauses += 1
                self._may_send[number].clear()
            else:
                self._may_send[number].set()

    async def written(self):
        while True:
            batch = [await self._events.get()]
            while not self._events.empty():
                batch.append(self._events.get_nowait())
            together = [e for e in batch if isinstance(e, worker_pb2.GenerateEvent)]
            yield worker_pb2.GenerateEvents(events=together)
            if None in batch:
                return
            for error in (e for e in batch if isinstance(e, RuntimeError)):
                raise error

    async def cancel(self, reader):
        tasks = [reader, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, number, request):
        kind = None
        try:
            generating = self._worker.Generate(request, OneOfMany())
            async with contextlib.aclosing(generating) as responses:
                async for response in responses:
                    await self._may_send[number].wait()
                    kind = response.WhichOneof("event")
                    await self._put(number, **{kind: getattr(response, kind)})
            if kind != "finished":
                await self._events.put(None)
        except RefusedError as error:
            await self._put(number, refused=error.args[0])
        except RuntimeError as error:
            await self._events.put(error)
        except KeyError as error:  # as a worker that meets a bug
            unknown = grpc.StatusCode.UNKNOWN.value[0]
            refused = worker_pb2.Refusal(code=unknown, details=repr(error))
            await self._put(number, refused=refused)

    async def _put(self, number, **event):
        await self._events.put(worker_pb2.GenerateEvent(number=number, **event))
