"""Distributed training: communication between ranks, assignment of batches to ranks, sharded weights and Ray."""
