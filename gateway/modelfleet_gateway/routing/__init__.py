"""From a parsed request to a worker's tokens: view, queue, workers, failover."""
