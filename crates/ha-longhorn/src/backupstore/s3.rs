//! A backup store in an S3-compatible object store: the few requests that it takes, signed with AWS Signature Version 4.
//! Buckets are named in the path, which every such store understands, unless the host is asked for.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use sha2::{Digest as _, Sha256};
use ureq::tls::{PemItem, RootCerts, TlsConfig};

use super::store::{Store, StoreError};
use crate::merge::hex;

/// Answers are blocks of at most 16 MiB, packed, lists, and backups with 108 bytes for each block: of 20 TiB in small ones.
const MOST_BYTES: u64 = 1 << 30;
/// How long to wait before each further try.
const PAUSES: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(1500)];

/// Says where the store is and who asks.
pub struct S3Settings {
    /// The bucket.
    pub bucket: String,
    /// The region, such as `eu-central-1`; stores of one's own take any.
    pub region: String,
    /// The folder in the bucket, without slashes at its ends; empty for the top.
    pub prefix: String,
    /// Scheme, host and port, such as `http://minio:9000`; absent means AWS.
    pub endpoint: Option<String>,
    /// The access key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: String,
    /// Certificates in PEM that are trusted instead of the public ones.
    pub certificates: Option<String>,
    /// Whether the bucket is part of the host's name, instead of the path.
    pub virtual_hosted: bool,
}

impl S3Settings {
    /// Parses a target as Longhorn writes it: `s3://BUCKET@REGION/PREFIX/`, a URL, so what is encoded in it with `%` is
    /// decoded. Keys and endpoint are left empty; nothing for what is no such target.
    pub fn parse(target: &str) -> Option<Self> {
        let rest = target.strip_prefix("s3://").filter(|rest| !rest.contains(['?', '#']))?;
        let (place, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let (bucket, region) = place.split_once('@')?;
        let plain = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        };
        // Longhorn joins the folder and what is below it as the parts of a path.
        let prefix = decode(prefix)?;
        let parts: Vec<&str> = prefix.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        (plain(bucket) && plain(region) && !parts.contains(&"..")).then(|| Self {
            bucket: bucket.to_owned(),
            region: region.to_owned(),
            prefix: parts.join("/"),
            endpoint: None,
            access_key: String::new(),
            secret_key: String::new(),
            certificates: None,
            virtual_hosted: false,
        })
    }
}

/// Is a bucket, or a folder in one.
pub struct S3Store {
    settings: S3Settings,
    /// Scheme, and host with its port unless that is the usual one.
    scheme: String,
    host: String,
    agent: ureq::Agent,
    clock: fn() -> Timestamp,
}

