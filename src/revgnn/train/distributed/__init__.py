"""Several processes that train one model: what they exchange, which batches each takes, and weights in shards."""
