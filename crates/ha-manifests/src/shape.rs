//! The fields of an inventory, as data: what is known, what is needed, what it means. The reader, the suggestions and
//! the JSON schema are all made from these tables.

/// Is an object of the inventory.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) about: &'static str,
    pub(crate) fields: &'static [Field],
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) kind: Kind,
    pub(crate) need: Need,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Need {
    Required,
    Optional,
    /// What counts when it is not there.
    Default(&'static str),
}

/// Is what a field holds. A pattern is the schema's; the reader's own parser is stricter and says what it expected.
#[derive(Debug)]
pub(crate) enum Kind {
    Text(&'static str),
    Choice(&'static [&'static str]),
    Number(u32, u32),
    Object(&'static Shape),
    Objects {
        least: u32,
        shape: &'static Shape,
    },
    Texts {
        number: u32,
        pattern: &'static str,
    },
    /// A map from names (of servers or directions) to values.
    Each(&'static Kind),
}

const LABEL: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
const HOST: &str = "^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$";
const ADDRESS: &str = "^[0-9A-Za-z]?[0-9A-Za-z.:-]*[0-9A-Za-z]$";
const CAPACITY: &str = "^[0-9]*[1-9][0-9]*(M|G|T|P)i?$";
const INTERVAL: &str = "^([0-9]+[mh]|1d)$";
const DURATION: &str = "^[0-9]+[mhd]$";
const CRON: &str = "^(@[a-z]+|\\S+( +\\S+){4})$";
const FOLDER: &str = "^/?[^/]+(/[^/]+)*/?$";
const WORD: &str = "^\\S+$";

pub(crate) const INVENTORY: Shape = Shape {
    about: "What ha-sync runs on in a cluster: servers, pairs of folders, when and how they are kept equal.",
    fields: &[
        required("namespace", "Namespace of everything but the volumes; it exists already.", Kind::Text(LABEL)),
        required("image", "Image of both programs, with its registry.", Kind::Text(WORD)),
        required("servers", "The NFS servers.", Kind::Objects { least: 2, shape: &SERVER }),
        required("pairs", "The pairs of folders.", Kind::Objects { least: 1, shape: &PAIR }),
        required("logs", "Volume of the logs that wait for the database.", Kind::Object(&LOGS)),
        optional("database", "Where the Secret with the DSN is, and which server it names.", Kind::Object(&DATABASE)),
        optional("dashboard", "The dashboard; none when this is not there.", Kind::Object(&DASHBOARD)),
        default(
            "interval",
            "15m",
            "Time between two runs of a job: minutes that divide the hour or hours that divide the day. The second \
             direction of a pair starts half of it later.",
            Kind::Text(INTERVAL),
        ),
        default(
            "checkAccess",
            ".ha-sync-access",
            "File that must be on both sides of every pair; make it once by hand. A run halts without it.",
            Kind::Text(FOLDER),
        ),
        default(
            "deadline",
            "24h",
            "Time after which a job is stopped. The next one goes on where it was.",
            Kind::Text(DURATION),
        ),
        default(
            "keepRecords",
            "30d",
            "Age at which the weekly job removes rows of the database.",
            Kind::Text(DURATION),
        ),
    ],
};

pub(crate) const SERVER: Shape = Shape {
    about: "An NFS server.",
    fields: &[
        required("name", "Its name in the names of volumes and directions.", Kind::Text(LABEL)),
        required("address", "Its address for NFS: a host name or an IP address.", Kind::Text(ADDRESS)),
        required("export", "Directory that it exports; folders of pairs are below it.", Kind::Text("^/")),
    ],
};

pub(crate) const PAIR: Shape = Shape {
    about: "Two folders that are kept equal.",
    fields: &[
        required("name", "Its name, which ends the name of its Lease.", Kind::Text(LABEL)),
        required(
            "capacity",
            "Size of its volumes, like 500Gi: a whole number and one of M, G, T, P, Mi, Gi, Ti, Pi.",
            Kind::Text(CAPACITY),
        ),
        optional(
            "folder",
            "Its folder below the export root on both servers, or an absolute path; its name when this is not there.",
            Kind::Text(FOLDER),
        ),
        optional("folders", "Its folder by server, where it is not the same on both.", Kind::Each(&Kind::Text(FOLDER))),
        optional(
            "servers",
            "The two servers, the primary one first; not needed when there are only two.",
            Kind::Texts { number: 2, pattern: LABEL },
        ),
        default(
            "mode",
            "one-way",
            "`one-way`: a job for each direction, the newest file wins. `two-way`: one job that knows the last agreed \
             state.",
            Kind::Choice(&["one-way", "two-way"]),
        ),
        optional(
            "delete",
            "What each direction does with files that its source does not have: `off`, `on` or `strict`. Off when \
             this is not there. Two-way jobs need none.",
            Kind::Each(&Kind::Choice(&["off", "on", "strict"])),
        ),
        optional("interval", "Time between two runs of this pair's jobs.", Kind::Text(INTERVAL)),
        optional(
            "schedules",
            "Cron lines by direction (`two-way` for a two-way job), in place of the interval.",
            Kind::Each(&Kind::Text(CRON)),
        ),
        default(
            "shards",
            "1",
            "Pods that share the work of one run; for trees that one pod cannot do in time. One-way only.",
            Kind::Number(1, 64),
        ),
    ],
};

pub(crate) const LOGS: Shape = Shape {
    about: "The volume of the logs.",
    fields: &[
        required("server", "The server that has it.", Kind::Text(LABEL)),
        required("folder", "Its folder below the export root, or an absolute path.", Kind::Text(FOLDER)),
        default("capacity", "10Gi", "Its size.", Kind::Text(CAPACITY)),
    ],
};

pub(crate) const DATABASE: Shape = Shape {
    about: "The database of the records.",
    fields: &[
        default("secret", "ha-sync-db-secret", "Secret with the DSN. It is made by hand.", Kind::Text(HOST)),
        default("key", "HA_SYNC_DB_DSN", "Its key.", Kind::Text("^[-._a-zA-Z0-9]+$")),
        optional(
            "host",
            "Host of the database. Where it is an address, a NetworkPolicy lets the pods reach that address alone at \
             the port; where it is a Service, the namespace of that Service; else any host at the port.",
            Kind::Text(ADDRESS),
        ),
        default("port", "3306", "Its port.", Kind::Number(1, 65535)),
        default(
            "name",
            "ha_sync",
            "Name of the database on it, for the note in secret.yaml.",
            Kind::Text("^[0-9A-Za-z_-]+$"),
        ),
    ],
};

pub(crate) const DASHBOARD: Shape = Shape {
    about: "The dashboard.",
    fields: &[
        required("host", "Its host name at the ingress.", Kind::Text(HOST)),
        optional(
            "login",
            "Secret with the logins that it asks for, under the key HA_SYNC_UI_AUTH. Without it, everybody who reaches \
             it may look, unless the ingress asks.",
            Kind::Text(HOST),
        ),
        optional(
            "ingressClass",
            "Class of the ingress; the cluster's default when this is not there.",
            Kind::Text(HOST),
        ),
        default("issuer", "letsencrypt", "ClusterIssuer of cert-manager that makes its certificate.", Kind::Text(HOST)),
    ],
};

const fn required(name: &'static str, about: &'static str, kind: Kind) -> Field {
    Field { name, about, kind, need: Need::Required }
}

const fn optional(name: &'static str, about: &'static str, kind: Kind) -> Field {
    Field { name, about, kind, need: Need::Optional }
}

const fn default(name: &'static str, value: &'static str, about: &'static str, kind: Kind) -> Field {
    Field { name, about, kind, need: Need::Default(value) }
}
