"""The control plane: reads ModelDeployments, decides, acts. It never imports torch.

The rooms, in the order in which a queue signal passes them on its way to a pod
(docs/walkthrough.md has the functions):

- `fleet`: `service` holds the streams of gateways, `signals` keeps what each one says, `view` is
  what they are told. A signal that changes something wakes the deployment's reconciler.
- `reconciler`: one task a deployment: observe, decide, write the status, act. `claims` wakes the
  deployments that share a served name, `metrics` counts.
- `decisions`: pure functions, no I/O and no clock. `plan` calls the steps in order: `placement`,
  `worker_groups` (states of workers, docs/worker-lifecycle.md), `memory_update`,
  `target` with `autoscale`, `worker_changes` with `rollout`, `draining`, `history`. `plan_context`
  is what the steps read, `verdicts` what they decided in words, `wake` when to decide again.
  `conditions` with `causes`, `cost` and `status` makes the status, `view` what gateways route by.
  Values: `observed` and `memory` go in, `actions` come out; `reasons` and `startup_problem` name
  what may be wrong. `rendering` and `announcements` turn a status into YAML and Events.
  `leadership` decides about the Lease, `names` derives names, `load_estimate` knows how far a load
  is.
- `cluster` and `local`: the two bodies. They observe what there is and carry actions out, on
  Kubernetes (`cache` of kopf's `handlers` with `overlay`, `body` with `pods` and `api`,
  `status_writer`; `pools` with `pool_cache` and `standby_claims`; `run`, `lease` and `sweep` around
  it) and as processes of one machine
  (`body` with `deployments` and `processes`; `up` around it, `watching` for edits of its files).
- `simulate`: the third body, on a simulated clock and fleet: what a file would cost on a trace.
- `client`: the other side of a gateway, for `modelfleet chat` and `models`.
- `api`: the objects that users write and read, one file each; `manifests` reads them from files,
  `views` turns a ModelDeployment into what decisions and workers read of it.
- `pools`: one loop for all warm pools, with `decisions.pool` (`standby`, `pool_status`) and, where
  a deployment starts a worker, `decisions.claiming`; `worker_client` tells a claimed one its model.
- `explain`: `snapshot` keeps all that decisions see, `report` says what they make of it.
- `cli`: the command line, with one file of `commands` each, and `terminal` for what people read.

Beside them: `errors`, and the logs of `modelfleet_process`.
"""
