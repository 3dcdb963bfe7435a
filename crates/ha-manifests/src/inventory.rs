//! What an inventory says, checked and complete: later code asks nothing and refuses nothing.

use std::time::Duration;

/// Is a whole inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// The namespace of everything but the volumes.
    pub namespace: String,
    /// The image of both programs.
    pub image: String,
    /// The servers, in the order of the file.
    pub servers: Vec<Server>,
    /// The pairs, in the order of the file.
    pub pairs: Vec<Pair>,
    /// The volume of the logs.
    pub logs: Volume,
    /// The database of the records.
    pub database: Database,
    /// The dashboard, when there is to be one.
    pub dashboard: Option<Dashboard>,
    /// The file that must be on both sides of each pair.
    pub check_access: String,
    /// How long a job may take.
    pub deadline: Duration,
    /// The age of rows that go, with its unit.
    pub keep_records: String,
}

/// Is an NFS server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its name in names of volumes and directions.
    pub name: String,
    /// Its host name or IP address.
    pub address: String,
}

/// Is a folder on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The server, an index into [`Inventory::servers`].
    pub server: usize,
    /// The absolute path on the server.
    pub path: String,
    /// The size, as Kubernetes writes it.
    pub capacity: String,
}

/// Is a pair of folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Its name.
    pub name: String,
    /// Its two sides, the primary one first.
    pub sides: [Volume; 2],
    /// Its jobs: two one-way jobs or one two-way job.
    pub jobs: Vec<Job>,
    /// The number of pods of a run.
    pub shards: u32,
    /// The folder of the logs relative to the side's root, when it lies in there.
    pub logs_inside: Option<String>,
}

/// Is a job of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// From which server to which, like `dell-to-hp`, or `two-way`.
    pub direction: String,
    /// When it starts, as a cron line.
    pub schedule: String,
    /// What it does.
    pub kind: JobKind,
}

/// Is what a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// Copies from a side to the other one.
    OneWay {
        /// The source, an index into [`Pair::sides`].
        from: usize,
        /// What it does with what the source does not have.
        delete: Delete,
    },
    /// Keeps both sides equal.
    TwoWay,
}

/// Is what a job does with what its source does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delete {
    /// It stays.
    Off,
    /// It goes, unless it is new there.
    On,
    /// It goes.
    Strict,
}

/// Is the database of the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// The Secret with the DSN.
    pub secret: String,
    /// Its key.
    pub key: String,
    /// The host, when it is known.
    pub host: Option<String>,
    /// The port.
    pub port: u32,
    /// The name of the database on that host.
    pub name: String,
}

/// Is the dashboard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dashboard {
    /// Its host name at the ingress.
    pub host: String,
    /// The Secret with the logins that it asks for.
    pub login: Option<String>,
    /// The class of the ingress.
    pub ingress_class: Option<String>,
    /// The issuer of its certificate.
    pub issuer: String,
}

impl Pair {
    /// Returns the names of the Leases that its runs hold.
    pub fn leases(&self) -> Vec<String> {
        match self.shards {
            0 | 1 => vec![format!("ha-sync-{}", self.name)],
            shards => (0..shards).map(|shard| format!("ha-sync-{}-{shard}", self.name)).collect(),
        }
    }
}
