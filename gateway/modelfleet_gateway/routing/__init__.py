"""From a parsed request to a worker: queue, choice, failover; the view that it all rests on."""
