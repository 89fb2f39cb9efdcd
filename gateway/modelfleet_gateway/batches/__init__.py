"""Batches: files of requests that run on idle capacity, and outlive the gateways that run them.

- `objects`: files and batches as clients see them; `lines`: those of input and output files;
  `window`: when a batch may run, wait or wake its model. Pure.
- `storage`: the store, called from the event loop: an SQLite file (`schema`, `file_table`,
  `batch_table`) and a folder beside it (`contents`).
- `runner` leases batches; each is a `job` from its validation to its files, which `output` writes.
  `commits` writes the results of lines, those that came together at once.
"""
