//! Values of an inventory's fields: each parser says what it expected.

use ha_sync_core::name::PairName;

/// Returns a name that Kubernetes takes for an object: a DNS label.
pub(crate) fn label(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| *byte != b'-');
    let bytes = text.as_bytes();
    if text.len() > 63 || !bytes.iter().copied().all(allowed) || !edge(bytes.first()) || !edge(bytes.last()) {
        return Err(format!("Kubernetes refuses the name {text:?}: 1 to 63 of a-z, 0-9 and '-', no '-' at its ends"));
    }
    Ok(text.to_owned())
}

/// Returns the name of a pair.
pub(crate) fn pair(text: &str) -> Result<String, String> {
    text.parse::<PairName>().map(String::from).map_err(|why| format!("not a name of a pair: {why}"))
}

/// Returns a host name: DNS labels with dots between them.
pub(crate) fn host(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= 253 && text.split('.').all(|part| label(part).is_ok());
    if fits { Ok(text.to_owned()) } else { Err(format!("not a host name: {text:?}")) }
}

/// Returns the address of an NFS server: a host name or an IP address.
pub(crate) fn address(text: &str) -> Result<String, String> {
    let looks_numeric = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    // In the usual spelling, so that two of one address are seen to be the same.
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        return Ok(address.to_string());
    }
    let fits = !looks_numeric && host(text).is_ok();
    if fits { Ok(text.to_owned()) } else { Err(format!("neither a host name nor an IP address: {text:?}")) }
}

/// Returns an absolute path without dots, doubled slashes and a slash at its end.
pub(crate) fn absolute(text: &str) -> Result<String, String> {
    let refused = || format!("expected an absolute path like /data, without '.' and '..': {text:?}");
    let below = text.strip_prefix('/').ok_or_else(refused)?.trim_end_matches('/');
    match below {
        "" => Ok("/".to_owned()),
        below => parts(below).map(|below| format!("/{below}")).ok_or_else(refused),
    }
}

/// Returns a path below an export root, or an absolute one.
pub(crate) fn folder(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        return absolute(text);
    }
    let refused = || format!("expected a folder below the export root like photos/2026, or an absolute path: {text:?}");
    parts(text.trim_end_matches('/')).ok_or_else(refused)
}

/// Returns the name of a file below both roots.
pub(crate) fn below(text: &str) -> Result<String, String> {
    let refused = || format!("expected a path relative to the roots, without '..': {text:?}");
    parts(text).ok_or_else(refused)
}

fn parts(text: &str) -> Option<String> {
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.chars().any(char::is_control);
    // Kubernetes expands $(NAME) and $$ in arguments, which would be others than are written here.
    (text.split('/').all(plain) && !text.contains("$(") && !text.contains("$$") && text.len() <= 1024)
        .then(|| text.to_owned())
}

/// Returns the reference of an image.
pub(crate) fn image(text: &str) -> Result<String, String> {
    let refused = || format!("not an image like registry:5000/ha-sync:latest: {text:?}");
    let (name, digest) = text.split_once('@').map_or((text, None), |(name, digest)| (name, Some(digest)));
    let hex = |digest: &str| digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !digest.is_none_or(|digest| digest.strip_prefix("sha256:").is_some_and(hex)) {
        return Err(refused());
    }
    let (path, last) = name.rsplit_once('/').map_or((None, name), |(path, last)| (Some(path), last));
    let (last, tag) = last.split_once(':').map_or((last, None), |(last, tag)| (last, Some(tag)));
    let word = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    // Words with '.', '_', '__' or any number of '-' between them.
    let lower = |text: &str| {
        let in_word = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit();
        let separator = |text: &str| matches!(text, "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
        text.starts_with(in_word) && text.ends_with(in_word) && text.split(in_word).all(separator)
    };
    // The first part may be a registry with a port.
    let prefix = path.is_none_or(|path| {
        path.split('/').enumerate().all(|(at, part)| match part.split_once(':') {
            Some((host, port)) if at == 0 => lower(host) && port.parse::<u16>().is_ok(),
            _ => lower(part),
        })
    });
    let tagged = tag.is_none_or(|tag| !tag.is_empty() && tag.len() <= 128 && word(tag) && !tag.starts_with(['.', '-']));
    if prefix && lower(last) && tagged { Ok(text.to_owned()) } else { Err(refused()) }
}

/// Returns the size of a volume as Kubernetes writes it.
pub(crate) fn capacity(text: &str) -> Result<String, String> {
    const UNITS: [(&str, u128); 8] = [
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
    ];
    let refused = || format!("expected a size like 500Gi or 2Ti: {text:?}");
    let (number, unit) =
        UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes))).ok_or_else(refused)?;
    let plain = !number.is_empty() && number.len() <= 9 && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u128 = number.parse().ok().filter(|_| plain).ok_or_else(refused)?;
    match number * unit {
        0 => Err("a volume of no size".to_owned()),
        // Kubernetes counts bytes in 63 bits.
        bytes if bytes >= 1 << 63 => Err(format!("larger than Kubernetes can count: {text:?}")),
        _ => Ok(text.to_owned()),
    }
}

