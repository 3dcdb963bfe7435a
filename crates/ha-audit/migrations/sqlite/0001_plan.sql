-- The two tables of the plan, in SQLite's types. A database that was made from the plan's DDL is taken as it is.
-- Times are 'YYYY-MM-DD HH:MM:SS.mmm' in UTC, so that they compare and sort as text.
CREATE TABLE IF NOT EXISTS sync_iterations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sync_pair TEXT NOT NULL,
    direction TEXT NOT NULL,
    src TEXT NOT NULL,
    dest TEXT NOT NULL,
    started_at TEXT NOT NULL,
    ended_at TEXT,
    status TEXT NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'success', 'partial_failure', 'failed')),
    dry_run INTEGER NOT NULL DEFAULT 0,
    files_created INTEGER DEFAULT 0,
    files_updated INTEGER DEFAULT 0,
    files_deleted INTEGER DEFAULT 0,
    files_skipped INTEGER DEFAULT 0,
    files_failed INTEGER DEFAULT 0,
    total_bytes_transferred INTEGER DEFAULT 0,
    error_message TEXT
);
CREATE TABLE IF NOT EXISTS sync_operations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    iteration_id INTEGER NOT NULL REFERENCES sync_iterations (id),
    dry_run INTEGER NOT NULL DEFAULT 0,
    operation TEXT NOT NULL CHECK (operation IN ('create', 'update', 'delete')),
    filepath TEXT NOT NULL,
    size_before INTEGER,
    size_after INTEGER,
    md5_before TEXT,
    md5_after TEXT,
    started_at TEXT NOT NULL,
    ended_at TEXT,
    status TEXT NOT NULL CHECK (status IN ('success', 'fail')),
    error_message TEXT
);
CREATE INDEX IF NOT EXISTS idx_pair ON sync_iterations (sync_pair);
CREATE INDEX IF NOT EXISTS idx_started ON sync_iterations (started_at);
CREATE INDEX IF NOT EXISTS idx_dry_run ON sync_iterations (dry_run);
CREATE INDEX IF NOT EXISTS idx_iteration ON sync_operations (iteration_id);
