"""The engine: a step loop in its own thread that knows token ids, never text or gRPC.

The life of a request, in eight steps:

1. Submitted: the service calls `Engine.submit(Add(request))`. A request that can never fit is
   refused with the numbers (`request.EngineLimits`); the others go into the `queues.Inbox`.
2. Waiting: the engine's thread takes it from the inbox and makes it a `request.Sequence` at the
   end of `Scheduler.waiting`.
3. Admitted: `Scheduler.schedule` moves it to `running` as soon as there are a slot and blocks for
   its whole prompt. Blocks with its prefix that the `BlockManager` still has are reused: these
   tokens count as computed.
4. Prefill: each step computes a chunk of its prompt, as large as the step's token budget allows
   beside the decodes. The chunk that reaches the prompt's end samples the first token.
5. Decode: each step computes one token and samples the next. Its id may still be pending on the
   device when the next step is launched (`Runner.launch`): up to `MAX_STEPS_IN_FLIGHT` are.
6. Read: `Scheduler.complete` appends the sampled tokens and publishes full blocks by their hash.
   If blocks run out, the youngest sequence is preempted: it gives its blocks back and waits again
   with all its tokens (step 3).
7. Delivered: the `queues.Outbox` collects tokens and delivers a first or last one at once, others
   every 20 to 50 ms, as one `messages.StepOutput` for all requests.
8. Finished: by a stop token, by its length, or by an Abort (a stop string that the service found,
   or a client that went away). Its blocks stay in the cache until others need them.
"""
