"""The third body: the same plan on a simulated clock and fleet (`modelfleet simulate`).

- `trace` and `rates` give the requests; `scenario` with the spot `market` what is assumed of the
  world; `variants` what is compared.
- `simulation` is the loop: arrivals and events in order of time, and when the `planner` plans.
  `gateway` queues and chooses, `engine` computes, `worker` is one worker with its bill, `fleet`
  carries the plan's actions out, as `cluster.body` and `local.body` do; a worker `starts`, or is
  claimed of a `pool`, and `reclaims` take it back. `files` and `options` say what is simulated.
- `scaler`, `baselines` and `clairvoyant` are other policies than ours, with `capacity`.
- `outcome` is what happened, `summary` its numbers, `report` and `chart` show them.
"""