impl S3Store {
    /// Makes a client. `clock` gives the time that requests are signed with.
    pub fn new(settings: S3Settings, clock: fn() -> Timestamp) -> Result<Self, StoreError> {
        let endpoint = match &settings.endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => format!("https://s3.{}.amazonaws.com", settings.region),
        };
        let refused = |why: &str| StoreError::Settings(format!("{why}: {endpoint}"));
        let (scheme, host) = endpoint.split_once("://").ok_or_else(|| refused("the endpoint has no scheme"))?;
        let usual = match scheme {
            "http" => ":80",
            "https" => ":443",
            _ => return Err(refused("the endpoint is neither http nor https")),
        };
        if host.is_empty() || host.contains(['/', '@', '?']) {
            return Err(refused("the endpoint is no host"));
        }
        let (scheme, host) = (scheme.to_owned(), host.strip_suffix(usual).unwrap_or(host));
        let host = match settings.virtual_hosted {
            true => format!("{}.{host}", settings.bucket),
            false => host.to_owned(),
        };
        let mut tls = TlsConfig::builder();
        if let Some(pem) = &settings.certificates {
            let mut certificates = Vec::new();
            for item in ureq::tls::parse_pem(pem.as_bytes()) {
                if let Ok(PemItem::Certificate(certificate)) = item {
                    certificates.push(certificate);
                }
            }
            if certificates.is_empty() {
                return Err(StoreError::Settings("no certificate in what was given as such".to_owned()));
            }
            tls = tls.root_certs(RootCerts::Specific(Arc::new(certificates)));
        }
        let config = ureq::Agent::config_builder()
            .tls_config(tls.build())
            .http_status_as_error(false)
            // The environment is read at the edge of the binary, and nowhere else.
            .proxy(None)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_global(Some(Duration::from_secs(300)))
            .max_redirects(0)
            .build();
        Ok(Self { settings, scheme, host, agent: ureq::Agent::new_with_config(config), clock })
    }

    fn key(&self, path: &str) -> String {
        match self.settings.prefix.as_str() {
            "" => path.to_owned(),
            prefix => format!("{prefix}/{path}"),
        }
    }

    /// Sends a request, again after a failure that may pass.
    fn request(&self, method: &str, key: &str, query: &str, body: &[u8]) -> Result<Answer, StoreError> {
        let path = match self.settings.virtual_hosted {
            true => format!("/{}", encode(key, true)),
            false => format!("/{}/{}", self.settings.bucket, encode(key, true)).trim_end_matches('/').to_owned(),
        };
        let mut pauses = PAUSES.iter();
        loop {
            let answer = self.once(method, &path, query, body);
            let passing = match &answer {
                Ok(Answer { status, .. }) => *status >= 500 || *status == 429,
                Err(_) => true,
            };
            match pauses.next().filter(|_| passing) {
                Some(pause) => std::thread::sleep(*pause),
                None => {
                    return answer
                        .map_err(|error| StoreError::Transport { place: self.name(key), cause: Box::new(error) });
                }
            }
        }
    }

    fn once(&self, method: &str, path: &str, query: &str, body: &[u8]) -> Result<Answer, ureq::Error> {
        let time = (self.clock)().strftime("%Y%m%dT%H%M%SZ").to_string();
        let payload = hex(&Sha256::digest(body));
        let signed = Signed { method, path, query, host: &self.host, time: &time, payload: &payload };
        let S3Settings { access_key, secret_key, region, .. } = &self.settings;
        let authorization = signed.authorization(access_key, secret_key, region);
        let question = if query.is_empty() { "" } else { "?" };
        let url = format!("{}://{}{path}{question}{query}", self.scheme, self.host);
        let headers = [
            ("x-amz-date", time.as_str()),
            ("x-amz-content-sha256", payload.as_str()),
            ("authorization", authorization.as_str()),
        ];
        let mut response = if method == "PUT" {
            let mut request = self.agent.put(&url);
            for (name, value) in headers {
                request = request.header(name, value);
            }
            request.send(body)?
        } else {
            let mut request = match method {
                "DELETE" => self.agent.delete(&url),
                "HEAD" => self.agent.head(&url),
                _ => self.agent.get(&url),
            };
            for (name, value) in headers {
                request = request.header(name, value);
            }
            request.call()?
        };
        let status = response.status().as_u16();
        let modified = response.headers().get("last-modified").and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Answer { status, modified, body: response.body_mut().with_config().limit(MOST_BYTES).read_to_vec()? })
    }

    fn refused(&self, key: &str, answer: &Answer) -> StoreError {
        StoreError::Refused { place: self.name(key), status: answer.status, code: answer.code() }
    }

    fn odd(&self, key: &str, why: &'static str) -> StoreError {
        StoreError::Odd { place: self.name(key), why }
    }

    fn name(&self, key: &str) -> String {
        match self.settings.virtual_hosted {
            true => format!("{}/{key}", self.host),
            false => format!("{}/{}/{key}", self.host, self.settings.bucket),
        }
    }
}

/// Is what a store answers.
struct Answer {
    status: u16,
    /// The header `Last-Modified`.
    modified: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    /// Returns the store's own word for what it refuses; HEAD has none.
    fn code(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        between(&text, "<Code>", "</Code>").next().unwrap_or_default().to_owned()
    }

    /// Tells whether there is no such object. A bucket that is not there must not look like an empty one, and neither
    /// must the page of something else.
    fn is_absent(&self) -> bool {
        self.status == 404 && (self.body.is_empty() || self.code() == "NoSuchKey")
    }
}

impl Store for S3Store {
    fn get(&self, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let key = self.key(path);
        match self.request("GET", &key, "", b"")? {
            Answer { status: 200, body, .. } => Ok(Some(body)),
            answer if answer.is_absent() => Ok(None),
            answer => Err(self.refused(&key, &answer)),
        }
    }

