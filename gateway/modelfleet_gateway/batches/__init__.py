"""Batches: files of requests that run on idle capacity, and outlive the gateways that run them.

- `objects`: files and batches as clients see them; `lines`: those of input and output files;
  `window`: when a batch may run, wait or wake its model. Pure.
- `storage`: the store, called from the event loop: an SQLite file (`schema`, `file_table`,
  `batch_table`) and a folder beside it (`contents`).
- `runner` leases batches and is the `host` of a `job` for each, from its validation to its files,
  which `output` writes. `line_run` runs a line by a `submission` to an endpoint; `commits` writes
  the results, those that came together at once.
"""
