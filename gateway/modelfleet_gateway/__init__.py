"""The HTTP endpoint for clients: OpenAI API, queue, routing, failover, metering.

The rooms, in the order in which a request passes them (docs/walkthrough.md follows one):

- `http`: `server` listens and drains, `connection` (with `responses`) speaks HTTP within limits,
  `app` has the URLs (`cors` for browsers), `generation` serves the two that generate, `asgi` is one
  request and its response; `body` reads requests' bodies, within a budget of all of them.
- `openai_api`: `fields` checks a request, `answer` writes OpenAI's JSON; `chat` (with `tools`
  and `chat_answer`) and `completions` are the two kinds of both, `models` lists the models; `bulk`
  cuts large bodies. Pure.
- `routing`: `dispatch` puts the operator's `view` in force, `queue` decides which request gets the
  next free slot of its `claim`, `workers` (over `channels`, told by `stats_watch`) knows the
  workers' states, `calls` sends them requests over one stream each (`single_call`: to earlier
  versions), `stream` reads a choice's tokens and continues on another worker as `failover` decides;
  `merge` reads several choices.
- `operator_link`: `link` keeps the Fleet stream: views come in, `signals` go out.

Beside them: `metrics`, `errors` (what clients see), `tasks` (loops that are restarted), and `cli`,
`options` and `main` for the process, with the logs of `modelfleet_process`.
"""
