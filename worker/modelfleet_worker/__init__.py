"""The worker: one engine behind one gRPC service. It never talks to Kubernetes.

The rooms, in the order in which a request passes them; each may import those below it:

- `serving`: `service` has the calls of worker.proto, `shared_stream` is the one over which all
  requests of a gateway come, `generation` carries a request from its arrival to its last token,
  `requests` (`chats` for tools and messages) makes it the engine's request and `prompts` its ids,
  `chat_answers` says how its answer is read and what it is held to, `streams` holds what clients
  have not read yet. `lifecycle` with `state` loads, drains and unloads the model, `serving_model`
  is what it has loaded, `stats` with `counters` and `change_notifier` tells gateways about it,
  `embedding` serves what makes embeddings instead, `server` is the process.
- `quantize`: the command `modelfleet quantize`. `checkpoints` rounds a model by `calibration` (with
  `awq_scaling` or `gptq_rounding`), `writing` stores it, `evaluation` says what was lost.
- `loading`: from a folder to a model with its engine's limits. `device_loaders` picks the device,
  `loader` the path: of our own families, `compiled` with `native_builder` for the compiled step
  (no torch), `torch_llama` with `model_builder` for torch, both with `checkpoint` and
  `expected_tensors`; `encoder` an encoder; `generic` with `attention_check` for any other decoder.
  `sizing` and `working_memory` divide the memory; `preload` is what a standby does before it knows
  its model.
- `devices`: the ways to compute a step. `native` is compiled (`runner` in front of `forward.cpp`,
  `packed` in front of `packing.cpp`, which lays weights out for it), `torch` runs anywhere,
  `paced` only takes the time; `host` says which cores and memory there are.
- `models`: modules and their config (`llama`, `generic`, `linear`). `quantization`: the formats of
  quantized weights and their kernels. `text`: `huggingface` turns text into ids (`tokenizer_files`
  reads files without transformers), `detokenizer` ids into text; `chat_template` (`call_shapes`)
  renders chats, `output` reads answers into text, reasoning and calls, and writes their grammars.
  `storage`: `sources` finds a model, `contents` knows what is none, `cache` with `entry` and
  `fetching` keep a copy of it; `hub`, `s3` and `oci` are where it may come from, all through
  `http`, to the addresses that `endpoints` allows; `names` and `unpacking` trust no artifact.
- `engine`: `engine` is the loop, `scheduler` with `block_manager` decides what a step computes,
  `request` is what is computed, `queues` and `messages` are the seam to `serving`, `device` is what
  a device has to offer, `embedding` the loop of an encoder. See its docstring for the life of a
  request.

Beside them: `cli`, `options`, `spec` and `task` (what to serve), `progress` (of a load),
`quantities` (2Gi), `errors`, `threads`, and the logs of `modelfleet_process`.
"""
