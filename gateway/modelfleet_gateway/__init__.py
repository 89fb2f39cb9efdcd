"""The HTTP endpoint for clients: their APIs, queue, routing, failover, metering.

The rooms, in the order in which a request passes them (docs/walkthrough.md follows one):

- `http`: `server` listens and drains, `connection` (with `responses`) speaks HTTP within limits,
  `app` has the URLs (`cors` for browsers, `openapi` describes them), `generation` serves those that
  generate (`exchange`: one request and its answer), `json_endpoint` the others (`tokens` counts,
  `ollama` tells of models), `asgi` is one request and its response, in one of the `dialects`;
  `body` reads bodies, within a budget of all. `files`, `uploads` and `batches` keep what runs
  later, which calls them `in_process`.
- `batches`: files of requests that run on idle capacity, in a store that outlives the gateway.
- `responses_api`, `anthropic_api`, `ollama_api`: other APIs: their requests become chats, and what
  comes of these their answers.
- `openai_api`: `fields` checks a request, `answer` writes OpenAI's JSON; `chat` (with
  `tools` and `chat_answer`) and `completions` are the two kinds of both, `models` lists the models;
  `bulk` cuts large bodies; `translated`, `pieces` and `tokenize` are for the other APIs. Pure.
- `routing`: `dispatch` puts the operator's `view` in force, `queue` decides which request gets the
  next free slot of its `claim` (`request_queue`: two of `priority_queue`, of a `key_line` a key, by
  `fairness`; `yielding`: which batch streams make room), and `balance` of which worker: by its
  prompt's `prefixes`, within bounds of load, without those that `health` leaves out. `workers`
  (over `channels`, told by `stats_watch`) knows the workers' states, `slots` what they have of us,
  `calls` sends them requests over one stream each (`single_call`: to earlier versions), `stream`
  reads a choice's tokens and continues on another worker as `failover` decides; `merge` reads
  several choices; `tokenizing` asks a worker for token ids.
- `access`: who may ask: `keys` finds the `caller` of a request by the hash of its key; at which
  `priority`, and what keys used of their limits: `quotas` over `windows`, within this gateway's
  `shares`. Pure.
- `operator_link`: `link` keeps the Fleet stream: views come in, `signals` go out.

Beside them: `metrics`, `errors` (what clients see), `tasks` (loops that are restarted), and `cli`,
`options` and `main` for the process, with the logs of `modelfleet_process`.
"""
