-- The two tables of the plan. A database that was made from the plan's DDL has them already.
CREATE TABLE IF NOT EXISTS sync_iterations (
    id BIGINT AUTO_INCREMENT PRIMARY KEY,
    sync_pair VARCHAR(255) NOT NULL,
    direction VARCHAR(64) NOT NULL,
    src TEXT NOT NULL,
    dest TEXT NOT NULL,
    started_at DATETIME(3) NOT NULL,
    ended_at DATETIME(3),
    status ENUM('running', 'success', 'partial_failure', 'failed') NOT NULL DEFAULT 'running',
    dry_run TINYINT(1) NOT NULL DEFAULT 0,
    files_created BIGINT DEFAULT 0,
    files_updated BIGINT DEFAULT 0,
    files_deleted BIGINT DEFAULT 0,
    files_skipped BIGINT DEFAULT 0,
    files_failed BIGINT DEFAULT 0,
    total_bytes_transferred BIGINT DEFAULT 0,
    error_message MEDIUMTEXT,
    INDEX idx_pair (sync_pair),
    INDEX idx_started (started_at),
    INDEX idx_dry_run (dry_run)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE {collation};
CREATE TABLE IF NOT EXISTS sync_operations (
    id BIGINT AUTO_INCREMENT PRIMARY KEY,
    iteration_id BIGINT NOT NULL,
    dry_run TINYINT(1) NOT NULL DEFAULT 0,
    operation ENUM('create', 'update', 'delete') NOT NULL,
    filepath MEDIUMTEXT NOT NULL,
    size_before BIGINT,
    size_after BIGINT,
    md5_before VARCHAR(32),
    md5_after VARCHAR(32),
    started_at DATETIME(3) NOT NULL,
    ended_at DATETIME(3),
    status ENUM('success', 'fail') NOT NULL,
    error_message MEDIUMTEXT,
    INDEX idx_iteration (iteration_id),
    CONSTRAINT fk_iteration FOREIGN KEY (iteration_id) REFERENCES sync_iterations (id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE {collation};
-- The plan's tables have the character set of their database, often latin1, and columns that are too short: an escaped
-- path has up to four letters for a byte. Nothing is cut here; what is in the tables keeps its meaning. In the row formats
-- of old servers an index takes 767 bytes, too few for the name of a pair.
ALTER TABLE sync_iterations
    MODIFY sync_pair VARCHAR(255) CHARACTER SET utf8mb4 COLLATE {collation} NOT NULL,
    MODIFY direction VARCHAR(64) CHARACTER SET utf8mb4 COLLATE {collation} NOT NULL,
    MODIFY src TEXT CHARACTER SET utf8mb4 COLLATE {collation} NOT NULL,
    MODIFY dest TEXT CHARACTER SET utf8mb4 COLLATE {collation} NOT NULL,
    MODIFY status ENUM('running', 'success', 'partial_failure', 'failed') CHARACTER SET utf8mb4 COLLATE {collation}
        NOT NULL DEFAULT 'running',
    MODIFY files_created BIGINT DEFAULT 0,
    MODIFY files_updated BIGINT DEFAULT 0,
    MODIFY files_deleted BIGINT DEFAULT 0,
    MODIFY files_skipped BIGINT DEFAULT 0,
    MODIFY files_failed BIGINT DEFAULT 0,
    MODIFY error_message MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE {collation},
    ROW_FORMAT=DYNAMIC, DEFAULT CHARACTER SET utf8mb4 COLLATE {collation};
ALTER TABLE sync_operations
    MODIFY operation ENUM('create', 'update', 'delete') CHARACTER SET utf8mb4 COLLATE {collation} NOT NULL,
    MODIFY filepath MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE {collation} NOT NULL,
    MODIFY md5_before VARCHAR(32) CHARACTER SET utf8mb4 COLLATE {collation},
    MODIFY md5_after VARCHAR(32) CHARACTER SET utf8mb4 COLLATE {collation},
    MODIFY status ENUM('success', 'fail') CHARACTER SET utf8mb4 COLLATE {collation} NOT NULL,
    MODIFY error_message MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE {collation},
    ROW_FORMAT=DYNAMIC, DEFAULT CHARACTER SET utf8mb4 COLLATE {collation};
-- What makes a flush idempotent: the run's id, and a number for each of its operations. Rows from before have no run id;
-- their operations are numbered in row order.
ALTER TABLE sync_iterations
    ADD COLUMN run_id VARCHAR(64) CHARACTER SET utf8mb4 COLLATE {collation},
    ADD COLUMN lease_transitions BIGINT,
    ADD COLUMN skip_reasons MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE {collation};
ALTER TABLE sync_iterations ADD UNIQUE INDEX idx_run (run_id);
ALTER TABLE sync_operations
    ADD COLUMN seq BIGINT,
    ADD COLUMN reason TEXT CHARACTER SET utf8mb4 COLLATE {collation};
UPDATE sync_operations JOIN (
    SELECT id, ROW_NUMBER() OVER (PARTITION BY iteration_id ORDER BY id) AS place FROM sync_operations
) AS numbered ON numbered.id = sync_operations.id
SET sync_operations.seq = numbered.place WHERE sync_operations.seq IS NULL;
ALTER TABLE sync_operations ADD UNIQUE INDEX idx_operation (iteration_id, seq);
-- The new index finds the operations of an iteration as well, and serves the foreign key.
ALTER TABLE sync_operations DROP INDEX idx_iteration;
-- The runs of a pair, newest first.
ALTER TABLE sync_iterations ADD INDEX idx_pair_started (sync_pair, started_at);
ALTER TABLE sync_iterations DROP INDEX idx_pair;
-- Which way an operation of a two-way run goes; NULL in a one-way run, whose iteration says it.
ALTER TABLE sync_operations
    ADD COLUMN direction ENUM('a-to-b', 'b-to-a') CHARACTER SET utf8mb4 COLLATE {collation};
-- What the dashboard asks for: the last runs of a pair and direction, the failed ones among many operations of a run,
-- and the history of a path.
ALTER TABLE sync_iterations ADD INDEX idx_series (sync_pair, direction, dry_run, started_at);
ALTER TABLE sync_iterations DROP INDEX idx_dry_run;
ALTER TABLE sync_operations ADD INDEX idx_outcome (iteration_id, status, operation, seq);
ALTER TABLE sync_operations ADD INDEX idx_filepath (filepath(191));
-- The failed runs of all pairs, newest first.
ALTER TABLE sync_iterations ADD INDEX idx_status (status, started_at);
