//! The schema on a server.
//!
//! A server commits after each statement that changes a schema. So a version is one statement, each can be repeated after
//! a crash between it and the row that says it is done, and two programs that both migrate end with the same schema.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::mysql::MySqlConnection;

use super::{Mysql, error_number};
use crate::database::Fault;

/// The statements, each ended by a semicolon at the end of its line; a version is the number of them. Only ever append.
const STATEMENTS: &str = include_str!("../../migrations/mysql.sql");
/// What all statements together may take for each row that is there already, many times what it was measured to be.
const FOR_A_ROW: Duration = Duration::from_millis(1);

/// Returns the version of this program.
pub(super) fn newest() -> i64 {
    statements().count() as i64
}

fn statements() -> impl Iterator<Item = &'static str> {
    STATEMENTS.split_inclusive(";\n").filter(|statement| statement.ends_with(";\n"))
}

impl Mysql {
    /// Brings the schema from version `found` to this program's, and returns the one that it has then.
    pub(super) async fn migrate(&mut self, found: i64, collation: &'static str) -> Result<i64, Fault> {
        let wait = self.connect_timeout.as_secs().clamp(1, 60);
        let rows = self.run(|connection| Box::pin(old_rows(connection))).await?;
        let longer = self.statement_timeout + Duration::from_secs(wait) + FOR_A_ROW * rows;
        let patience = std::mem::replace(&mut self.statement_timeout, longer);
        let migrated = self.run(|connection| Box::pin(migrate(connection, found, collation, wait))).await;
        self.statement_timeout = patience;
        migrated
    }
}

/// Returns about how many operations there are; none where there is no table.
async fn old_rows(connection: &mut MySqlConnection) -> Result<u32, sqlx::Error> {
    let rows: Option<u64> = sqlx::query_scalar(
        "SELECT CAST(MAX(TABLE_ROWS) AS UNSIGNED) FROM information_schema.TABLES \
         WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'sync_operations'",
    )
    .fetch_one(connection)
    .await?;
    Ok(u32::try_from(rows.unwrap_or_default()).unwrap_or(u32::MAX))
}

async fn migrate(
    connection: &mut MySqlConnection,
    found: i64,
    collation: &'static str,
    wait: u64,
) -> Result<i64, sqlx::Error> {
    // Spares the others the same work at once. A cluster has no such lock among its nodes, and a holder may be cut off
    // from the server: then the work is done twice, which is no harm.
    let locked = sqlx::query("SELECT GET_LOCK(CONCAT('ha-sync ', LEFT(SHA2(DATABASE(), 256), 32)), ?)")
        .bind(wait)
        .fetch_one(&mut *connection)
        .await;
    let table = "CREATE TABLE IF NOT EXISTS ha_sync_schema (version BIGINT NOT NULL PRIMARY KEY) \
                 ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4";
    sqlx::raw_sql(table).execute(&mut *connection).await?;
    let found = found.max(
        sqlx::query_scalar("SELECT COALESCE(MAX(version), 0) FROM ha_sync_schema").fetch_one(&mut *connection).await?,
    );
    let known = usize::try_from(found).unwrap_or_default();
    let mut version = found;
    for statement in statements().skip(known) {
        version += 1;
        let statement = statement.replace("{collation}", collation);
        match sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await {
            Err(error) if !is_done(&error) => return Err(error),
            _ => {}
        }
        sqlx::query("INSERT INTO ha_sync_schema (version) VALUES (?) ON DUPLICATE KEY UPDATE version = version")
            .bind(version)
            .execute(&mut *connection)
            .await?;
    }
    if locked.is_ok() {
        let unlock = "DO RELEASE_LOCK(CONCAT('ha-sync ', LEFT(SHA2(DATABASE(), 256), 32)))";
        sqlx::raw_sql(unlock).execute(&mut *connection).await?;
    }
    Ok(version)
}

/// Tells whether the statement was done before, by this program or another: the column or the index is there, or the
/// index is gone.
fn is_done(error: &sqlx::Error) -> bool {
    matches!(error_number(error), Some(1060 | 1061 | 1091))
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_statement_ends_and_none_is_lost() {
        let ends = super::STATEMENTS.lines().filter(|line| line.ends_with(';')).count();
        assert_eq!(super::newest(), ends as i64);
        assert!(super::STATEMENTS.ends_with(";\n"));
    }
}
