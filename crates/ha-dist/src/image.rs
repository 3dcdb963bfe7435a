//! Puts an OCI image together: one layer per architecture, and the archive that engines and registries take.
//!
//! After the OCI image specification 1.1: `image-layout`, `image-index`, `manifest`, `config`.

use serde_json::{Value, json};

use crate::archive::{Archive, ArchiveError};
use crate::digest::sha256;

/// Is what an image of one architecture is made from.
#[derive(Debug, Clone)]
pub struct Platform {
    /// `amd64` or `arm64`, as OCI calls it.
    pub architecture: String,
    /// Names and contents of the programs, which go into the root.
    pub programs: Vec<(String, Vec<u8>)>,
}

/// Is what an image says of itself.
#[derive(Debug, Clone)]
pub struct About {
    /// The tag in the archive, like `ha-sync:0.1.0`.
    pub reference: String,
    /// The version of the programs.
    pub version: String,
    /// The commit that they are built from.
    pub revision: String,
    /// The time of everything in it, in seconds since 1970.
    pub time: u64,
    /// The same time as RFC 3339.
    pub created: String,
    /// The licence, as SPDX writes it.
    pub licence: String,
}

/// The directories of the image: those that are mounted over in a cluster, so that it runs without them too.
const DIRECTORIES: [(&str, u32); 8] = [
    ("mnt/", 0o755),
    ("run/", 0o755),
    ("run/lock/", 0o1777),
    ("tmp/", 0o1777),
    ("var/", 0o755),
    ("var/log/", 0o755),
    ("var/log/ha-sync/", 0o755),
    ("etc/", 0o755),
];

/// Is a finished image.
#[derive(Debug)]
pub struct Image {
    /// The archive: a tar of an OCI layout.
    pub archive: Vec<u8>,
    /// The digest that a registry will know it by.
    pub digest: String,
    /// Compressed and plain size of each architecture's layer, in bytes.
    pub sizes: Vec<(String, usize, usize)>,
}

/// Makes an image; `compress` makes gzip of a layer, always the same of the same bytes.
pub fn image<E: From<ArchiveError>>(
    about: &About,
    platforms: &[Platform],
    compress: impl Fn(&[u8]) -> Result<Vec<u8>, E>,
) -> Result<Image, E> {
    let mut blobs: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |bytes: Vec<u8>, kind: &str| -> Value {
        let digest = sha256(&bytes);
        let descriptor = json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len()});
        if !blobs.iter().any(|(known, _)| *known == digest) {
            blobs.push((digest, bytes));
        }
        descriptor
    };
    let annotations = json!({
        "org.opencontainers.image.created": about.created,
        "org.opencontainers.image.licenses": about.licence,
        "org.opencontainers.image.revision": about.revision,
        "org.opencontainers.image.title": "ha-sync",
        "org.opencontainers.image.version": about.version,
    });
    let (mut manifests, mut sizes) = (Vec::new(), Vec::new());
    for platform in platforms {
        let plain = layer(platform, about.time)?;
        let packed = compress(&plain)?;
        sizes.push((platform.architecture.clone(), packed.len(), plain.len()));
        let config = json!({
            "architecture": platform.architecture,
            "config": {
                "Entrypoint": ["/ha-sync"],
                "Env": ["PATH=/"],
                "Labels": annotations,
                "WorkingDir": "/",
            },
            "created": about.created,
            "history": [{"created": about.created, "created_by": "cargo xtask dist"}],
            "os": "linux",
            "rootfs": {"diff_ids": [format!("sha256:{}", sha256(&plain))], "type": "layers"},
        });
        let layer = add(packed, "application/vnd.oci.image.layer.v1.tar+gzip");
        let config = add(config.to_string().into_bytes(), "application/vnd.oci.image.config.v1+json");
        let manifest = json!({
            "annotations": annotations,
            "config": config,
            "layers": [layer],
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "schemaVersion": 2,
        });
        let mut manifest = add(manifest.to_string().into_bytes(), "application/vnd.oci.image.manifest.v1+json");
        manifest["platform"] = json!({"architecture": platform.architecture, "os": "linux"});
        manifests.push(manifest);
    }
    // What stands for the whole: the only manifest, or an index of all.
    let mut whole = match &*manifests {
        [only] => only.clone(),
        _ => {
            let index = json!({
                "annotations": annotations,
                "manifests": manifests,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "schemaVersion": 2,
            });
            add(index.to_string().into_bytes(), "application/vnd.oci.image.index.v1+json")
        }
    };
    let digest = whole["digest"].as_str().unwrap_or_default().to_owned();
    let tag = about.reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    whole["annotations"] = json!({
        "io.containerd.image.name": about.reference,
        "org.opencontainers.image.ref.name": tag,
    });
    let index = json!({
        "manifests": [whole],
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "schemaVersion": 2,
    });
    let mut archive = Archive::new(about.time);
    archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.file("index.json", 0o644, index.to_string().as_bytes())?;
    archive.directory("blobs/", 0o755)?;
    archive.directory("blobs/sha256/", 0o755)?;
    blobs.sort();
    for (digest, bytes) in &blobs {
        archive.file(&format!("blobs/sha256/{digest}"), 0o644, bytes)?;
    }
    Ok(Image { archive: archive.finish(), digest, sizes })
}

fn layer(platform: &Platform, time: u64) -> Result<Vec<u8>, ArchiveError> {
    let mut layer = Archive::new(time);
    for (name, mode) in DIRECTORIES {
        layer.directory(name, mode)?;
    }
    for (name, content) in &platform.programs {
        layer.file(name, 0o755, content)?;
    }
    Ok(layer.finish())
}
