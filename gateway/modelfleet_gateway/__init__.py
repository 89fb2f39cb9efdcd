"""The one door for clients: OpenAI API, queue, routing, failover, metering.

The rooms, in the order in which a request passes them:

- `http`: `server` listens and drains, `app` has the URLs, `generation` serves the two that
  generate, `asgi` reads requests and writes responses.
- `openai_api`: a request's fields and its answer's shapes. Pure.
- `routing`: `dispatch` and `view` (models, names and workers as the operator sent them), `queue`
  (which request gets which slot), `workers` with `channels` (their Stats, slots and calls),
  `stream` with `failover` and `merge` (tokens, which continue on other workers after failures).
- `operator_link`: `link` keeps the Fleet stream, `signals` says what goes up.
"""