/// Returns the name of a database, which stands in a command to type.
pub(crate) fn database(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    let fits = !text.is_empty() && text.len() <= 64 && text.bytes().all(allowed);
    if fits { Ok(text.to_owned()) } else { Err(format!("not a name of a database: {text:?}")) }
}

/// Returns the key of a Secret.
pub(crate) fn variable(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_path = text == "." || text.starts_with("..");
    let fits = !text.is_empty() && text.len() <= 253 && text.bytes().all(allowed) && !is_path;
    if fits { Ok(text.to_owned()) } else { Err(format!("not a key of a Secret: {text:?}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parser = fn(&str) -> Result<String, String>;

    #[test]
    fn what_is_taken_and_what_is_refused() {
        let long = "x".repeat(64);
        let digest = format!("r/a@sha256:{}", "0a".repeat(32));
        let table: [(&str, Parser, &[&str], &[&str]); 9] = [
            ("label", label, &["a", "a-1", &long[1..]], &["", "-a", "a-", "A", "a_b", "a.b", "ä", &long]),
            ("host", host, &["a", "ha-sync.example.org"], &["", "a..b", "A.b", ".a", "a b", "*.a"]),
            ("address", address, &["192.168.2.100", "fd00::1", "nas.lan"], &["", "192.168.2.300", "1.2.3", "nas/x"]),
            (
                "absolute",
                absolute,
                &["/", "/data", "/a b/c/"],
                &["", "data", "/a/../b", "/a//b", "/./a", "/a\nb", "/$(A)", "/$$A"],
            ),
            ("folder", folder, &["media", "a/b", "/srv/x"], &["", "..", "a/../b", "./a", "a//b"]),
            ("below", below, &[".ha-sync-access", "a/b"], &["", "/a", "../a"]),
            (
                "image",
                image,
                &["a", "192.168.2.100:5000/ha-sync:latest", "ghcr.io/a/b:1.2", "r/a--b__c.d_e", "a:B", &digest],
                &[
                    "",
                    "A/b",
                    "a b",
                    "a:",
                    "a:b:c",
                    "/a",
                    "a//b",
                    "a:5000/b:c d",
                    "a@sha256:12",
                    "a@md5:12",
                    "r/x-",
                    "r/a..b",
                    "a/b:.c",
                ],
            ),
            ("variable", variable, &["HA_SYNC_DB_DSN", ".a", "a..b"], &["", ".", "..", "..a", "a b"]),
            (
                "capacity",
                capacity,
                &["2Ti", "500Gi", "1M", "10G"],
                &["", "5", "0Gi", "-5Gi", "5GB", "5 Gi", "1.5Ti", "5gi", "Gi", "999999999Pi", "+5Gi"],
            ),
        ];
        for (name, parse, good, bad) in table {
            for text in good {
                assert!(parse(text).is_ok(), "{name}: {text}");
            }
            for text in bad {
                assert!(parse(text).is_err(), "{name}: {text}");
            }
        }
        assert_eq!(address("fd00:0::1").unwrap(), "fd00::1");
        assert_eq!(absolute("/data/").unwrap(), "/data");
        assert_eq!(folder("a/b/").unwrap(), "a/b");
    }
}
