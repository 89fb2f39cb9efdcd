"""The one door for clients: OpenAI API, queue, routing, failover, metering.

The rooms, in the order in which a request passes them:

- `http`: `server` listens and drains, `app` has the URLs, `generation` serves the two that
  generate, `reply` reads bodies and writes answers, `close_on_drain` has clients reconnect in time.
- `openai_api`: a request's fields and its answer's shapes. Pure.
- `routing`: `dispatch` with `queue` (which request gets which worker), `stream` with
  `failover` (one choice, whatever happens to workers), `workers` with `channels` (their Stats and
  slots), `merge` (several choices as one stream), `view` (models, names and workers).
- `operator_link`: `link` keeps the Fleet stream, `signals` says what goes up.
"""
