-- What the dashboard asks for: the last runs of a pair and direction, the failed ones among many operations of a run,
-- and the history of a path.
CREATE INDEX idx_series ON sync_iterations (sync_pair, direction, dry_run, started_at);
CREATE INDEX idx_pair_started ON sync_iterations (sync_pair, started_at);
CREATE INDEX idx_outcome ON sync_operations (iteration_id, status, operation, seq);
CREATE INDEX idx_filepath ON sync_operations (filepath);
DROP INDEX IF EXISTS idx_pair;
DROP INDEX IF EXISTS idx_dry_run;