    fn put(&self, path: &str, content: &[u8]) -> Result<(), StoreError> {
        let key = self.key(path);
        match self.request("PUT", &key, "", content)? {
            Answer { status: 200..=299, .. } => Ok(()),
            answer => Err(self.refused(&key, &answer)),
        }
    }

    fn remove(&self, path: &str) -> Result<(), StoreError> {
        let key = self.key(path);
        match self.request("DELETE", &key, "", b"")? {
            Answer { status: 200..=299, .. } => Ok(()),
            answer if answer.is_absent() => Ok(()),
            answer => Err(self.refused(&key, &answer)),
        }
    }

    fn modified(&self, path: &str) -> Result<Option<i64>, StoreError> {
        let key = self.key(path);
        match self.request("HEAD", &key, "", b"")? {
            Answer { status: 200, modified: Some(time), .. } => DateTimeParser::new()
                .parse_timestamp(&time)
                .map(|time| Some(time.as_second()))
                .map_err(|_| self.odd(&key, "its time cannot be understood")),
            answer if answer.is_absent() => Ok(None),
            answer => Err(self.refused(&key, &answer)),
        }
    }

    fn list(&self, path: &str) -> Result<Vec<String>, StoreError> {
        let folder = format!("{}/", self.key(path));
        let mut names = Vec::new();
        let mut token: Option<String> = None;
        loop {
            // In the order of their names, as they are signed.
            let continued = token.as_ref().map(|token| format!("continuation-token={}&", encode(token, false)));
            let query =
                format!("{}delimiter=%2F&list-type=2&prefix={}", continued.unwrap_or_default(), encode(&folder, false));
            let answer = self.request("GET", "", &query, b"")?;
            if answer.status != 200 {
                return Err(self.refused(&folder, &answer));
            }
            let text = String::from_utf8_lossy(&answer.body);
            // The page of something else on the way must not look like an empty store.
            if !text.contains("<ListBucketResult") {
                return Err(self.odd(&folder, "it is no list of objects"));
            }
            let folders = between(&text, "<CommonPrefixes>", "</CommonPrefixes>")
                .flat_map(|part| between(part, "<Prefix>", "</Prefix>"));
            let objects = between(&text, "<Contents>", "</Contents>").flat_map(|part| between(part, "<Key>", "</Key>"));
            for key in folders.chain(objects) {
                let key = unescape(key);
                if let Some(name) = key.strip_prefix(&folder) {
                    let name = name.trim_end_matches('/');
                    if !name.is_empty() && !name.contains('/') {
                        names.push(name.to_owned());
                    }
                }
            }
            let more = between(&text, "<IsTruncated>", "</IsTruncated>").next() == Some("true");
            let next = between(&text, "<NextContinuationToken>", "</NextContinuationToken>").next().map(unescape);
            match next.filter(|_| more) {
                Some(next) if token.as_ref() != Some(&next) => token = Some(next),
                None if !more => break,
                _ => return Err(self.odd(&folder, "a list goes on and does not say where")),
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn place(&self) -> String {
        format!("s3://{}@{}/{}", self.settings.bucket, self.settings.region, self.settings.prefix)
    }
}

/// Is what a signature is about.
struct Signed<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    host: &'a str,
    time: &'a str,
    payload: &'a str,
}

impl Signed<'_> {
    fn authorization(&self, access_key: &str, secret_key: &str, region: &str) -> String {
        self.authorization_with(access_key, secret_key, region, "")
    }

    /// `between` are more headers, each ended, whose names lie between `host` and `x-amz-…`.
    fn authorization_with(&self, access_key: &str, secret_key: &str, region: &str, between: &str) -> String {
        let Self { method, path, query, host, time, payload } = self;
        let mut names = vec!["host"];
        names.extend(between.lines().filter_map(|line| line.split(':').next()));
        names.extend(["x-amz-content-sha256", "x-amz-date"]);
        let names = names.join(";");
        let canonical = format!(
            "{method}\n{path}\n{query}\nhost:{host}\n{between}x-amz-content-sha256:{payload}\nx-amz-date:{time}\n\n\
             {names}\n{payload}"
        );
        let date = &time[..time.len().min(8)];
        let scope = format!("{date}/{region}/s3/aws4_request");
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let mut key = hmac(format!("AWS4{secret_key}").as_bytes(), date.as_bytes());
        for part in [region, "s3", "aws4_request"] {
            key = hmac(&key, part.as_bytes());
        }
        let signature = hex(&hmac(&key, text.as_bytes()));
        format!("AWS4-HMAC-SHA256 Credential={access_key}/{scope},SignedHeaders={names},Signature={signature}")
    }
}

/// Is HMAC with SHA-256 (RFC 2104).
fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let padded = |pad: u8| block.map(|byte| byte ^ pad);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().into()
}

