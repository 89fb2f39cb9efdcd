"""The one door for clients: OpenAI API, queue, routing, failover, metering.

A request's way through the files: `app` and `reply` (HTTP), `generation` (the two URLs that
generate), `openai_api` (its fields and its answer's shapes, pure), `dispatch` with `queue` and
`balance` (who waits for which worker), `stream` with `failover` (one choice, whatever happens to
workers), `workers` (channels and Stats). `fleet`, `view` and `signals` talk to the operator.
"""
