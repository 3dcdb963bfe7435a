-- The failed runs of all pairs, newest first.
CREATE INDEX idx_status ON sync_iterations (status, started_at);