/// Encodes a path or a value as signatures want it.
fn encode(text: &str, slashes: bool) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            b'/' if slashes => encoded.push('/'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Returns what stands between two tags, each time. Lists have no nesting of a tag in itself.
fn between<'a>(text: &'a str, open: &'a str, close: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(open).skip(1).filter_map(move |rest| rest.split_once(close).map(|(inside, _)| inside))
}

/// Decodes what is encoded with `%`; nothing for what is not encoded so, or no text.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || char::from(rest.next()?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        bytes.push(if byte == b'%' { digit()? << 4 | digit()? } else { byte });
    }
    String::from_utf8(bytes).ok()
}

/// Replaces the references to characters of XML. One that is not known stays.
fn unescape(text: &str) -> String {
    let mut parts = text.split('&');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let character = part.split_once(';').and_then(|(name, rest)| {
            let character = match name {
                "lt" => '<',
                "gt" => '>',
                "quot" => '"',
                "apos" => '\'',
                "amp" => '&',
                number => {
                    let number = number.strip_prefix('#')?;
                    let hex = number.strip_prefix(['x', 'X']).map(|digits| u32::from_str_radix(digits, 16));
                    char::from_u32(hex.unwrap_or_else(|| number.parse()).ok()?)?
                }
            };
            Some((character, rest))
        });
        match character {
            Some((character, rest)) => {
                plain.push(character);
                plain.push_str(rest);
            }
            None => {
                plain.push('&');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example "GET Object" in the documentation of Signature Version 4 for S3.
    #[test]
    fn the_example_of_the_documentation() {
        let empty = hex(&Sha256::digest(b""));
        let signed = Signed {
            method: "GET",
            path: "/test.txt",
            query: "",
            host: "examplebucket.s3.amazonaws.com",
            time: "20130524T000000Z",
            payload: &empty,
        };
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        let made = signed.authorization_with("AKIAIOSFODNN7EXAMPLE", secret, "us-east-1", "range:bytes=0-9\n");
        assert!(made.ends_with("Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"), "{made}");
    }

    #[test]
    fn targets() {
        let parsed = |text: &str| S3Settings::parse(text).map(|s3| (s3.bucket, s3.region, s3.prefix));
        let some =
            |bucket: &str, region: &str, prefix: &str| Some((bucket.to_owned(), region.to_owned(), prefix.to_owned()));
        assert_eq!(parsed("s3://backups@eu-central-1/"), some("backups", "eu-central-1", ""));
        assert_eq!(parsed("s3://b@r/a/b/"), some("b", "r", "a/b"));
        assert_eq!(parsed("s3://b@r"), some("b", "r", ""));
        assert_eq!(parsed("s3://b@r/my%20folder//./%2B+%25/"), some("b", "r", "my folder/++%"));
        for wrong in [
            "s3://b/a",
            "s3://@r/",
            "/mnt/backups",
            "s3://b@r x/",
            "s3://b@r/a?b",
            "s3://b@r/%2",
            "s3://b@r/%zz",
            "s3://b@r/%ff",
            "s3://b@r/a/../b",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn lists_are_read() {
        let text = "<a><Contents><Key>x&amp;y</Key></Contents><Contents><Key>z</Key></Contents></a>";
        let keys: Vec<String> = between(text, "<Contents>", "</Contents>")
            .flat_map(|part| between(part, "<Key>", "</Key>"))
            .map(unescape)
            .collect();
        assert_eq!(keys, ["x&y", "z"]);
        assert_eq!(encode("a b/ü~", true), "a%20b/%C3%BC~");
        assert_eq!(unescape("&lt;&#39;&#x2B;&amp;lt;&quot;&apos;&gt;"), "<'+&lt;\"'>");
        assert_eq!(unescape("a&b;c&#xzz;&#99999999;&"), "a&b;c&#xzz;&#99999999;&");
    }
}
