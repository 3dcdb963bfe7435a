-- What makes a flush idempotent: the run's id, and a number for each of its operations. Rows from before have no
-- run id; their operations are numbered in row order.
ALTER TABLE sync_iterations ADD COLUMN run_id TEXT;
ALTER TABLE sync_iterations ADD COLUMN lease_transitions INTEGER;
ALTER TABLE sync_iterations ADD COLUMN skip_reasons TEXT;
ALTER TABLE sync_operations ADD COLUMN seq INTEGER;
ALTER TABLE sync_operations ADD COLUMN reason TEXT;
UPDATE sync_operations SET seq = numbered.seq
FROM (SELECT id, ROW_NUMBER() OVER (PARTITION BY iteration_id ORDER BY id) AS seq FROM sync_operations) AS numbered
WHERE sync_operations.id = numbered.id;
-- Other spellings of a time ('T', 'Z', an offset, no fraction) sort wrongly beside ours.
UPDATE sync_iterations SET started_at = strftime('%Y-%m-%d %H:%M:%f', started_at)
WHERE typeof(started_at) = 'text' AND started_at <> strftime('%Y-%m-%d %H:%M:%f', started_at);
UPDATE sync_iterations SET ended_at = strftime('%Y-%m-%d %H:%M:%f', ended_at)
WHERE typeof(ended_at) = 'text' AND ended_at <> strftime('%Y-%m-%d %H:%M:%f', ended_at);
UPDATE sync_operations SET started_at = strftime('%Y-%m-%d %H:%M:%f', started_at)
WHERE typeof(started_at) = 'text' AND started_at <> strftime('%Y-%m-%d %H:%M:%f', started_at);
UPDATE sync_operations SET ended_at = strftime('%Y-%m-%d %H:%M:%f', ended_at)
WHERE typeof(ended_at) = 'text' AND ended_at <> strftime('%Y-%m-%d %H:%M:%f', ended_at);
CREATE UNIQUE INDEX idx_run ON sync_iterations (run_id);
-- Finds the operations of an iteration as the plan's index did, and takes its place: a second one would only slow the
-- flush.
DROP INDEX IF EXISTS idx_iteration;
CREATE UNIQUE INDEX idx_iteration ON sync_operations (iteration_id, seq);
